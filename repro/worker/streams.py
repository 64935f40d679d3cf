"""Named random streams: one object that torch takes as a generator and that draws like numpy's.

``run.rng("order")`` is a `torch.Generator` with all methods of a `numpy.random.Generator` beside its own; where torch
was never imported it is the numpy part alone. Its seeds come from `repro.record.seeds`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from repro.record import seeds
from repro.worker.job import rank


def make(master: int, name: str, replicate: int, at: tuple[int, ...]) -> Any:
    """Return a new stream; ``at`` makes a counter-based one (epoch, index)."""
    sequence = seeds.sequence(master, name, replicate=replicate, rank=rank(), at=at)
    numpy_seed, torch_seed = sequence.spawn(2)
    generator = np.random.Generator(np.random.PCG64(numpy_seed))
    if "torch" not in sys.modules:
        return generator
    stream = _torch_class()()
    stream.numpy = generator
    stream.manual_seed(int(torch_seed.generate_state(1, np.uint64)[0]) >> 1)
    return stream


def copy(source: Any, target: Any) -> None:
    """Give a stream the state of another of its kind."""
    getattr(target, "numpy", target).bit_generator.state = getattr(source, "numpy", source).bit_generator.state
    if hasattr(source, "get_state"):
        target.set_state(source.get_state())


def _words(master: int, name: str, replicate: int) -> list[int]:
    sequence = seeds.sequence(master, name, replicate=replicate, rank=rank())
    return [int(word) for word in sequence.generate_state(3, np.uint64)]


def _torch_class() -> Any:
    import torch

    global _class
    if _class is None:

        class Stream(torch.Generator):
            """A torch generator that passes every method it lacks on to its numpy generator."""

            numpy: np.random.Generator

            def __getattr__(self, name: str) -> Any:
                return getattr(self.__dict__["numpy"], name)

        _class = Stream
    return _class


_class: Any = None


class Swap:
    """The global generators of Python, numpy and torch, exchanged for a stream's while a block runs."""

    def __init__(self, master: int, name: str, replicate: int) -> None:
        self._seeds = _words(master, name, replicate)
        self._kept: Any = None
        self._outside: list[Any] = []
        self.uses = 0

    def restart(self, master: int, name: str, replicate: int) -> None:
        """Begin anew, as the stream of another replicate; inside a block at once."""
        self._seeds = _words(master, name, replicate)
        self._kept = None
        if self._outside:
            _seed(self._seeds)

    def state(self) -> list[Any]:
        """Return where the stream is, and the states that wait outside of the blocks that are open."""
        return [self._kept, [*self._outside]]

    def set_state(self, state: list[Any]) -> None:
        """Give back what `state` returned; of what waits outside, as much as blocks are open now."""
        self._kept = state[0]
        count = min(len(self._outside), len(state[1]))
        self._outside[:count] = state[1][:count]

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from the stream inside the block; it goes on where it stopped the next time."""
        self.uses += 1
        self._outside.append(get_all())
        if self._kept is None:
            _seed(self._seeds)
        else:
            set_all(self._kept)
        try:
            yield
        finally:
            self._kept = get_all()
            set_all(self._outside.pop())


def get_all() -> tuple[Any, ...]:
    """Return the states of the global generators of Python, numpy, torch (None: not imported) and CUDA (or None)."""
    import random

    torch = sys.modules.get("torch")
    cuda = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch and torch.get_rng_state(), cuda  # noqa: NPY002


def set_all(states: tuple[Any, ...]) -> None:
    """Give the global generators back the states that `get_all` returned."""
    import random

    python, numpy_state, torch_state, cuda = states
    random.setstate(python)
    np.random.set_state(numpy_state)  # noqa: NPY002
    if torch_state is not None:
        sys.modules["torch"].set_rng_state(torch_state)
    if cuda is not None:
        sys.modules["torch"].cuda.set_rng_state_all(cuda)


def _seed(words: list[int]) -> None:
    import random

    random.Random.seed(random._inst, words[0])
    np.random.mtrand._rand.seed(words[1] >> 32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(words[2] >> 1)
        if torch.cuda.is_initialized():
            for generator in torch.cuda.default_generators:
                generator.manual_seed(words[2] >> 1)
