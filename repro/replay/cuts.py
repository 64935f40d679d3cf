"""Runs and replays that were ended from outside: what was cut is replayed to its cut, what was killed tells nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.record import trail as form
from repro.record.values import Outcome, Record, was_limited
from repro.replay import compare
from repro.run import metrics, observed

#: What somebody else sends: a user, a scheduler, the kernel for want of memory or of time.
_KILLS = {
    number.name: 128 + number
    for number in (
        *(signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGXCPU, signal.SIGALRM),
    )
}
#: A run that has no trail is made again for so many times its length, and so many seconds more.
_LONGER, _SLACK = 2.0, 10.0


def is_cut(outcome: Outcome) -> bool:
    """Say whether a run was ended before its end: by its user, a limit, its supervisor's end, or killed."""
    ended = outcome.state in ("COMPLETED", "FAILED") and not was_limited(outcome)
    return not ended or outcome.signal in _KILLS


def unfinished(record: Record, folder: Path) -> Outcome:
    """Return what stands for the outcome of a run that was lost and not yet concluded."""
    return Outcome(
        run_id=record.run_id,
        record_digest="",
        state="LOST",
        exit_code=None,
        signal=None,
        reason=None,
        started=record.created,
        ended=record.created,
        metrics={},
        trail_digest=None,
        trails=[],
        files={},
        inputs=[],
        outputs=[],
        artifacts=[],
        notes=[str(folder)],
        gaps=[],
    )


class Cut(NamedTuple):
    """How far a run had come: its folder, rows of each process's trail, metric points, bytes of output, seconds."""

    folder: Path
    rows: dict[str, int]
    points: int
    output: int
    seconds: float


def of(outcome: Outcome, folder: Path) -> Cut | None:
    """Return how far a run had come that was cut, None for any other."""
    if not is_cut(outcome):
        return None
    rows = {path.name: path.stat().st_size // form.ROW.size for path in _trails(folder)}
    return Cut(folder, rows, _points(folder), _output(folder), _seconds(outcome, folder))


def _trails(folder: Path) -> list[Path]:
    return sorted((folder / "trail").glob("*.rows"))


def _points(folder: Path) -> int:
    return sum(len(points) for points in metrics.series(folder).values())


def _output(folder: Path) -> int:
    log = folder / "stdout.log"
    return log.stat().st_size if log.exists() else 0


def _seconds(outcome: Outcome, folder: Path) -> float:
    """Return how long a run had gone on: of one that was lost, until it last wrote something."""
    began = datetime.fromisoformat(outcome.started).timestamp()
    ended = datetime.fromisoformat(outcome.ended).timestamp()
    if outcome.state == "LOST":
        written = [path.stat().st_mtime for path in folder.rglob("*") if path.is_file() and path.name != "outcome.json"]
        ended = min([ended, *written]) if ended <= began else max(filter(ended.__ge__, written), default=ended)
    return max(ended - began, 0.0)


def until(cut: Cut) -> Callable[[Path, float], bool]:
    """Return what says of a replay, by its folder and seconds, whether it has come as far as the run had."""

    def is_enough(folder: Path, seconds: float) -> bool:
        if not cut.rows:
            beyond = _output(folder) > cut.output if cut.output else _points(folder) > cut.points > 0
            return (beyond and _points(folder) >= cut.points) or seconds > _LONGER * cut.seconds + _SLACK
        if not _has_rows(cut, folder):
            return False
        is_beyond = 0 < cut.output < _output(folder) and _points(folder) >= cut.points
        return is_beyond or bool(observed.read(folder).stopped)

    return is_enough


def _has_rows(cut: Cut, folder: Path) -> bool:
    """Say whether each process that had made steps has made as many; those of one place are in the order they began."""
    names = [path.name for path in _trails(folder)]
    for name, count in cut.rows.items():
        place = _place(name)
        number = [other for other in cut.rows if _place(other) == place].index(name)
        ours = [other for other in names if _place(other) == place]
        if number >= len(ours) or not _has_row(folder / "trail" / ours[number], count):
            return False
    return True


def _place(name: str) -> str:
    return name.rsplit("-", 2)[0]


def _has_row(path: Path, count: int) -> bool:
    """Say whether a file of rows, which may have room for more, has so many: the last one's chain is set."""
    with path.open("rb") as handle:
        handle.seek(max(count * form.ROW.size - len(form.NO_CHAIN), 0))
        return count == 0 or any(handle.read(len(form.NO_CHAIN)))


def is_empty(outcome: Outcome, cut: Cut) -> bool:
    """Say whether a run was cut before it left anything that a replay could be held against."""
    return not (cut.rows or cut.points or cut.output or outcome.artifacts or outcome.outputs)


def compared(found: compare.Comparison, cut: Cut | None) -> compare.Comparison:
    """Return the verdict on a run that was cut: files that it was writing decide nothing."""
    differs = found.first_difference or found.metrics or found.output or found.points or found.artifacts
    if cut is None or cut.rows or found.verdict != "DIFFERENT" or differs:
        return found
    if found.lines:
        return msgspec.structs.replace(found, verdict="IDENTICAL", reason=None)
    reason = "nothing to compare: the run was cut before its first step, metric or line of output"
    return msgspec.structs.replace(found, verdict="NOT_REPLAYABLE", reason=reason)


def words(outcome: Outcome, cut: Cut) -> str:
    """Return where a run was cut, for people."""
    state = outcome.state if outcome.signal is None or outcome.state != "FAILED" else f"ended by {outcome.signal}"
    rows = sum(cut.rows.values())
    after = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in ((rows, "step"), (cut.points, "point"))]
    counts = [text for text in after if not text.startswith("0 ")]
    return f"the run was {state}{' after ' + ' and '.join(counts) if counts else ''}, and is replayed up to there"


