"""Trails of a pool's workers: which of them gets which training is a matter of time, so they are paired by content.

A training is what one optimizer did in one worker. The states of generators say which worker it was in, and are left
out (docs/adr/0032-trainings-of-a-pool.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from repro.record import trail as form
from repro.run.trails import ProcessTrail

_CONTENT = tuple(index for index in range(len(form.COLUMNS)) if index != form.GENERATORS)


class Paired(NamedTuple):
    """Trainings with their counterparts in the other run, and those of either side that are left."""

    pairs: list[tuple[ProcessTrail, ProcessTrail]]
    missing: list[ProcessTrail]
    more: list[ProcessTrail]


def workers(trails: Sequence[ProcessTrail]) -> list[ProcessTrail]:
    """Return those of the trails that children of a process made: their files are named by their lineage."""
    return [trail for trail in trails if trail.details.name.split("-")[1] != "0000"]


def pair(a: Sequence[ProcessTrail], b: Sequence[ProcessTrail]) -> Paired:
    """Pair the trainings of two pools: equal ones, then those that begin with the same parameters, then by order."""
    missing, rest = _trainings(a), _trainings(b)
    pairs: list[tuple[ProcessTrail, ProcessTrail]] = []
    likeness: tuple[Callable[[ProcessTrail, ProcessTrail], bool], ...] = (_are_equal, _begin_alike, _are_of_one_rank)
    for is_like in likeness:
        left = []
        for one in missing:
            other = next((item for item in rest if is_like(one, item)), None)
            if other is None:
                left.append(one)
            else:
                pairs.append((one, other))
                rest = [item for item in rest if item is not other]
        missing = left
    return Paired(pairs, missing, rest)


def have_moved(pairs: Sequence[tuple[ProcessTrail, ProcessTrail]]) -> bool:
    """Say whether a training was made by another worker than before, or in another turn."""
    return any(_turn(one) != _turn(other) for one, other in pairs)


def _turn(training: ProcessTrail) -> tuple[str, int]:
    return training.details.name.split("-")[1], training.frames[0].optimizer


def first_unequal(a: ProcessTrail, b: ProcessTrail) -> tuple[int, int] | None:
    """Return the first step of two trainings, and its first column, that differ in content; None where none does."""
    for index, (one, other) in enumerate(zip(a.frames, b.frames, strict=False)):
        column = next((column for column in _CONTENT if one.columns[column] != other.columns[column]), None)
        if column is not None:
            return index, column
    return None


def _trainings(trails: Sequence[ProcessTrail]) -> list[ProcessTrail]:
    """Split trails at each change of the optimizer; several that step in turns stay together."""
    return [part for trail in trails for part in _split(trail)]


def _split(trail: ProcessTrail) -> list[ProcessTrail]:
    groups = [[*frames] for _, frames in itertools.groupby(trail.frames, key=lambda frame: frame.optimizer)]
    numbers = [group[0].optimizer for group in groups]
    if len(numbers) != len(set(numbers)):
        return [trail]
    return [trail._replace(frames=group) for group in groups]


def _are_equal(one: ProcessTrail, other: ProcessTrail) -> bool:
    return (
        _are_of_one_rank(one, other)
        and len(one.frames) == len(other.frames)
        and all(x.step == y.step for x, y in zip(one.frames, other.frames, strict=True))
        and first_unequal(one, other) is None
    )


def _begin_alike(one: ProcessTrail, other: ProcessTrail) -> bool:
    first, second = (item.frames[0].columns[form.PARAMETERS_IN] for item in (one, other))
    return _are_of_one_rank(one, other) and first == second != 0


def _are_of_one_rank(one: ProcessTrail, other: ProcessTrail) -> bool:
    return one.process.partition(" #")[0] == other.process.partition(" #")[0]
