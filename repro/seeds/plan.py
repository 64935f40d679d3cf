"""Which seeds a study has, and when its replicates are no replicates at all. Nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repro.errors import UsageError
from repro.record.values import State
from repro.run.request import is_seed


class Replicate(NamedTuple):
    """One run of a study: its seed, and what came of it; ``trail`` is a digest of its trail's course, None without."""

    seed: int
    run_id: str
    state: State
    metrics: Mapping[str, float]
    trail: str | None
    seeded: Sequence[str]


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


def check_apart(found: Sequence[Replicate]) -> None:
    """Refuse replicates that are one and the same run: whatever the seed, the script did the same.

    Raises:
        UsageError: naming the line that seeds with a constant, where it was seen.
    """
    first: dict[str, Replicate] = {}
    for replicate in found:
        other = first.setdefault(replicate.trail, replicate) if replicate.trail is not None else replicate
        if other is not replicate:
            lines = [line for line in replicate.seeded if line in other.seeded]
            why = f"; {lines[0]}, whatever repro says" if lines else ""
            raise UsageError(
                f"seeds {other.seed} and {replicate.seed} left equal trails: they are one run, not two{why}",
                hint="leave the seeding to repro, or pass {seed}: repro seeds -- python train.py --seed {seed}",
            )
