"""`repro replay --narrow`: both sides again with full frames, for the exact place of a difference and its size."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from repro.record import trail as form
from repro.replay import compare, ulp
from repro.replay.plan import Plan, as_recorded
from repro.replay.replay import Asked, Replayed, replay
from repro.run import trails
from repro.store.store import Store

_NEAR = "every frame about it is full: it is as near as can be"
_ONE_SIDE = "only what is changed on purpose (--with, --code current) has two sides that can be run again"


class Narrowed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two sides came apart if every frame is full, and how far they lie apart there.

    ``first_difference`` is None where ``reason`` says why; ``distance`` is, where that says why or the column has no
    floating-point values.
    """

    first_difference: compare.FirstDifference | None
    distance: ulp.Distance | None
    reason: str | None
    replays: list[str]


class _NotAgainError(Exception):
    """A side did not come out again as it was."""


def narrow(store: Store, run_id: str, plan: Plan, found: Replayed, asked: Asked) -> Narrowed:
    """Run both sides of the replay ``found`` again, up to its first difference and with full frames, and compare them.

    Then once more, to keep the values of the tensor that was found. What either had read must come out as it was: else
    it says nothing of the run.

    Raises:
        as `replay` does.
    """
    recorded = replace(as_recorded(store.record(run_id)), environment=plan.environment, packages=plan.packages)
    before = [_trails(store, item) for item in (run_id, str(found.run_id))]
    compared = None if found.killed else found.comparison
    first = None if compared is None else compared.first_difference
    if first is None:
        return _not("no step differs" if compared is not None else found.reason or "it could not be replayed")
    if any("#" in process for item in before for process in item):
        return _not("several processes trained side by side, and which is which in two runs is not known")
    frames = [item[first.process].frames for item in before]
    window = compare.window(frames[0], first)
    is_near = all(_is_near(side, window.place, first) for side in frames)
    if plan == recorded:
        return _not(_NEAR if is_near else _ONE_SIDE)
    full = 1 + max(frame.step for frame in frames[0][: window.place + 1])
    how = replace(asked, until=window.until, full=full, quiet=True, keep=False)
    again = _Again(store, run_id, (recorded, plan), how, first, [side[: window.place + 1] for side in frames])
    nearer = None
    try:
        nearer = first if is_near else compare.first_difference(*again.both())
        if nearer is None:
            return _not("the two sides came out alike this time", again.made)
        return Narrowed(first_difference=nearer, distance=again.distance(nearer), reason=None, replays=again.made)
    except _NotAgainError as error:
        known = None if is_near else nearer
        return Narrowed(first_difference=known, distance=None, reason=str(error), replays=again.made)


@dataclass
class _Again:
    """Both sides of a replay, made again; ``before`` has their frames up to the first difference."""

    store: Store
    run_id: str
    plans: tuple[Plan, Plan]
    how: Asked
    first: compare.FirstDifference
    before: list[list[form.Frame]]
    made: list[str] = field(default_factory=list)

    def both(self, values: dict[str, Any] | None = None) -> list[trails.ProcessTrail]:
        """Run both sides and return the trails of the process that differs; with ``values`` these are kept."""
        found = []
        for name, plan, before in zip(("the run", "the replay"), self.plans, self.before, strict=True):
            kind = "every frame full" if values is None else "values kept"
            self.how.say(f"repro: narrowing, replay {len(self.made) + 1}: {kind} up to step {self.first.step}")
            done = replay(self.store, self.run_id, plan, replace(self.how, values=values))
            self.made += [done.run_id] if done.run_id else []
            now = _trails(self.store, str(done.run_id)).get(self.first.process)
            if done.verdict == "NOT_REPLAYABLE":
                raise _NotAgainError(done.reason)
            if now is None or not _is_read_alike(before, now.frames):
                raise _NotAgainError(f"{name} does not come out again as it was: repro diagnose {self.run_id}")
            found.append(now)
        return found

    def distance(self, place: compare.FirstDifference) -> ulp.Distance | None:
        """Return how far the two sides lie apart in a tensor, or in the loss; None where there are no such values."""
        if place.tensor is None and place.column != form.COLUMNS[form.LOSS]:
            return None
        column = form.COLUMNS.index(place.column)
        wanted = {"optimizer": place.optimizer, "step": place.step, "column": column, "tensor": place.tensor}
        try:
            sides = self.both(wanted)
            now = compare.first_difference(*sides)
            if now is None or (now.step, now.column, now.tensor) != (place.step, place.column, place.tensor):
                return None
            one, other = (side.details.parent.with_name("values") / side.details.stem for side in sides)
            return ulp.of_values(one, other)
        finally:
            for run_id in self.made:
                shutil.rmtree(self.store.run_folder(run_id) / "values", ignore_errors=True)


def _is_near(frames: Sequence[form.Frame], place: int, first: compare.FirstDifference) -> bool:
    """Say whether all is read that could place a difference nearer: in its row, and back to its optimizer's last one.

    What a step makes is read in deep frames; else it shows in the next one's parameters.
    """
    made = first.column in [form.COLUMNS[index] for index in (form.PARAMETERS_IN, *form.DEEP_COLUMNS)]
    needed = form.FULL | form.DEEP if made else form.FULL
    last = next((i for i in range(place - 1, -1, -1) if frames[i].optimizer == first.optimizer), 0)
    return frames[place].flags & form.FULL != 0 and all(row.flags & needed == needed for row in frames[last:place])


def _not(reason: str, replays: Sequence[str] = ()) -> Narrowed:
    return Narrowed(first_difference=None, distance=None, reason=reason, replays=[*replays])


def _trails(store: Store, run_id: str) -> dict[str, trails.ProcessTrail]:
    return {item.process: item for item in trails.read(store.run_folder(run_id))}


def _is_read_alike(before: Sequence[form.Frame], now: Sequence[form.Frame]) -> bool:
    """Say whether the frames of ``before`` are there again, equal in every column that both have read."""
    return len(now) >= len(before) and form.first_unequal_read(before, now) is None
