"""Which metrics measure time, told from their points: each has the moment at which it was logged.

A measure of time follows the clock of its own run, with all its irregularities: the time since the last point, the time
since the start, or a number of steps over one of these. What follows the steps as well is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from repro.run.metrics import Point

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Array = NDArray[np.float64]

#: So many distances between points are needed in either run.
_LEAST = 8
#: Of the distances, these many follow the clock, to within this share of how much the clock itself varies.
_MOST_POINTS = 0.8
_CLOSE = 0.2
#: Distances that vary less than this (relative, at their median) tell nothing.
_STEADY = 0.01
#: A measure of time differs from run to run at nearly every point.
_UNEQUAL = 0.8


def measures_time(a: Sequence[Point], b: Sequence[Point]) -> bool:
    """Say whether a metric that differs between two runs of one recipe follows the clock in both of them."""
    pairs = list(zip(_in_order(a), _in_order(b), strict=False))
    differ = sum(one.value != other.value for one, other in pairs)
    if len(a) != len(b) or differ < _UNEQUAL * len(pairs):
        return False
    kinds = [set(_kinds([one for one, _ in pairs])), set(_kinds([other for _, other in pairs]))]
    return bool(kinds[0] & kinds[1])


def _in_order(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.time)


def _kinds(points: Sequence[Point]) -> Iterator[str]:
    """Yield in which ways the points of one run follow its clock."""
    import numpy as np

    values, times = (np.array([getattr(point, name) for point in points]) for name in ("value", "time"))
    steps = np.array([index if point.step is None else point.step for index, point in enumerate(points)], dtype=float)
    if len(points) <= _LEAST or not np.isfinite(values).all():
        return
    gaps, strides = np.diff(times), np.diff(steps)
    if (gaps <= 0).any() or (strides <= 0).any():
        return
    later = values[1:]
    candidates = [
        ("interval", later, gaps),
        ("time of a step", later, gaps / strides),
        ("rate", later, strides / gaps),
        ("elapsed", np.diff(values), gaps),
    ]
    if (values > 0).all():  # the time since the start, from a number of steps over it: counted from 0 or from 1
        candidates += [(f"rate from {first}", np.diff((steps + first) / values), gaps) for first in (0, 1)]
    for kind, measured, clock in candidates:
        if _follows(measured, clock) and not _follows(measured, strides) and not _is_steady(measured):
            yield kind


def _follows(measured: _Array, expected: _Array) -> bool:
    """Say whether ``measured = c * expected`` holds at most points, far closer than either of the two varies.

    By quantiles, since the first step of a training takes a hundred times as long as any other.
    """
    import numpy as np

    if (expected == 0).any() or not np.isfinite(measured).all():
        return False
    ratios = measured / expected
    middle = np.median(ratios)
    if middle == 0:
        return False
    off = np.quantile(np.abs(ratios / middle - 1), _MOST_POINTS)
    return bool(off <= _CLOSE * max(_variation(expected), _STEADY * _CLOSE))


def _is_steady(values: _Array) -> bool:
    return _variation(values) < _STEADY


def _variation(values: _Array) -> float:
    """Return the median relative distance from the median."""
    import numpy as np

    middle = np.median(values)
    return float(np.median(np.abs(values / middle - 1))) if middle else 0.0
