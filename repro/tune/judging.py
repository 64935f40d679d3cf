"""Whether halving paid: the search beside controls of equal cost, over what is known of all trials at all budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from repro.tune import controls, method
from repro.tune.brackets import climb, cost, ladder
from repro.tune.method import Ladder
from repro.tune.scheduler import Scheduler
from repro.tune.search import Amount, Mode, Score, plain, step
from repro.tune.specification import Study


def sign_of(mode: Mode) -> float:
    """Return what turns a metric into a loss."""
    return 1.0 if mode == "min" else -1.0


def losses(mode: Mode, scores: Iterable[Score]) -> controls.Floats:
    """Return scores as losses: less is better, infinity for what diverged."""
    sign = sign_of(mode)
    return np.array([np.inf if score.value is None else sign * score.value for score in scores])


def in_full(scheduler: Scheduler, high: Amount) -> list[int]:
    """Return the trials at the full budget that did not diverge, the best first."""
    scores = [(at, trial.scores[high]) for at, trial in enumerate(scheduler.trials.all) if high in trial.scores]
    return scheduler.trials.ranking.order(item for item in scores if item[1].value is not None)


def best_of(scheduler: Scheduler, high: Amount) -> int | None:
    """Return the best trial among those at the full budget; None where there is none, or all diverged."""
    return next(iter(in_full(scheduler, high)), None)


def cheap(scheduler: Scheduler, high: Amount) -> list[Amount]:
    """Return the budgets below the full one that trials were judged at."""
    return sorted({budget for trial in scheduler.trials.all for budget in trial.asked} - {high})


def judge(
    study: Study,
    scheduler: Scheduler,
    whole: Ladder,
    mode: Mode,
    low: Amount,
    losses: Callable[[Amount], controls.Floats],
) -> dict[str, Any]:
    """Return the search beside its controls, and how the cheap ranks like the dear.

    Args:
        study: what was searched how.
        scheduler: the search, over.
        whole: its fidelity.
        mode: whether less or more of the metric is better.
        low: the budget of a first evaluation.
        losses: the loss of every trial at a budget, shape (n,), infinity for what diverged.
    """
    high, sign = whole.axis.high, sign_of(mode)
    full, first, trial = losses(high), losses(low), best_of(scheduler, high)
    spent, rest = scheduler.trials.spent, step(low, high, whole.course)
    equal = max(1, min(len(full), round(spent / high)))
    search = controls.Picked(equal, spent, math.inf if trial is None else float(full[trial]))
    named = {
        "random_full": controls.in_full(full, equal, high),
        "first_then_top": controls.first_then_top(full, first, equal, low, rest),
    }
    classical = _classical(study, whole)
    if classical is not None and classical != equal:
        named["random_full_at_classical_cost"] = controls.in_full(full, classical, high)
        named["first_then_top_at_classical_cost"] = controls.first_then_top(full, first, classical, low, rest)
    return {
        "search": controls.described(search, full, sign),
        **{name: controls.described(picked, full, sign) for name, picked in named.items()},
        "rank_correlation": [
            {"budget": plain(budget), **controls.correlations(losses(budget), full)}
            for budget in cheap(scheduler, high)
        ],
    }


def _classical(study: Study, whole: Ladder) -> int | None:
    """Return how many trainings in full the same ladder costs at the classical budgets, R / eta^k."""
    if study.method.name != "successive_halving" or whole.axis.ladder or whole.points:
        return None
    options = study.method.options
    found = method.budgets(whole, study.method)
    budgets = climb(whole.axis.high, options["eta"], len(found), whole=False)
    sizes = ladder(options["configurations"], options["eta"], len(found))
    return round(cost(sizes, budgets) / whole.axis.high)
