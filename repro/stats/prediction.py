"""Is one more value what the others let one expect? Prediction intervals and a one-sided test, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from repro.stats import checks
from repro.stats.intervals import prediction_interval

#: Fewer values say nothing: at n = 2 the interval is 15.6 standard deviations to each side, and nearly all fits.
LEAST = 5


class Prediction(NamedTuple):
    """The prediction interval of ``n`` values at ``level``, and the two-sided p-value of one more value."""

    n: int
    mean: float
    low: float
    high: float
    level: float
    p: float

    @property
    def holds(self) -> bool:
        """Whether the value lies in the interval."""
        return self.p >= 1 - self.level


def predict(values: Sequence[float], new: float, level: float = 0.95) -> Prediction:
    """Return where one more value is to be expected, in the values' own unit, and how likely ``new`` is.

    ``mean ± t((1 + level) / 2, n - 1) s sqrt(1 + 1/n)`` for n independent normal values of one distribution, s with
    n - 1 in its denominator. Source: Hahn and Meeker, Statistical Intervals, 1991, section 4.7.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or a level outside (0, 1).
    """
    from scipy import special

    found = checks.sample(values, name="values")
    if not math.isfinite(new):
        raise ValueError(f"new: a finite number is expected, not {new}")
    low, high = prediction_interval(found, level)
    n, mean = len(found), float(found.mean())
    width = float(found.std(ddof=1)) * math.sqrt(1 + 1 / n)
    p = 2 * float(special.stdtr(n - 1, -abs(new - mean) / width)) if width else float(new == mean)
    return Prediction(n, mean, low, high, level, p)


def worse(before: Sequence[float], now: Sequence[float], *, larger_is_better: bool) -> float:
    """Return the p-value of "now is worse on average than before": a one-sided Welch test of two samples.

    The alternative of a study of replays: like MLPerf's reference convergence points, it asks in one direction only
    whether the new runs fall short of the old ones. Source: Welch, Biometrika 34, 1947.

    Raises:
        ValueError: for fewer than two values on a side.
    """
    from scipy import stats

    if min(len(before), len(now)) < 2:  # noqa: PLR2004
        msg = "two values are expected at least on each side"
        raise ValueError(msg)
    if np.var(before) == np.var(now) == 0:
        short = now[0] < before[0] if larger_is_better else now[0] > before[0]
        return 0.0 if short else 1.0
    way = "less" if larger_is_better else "greater"
    return float(stats.ttest_ind(now, before, equal_var=False, alternative=way).pvalue)
