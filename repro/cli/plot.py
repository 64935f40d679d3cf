"""Small plots for a terminal, in plain text."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

_WIDTH, _HEIGHT = 60, 8
_LEAST_POINTS = 4


def parting(
    before: Mapping[str, Sequence[Any]], after: Mapping[str, Sequence[Any]], names: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of a plot of how a metric's curves part: their relative distance by point, on a log scale.

    The metric is that of ``names`` with the most points; nothing is plotted for a handful of them.
    """
    pairs = {name: [*zip(before.get(name, ()), after.get(name, ()), strict=False)] for name in names}
    name = max(pairs, key=lambda key: len(pairs[key]), default="")
    found = [_distance(one.value, other.value) for one, other in pairs.get(name, ())]
    if len(found) < _LEAST_POINTS or not any(found):
        return
    columns = _columns([value or 0.0 for value in found])
    logs = [math.log10(value) for value in columns if value]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high += low == high
    yield f"how {name} parts: relative distance by point, 0 to {len(found) - 1}"
    for row in range(_HEIGHT, 0, -1):
        edge = low + (high - low) * (row - 1) / _HEIGHT
        label = f"1e{high:+d}" if row == _HEIGHT else f"1e{low:+d}" if row == 1 else ""
        marks = "".join("*" if value and math.log10(value) >= edge else " " for value in columns)
        yield f"{label:>6} |{marks}".rstrip()
    yield f"{'equal':>6} |" + "".join("_" if not value else " " for value in columns).rstrip()


def every(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield, for each metric, a line with every value (``o``, digits where some coincide) and the mean's interval."""
    shown = {name: item for name, item in metrics.items() if "mean" in item and item["sd"]}
    if shown:
        yield ""
        yield "every value (o, or how many coincide) and the 95% interval of the mean [ | ]"
    width = max(map(len, shown), default=0)
    for name, item in shown.items():
        yield f"  {name:<{width}}  {_strip(item)}"


def _strip(item: Mapping[str, Any]) -> str:
    values = [value for value in item["values"].values() if math.isfinite(value)]
    marks = [*item["t_interval"], item["mean"]]
    low, high = min(*values, *marks), max(*values, *marks)

    def place(value: float) -> int:
        share: float = (value - low) / (high - low)
        return round(share * (_WIDTH - 1))

    line = ["-"] * _WIDTH
    for mark, value in zip("[]|", marks, strict=True):
        line[place(value)] = mark
    counts = Counter(map(place, values))
    for at, count in counts.items():
        line[at] = "o" if count == 1 else str(min(count, 9))
    return f"{low:.6g} {''.join(line)} {high:.6g}"


def _distance(before: float, after: float) -> float | None:
    if not (math.isfinite(before) and math.isfinite(after)):
        return None if math.isnan(before) == math.isnan(after) else 1.0
    return min(abs(after - before) / (abs(before) or abs(after) or 1.0), sys.float_info.max)


def _columns(values: Sequence[float]) -> list[float]:
    """Return the largest value of each of at most `_WIDTH` equal parts."""
    width = min(_WIDTH, len(values))
    edges = [index * len(values) // width for index in range(width + 1)]
    return [max(values[start:end]) for start, end in pairwise(edges)]
