"""Bootstrap intervals, percentile and BCa. For the mean of a few seeds take ``t_interval``: these are too narrow.

Ours and not ``scipy.stats.bootstrap``: the draws, and so the printed digits, stay the same over versions of scipy, and
constant samples give a point instead of NaN and a warning. The tests hold both against scipy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks
from repro.stats.intervals import Interval

#: ``statistic(rows, axis=-1)``: one number of each row, as ``np.mean``, ``np.median`` and ``np.std`` do.
Statistic = Callable[..., Any]
RESAMPLES = 10_000


def bootstrap_interval(
    x: ArrayLike,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
    statistic: Statistic = np.mean,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic: quantiles of it over resamples.

    Where it says 95% it covers the mean of five normal values 83% of the time, and of three 74%.

    Args:
        x: the values, shape (n,).
        confidence: what it claims to cover.
        rng: draws the resamples.
        statistic: called with (resamples, n) values and ``axis=-1``.
        resamples: how many.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Raises:
        ValueError: for fewer than two values, one that is not finite, a confidence outside (0, 1), or no resamples.
    """
    values = checks.sample(x)
    outside = (1 - checks.inside(confidence, "confidence")) / 2
    return _quantiles(_resampled(values, rng, statistic, resamples), outside, 1 - outside)


def bca_interval(
    x: ArrayLike,
    confidence: float = 0.95,
    *,
    rng: np.random.Generator,
    statistic: Statistic = np.mean,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the bias-corrected and accelerated (BCa) bootstrap interval of a statistic.

    The quantiles that ``bootstrap_interval`` takes are moved by the bias ``z0 = Phi^-1(share of resamples below)``
    and the acceleration ``a = sum d^3 / (6 (sum d^2)^1.5)``, d the jackknife's deviations. For a few seeds it is too
    narrow as well.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 14.3.

    Raises:
        ValueError: as ``bootstrap_interval``.
    """
    from scipy import special

    values = checks.sample(x)
    outside = (1 - checks.inside(confidence, "confidence")) / 2
    found = _resampled(values, rng, statistic, resamples)
    bias, acceleration = _bias(found, float(statistic(values, axis=-1))), _acceleration(values, statistic)

    def moved(level: float) -> float:
        z = bias + float(special.ndtri(level))
        shrunk = 1 - acceleration * z
        return float(special.ndtr(bias + z / shrunk)) if shrunk > 0 else float(z > 0)

    return _quantiles(found, moved(outside), moved(1 - outside))


def _resampled(values: checks.Floats, rng: np.random.Generator, statistic: Statistic, resamples: int) -> checks.Floats:
    """Return the statistic of each resample, sorted, shape (resamples,)."""
    checks.count(resamples, "resamples", 1)
    rows = values[rng.integers(len(values), size=(resamples, len(values)))]
    return np.sort(np.asarray(statistic(rows, axis=-1), dtype=np.float64))


def _quantiles(found: checks.Floats, low: float, high: float) -> Interval:
    """Return two values that occurred: between the few values of a share of wins nothing is made up."""
    last = len(found) - 1
    first = math.floor(round(low * len(found), 6))
    other = math.ceil(round(high * len(found), 6)) - 1
    return Interval(float(found[min(first, last)]), float(found[max(other, 0)]))


def _bias(found: checks.Floats, whole: float) -> float:
    from scipy import special

    below = float((found < whole).mean() + (found == whole).mean() / 2)
    least = 1 / (2 * len(found))
    return float(special.ndtri(min(max(below, least), 1 - least)))


def _acceleration(values: checks.Floats, statistic: Statistic) -> float:
    """Return the acceleration by the jackknife: one value left out at a time."""
    n = len(values)
    rows = np.broadcast_to(values, (n, n))[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    each = np.asarray(statistic(rows, axis=-1), dtype=np.float64)
    deviations = each.mean() - each
    squares = float((deviations**2).sum())
    return float((deviations**3).sum()) / (6 * squares**1.5) if squares else 0.0
