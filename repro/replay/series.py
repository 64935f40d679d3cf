"""The metrics of two runs held against each other, point by point.

A point that was logged with a step is known by metric, step and rank, whichever process of a pool had it and whenever
it came; the order of points counts only where no step was given (docs/adr/0028-points-and-measures-of-time.md).
"""

from __future__ import annotations

import math
import re
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from repro.record.values import MetricSpec
from repro.replay import timing
from repro.run.metrics import Point, Summary

#: How far two runs are compared: as wholes; all that the first has (it was cut short); or what both have.
Extent = Literal["whole", "first", "common"]

_UNITS = r"s|secs?|seconds?|ms|msecs?|us|ns|min|mins|minutes?|h|hours?"
_THINGS = (
    r"it|its|iters?|iterations?|steps?|batch|batches|epochs?|tok|tokens?|samples?|examples?|imgs?|images?|frames?"
    r"|episodes?"
)
#: Metrics whose name says that they measure time or memory are not compared, where nothing is declared of them.
_MEASURES = re.compile(
    r"(^|[/_. -])(time|times|(run|wall|cpu|gpu)_?time|wall_?clock|timestamp|datetime|seconds?|secs?|ms|minutes|hours"
    r"|duration|elapsed|latency|throughput|speed|memory|mem|rss|vram|fps|sps|tps|ips|qps|eta|dt|mfu|[tg]?flops|runtime"
    rf"|uptime|toks?/s)($|[/_. -])|(_per_|/| per )({_UNITS})$"
    rf"|(^|[/_. -])({_UNITS}|time)(_per_|/| per )({_THINGS})$|({_THINGS}|step|epoch|batch|iter|data|load)_?time$",
    re.IGNORECASE,
)


class Compared(NamedTuple):
    """How the metrics of two runs compare: points, the metrics that differ (first unequal point), those left out.

    ``equal_points`` are those of metrics that do not differ.
    """

    points: int
    changed: dict[str, Any]
    left_out: list[str]
    equal_points: int


def compare(
    a: Mapping[str, Sequence[Point]],
    b: Mapping[str, Sequence[Point]],
    declared: Mapping[str, MetricSpec],
    extent: Extent,
) -> Compared:
    """Compare all metrics of two runs; measures of time are left out, by their names or by their points."""
    left_out = {name for name in {*a, *b} if not is_compared(name, declared)}
    count = equal = 0
    changed = {}
    for name in sorted({*a, *b} - left_out):
        before, after = a.get(name, ()), b.get(name, ())
        fault = unequal(before, after, extent)
        if fault is not None and name not in declared and timing.measures_time(before, after):
            left_out.add(name)
            continue
        count += min(len(before), len(after))
        if fault is not None:
            changed[name] = fault
        else:
            equal += min(len(before), len(after))
    return Compared(count, changed, sorted(left_out), equal)


def of_equal(found: Mapping[str, Summary], declared: Mapping[str, MetricSpec]) -> Compared:
    """Return how the metrics of two runs compare that logged the same to the byte (`metrics.are_equal`)."""
    left_out = {name for name in found if not is_compared(name, declared)}
    count = sum(item.points for name, item in found.items() if name not in left_out)
    return Compared(count, {}, sorted(left_out), count)


def is_compared(name: str, declared: Mapping[str, MetricSpec]) -> bool:
    """Say whether a metric takes part: as declared; if nothing is, unless its name says that it measures time."""
    if name in declared:
        return declared[name].compare == "always"
    return _MEASURES.search(name) is None


def unequal(a: Sequence[Point], b: Sequence[Point], extent: Extent) -> dict[str, Any] | None:
    """Return the first point of a metric that is not equal in two runs, by step; None where all are."""
    before, after = _by_place(a), _by_place(b)
    keys = _keys(before, after, extent)
    for key in keys:
        pair = _first_unequal(before.get(key, []), after.get(key, []), key, extent)
        if pair is not None:
            ends = _last(before, keys), _last(after, keys)
            return _fault(key.step, pair, None if None in ends else [*ends])
    if any(_is_uneven(len(before.get(key, ())), len(after.get(key, ())), extent) for key in keys):
        return {"step": None, "before": f"{len(a)} points", "after": f"{len(b)} points", "last": None}
    return None


class _Place(NamedTuple):
    """What tells one point of a metric from another: its rank and step; -1 stands for no step."""

    order: int
    rank: str

    @property
    def step(self) -> int | None:
        return None if self.order < 0 else self.order


def _by_place(points: Sequence[Point]) -> dict[_Place, list[float]]:
    found: dict[_Place, list[float]] = defaultdict(list)
    for point in points:
        found[_Place(-1 if point.step is None else point.step, "" if point.step is None else point.rank)].append(
            point.value
        )
    return found


def _keys(a: Mapping[_Place, Any], b: Mapping[_Place, Any], extent: Extent) -> list[_Place]:
    wanted = {"whole": {*a, *b}, "first": {*a}, "common": {*a} & {*b}}[extent]
    return sorted(wanted)


def _first_unequal(a: list[float], b: list[float], key: _Place, extent: Extent) -> tuple[float, float] | None:
    """Return the first values that are not equal; of one step, in whatever order they came."""
    if key.step is not None:
        a, b = sorted(a, key=_bits), sorted(b, key=_bits)
        if extent != "whole" and len(a) != len(b):
            fewer, more = sorted((a, b), key=len)
            lacking = next((value for value in fewer if not any(same_bits(value, item) for item in more)), None)
            return None if lacking is None else (lacking, more[-1])
    return next(((one, other) for one, other in zip(a, b, strict=False) if not same_bits(one, other)), None)


def _bits(value: float) -> tuple[bool, bytes]:
    return math.isnan(value), struct.pack(">d", value)


def _last(points: Mapping[_Place, list[float]], keys: Sequence[_Place]) -> float | None:
    return next((points[key][-1] for key in reversed(keys) if points.get(key)), None)


def _fault(step: int | None, pair: tuple[float, float], last: list[float | None] | None) -> dict[str, Any]:
    return {
        "step": step,
        "before": pair[0],
        "after": pair[1],
        "ulp": ulps(*pair),
        "relative": relative(*pair),
        "last": last,
    }


def _is_uneven(before: int, after: int, extent: Extent) -> bool:
    return {"whole": before != after, "first": before > after, "common": False}[extent]


def ulps(a: float, b: float) -> int | None:
    """Return how many steps of a 32-bit float two numbers lie apart; None where one is not finite or exceeds it.

    Metrics are mostly made from 32-bit numbers: two that round to one such number are 0 apart.
    """
    if not (math.isfinite(a) and math.isfinite(b)):
        return None
    try:
        one, other = (struct.unpack("<i", struct.pack("<f", value))[0] for value in (a, b))
    except OverflowError:
        return None
    return abs(_ordinal(one) - _ordinal(other))


def _ordinal(bits: int) -> int:
    """Return a float's place in the order of all floats, from its bits: both zeros are 0."""
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def relative(a: float, b: float) -> float | None:
    """Return the distance of two numbers as a fraction of the first; None where that says nothing."""
    return abs(b - a) / abs(a) if a and math.isfinite(a) and math.isfinite(b) else None


def same_bits(a: float, b: float) -> bool:
    """Say whether two numbers are equal to the bit; NaN equals NaN, and 0.0 is not -0.0."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b and math.copysign(1, a) == math.copysign(1, b)
