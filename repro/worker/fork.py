"""A run that takes another course from an epoch on: all that draws the order of the examples begins anew there.

Which that is, is settled when the checkpoint before is made, and kept in it: so a run that goes on from there and one
that comes all the way do the same (docs/adr/0015-seed-studies.md).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from repro.record import seeds
from repro.worker import seeding
from repro.worker.sources import Sources

ORDER = "order"
#: The name that a seed plan has for the global generators of Python, numpy and torch.
GLOBAL = "global"


class Drawn(NamedTuple):
    """What draws the order: streams by name, parts of the checkpoint by place, the global generators or not."""

    streams: list[str]
    parts: list[Any]
    is_global: bool


def drawn_from(sources: Sources, objects: Mapping[Any, Any], loaders: Iterable[Any]) -> Drawn:
    """Return what draws the order of the examples, as far as it can be told.

    That is the stream `order`, and what DataLoaders that shuffle draw from. Where there is neither, all that is no
    named stream.
    """
    generators = [_generator(loader) for loader in loaders if _shuffles(loader)]
    named = {ORDER} & sources.used
    named |= {name for name, stream in sources.streams.items() if any(stream is item for item in generators)}
    parts = {at: part for at, part in objects.items() if _reseeder(part) and not _is_stream(part, sources)}
    if not named and not generators:
        return Drawn([], [*parts], is_global=True)
    own = [at for at, part in parts.items() if any(part is item for item in generators)]
    return Drawn(sorted(named), own, is_global=any(item is None for item in generators))


def _is_stream(part: Any, sources: Sources) -> bool:
    return any(part is stream for stream in sources.streams.values())


def _shuffles(loader: Any) -> bool:
    """Say whether a DataLoader may go through its data in any order but theirs."""
    data, batches = sys.modules["torch"].utils.data, loader.batch_sampler
    sampler = loader.sampler if batches is None else batches.sampler if type(batches) is data.BatchSampler else None
    return type(sampler) is not data.SequentialSampler


def _generator(loader: Any) -> Any:
    """Return the generator that a DataLoader's order comes from, None for the global ones.

    Data that can only be gone through are shuffled by the workers, which the loader's own generator seeds.
    """
    batches = loader.batch_sampler
    places = [batches, getattr(batches, "sampler", None), loader.sampler]
    places += [loader] * isinstance(loader.dataset, sys.modules["torch"].utils.data.IterableDataset)
    found = (getattr(item, "generator", None) for item in places)
    return next((generator for generator in found if generator is not None), None)


def restart(drawn: Drawn, objects: Mapping[Any, Any], sources: Sources, replicate: int) -> None:
    """Let all that draws the order begin anew under a replicate index."""
    for name in drawn.streams:
        sources.restart(name, replicate)
    for number, at in enumerate(drawn.parts):
        reseed = _reseeder(objects[at])
        assert reseed is not None  # noqa: S101  (it is one of `drawn_from`)
        reseed(objects[at], seeds.sequence(sources.master, ORDER, replicate=replicate, at=(number,)))
    if drawn.is_global:
        sources.replicates[GLOBAL] = replicate
        seeding.restart(replicate)


def _reseeder(part: Any) -> Callable[[Any, np.random.SeedSequence], object] | None:
    """Return how a generator is seeded anew, None for what is no generator."""
    torch = sys.modules["torch"]
    if isinstance(part, torch.Generator):
        return lambda part, sequence: part.manual_seed(_word(sequence) >> 1)
    if isinstance(part, np.random.Generator):
        return _reseed_numpy
    if isinstance(part, np.random.RandomState):
        return lambda part, sequence: part.seed(_word(sequence) >> 32)
    if isinstance(part, random.Random):
        return lambda part, sequence: part.seed(_word(sequence))
    return None


def _reseed_numpy(part: Any, sequence: np.random.SeedSequence) -> None:
    part.bit_generator.state = type(part.bit_generator)(sequence).state


def _word(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0])
