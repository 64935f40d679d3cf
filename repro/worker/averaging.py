"""The built-in entry that makes an averaged model: a run like any other, with its members' files as declared data.

Its parameters are those of `Plan`. It leaves metrics (``averaged/accuracy``, ``best_single/…``, ``mean_single/…``), the
averaged model's predictions and weights, and ``average.json``, which says how it came about, or why it was refused.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repro.worker import averaging_predictions as arithmetic
from repro.worker import hook
from repro.worker.averaging_predictions import Refused
from repro.worker.predictions import Arrays
from repro.worker.session import Run

#: The file among the artifacts that says how the model came about.
DETAILS = "average.json"
_FAR = 1e-3  # of probabilities and losses that should be equal but for the order of sums

Scores = dict[str, float]


class Plan(NamedTuple):
    """The parameters of an averaged model: members by record digest, their parameters and seeds; the splits."""

    method: str
    members: list[str]
    params: Mapping[str, Any]
    seeds: list[Mapping[str, Any]]
    module: str | None
    test: str
    validation: str | None
    shared: bool
    rebasin: bool
    max_barrier: float


class Result(NamedTuple):
    """An averaged model: scores of every member and its own, predictions by split, how it came about, weights."""

    singles: list[Scores]
    best: int | None
    averaged: Scores
    predictions: Mapping[str, Arrays]
    details: Mapping[str, Any]
    state: Mapping[str, Any] | None = None


class Files:
    """The members' files, which the run has as declared data."""

    def __init__(self, data: Mapping[str, str]) -> None:
        self._data = {name: os.path.abspath(path) for name, path in data.items()}

    def path(self, member: int, name: str) -> str | None:
        """Return where a member's file lies, None where it has none."""
        return self._data.get(key(member, name))

    def predictions(self, member: int, split: str) -> Arrays | None:
        """Return what a member predicted, None where it saved nothing."""
        path = self.path(member, f"predictions/{split}")
        if path is None:
            return None
        with np.load(path, allow_pickle=False) as found:
            return Arrays(*(found[name] for name in Arrays._fields))


def key(member: int, name: str) -> str:
    """Return the name of a member's file among the declared data."""
    return f"members/{member:03d}/{name}"


def average(run: Run) -> None:
    """Make the averaged model that the run's parameters ask for, and leave what came of it."""
    job, _ = hook.here()
    assert job is not None  # noqa: S101  (the entry of a run)
    plan = Plan(**run.params)
    details = Path(job.folder, "artifacts", DETAILS)
    try:
        found = _method(plan, Files(job.data), job.root)
    except Refused as error:
        details.write_text(_text({"refused": str(error), "hint": error.hint}))
        sys.stderr.write(f"repro: {error}\n")
        raise SystemExit(1) from None
    details.write_text(_text({**found.details, "best_single": found.best}))
    for who, values in summary(found).items():
        run.log({f"{who}/{name}": value for name, value in values.items()})
    for split, arrays in found.predictions.items():
        run.predictions(split, *arrays)
    if found.state is not None:
        from repro.worker.averaging_weights import write

        write(job.folder, plan.method, len(plan.members), found.state)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def summary(found: Result) -> dict[str, Scores]:
    """Return the scores of the averaged model, of the best single, and the mean over the members."""
    best = {} if found.best is None else {"best_single": found.singles[found.best]}
    names = [name for name in found.singles[0] if all(name in single for single in found.singles)]
    mean = {name: math.fsum(single[name] for single in found.singles) / len(found.singles) for name in names}
    return {"averaged": found.averaged, **best, "mean_single": mean}


def _method(plan: Plan, files: Files, root: str) -> Result:
    if plan.method in _WEIGHTS:
        return _of_predictions(plan, files, root)
    from repro.worker import averaging_runs

    return averaging_runs.of_weights(plan, files, root)


#: The methods that average predictions, with what makes their weights of the validation predictions.
_WEIGHTS: Mapping[str, Callable[[Sequence[Any]], list[float]]] = {
    "ensemble": arithmetic.uniform,
    "weighted": arithmetic.fitted,
    "greedy": arithmetic.greedy,
}


def _of_predictions(plan: Plan, files: Files, root: str) -> Result:
    test, validation = _saved(plan, files, plan.test), _saved(plan, files, plan.validation)
    assert test is not None  # noqa: S101  (whoever asked for this run has looked)
    weights = _WEIGHTS[plan.method](test if plan.method == "ensemble" else validation or ())
    singles = [arithmetic.scores(member) for member in test]
    best = best_of([arithmetic.scores(member) for member in validation]) if validation else None
    found = {plan.test: arithmetic.combined(test, weights)}
    if validation and plan.validation:
        found[plan.validation] = arithmetic.combined(validation, weights)
    costs, notes = _costs(plan, files, root)
    taken = [cost for cost, weight in zip(costs, weights, strict=True) if weight]
    averaged = arithmetic.scores(found[plan.test]) | _total(taken)
    singles = [single | cost for single, cost in zip(singles, costs, strict=True)]
    return Result(singles, best, averaged, found, {"method": plan.method, "weights": weights, "notes": notes})


def _saved(plan: Plan, files: Files, split: str | None) -> list[Arrays] | None:
    """Return what all members predicted on a split, None where one of them saved nothing.

    Raises:
        Refused: where they did not predict the same examples.
    """
    found = [] if split is None else [files.predictions(member, split) for member in range(len(plan.members))]
    members = [item for item in found if item is not None]
    if split is None or len(members) < len(plan.members):
        return None
    arithmetic.check_alike(split, members)
    return members


def best_of(found: Sequence[Scores]) -> int:
    """Return the best of several evaluations, the first of equals."""
    return min(range(len(found)), key=lambda index: arithmetic.rank(found[index]))


def _costs(plan: Plan, files: Files, root: str) -> tuple[list[Scores], list[str]]:
    """Return each member's number of weights, and its inference time where the module can evaluate it; and notes.

    An ensemble needs neither: where the user's module fails, that is said, and no more.
    """
    paths = [files.path(member, "weights") for member in range(len(plan.members))]
    if None in paths:
        return [{} for _ in paths], []
    from repro.worker import averaging_runs

    try:
        return averaging_runs.costs(plan, [path for path in paths if path is not None], root), []
    except Exception as error:
        return [{} for _ in paths], [f"parameters and inference time are not known: {type(error).__name__}: {error}"]


def _total(costs: Sequence[Scores]) -> Scores:
    names = [name for name in costs[0] if all(name in cost for cost in costs)]
    return {name: math.fsum(cost[name] for cost in costs) for name in names}


def check_reproduced(split: str, member: int, found: Arrays | None, saved: Arrays | None) -> str | None:
    """Compare what a member does here with what it saved; return a note where its predictions are others.

    Raises:
        Refused: where it was tested on other examples: what one member learnt from, another would be tested on.
    """
    if found is None or saved is None:
        return None
    if not np.array_equal(found.targets, saved.targets) or found.probabilities.shape != saved.probabilities.shape:
        hint = "hold the split for all members: repro seeds --vary init,order, or a split that no seed decides"
        raise Refused(f"evaluate(model, run, {split!r}) has other examples than member {member} saved", hint)
    far = float(np.abs(found.probabilities - saved.probabilities).max())
    if far <= _FAR:
        return None
    return f"member {member}: its last checkpoint predicts {split!r} otherwise than it saved (by up to {far:.2g})"
