"""Studies over trial tables, kept in the store: run, read again, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from repro.errors import ConfigError
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import decisions, finalists, judging, method, simulation, specification, study, table
from repro.tune.options import ENDLESS
from repro.tune.search import Amount, Score
from repro.tune.simulation import Simulation
from repro.tune.specification import Study
from repro.tune.table import Table


class Verified(NamedTuple):
    """What a verification found: how many decisions were derived again, their digest, and what is wrong."""

    decisions: int
    digest: str
    faults: list[str]


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


def restored(folder: StudyFolder) -> Study:
    """Return the study as it was sealed, under the limits of its last end, or as far as its log goes beyond that."""
    sealed = folder.specification()
    found = specification.parse(sealed["text"], Path(sealed["file"]))
    ends = folder.ends()
    if study.is_over(folder):
        last = study.limits_of(max(ends, key=lambda end: int(end["decisions"])))
        return found._replace(trials=last.trials, budget=last.budget)
    is_limited = found.trials is not None or found.budget is not None
    if not ends and (is_limited or found.method.name not in ENDLESS):
        return found
    begun = sum(b'"kind":"suggested"' in line for line in folder.decisions())  # under limits that nobody knows any more
    return found._replace(trials=max(1, begun), budget=None)


def again(folder: StudyFolder) -> tuple[Study, Table, Simulation]:
    """Derive a kept study again, from its table.

    Raises:
        ConfigError: when the table is gone, or is another one.
    """
    sealed = folder.specification()
    found, place = restored(folder), Path(sealed["places"]["table"])
    data = table.read(place)
    if data.digest != sealed["identity"]["table"]:
        raise ConfigError(f"{place} is not the table that study {folder.study_id} had", hint="put that table back")
    return found, data, simulation.simulate(found, data)


def verify(folder: StudyFolder) -> Verified:
    """Derive every decision again from the table, and compare with the log and the sealed digest."""
    _, _, found = again(folder)
    return compared(folder, [decisions.line(entry) for entry in found.scheduler.entries])


def compared(folder: StudyFolder, lines: list[bytes]) -> Verified:
    """Compare the decisions that follow from the trials with the log and the sealed digests."""
    there, faults = folder.decisions(), []
    at = decisions.first_difference(there, lines)
    if at is not None and at >= len(there):
        faults.append(f"the log ends after {len(there)} decisions; {len(lines)} follow from the trials")
    elif at is not None and at >= len(lines):
        faults.append(f"the log has {len(there)} decisions; {len(lines)} follow from the trials")
    elif at is not None:
        faults.append(f"decision {at} in the log is not the one that follows from the trials")
    for number, end in enumerate(folder.ends()):
        if decisions.digest_of(lines[: int(end["decisions"])]) != end["decisions_digest"]:
            faults.append(f"ends/{number:04}.json was sealed with other decisions")
    return Verified(len(lines), decisions.digest_of(lines), faults)


def document_of(folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a kept study, derived again from its table."""
    found, data, simulated = again(folder)
    return _document(folder, found, data, simulated, fresh=0)
