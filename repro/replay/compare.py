"""Two runs held against each other: trails, metrics, artifacts, other files. Nothing is run here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from repro.record import trail as form
from repro.record.values import FileDigest, MetricSpec, Outcome, Verdict
from repro.run import metrics, trails

#: Metrics whose name says that they measure time or memory are not compared, where nothing is declared of them.
_MEASURES = re.compile(
    r"(^|[/_. -])(time|times|(run|wall|cpu|gpu)_?time|wall_?clock|timestamp|seconds?|secs?|ms|minutes|hours|duration"
    r"|elapsed|latency|throughput|speed|memory|mem|rss|vram|fps|eta)($|[/_. -])|(_per_|/)(s|sec|second)$",
    re.IGNORECASE,
)


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Where two trails came apart: step, column, tensor by name, process; ``since`` is the last step known equal."""

    step: int
    column: str
    tensor: str | None
    process: str
    optimizer: int
    since: int | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, what was found, and what was left out."""

    verdict: Verdict
    reason: str | None
    first_difference: FirstDifference | None
    frames: int
    points: int
    artifacts: int
    metrics: dict[str, Any]
    not_compared: list[str]
    files: list[dict[str, Any]]


def compare(
    a: tuple[Path, Outcome], b: tuple[Path, Outcome], declared: Mapping[str, MetricSpec], *, until_end: bool
) -> Comparison:
    """Compare two runs by their folders and outcomes.

    ``until_end`` is false where the first did not come to its end by itself: then only what it left is compared.
    """
    frames, first, uneven = _trails(trails.read(a[0]), trails.read(b[0]), until_end=until_end)
    points, changed, left_out = _metrics(metrics.series(a[0]), metrics.series(b[0]), declared, until_end=until_end)
    artifacts, artifact_faults = _files(a[1].artifacts, b[1].artifacts)
    outputs, output_faults = _files(a[1].outputs, b[1].outputs)
    reasons = [
        *uneven,
        *(f"metric {name} differs" for name in changed),
        *(f"artifact {item['path']} differs" for item in artifact_faults),
    ]
    if until_end and (a[1].exit_code, a[1].signal) != (b[1].exit_code, b[1].signal):
        reasons.append(f"it ended with {_end(a[1])}, now with {_end(b[1])}")
    if not (frames or points or artifacts):
        reasons += [f"output {item['path']} differs" for item in output_faults]
    verdict: Verdict = "DIFFERENT" if first or reasons else "IDENTICAL"
    if verdict == "IDENTICAL" and not (frames or points or artifacts or outputs):
        verdict, reasons = "NOT_REPLAYABLE", ["nothing to compare: no step of an optimizer, no metric, no file"]
    return Comparison(
        verdict=verdict,
        reason="; ".join(reasons) or None,
        first_difference=first,
        frames=frames,
        points=points,
        artifacts=artifacts,
        metrics=changed,
        not_compared=left_out,
        files=output_faults,
    )


def _end(outcome: Outcome) -> str:
    return outcome.signal or f"exit code {outcome.exit_code}"


def _trails(
    a: list[trails.ProcessTrail], b: list[trails.ProcessTrail], *, until_end: bool
) -> tuple[int, FirstDifference | None, list[str]]:
    pairs, rest = _pairs(a, b)
    count = 0
    found: list[FirstDifference] = []
    uneven = []
    for one, other in pairs:
        if other is None:
            uneven.append(f"{one.process} took no step")
            continue
        count += min(len(one.frames), len(other.frames))
        first = first_difference(one, other)
        if first is not None:
            found.append(first)
        elif len(one.frames) > len(other.frames) or (until_end and len(one.frames) != len(other.frames)):
            uneven.append(f"{one.process} took {len(one.frames)} steps, now {len(other.frames)}")
    uneven += [f"{item.process} took no step before" for item in rest] if until_end else []
    return count, min(found, key=lambda item: item.step, default=None), uneven


def _pairs(
    a: list[trails.ProcessTrail], b: list[trails.ProcessTrail]
) -> tuple[list[tuple[trails.ProcessTrail, trails.ProcessTrail | None]], list[trails.ProcessTrail]]:
    """Return each process with its counterpart in the other run, and those of the other run that are left.

    Processes of one rank that ran side by side come in any order: those whose trails are equal belong together, and
    the others in the order in which they began.
    """
    rest = list(b)
    found: dict[str, trails.ProcessTrail | None] = {}
    for is_like in (_is_same, _is_equal, _is_of_one_rank):
        for one in a:
            other = next((item for item in rest if is_like(one, item)), None) if one.process not in found else None
            if other is not None:
                rest = [item for item in rest if item is not other]
                found[one.process] = other
    return [(one, found.get(one.process)) for one in a], rest


def _is_of_one_rank(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return one.process.partition(" #")[0] == other.process.partition(" #")[0]


def _is_equal(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return _is_of_one_rank(one, other) and form.first_unequal(one.frames, other.frames) is None


def _is_same(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return one.process == other.process and _is_equal(one, other)


def first_difference(a: trails.ProcessTrail, b: trails.ProcessTrail) -> FirstDifference | None:
    """Return where two trails of one process came apart, or None where one goes on as the other."""
    index = form.first_unequal(a.frames, b.frames)
    if index is None:
        return None
    one, other = a.frames[index], b.frames[index]
    column = form.first_column(one, other)
    tensor = None
    if isinstance(column, int):
        tensor = _tensor(a.tensors(one, column), b.tensors(other, column))
        column = form.COLUMNS[column]
    return FirstDifference(
        step=one.step,
        column=column,
        tensor=tensor,
        process=a.process,
        optimizer=one.optimizer,
        since=_since(a.frames, index, column),
    )


def _since(frames: list[form.Frame], index: int, column: str) -> int | None:
    """Return the last step that is known to be equal in this column: further back where frames were not full."""
    wanted = form.needs(column)
    for frame in reversed(frames[:index]):
        if frame.optimizer == frames[index].optimizer and frame.flags & wanted == wanted:
            return frame.step
    return None


def _tensor(a: dict[str, int] | None, b: dict[str, int] | None) -> str | None:
    if not a or not b:
        return None
    return next((name for name, value in a.items() if b.get(name) != value), None)


def _metrics(
    a: dict[str, list[metrics.Point]],
    b: dict[str, list[metrics.Point]],
    declared: Mapping[str, MetricSpec],
    *,
    until_end: bool,
) -> tuple[int, dict[str, Any], list[str]]:
    """Return how many points were compared, the metrics that differ (first unequal point), and those left out."""
    left_out = sorted(name for name in {*a, *b} if not is_compared(name, declared))
    count = 0
    changed = {}
    for name in sorted({*a, *b}.difference(left_out)):
        before, after = a.get(name, []), b.get(name, [])
        count += min(len(before), len(after))
        fault = _unequal(before, after, until_end=until_end)
        if fault is not None:
            changed[name] = fault
    return count, changed, left_out


def is_compared(name: str, declared: Mapping[str, MetricSpec]) -> bool:
    """Say whether a metric takes part: as declared; if nothing is, unless its name says that it measures time."""
    if name in declared:
        return declared[name].compare == "always"
    return _MEASURES.search(name) is None


def _unequal(a: list[metrics.Point], b: list[metrics.Point], *, until_end: bool) -> dict[str, Any] | None:
    for one, other in zip(a, b, strict=False):
        if one.step != other.step or not same_bits(one.value, other.value):
            return {"step": one.step, "before": one.value, "after": other.value, "last": [a[-1].value, b[-1].value]}
    if len(a) > len(b) or (until_end and len(a) != len(b)):
        return {"step": None, "before": f"{len(a)} points", "after": f"{len(b)} points", "last": None}
    return None


def same_bits(a: float, b: float) -> bool:
    """Say whether two numbers are equal to the bit; NaN equals NaN, and 0.0 is not -0.0."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)


def _files(a: list[FileDigest], b: list[FileDigest]) -> tuple[int, list[dict[str, Any]]]:
    before, after = ({item.path: item.digest for item in files} for files in (a, b))
    names = sorted({*before, *after})
    faults = [
        {"path": name, "before": before.get(name), "after": after.get(name)}
        for name in names
        if before.get(name) != after.get(name)
    ]
    return len(before.keys() & after.keys()), faults
