"""Predicted probabilities: loss, calibration, and the mean of several models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks


def nll(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean negative log-likelihood in nats, ``-mean(log p(true class))``; infinite where a p is 0.

    Args:
        probabilities: shape (examples, classes).
        labels: true classes, shape (examples,).

    Raises:
        ValueError: for rows that are no probabilities, or labels that do not match.
    """
    values = checks.probabilities(probabilities, "probabilities", 2)
    return _nll(values, checks.labels_of(labels, *values.shape))


def _nll(values: checks.Floats, truth: checks.Whole) -> float:
    with np.errstate(divide="ignore"):
        return float(-np.log(values[np.arange(len(truth)), truth]).mean())


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error: ``sum_b (n_b/n) |accuracy_b - confidence_b|``.

    Over ``bins`` of equal width ``((b-1)/bins, b/bins]`` of the largest probability. Source: Guo et al., On Calibration
    of Modern Neural Networks, ICML 2017. On few examples it is above 0 even for a calibrated model, and more so with
    more bins.

    Args:
        probabilities: shape (examples, classes).
        labels: true classes, shape (examples,).
        bins: how many.

    Raises:
        ValueError: for rows that are no probabilities, labels that do not match, or no bins.
    """
    values = checks.probabilities(probabilities, "probabilities", 2)
    truth = checks.labels_of(labels, *values.shape)
    confidence = values.max(axis=1)
    edges = np.arange(1, checks.count(bins, "bins", 1)) / bins
    excess = (values.argmax(axis=1) == truth) - confidence
    sums = np.bincount(np.searchsorted(edges, confidence, side="left"), weights=excess)
    return float(np.abs(sums).sum() / len(truth))


def ensemble(probabilities: ArrayLike, weights: ArrayLike | None = None) -> checks.Floats:
    """Return the mean of the members' probabilities, shape (examples, classes).

    Its NLL is never above the members' mean NLL with the same weights (Jensen's inequality). Source: Lakshminarayanan
    et al., Deep Ensembles, NeurIPS 2017.

    Args:
        probabilities: shape (members, examples, classes).
        weights: shape (members,), 0 or more, divided by their sum; None: all equal.

    Raises:
        ValueError: for rows that are no probabilities, or weights that do not match, are negative or all 0.
    """
    values = checks.probabilities(probabilities, "probabilities", 3)
    shares = np.ones(len(values)) if weights is None else checks.sample(weights, least=1, name="weights")
    if len(shares) != len(values):
        raise ValueError(f"weights: one for each of the {len(values)} members is expected, and there are {len(shares)}")
    if shares.min() < 0 or not shares.any():
        raise ValueError("weights: 0 or more is expected, and not all 0")
    return np.asarray(np.tensordot(shares / shares.sum(), values, axes=1), dtype=np.float64)


class Selection(NamedTuple):
    """Which members an ensemble takes: their weights (members,), and the validation NLL after each pick (rounds,)."""

    weights: checks.Floats
    losses: checks.Floats


def greedy_selection(probabilities: ArrayLike, labels: ArrayLike, rounds: int = 50) -> Selection:
    """Return weights by ensemble selection with replacement: each pick lowers the NLL of the mean the most.

    Each round adds the member, taken before or not, with which the mean has the smallest NLL (the first of equals);
    weights are shares of the picks up to the best round. On these examples it is never worse than the best single
    member; report it on others. Source: Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004.

    Args:
        probabilities: of validation examples, shape (members, examples, classes).
        labels: true classes, shape (examples,).
        rounds: how many picks.

    Raises:
        ValueError: for rows that are no probabilities, labels that do not match, or no rounds.
    """
    values = checks.probabilities(probabilities, "probabilities", 3)
    members, examples, classes = values.shape
    truth = checks.labels_of(labels, examples, classes)
    of_truth = values[:, np.arange(examples), truth]
    picks, losses, total = [], [], np.zeros(examples)
    for size in range(1, checks.count(rounds, "rounds", 1) + 1):
        with np.errstate(divide="ignore"):
            each = -np.log((total + of_truth) / size).mean(axis=1)
        picks.append(int(each.argmin()))
        losses.append(float(each.min()))
        total += of_truth[picks[-1]]
    best = int(np.argmin(losses)) + 1
    return Selection(np.bincount(picks[:best], minlength=members) / best, np.array(losses))
