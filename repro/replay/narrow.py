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
    first = None if found.comparison is None else found.comparison.first_difference
    if first is None:
        return _not("no step differs")
    sides = [_frames(store, item, first.process) for item in (run_id, str(found.run_id))]
    window = compare.window(sides[0], first)
    if window.start == window.place and all(frames[window.place].flags & form.FULL for frames in sides):
        return _not("the frame there is full, and so is the one before: it is as near as can be")
    if plan == as_recorded(store.record(run_id)):
        return _not("only what is changed on purpose (--with, --code current) has two sides that can be run again")
    full = 1 + max(frame.step for frame in sides[0][: window.place + 1])
    how = replace(asked, until=window.until, full=full, quiet=True, keep=False)
    again: list[str] = []
    for number, (frames, way) in enumerate(zip(sides, (None, plan), strict=True), 1):
        asked.say(f"repro: narrowing, {number} of 2: every frame full up to step {first.step}")
        made = replay(store, run_id, way, how)
        if made.run_id is None or made.verdict == "NOT_REPLAYABLE":
            return _not(made.reason or "it cannot be replayed", again)
        again.append(made.run_id)
        if not _is_read_alike(frames[: window.place + 1], _frames(store, again[-1], first.process)):
            name = "the run" if way is None else "the replay"
            return _not(f"{name} does not come out again as it was: repro diagnose {run_id}", again)
    one, other = (_trail(store, item, first.process) for item in again)
    assert one is not None and other is not None  # noqa: S101, PT018
    return Narrowed(first_difference=compare.first_difference(one, other), reason=None, replays=again)


def _not(reason: str, replays: Sequence[str] = ()) -> Narrowed:
    return Narrowed(first_difference=None, reason=reason, replays=[*replays])


def _trail(store: Store, run_id: str, process: str) -> trails.ProcessTrail | None:
    return next((item for item in trails.read(store.run_folder(run_id)) if item.process == process), None)


def _frames(store: Store, run_id: str, process: str) -> list[form.Frame]:
    found = _trail(store, run_id, process)
    return [] if found is None else found.frames


def _is_read_alike(before: Sequence[form.Frame], now: Sequence[form.Frame]) -> bool:
    """Say whether the frames of ``before`` are there again, equal in every column that both have read."""
    if len(now) < len(before):
        return False
    for one, other in zip(before, now, strict=False):
        pairs = zip(one.columns, other.columns, strict=True)
        if one[:2] != other[:2] or any(a != b for a, b in pairs if a and b):
            return False
    return True
