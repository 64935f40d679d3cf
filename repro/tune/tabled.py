"""Studies over trial tables, kept in the store: run, read again, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.errors import ConfigError
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import decisions, finalists, judging, method, simulation, study, table
from repro.tune.search import Amount, Score
from repro.tune.simulation import Simulation
from repro.tune.specification import Study
from repro.tune.table import Table


def read_table(found: Study) -> Table:
    """Return the table that a study file names, relative to its own folder."""
    return table.read(found.path.parent / str(found.table))


def run(store: Store, root: Path, asked: Study, workers: int, *, new: bool) -> tuple[dict[str, Any], list[str]]:
    """Run a study over a table and keep it; return its document, and words about what it goes on from.

    Raises:
        ConfigError, UsageError: when it asks for what the table has not, or was changed since it began.
    """
    data = read_table(asked)
    simulation.ladder_of(asked, data)  # what is wrong with the file is said before a study is begun
    found = simulation.simulate(asked, data, workers)
    ground = study.Ground({"table": data.digest}, {"table": str((asked.path.parent / str(asked.table)).resolve())})
    folder, said = study.open_study(store, root, asked, ground, new=new)
    with folder.held():
        fresh = study.keep(folder, found.scheduler, method.limits(asked, simulation.ladder_of(asked, data)))
    return _document(folder, asked, data, found, fresh), said


def _document(folder: StudyFolder, asked: Study, data: Table, found: Simulation, fresh: int) -> dict[str, Any]:
    scheduler = found.scheduler

    def name(trial: int) -> str | None:
        return data.names[simulation.row_of(scheduler, trial)] if data.names else None

    def metrics(trial: int, budget: Amount) -> dict[str, float]:
        score: Score = scheduler.trials.all[trial].scores[budget]
        return {} if score.value is None else {data.metric_name: score.value}

    whole = simulation.ladder_of(asked, data)
    reader = study.Reader(whole, data.metric_name, data.mode, name, lambda _trial, _budget: None, metrics)
    document = study.document(folder, asked, scheduler, reader)
    return document | {
        "controls": simulation.judged(asked, data, found),
        "finalists": _finalists(asked, data, found),
        "run_now": found.jobs if fresh else 0,
        "virtual_time": found.clock,
    }


def _finalists(asked: Study, data: Table, found: Simulation) -> list[dict[str, Any]] | None:
    """Return the best few on fresh seeds: mean, interval, and whether they tie with the best of them."""
    if not asked.finalists:
        return None
    order = judging.in_full(found.scheduler, data.high)[: finalists.MOST]
    values = {at: simulation.fresh(asked, data, simulation.row_of(found.scheduler, at)) for at in order}
    return finalists.compared(values, data.mode)


def again(folder: StudyFolder) -> tuple[Study, Table, Simulation]:
    """Derive a kept study again, from its table.

    Raises:
        ConfigError: when the table is gone, or is another one.
    """
    sealed = folder.specification()
    found, place = study.restored(folder), Path(sealed["places"]["table"])
    data = table.read(place)
    if data.digest != sealed["identity"]["table"]:
        raise ConfigError(f"{place} is not the table that study {folder.study_id} had", hint="put that table back")
    return found, data, simulation.simulate(found, data)


def verify(folder: StudyFolder) -> study.Verified:
    """Derive every decision again from the table, and compare with the log and the sealed digest."""
    _, _, found = again(folder)
    return study.compared(folder, [decisions.line(entry) for entry in found.scheduler.entries])


def document_of(folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a kept study, derived again from its table."""
    found, data, simulated = again(folder)
    return _document(folder, found, data, simulated, fresh=0)