def killed(original: Outcome, now: Outcome, before: observed.Observed, after: observed.Observed) -> str | None:
    """Return what ended a replay from outside, None where nothing did.

    A process of it that was killed counts where the run had fewer such; a signal that the run ended with does not.
    """
    if was_limited(now) or now.state == "LOST":
        return now.reason
    name = now.signal or next((name for name, code in _KILLS.items() if code == now.exit_code), None)
    if name in _KILLS and (now.signal, now.exit_code) != (original.signal, original.exit_code):
        return f"{'it' if now.signal else 'a process of it'} was ended by {name}{_MEMORY if name == 'SIGKILL' else ''}"
    if now.signal is None and len(after.killed) > len(before.killed):
        return f"a process that it had started was ended by SIGKILL{_MEMORY}"
    has_stopped = after.stopped or now.exit_code is None  # the replay had come far enough, or crashed
    if not has_stopped and after.unended(os.getpid()) > before.unended():
        return "a process of it did not come to its end: killed, or crashed"
    return None


_MEMORY = ": from outside, or out of memory or time"


def void(found: compare.Comparison, reason: str) -> compare.Comparison:
    """Return the comparison with a replay that was killed: it is no verdict, and says what was equal until then."""
    counts = [(found.frames, "step"), (found.points, "metric point"), (found.lines, "line")]
    parts = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
    if found.first_difference is not None:
        until_then = f"until then it had come apart at step {found.first_difference.step}"
    elif found.output is not None and not parts:  # what comes after the kill says of it, too
        until_then = f"until then its output had come apart at line {found.output.line}"
    elif found.metrics:
        until_then = f"until then {', '.join(found.metrics)} had come apart"
    else:
        until_then = f"until then {' and '.join(parts)} were equal" if parts else "until then nothing had been compared"
    return msgspec.structs.replace(
        found, verdict="NOT_REPLAYABLE", reason=f"the replay was killed: {reason}; {until_then}"
    )
