"""The states of all random generators of a process, as one digest that is cheap enough for every step.

Generators of Python, numpy and torch on a CPU are read from memory: `random.getstate()` takes 34 us, this 0.3 us. Each
place is checked once against what the public calls return; where they do not agree, the public calls are used.
"""

from __future__ import annotations

import ctypes
import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xxhash

from repro.worker import bits
from repro.worker.memory import WHOLE

_WORDS = 624  # of a Mersenne Twister, 32 bits each
_FIRST = 128  # so many bytes of the words are read: a seed and each 624th draw change all of them
_TO_WORDS = 20  # from the start of torch's engine
_global = np.random.mtrand._rand  # whose bit generator `numpy.random.set_bit_generator` replaces

_hash = xxhash.xxh3_64_intdigest

#: Reads a state whose place in memory is not known.
Reader = Callable[[], bytes]
Places = tuple[memoryview, ...]


class Generators:
    """Reads every generator's state: the global ones, and the named streams of the run that it was told to follow."""

    def __init__(self) -> None:
        self._streams: list[Any] = []
        self._find()

    def _find(self) -> None:
        """Find where all states lie. What is read from memory must live on: `_numpys` and `_streams` see to that."""
        self._readers: list[Reader] = []
        self._places: list[Any] = []
        self._numpys = _global._bit_generator
        for reader in (_python(), _numpy(self._numpys), mersenne(torch.default_generator)):
            self._add(reader)
        for stream in self._streams:
            self._add_stream(stream)

    def _add(self, reader: Reader | Places) -> None:
        if callable(reader):
            self._readers.append(reader)
        else:
            self._places += reader

    def follow(self, stream: Any) -> None:
        """Read a named stream as well: its numpy half, and its torch half if it has one."""
        self._streams.append(stream)
        self._add_stream(stream)

    def _add_stream(self, stream: Any) -> None:
        self._add(_pcg64(getattr(stream, "numpy", stream).bit_generator))
        if isinstance(stream, torch.Generator):
            self._add(mersenne(stream))

    def digest(self) -> int:
        """Return the digest of the states now."""
        if _global._bit_generator is not self._numpys:  # numpy.random.set_bit_generator
            self._find()
        states = self._places
        if self._readers or torch.cuda.default_generators:  # none before CUDA is initialised
            states = [*states, *(read() for read in self._readers)]
            states += [memoryview(bits.view(generator.get_state())) for generator in torch.cuda.default_generators]
        return _hash(b"".join(states))


def _python() -> Reader | Places:
    """Return where ``random``'s state lies, or a reader of it.

    Source: CPython, Modules/_randommodule.c, struct RandomObject.
    """
    inst = random._inst
    place = id(inst) + object.__basicsize__
    words = WHOLE[place : place + 4 * (_WORDS + 1)]
    found = words.cast("I").tolist()
    state = inst.getstate()[1]
    if (found[0], tuple(found[1:])) == (state[-1], state[:-1]):
        return (words[: 4 + _FIRST],)
    return lambda: repr(inst.getstate()).encode()


def _numpy(generator: Any) -> Reader | Places:
    """Return where the state of ``numpy.random``'s global generator lies, or a reader of it.

    Source: numpy, mt19937.h, struct mt19937_state.
    """
    if type(generator) is not np.random.MT19937:
        return lambda: repr(generator.state).encode()
    state = generator.state["state"]
    place = generator.ctypes.state_address
    words = WHOLE[place : place + 4 * (_WORDS + 1)]
    found = words.cast("I").tolist()
    if found[:-1] == list(state["key"]) and found[-1] == state["pos"]:
        return words[:_FIRST], words[4 * _WORDS :]
    return lambda: repr(generator.state).encode()


def _pcg64(generator: Any) -> Reader | Places:
    """Return where the state of a PCG64 (of `numpy.random.default_rng`) lies, or a reader of it.

    Source: numpy, _pcg64.pyx, struct pcg64_state: a pointer to state and increment (32 bytes), then what is buffered.
    """
    state = generator.state
    address = generator.ctypes.state_address
    size = ctypes.sizeof(ctypes.c_void_p)
    place = int.from_bytes(WHOLE[address : address + size], sys.byteorder)
    words, buffered = WHOLE[place : place + 32], WHOLE[address + size : address + size + 8]
    if place and words[:16].tobytes() == state["state"]["state"].to_bytes(16, sys.byteorder):
        return words, buffered
    return lambda: repr(generator.state).encode()


def mersenne(generator: torch.Generator) -> Reader | Places:
    """Return where the state of one of torch's generators on a CPU lies, or a reader of it.

    Source: ATen/core/MT19937RNGEngine.h, struct mt19937_data_pod: seed (8 bytes), left (4), seeded (1, then 3 that
    nobody sets), next (4), the words. `_normal_flag` bytes on is the flag that says if every other normal draw's twin
    is kept. The legacy layout of `get_state` is in ATen/CPUGeneratorImpl.cpp, CPUGeneratorImplStateLegacy.
    """
    flag = _normal_flag()
    start = _twister(generator) if flag else None
    if start is None:
        return lambda: bytes(generator.get_state().numpy())
    return (
        WHOLE[start : start + 12],
        WHOLE[start + 16 : start + _TO_WORDS + _FIRST],
        WHOLE[start + flag : start + flag + 1],
    )


def _twister(generator: torch.Generator) -> int | None:
    """Return the address of a generator's engine, or None if its memory is not as expected."""
    legacy = generator.get_state().numpy().tobytes()
    left, next_ = (int.from_bytes(legacy[at : at + 4], sys.byteorder) for at in (8, 16))
    words = np.frombuffer(legacy[24 : 24 + 8 * _WORDS], np.uint64).astype(np.uint32).tobytes()
    cdata = getattr(generator, "_cdata", 0)
    if not cdata:
        return None
    at = bytes(WHOLE[cdata : cdata + 128 + len(words)]).find(words)
    if at < _TO_WORDS:
        return None
    start = int(cdata) + at - _TO_WORDS
    found = [int.from_bytes(WHOLE[start + place : start + place + 4], sys.byteorder) for place in (8, 16)]
    return start if found == [left, next_] else None


@functools.cache
def _normal_flag() -> int:
    """Return how far behind a generator's engine the flag of the kept normal draw lies; 0 if it is not found."""
    scratch = torch.Generator()
    scratch.manual_seed(1)
    start = _twister(scratch)
    if start is None:
        return 0
    end = _TO_WORDS + 4 * _WORDS
    seen = []
    for _ in range(4):
        torch.randn(1, generator=scratch)  # the first of two keeps one, the second uses it up
        seen.append(bytes(WHOLE[start + end : start + end + 24]))
    found = [at for at in range(24) if [value[at] for value in seen] == [1, 0, 1, 0]]
    return end + found[0] if len(found) == 1 else 0
