"""`repro replay --narrow`: a first difference between two full frames, placed by running both sides with all full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from repro.record import trail as form
from repro.replay import compare
from repro.replay.plan import Plan, as_recorded
from repro.replay.replay import Asked, Replayed, replay
from repro.run import trails
from repro.store.store import Store


class Narrowed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the two sides came apart if every frame is full; None and the reason where that cannot be said."""

    first_difference: compare.FirstDifference | None
    reason: str | None
    replays: list[str]


def narrow(store: Store, run_id: str, plan: Plan, found: Replayed, asked: Asked) -> Narrowed:
    """Run both sides of the replay ``found`` again, up to its first difference and with full frames, and compare them.

    What either had read must come out as it was: else it says nothing of the run.

    Raises:
        as `replay` does.
    """
    recorded = replace(as_recorded(store.record(run_id)), environment=plan.environment, packages=plan.packages)
    before = [_trails(store, item) for item in (run_id, str(found.run_id))]
    first = None if found.comparison is None else found.comparison.first_difference
    if first is None:
        return _not("no step differs" if found.comparison is not None else found.reason or "it could not be replayed")
    if any("#" in process for item in before for process in item):
        return _not("several processes trained side by side, and which is which in two runs is not known")
    sides = [item[first.process].frames for item in before]
    window = compare.window(sides[0], first)
    if all(_is_near(frames, window.place, first) for frames in sides):
        return _not("every frame about it is full: it is as near as can be")
    if plan == recorded:
        return _not("only what is changed on purpose (--with, --code current) has two sides that can be run again")
    full = 1 + max(frame.step for frame in sides[0][: window.place + 1])
    how = replace(asked, until=window.until, full=full, quiet=True, keep=False)
    again: list[trails.ProcessTrail] = []
    made: list[str] = []
    for frames, way in zip(sides, (recorded, plan), strict=True):
        asked.say(f"repro: narrowing, {len(made) + 1} of 2: every frame full up to step {first.step}")
        done = replay(store, run_id, way, how)
        made += [done.run_id] if done.run_id else []
        now = _trails(store, str(done.run_id)).get(first.process)
        if (
            now is None
            or done.verdict == "NOT_REPLAYABLE"
            or not _is_read_alike(frames[: window.place + 1], now.frames)
        ):
            name = "the run" if way is recorded else "the replay"
            reason = done.reason if done.verdict == "NOT_REPLAYABLE" else None
            return _not(reason or f"{name} does not come out again as it was: repro diagnose {run_id}", made)
        again.append(now)
    nearer = compare.first_difference(*again)
    reason = None if nearer is not None else "the two sides came out alike this time"
    return Narrowed(first_difference=nearer, reason=reason, replays=made)


def _is_near(frames: Sequence[form.Frame], place: int, first: compare.FirstDifference) -> bool:
    """Say whether all is read that could place a difference nearer: in its row, and back to its optimizer's last one.

    What a step makes is read in deep frames; else it shows in the next one's parameters.
    """
    made = first.column in [form.COLUMNS[index] for index in (form.PARAMETERS_IN, *form.DEEP_COLUMNS)]
    needed = form.FULL | form.DEEP if made else form.FULL
    last = next((i for i in range(place - 1, -1, -1) if frames[i].optimizer == first.optimizer), 0)
    return frames[place].flags & form.FULL != 0 and all(row.flags & needed == needed for row in frames[last:place])


def _not(reason: str, replays: Sequence[str] = ()) -> Narrowed:
    return Narrowed(first_difference=None, reason=reason, replays=[*replays])


def _trails(store: Store, run_id: str) -> dict[str, trails.ProcessTrail]:
    return {item.process: item for item in trails.read(store.run_folder(run_id))}


def _is_read_alike(before: Sequence[form.Frame], now: Sequence[form.Frame]) -> bool:
    """Say whether the frames of ``before`` are there again, equal in every column that both have read."""
    return len(now) >= len(before) and form.first_unequal_read(before, now) is None
