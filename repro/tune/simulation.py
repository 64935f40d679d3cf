"""A study over a trial table: the same state machine as a real one, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from repro.engines.simulated import Simulated
from repro.errors import ConfigError
from repro.stats import t_interval
from repro.tune import controls, draws, judging, method
from repro.tune.draws import Draws
from repro.tune.drive import drive
from repro.tune.method import Ladder
from repro.tune.options import LADDERS
from repro.tune.scheduler import Scheduler
from repro.tune.search import Amount, Job, Score, plain
from repro.tune.specification import Axis, Study
from repro.tune.table import Table


class Simulation(NamedTuple):
    """A study over a table that is over."""

    scheduler: Scheduler
    clock: float

    @property
    def jobs(self) -> int:
        """How many trainings it had."""
        return sum(len(trial.scores) for trial in self.scheduler.trials.all)


def ladder_of(study: Study, table: Table) -> Ladder:
    """Return the fidelity of a study over a table: the table's, or the part of it that the file names.

    Raises:
        ConfigError: for another axis or objective than the table's.
    """
    if study.objective not in (None, (table.metric_name, table.mode)):
        raise ConfigError(
            f"{study.path}: objective: the table has {table.metric_name}: {table.mode}",
            hint="leave it out: it comes with the table",
        )
    if not study.fidelity:
        return Ladder(Axis(table.budget_name, table.low, table.high), bound=False)
    axis = study.fidelity[0]
    if axis.name != table.budget_name or axis.high != table.high:
        raise ConfigError(
            f"{study.path}: fidelity: the table has {table.budget_name} up to {plain(table.high)}",
            hint=f"fidelity: {{{table.budget_name}: [{plain(table.low)}, {plain(table.high)}]}}, or leave it out",
        )
    return Ladder(axis, bound=True)


def _columns(study: Study, table: Table) -> list[int]:
    """Return which seeds of the table the trials have."""
    count, first = table.metric.shape[2], table.first(study.seed)
    wanted = study.per_trial + study.finalists
    if wanted > count:
        raise ConfigError(
            f"{study.path}: seeds: {study.per_trial} for a trial and {study.finalists} fresh ones for the finalists"
            f" are {wanted}, and the table has {count}",
            hint="seeds: {per_trial: 1, finalists: 0}",
        )
    return [(first + at) % count for at in range(study.per_trial)]


def fresh(study: Study, table: Table, row: int) -> list[float]:
    """Return a configuration's values at the full budget on the fresh seeds of the finalists."""
    count, first = table.metric.shape[2], table.first(study.seed)
    columns = [(first + study.per_trial + at) % count for at in range(study.finalists)]
    return [float(value) for value in table.metric[row, -1, columns]]


def simulate(
    study: Study, table: Table, workers: int = 1, delay: Callable[[Job], float] = lambda _job: 0.0
) -> Simulation:
    """Run a study over a table; ``delay`` is what a job takes beyond its budget on the virtual clock.

    Raises:
        ConfigError: when the study asks for what the table has not.
    """
    columns = _columns(study, table)
    whole = ladder_of(study, table)
    method.planned(study, whole, len(table.configurations))
    in_order = study.method.name == "grid" or study.method.options.get("draw") == "grid"
    source = Draws(draws.rows(table.configurations, None if in_order else study.seed), again=True)
    scheduler = method.scheduler(study, whole, source, table.mode)

    def evaluate(job: Job) -> Score:
        return table.score(row_of(scheduler, job.trial), job.budget, columns)

    engine = Simulated(workers, evaluate, lambda job: float(job.budget - job.start) + delay(job))
    drive(scheduler, engine)
    return Simulation(scheduler, engine.now)


def row_of(scheduler: Scheduler, trial: int) -> int:
    """Return which configuration of the table a trial is."""
    row = scheduler.trials.all[trial].suggestion.draw
    assert row is not None  # noqa: S101  (each is a row)
    return row


def judged(study: Study, table: Table, found: Simulation) -> dict[str, Any] | None:
    """Return the search beside its controls: a table knows all that they need. None where nothing was cheap."""
    if study.method.name not in LADDERS or not found.scheduler.trials.all:
        return None
    columns, sign = _columns(study, table), judging.sign_of(table.mode)
    rows = [row_of(found.scheduler, trial) for trial in range(len(found.scheduler.trials.all))]
    values = sign * table.metric[rows][:, :, columns].mean(axis=2)
    losses = np.where(np.isfinite(values), values, np.inf)

    def at(budget: Amount) -> controls.Floats:
        return np.asarray(losses[:, table.column(budget)])

    return judging.judge(study, found.scheduler, ladder_of(study, table), table.mode, table.low, at)


def repeat(study: Study, table: Table, repeats: int) -> dict[str, Any]:
    """Return what so many studies, with the seeds from the study's own on, say of a method over a table.

    Raises:
        ConfigError: for a method that trains all in full: there is nothing to compare.
    """
    found = []
    for seed in range(study.seed, study.seed + repeats):
        one = study._replace(seed=seed)
        found.append(judged(one, table, simulate(one, table)))
    kept = [item for item in found if item is not None]
    if not kept:
        raise ConfigError(
            f"{study.method.name} trains in full: there is nothing cheap to judge", hint="leave --repeats out"
        )
    names = [name for name in kept[0] if name != "rank_correlation"]
    regrets = {name: [item[name]["regret"] for item in kept] for name in names}
    summary: dict[str, Any] = {}
    for name in names:
        summary[name] = {"runs": kept[0][name]["runs"], "cost": float(np.mean([item[name]["cost"] for item in kept]))}
        summary[name] |= controls.over_repeats(regrets[name], [item[name]["found_best"] for item in kept])
        if name != "search":
            summary[name] |= controls.against(regrets["search"], regrets[name])
    return summary | {"rank_correlation": _mean_correlations([item["rank_correlation"] for item in kept])}


def _mean_correlations(found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return, for each budget, the mean rank correlation over the repeats with its interval."""
    budgets = sorted({item["budget"] for items in found for item in items})
    return [
        {"budget": budget}
        | {
            half: _mean([item[half]["rho"] for items in found for item in items if item["budget"] == budget])
            for half in ("all", "better_half")
        }
        for budget in budgets
    ]


def _mean(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if len(known) < 2:  # noqa: PLR2004
        return {"rho": known[0] if known else None, "interval": None, "repeats": len(known)}
    return {
        "rho": float(np.mean(known)),
        "interval": list(t_interval(known)),
        "repeats": len(known),
    }
