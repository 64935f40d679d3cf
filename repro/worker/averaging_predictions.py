"""Ensembles from saved predictions: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repro import stats
from repro.worker.predictions import Arrays

#: Which way is better, for the first score of an evaluation.
LARGER_IS_BETTER = {"accuracy": True, "rmse": False}
_LEAST = 1e-12  # of a probability, where its logarithm is taken to fit weights


class Refused(Exception):  # noqa: N818  (it is no fault: what was asked for would not be sound)
    """What cannot be averaged, with what would help."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def check_alike(split: str, members: Sequence[Arrays]) -> None:
    """Raise Refused unless all members predicted the same examples with the same targets."""
    first = members[0]
    hint = "hold the split for all members: repro seeds --vary init,order, or a split that no seed decides"
    for number, other in enumerate(members[1:], 1):
        if not np.array_equal(first.ids, other.ids):
            raise Refused(f"members 0 and {number} have predictions of other examples of {split!r}", hint)
        if not np.array_equal(first.targets, other.targets):
            at = first.ids[int((first.targets != other.targets).argmax())]
            same = f"example {at} of {split!r} has another target in member {number} than in member 0"
            raise Refused(f"{same}: one id, two examples", hint)
        if first.probabilities.shape != other.probabilities.shape:
            shapes = f"{first.probabilities.shape} and {other.probabilities.shape}"
            raise Refused(f"the predictions of members 0 and {number} on {split!r} have shapes {shapes}")


def scores(found: Arrays) -> dict[str, float]:
    """Return accuracy, NLL (nats) and expected calibration error of probabilities; of a regression its RMSE."""
    if found.probabilities.ndim == 1:
        return {"rmse": float(np.sqrt(np.mean(np.square(found.probabilities - found.targets))))}
    right = found.probabilities.argmax(axis=1) == found.targets
    return {
        "accuracy": float(right.mean()),
        "nll": stats.nll(found.probabilities, found.targets),
        "ece": stats.calibration_error(found.probabilities, found.targets),
    }


def rank(found: Mapping[str, float]) -> tuple[float, float]:
    """Return what orders evaluations: the smallest is the best; by the metric, then by the NLL."""
    name = next(name for name in LARGER_IS_BETTER if name in found)
    return (-found[name] if LARGER_IS_BETTER[name] else found[name]), found.get("nll", 0.0)


def loss(found: Mapping[str, float]) -> float:
    """Return the loss that a barrier is measured in: NLL, else RMSE, else the share of errors."""
    if "nll" in found:
        return found["nll"]
    return found["rmse"] if "rmse" in found else 1 - found["accuracy"]


def combined(members: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Return the weighted mean of the members' predictions; the weights sum to 1."""
    mean = np.tensordot(np.asarray(weights), _stack(members), axes=1)
    return members[0]._replace(probabilities=mean.astype(np.float32))


def _stack(members: Sequence[Arrays]) -> Any:
    return np.stack([member.probabilities for member in members]).astype(np.float64)


def uniform(members: Sequence[Any]) -> list[float]:
    """Return equal weights."""
    return [1 / len(members)] * len(members)


def greedy(members: Sequence[Arrays]) -> list[float]:
    """Return weights by Caruana's greedy selection with replacement; of a regression the mean square counts."""
    if members[0].probabilities.ndim > 1:
        found = stats.greedy_selection(_stack(members), members[0].targets)
        return [float(weight) for weight in found.weights]
    values, truth = _stack(members), members[0].targets
    picks: list[int] = []
    errors: list[float] = []
    total = np.zeros(len(truth))
    for size in range(1, 51):
        each = np.mean(np.square((total + values) / size - truth), axis=1)
        picks.append(int(each.argmin()))
        errors.append(float(each.min()))
        total = total + values[picks[-1]]
    best = int(np.argmin(errors)) + 1
    return [picks[:best].count(index) / best for index in range(len(members))]


def fitted(members: Sequence[Arrays]) -> list[float]:
    """Return the weights, 0 or more with sum 1, of the smallest NLL, or mean square error, on these examples.

    The problem is convex. Where the solver does worse than a member alone, or equal weights, these are taken.
    """
    from scipy.optimize import minimize

    value, slope = _objective(members)
    count = len(members)
    found = minimize(
        value,
        np.full(count, 1 / count),
        jac=slope,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 500, "ftol": 1e-10},
    )
    solved = np.where(found.x < 1e-6, 0.0, found.x)  # noqa: PLR2004  (what the solver leaves of a zero)
    choices = [solved / solved.sum(), np.full(count, 1 / count), *np.eye(count)]
    return [float(weight) for weight in min(choices, key=value)]


def _objective(members: Sequence[Arrays]) -> tuple[Any, Any]:
    """Return the loss of weights (members,), and its gradient."""
    values, truth = _stack(members), members[0].targets
    if values.ndim > 2:  # noqa: PLR2004  (members, examples, classes)
        own = np.maximum(values[:, np.arange(len(truth)), truth], _LEAST)
        return (lambda w: -np.log(w @ own).mean(), lambda w: -(own / (w @ own)).mean(axis=1))
    return (
        lambda w: np.mean(np.square(w @ values - truth)),
        lambda w: 2 * (values * (w @ values - truth)).mean(axis=1),
    )
