"""One metric over seeds: its summary, and what the best seed, the mean of tuned runs, and one seed alone are worth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks
from repro.stats.intervals import Interval, prediction_interval, sd_interval, t_interval
from repro.stats.power import minimum_detectable_effect

#: Under four values the interquartile mean trims nothing, and is the mean.
LEAST_FOR_IQM = 4


class Summary(NamedTuple):
    """What n seeds say of one metric, in its unit; ``iqm`` is None where it would be the mean.

    ``detectable`` is the smallest difference of two such samples (unpaired) that is found with a power of 80%.
    """

    n: int
    mean: float
    sd: float
    interval: Interval
    sd_interval: Interval
    prediction: Interval
    median: float
    iqm: float | None
    low: float
    high: float
    detectable: float


def summarize(x: ArrayLike, confidence: float = 0.95) -> Summary:
    """Return what n seeds, shape (n,), say of one metric; see the functions that it calls.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or a confidence outside (0, 1).
    """
    values = checks.sample(x)
    n, spread = len(values), float(values.std(ddof=1))
    return Summary(
        n=n,
        mean=float(values.mean()),
        sd=spread,
        interval=t_interval(values, confidence),
        sd_interval=sd_interval(values, confidence),
        prediction=prediction_interval(values, confidence),
        median=float(np.median(values)),
        iqm=iqm(values) if n >= LEAST_FOR_IQM else None,
        low=float(values.min()),
        high=float(values.max()),
        detectable=minimum_detectable_effect(n) * spread,
    )


def iqm(x: ArrayLike) -> float:
    """Return the interquartile mean: the mean without the ``n // 4`` smallest and the ``n // 4`` largest values.

    Source: Agarwal et al., NeurIPS 2021, on one task's runs. Whole values are cut, as by ``scipy.stats.trim_mean``.

    Raises:
        ValueError: for fewer than two values, or one that is not finite.
    """
    values = np.sort(checks.sample(x))
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def expected_best(n: int) -> float:
    """Return how far the best of n equal things is above their mean by luck alone, in standard deviations.

    The expected largest of n standard normal values, ``∫ x n phi(x) Phi(x)^(n-1) dx``. Source: David and Nagaraja,
    Order Statistics, 2003, chapter 3.

    Raises:
        ValueError: for n below 1.
    """
    from scipy import integrate, special

    checks.count(n, "n", 1)

    def density(x: float) -> float:
        return float(n * np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * special.ndtr(x) ** (n - 1))

    return float(integrate.quad(lambda x: x * density(x), -12, 12, limit=200)[0])


def variance_of_mean(variance: float, rho: float, k: int) -> float:
    """Return the variance of the mean of k runs that share something, such as one tuning: it ends at a plateau.

    ``Var(mu) = V/k + ((k - 1)/k) rho V``; with more runs it tends to ``rho V``, not to 0. Source: Bouthillier et al.,
    MLSys 2021.

    Args:
        variance: V, of one run.
        rho: the correlation between two runs, -1/(k - 1) to 1.
        k: how many runs.

    Raises:
        ValueError: for a variance below 0, fewer than one run, or a correlation that k runs cannot have.
    """
    checks.count(k, "k", 1)
    if not 0 <= variance < np.inf:
        raise ValueError(f"variance: a number of 0 or more is expected, not {variance}")
    if not (-1 if k == 1 else -1 / (k - 1)) <= rho <= 1:
        raise ValueError(f"rho: a correlation that {k} runs can have is expected, not {rho}")
    return variance / k + (k - 1) / k * rho * variance


def one_seed_picks_winner(scores: ArrayLike) -> float:
    """Return how often a single seed picks the winner of all seeds' means; larger is better, ties share.

    Chance alone would be 1 / models. The seed that picks is one of those in the mean, so this flatters it a little.

    Args:
        scores: shape (models, seeds); seeds need not be paired.

    Raises:
        ValueError: for fewer than two models or seeds, or a value that is not finite.
    """
    values = checks.table(scores, "scores", (2, 2))
    best = values == values.max(axis=0)
    return float((best / best.sum(axis=0))[values.mean(axis=1).argmax()].mean())
