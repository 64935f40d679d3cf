"""Seeds by examples: how much of the spread is real, how much the finite test set, and where seeds disagree."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks


class VarianceSplit(NamedTuple):
    """Variance of the error over seeds, and its two parts: ``observed = test_set + real``.

    Each is an estimate without bias; ``real`` and ``test_set`` may come out below 0, which means about 0.
    """

    observed: float
    test_set: float
    real: float

    def in_words(self) -> str:
        """Return it as one sentence, without a full stop, as standard deviations (they add in squares)."""
        observed, test_set, real = (math.sqrt(max(part, 0.0)) for part in self)
        return f"of the observed sd {observed:.3g}, {test_set:.3g} is the finite test set, {real:.3g} is real"


def split_variance(correct: ArrayLike) -> VarianceSplit:
    """Return how much of the variance of the error over seeds is real, and how much is this test set.

    ``real = n/(n-1) [Var(err_S) - (1/n^2) sum_i Var(err_i)]``, ddof 1 over seeds in both: the variance on endless test
    data, equal to the mean covariance of two different examples. Source: Jordan, Calibrated Chaos, ICLR 2024,
    Theorem 2.

    Args:
        correct: 1 where a seed had an example right, shape (seeds, examples); all seeds on the same examples.

    Raises:
        ValueError: for fewer than two seeds or examples, or a value that is not 0 or 1.
    """
    values = checks.zero_one(correct, (2, 2))
    n = values.shape[1]
    observed = float(values.mean(axis=1).var(ddof=1))
    real = real_variance(observed, float(values.var(axis=0, ddof=1).sum()) / n**2, n)
    return VarianceSplit(observed, observed - real, real)


def real_variance(observed: float, independent: float, n: int) -> float:
    """Return ``n/(n-1) (observed - independent)``: Jordan's Theorem 2 from its two parts.

    Args:
        observed: variance of the error over seeds.
        independent: ``(1/n^2) sum_i Var(err_i)``, what it would be if examples erred independently.
        n: test examples.

    Raises:
        ValueError: for n below 2, or a variance below 0.
    """
    checks.count(n, "n", 2)
    if not (observed >= 0 and independent >= 0):
        raise ValueError(f"variances of 0 or more are expected, not {observed} and {independent}")
    return n / (n - 1) * (observed - independent)


def calibrated_variance(error: float, n: int) -> float:
    """Return the variance over seeds to expect on a binary task of n test examples: ``error / (2n)``.

    For seeds whose ensemble is calibrated, and whose errors on different examples are independent. Source: Jordan,
    Calibrated Chaos, ICLR 2024.

    Raises:
        ValueError: for an error outside [0, 1], or n below 1.
    """
    checks.count(n, "n", 1)
    if not 0 <= error <= 1:
        raise ValueError(f"error: a share from 0 to 1 is expected, not {error}")
    return error / (2 * n)


def churn(labels: ArrayLike) -> float:
    """Return the share of examples on which two different seeds disagree, mean over all pairs of seeds.

    Source: Milani Fard et al., Launch and Iterate: Reducing Prediction Churn, NeurIPS 2016.

    Args:
        labels: predicted labels as whole numbers, shape (seeds, examples).

    Raises:
        ValueError: for fewer than two seeds, no examples, or labels that are not whole numbers.
    """
    values = checks.whole(labels, "labels", 2)
    seeds = _two_seeds(values)
    disagreeing = sum(float((row != later).mean()) for at, row in enumerate(values) for later in values[at + 1 :])
    return disagreeing / (seeds * (seeds - 1) / 2)


class ClassSpread(NamedTuple):
    """Per class: its label, how many examples it has, mean and sd over seeds of the accuracy on it; all (classes,)."""

    label: checks.Whole
    examples: checks.Whole
    mean: checks.Floats
    sd: checks.Floats


def class_spread(correct: ArrayLike, labels: ArrayLike) -> ClassSpread:
    """Return how much the accuracy on each class varies over seeds (sd with ddof 1).

    Args:
        correct: 1 where a seed had an example right, shape (seeds, examples).
        labels: true class of each example, shape (examples,).

    Raises:
        ValueError: for fewer than two seeds, a value that is not 0 or 1, or labels that do not match.
    """
    values = checks.zero_one(correct, (2, 1))
    truth = checks.whole(labels, "labels", 1)
    if len(truth) != values.shape[1]:
        raise ValueError(f"labels: one for each of the {values.shape[1]} examples is expected, there are {len(truth)}")
    classes, sizes = np.unique(truth, return_counts=True)
    each = np.array([values[:, truth == label].mean(axis=1) for label in classes])
    return ClassSpread(classes, sizes.astype(np.int64), each.mean(axis=1), each.std(axis=1, ddof=1))


def _two_seeds(values: checks.Whole) -> int:
    seeds = len(values)
    if seeds < 2:  # noqa: PLR2004 - one seed has no spread
        raise ValueError("two seeds are expected at least (rows), and there is one")
    return seeds
