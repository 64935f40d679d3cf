"""The states of all random generators of a process, as one digest that is cheap enough for every step.

Python's and numpy's global generators are read from memory: `random.getstate()` takes 34 us, this 0.3 us. The places
are checked once against what the public calls return; where they do not agree, the public calls are used.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xxhash

from repro.worker import bits

_MT_WORDS = 624


class Generators:
    """Reads every generator's state; `extra` are the named streams of the run."""

    def __init__(self) -> None:
        self._python = _python_reader()
        self._numpy = _numpy_reader()
        self.extra: list[Callable[[bool], tuple[Any, ...]]] = []

    def digest(self, *, deep: bool) -> int:
        """Return the digest of the states now; of the named streams all only if ``deep``."""
        state = xxhash.xxh3_64(self._python())
        state.update(self._numpy())
        torchs = torch.default_generator.get_state()
        state.update(bits.raw(torchs))  # not .numpy(): a dispatch mode of the script's would see it
        for read in self.extra:
            for part in read(deep):
                state.update(part)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            for generator in torch.cuda.default_generators:
                state.update(bits.view(generator.get_state()))
        return state.intdigest()


def _python_reader() -> Callable[[], Any]:
    """Return a reader of ``random``'s state. Source: CPython, Modules/_randommodule.c, struct RandomObject."""
    inst = random._inst
    words = (ctypes.c_uint32 * (_MT_WORDS + 1)).from_address(id(inst) + object.__basicsize__)
    state = inst.getstate()[1]
    if (words[0], tuple(words[1:])) == (state[-1], state[:-1]):
        return lambda: words
    return lambda: repr(inst.getstate()).encode()


def _numpy_reader() -> Callable[[], Any]:
    """Return a reader of ``numpy.random``'s global state. Source: numpy, mt19937.h, struct mt19937_state."""
    generator = np.random.mtrand._rand._bit_generator
    state = generator.state["state"]
    words = (ctypes.c_uint32 * (_MT_WORDS + 1)).from_address(generator.ctypes.state_address)
    if list(words[:-1]) == list(state["key"]) and words[_MT_WORDS] == state["pos"]:
        return lambda: words
    return lambda: repr(generator.state).encode()
