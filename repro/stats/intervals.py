"""Intervals for normal samples: of the mean, of the standard deviation, of the next value.

``scipy.special`` is imported inside the functions: it takes 0.1 s, ``scipy.stats`` 0.5 s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks


class Interval(NamedTuple):
    """The two ends of an interval, in the unit of the values."""

    low: float
    high: float


class Running(NamedTuple):
    """Mean and t interval of the first n values, for n = 2, 3, …; arrays of one length."""

    n: checks.Whole
    mean: checks.Floats
    low: checks.Floats
    high: checks.Floats


def t_interval(x: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the interval of the mean, ``mean ± t((1 + confidence) / 2, n - 1) s / sqrt(n)``; s has ddof 1.

    Args:
        x: n independent normal values of one distribution, shape (n,).
        confidence: how often such intervals hold the true mean.

    Source: Student, Biometrika 6, 1908.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or a confidence outside (0, 1).
    """
    values = checks.sample(x)
    return _around(values, confidence, math.sqrt(1 / len(values)))


def prediction_interval(x: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return where one more value lies, ``mean ± t((1 + confidence) / 2, n - 1) s sqrt(1 + 1/n)``.

    At n = 2 it reaches 15.6 standard deviations to each side, and nearly everything fits.

    Args:
        x: n independent normal values of one distribution, shape (n,).
        confidence: how often such intervals hold the next value.

    Source: Hahn and Meeker, Statistical Intervals, 1991, section 4.7.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or a confidence outside (0, 1).
    """
    values = checks.sample(x)
    return _around(values, confidence, math.sqrt(1 + 1 / len(values)))


def _around(values: checks.Floats, confidence: float, factor: float) -> Interval:
    from scipy import special

    level = (1 + checks.inside(confidence, "confidence")) / 2
    reach = float(special.stdtrit(len(values) - 1, level)) * float(values.std(ddof=1)) * factor
    mean = float(values.mean())
    return Interval(mean - reach, mean + reach)


def sd_interval(x: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return the interval of the standard deviation, ``s sqrt((n - 1) / chi2((1 ± confidence) / 2, n - 1))``.

    It leaves out (1 - confidence)/2 at each end, and for a confidence below 0.37 need not hold s. It is sensitive to
    values that are not normal.

    Args:
        x: n independent normal values of one distribution, shape (n,).
        confidence: how often such intervals hold the true standard deviation.

    Source: Hahn and Meeker, Statistical Intervals, 1991, chapter 4.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or a confidence outside (0, 1).
    """
    from scipy import special

    values = checks.sample(x)
    outside = (1 - checks.inside(confidence, "confidence")) / 2
    freedom = len(values) - 1
    spread = float(values.std(ddof=1))
    large, small = (float(special.chdtri(freedom, beyond)) for beyond in (outside, 1 - outside))
    return Interval(spread * math.sqrt(freedom / large), spread * math.sqrt(freedom / small))


def running(x: ArrayLike, confidence: float = 0.95) -> Running:
    """Return mean and t interval of the first 2, 3, …, n values, in the order given: did they settle?

    Looking at each n and stopping at the first that pleases makes the intervals too narrow.

    Raises:
        ValueError: as ``t_interval``.
    """
    values = checks.sample(x)
    counts = np.arange(2, len(values) + 1)
    ends = np.array([t_interval(values[:n], confidence) for n in counts])
    return Running(counts, np.array([values[:n].mean() for n in counts]), ends[:, 0], ends[:, 1])
