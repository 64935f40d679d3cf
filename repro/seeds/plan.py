"""Which seeds a study has, and when its replicates are no replicates at all. Nothing is run here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from repro.errors import UsageError
from repro.record.values import State
from repro.run.request import is_seed


class Replicate(NamedTuple):
    """One run of a study: its seed, and what came of it; ``trail`` is a digest of its trail's course, None without.

    ``seed`` is the master seed, or the replicate index of a stream that is varied alone. ``streams`` are the names that
    it used; ``restarted`` says what began anew in a fork.
    """

    seed: int
    run_id: str
    state: State
    metrics: Mapping[str, float]
    trail: str | None
    seeded: Sequence[str]
    streams: frozenset[str] = frozenset()
    restarted: Sequence[Mapping[str, Any]] = ()


def seeds(count: int | None, given: str | None) -> list[int]:
    """Return the master seeds of a study: 0 to ``count`` - 1 (5 unless given), or those of a list like ``3,4,7``.

    Raises:
        UsageError: for a list with something else in it, with fewer than two seeds, or with one seed twice.
    """
    if given is None:
        if count is not None and count < 2:  # noqa: PLR2004
            raise UsageError(f"--n {count}: at least 2 seeds are expected", hint="repro seeds --n 5 ...")
        return list(range(5 if count is None else count))
    words = [word.strip() for word in given.split(",")]
    strange = next((word for word in words if not is_seed(word)), None)
    if strange is not None:
        raise UsageError(f"--seeds {given}: {strange!r} is no whole number from 0 on", hint="--seeds 0,1,2")
    found = [int(word) for word in words]
    twice = next((seed for seed in found if found.count(seed) > 1), None)
    if twice is not None:
        raise UsageError(f"--seeds {given}: seed {twice} is there twice; it would count one run as two")
    if count is not None and count != len(found):
        raise UsageError(f"--seeds {given} are {len(found)} seeds, --n says {count}", hint="give one of the two")
    if len(found) < 2:  # noqa: PLR2004
        raise UsageError(f"--seeds {given}: at least 2 seeds are expected")
    return found


#: What a seed plan calls the global generators of Python, numpy and torch: what no stream has.
GLOBAL = "global"
#: The streams of a crossed design: rows and columns.
CROSSED = ("init", "order")


def streams(given: str | None, *, crossed: bool) -> list[str]:
    """Return the streams that a list like ``init,order`` names; those of a crossed design are among them.

    Raises:
        UsageError: for a list with one stream twice, or with something that is no name.
    """
    words = [] if given is None else [word.strip() for word in given.split(",")]
    strange = next((word for word in words if not word or "@" in word), None)
    if strange is not None:
        raise UsageError(f"--vary {given}: {strange!r} is no stream", hint="--vary init,order,dropout,augment,split")
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise UsageError(f"--vary {given}: {twice} is there twice")
    return words + [name for name in (CROSSED if crossed else ()) if name not in words]


def label(point: Mapping[str, int]) -> str:
    """Return the name of a run in a design: ``init 2``, ``init 1, order 2``; the one that all others vary is held."""
    return ", ".join(f"{name} {index}" for name, index in point.items()) or HELD


#: The run with every stream at index 0, and the same once more.
HELD, AGAIN = "all held", "same seed again"


def design(used: Sequence[str], indices: Sequence[int], *, crossed: bool) -> list[dict[str, int]]:
    """Return the points of a design: each stream alone at every index, and two of them crossed; 0 is not named."""
    points = [{name: index} for name in used for index in indices]
    if crossed:
        points += [dict(zip(CROSSED, pair, strict=True)) for pair in itertools.product(indices, repeat=2)]
    found: dict[str, dict[str, int]] = {}
    for point in points:
        named = {name: index for name, index in point.items() if index}
        found.setdefault(label(named), named)
    return list(found.values())


def check_used(wanted: Sequence[str], used: frozenset[str], *, crossed: bool) -> list[str]:
    """Return those of the streams that a run uses; the global generators are always there.

    Raises:
        UsageError: when the run has no streams at all, or lacks one of a crossed design.
    """
    found = [name for name in wanted if name in used or name == GLOBAL]
    hint = 'run.rng("order") is a stream to draw from, `with run.stream("init"):` one for what draws globally'
    if not found and not used:
        said = "this run uses no named stream: there is nothing to vary alone"
        raise UsageError(said, hint=f"{hint}; repro seeds without --vary changes the master seed")
    missing = [name for name in (CROSSED if crossed else ()) if name not in found]
    if missing:
        raise UsageError(f"--crossed: the run does not use {' and '.join(missing)}", hint=hint)
    return found


def check_apart(found: Sequence[Replicate]) -> None:
    """Refuse replicates that are one and the same run: whatever the seed, the script did the same.

    Raises:
        UsageError: naming the line that seeds with a constant, where it was seen.
    """
    for first, other in _of_one_trail(found):
        lines = [line for line in other.seeded if line in first.seeded]
        why = f"; {lines[0]}, whatever repro says" if lines else ""
        raise UsageError(
            f"seeds {first.seed} and {other.seed} left equal trails: they are one run, not two{why}",
            hint="leave the seeding to repro, or pass {seed}: repro seeds -- python train.py --seed {seed}",
        )


def _of_one_trail(found: Sequence[Replicate]) -> Iterator[tuple[Replicate, Replicate]]:
    """Yield each replicate whose trail another one before it has left as well, behind that one."""
    first: dict[str, Replicate] = {}
    for replicate in found:
        if replicate.trail is not None and first.setdefault(replicate.trail, replicate) is not replicate:
            yield first[replicate.trail], replicate


def check_forked(found: Sequence[Replicate]) -> None:
    """Refuse members of a fork that are one and the same run: nothing that draws the order began anew.

    Raises:
        UsageError: naming the two.
    """
    for first, other in _of_one_trail(found):
        raise UsageError(
            f"order {first.seed} and {other.seed} left equal trails: nothing that draws the order began anew",
            hint='shuffle by run.rng("order"), or train for more epochs than --fork-at',
        )
