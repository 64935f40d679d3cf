"""Studies of experiments: every trial an ordinary record, every decision derived from the records."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from repro.errors import UsageError
from repro.record.values import Recipe
from repro.run import recover, seal
from repro.run.request import Request
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.trials import pool
from repro.trials.slot import Template
from repro.tune import base as bases
from repro.tune import controls, decisions, finalists, ground, judging, method, results, study
from repro.tune.answers import Answers, GivenUp, why
from repro.tune.base import Base
from repro.tune.drive import drive
from repro.tune.ground import Options
from repro.tune.known import Known
from repro.tune.method import Ladder
from repro.tune.options import LADDERS
from repro.tune.report import counted, number
from repro.tune.scheduler import Scheduler
from repro.tune.search import Amount, Job, Mode, Score, anew, plain
from repro.tune.specification import Study
from repro.tune.study import Verified
from repro.tune.trainings import Recorded, Told, Trainings
from repro.tune.used import Used, retried


class Watcher(NamedTuple):
    """Hears how a study gets on."""

    began: Callable[[Ladder, int], None]
    told: Callable[[Told, Scheduler], None]
    said: Callable[[str], None]


def ladder_of(base: Base) -> Ladder:
    """Return the fidelity of a study of an experiment."""
    return Ladder(base.axis, base.given, base.course, base.points)


def run(
    store: Store, root: Path, asked: Study, options: Options, watcher: Watcher, give_up: int | None = None
) -> dict[str, Any]:
    """Run what is missing of a study, and return its document; first ``give_up`` a trial that has come to no result.

    Raises:
        ConfigError, UsageError: when the file cannot be a study of its experiment, or it changed since it began.
        ReproError: when a run cannot be made.
    """
    base = bases.read(asked, options.patterns)
    method.planned(asked, ladder_of(base), bases.available(asked, base))
    recover.recover(store)
    template = pool.capture(store, base.of({}, Job(0, 0, Amount(0), base.axis.high), 0), cold=options.cold)
    template, workers = pool.share(template, options.workers, watcher.said)
    folder, template = ground.begin(store, root, asked, base, template, options, watcher.said)
    template = template._replace(study_id=folder.study_id, limits=asked.limits)
    with folder.held():
        if give_up is not None:
            _give_up(folder, asked, base, template, give_up, watcher.said)
        return _run(folder, asked, base, template, workers, watcher)


def _run(
    folder: StudyFolder, asked: Study, base: Base, template: Template, workers: int, watcher: Watcher
) -> dict[str, Any]:
    assert asked.objective is not None  # noqa: S101  (the file was checked for it)
    _, mode = asked.objective
    whole = ladder_of(base)
    scheduler = method.scheduler(asked, whole, bases.source(asked, base), mode)

    def told(found: Told) -> None:
        if found.failed is None:
            used.note(found.work.job, found.work.replicate, found.run_id)
        watcher.told(found, scheduler)

    answers, used = Answers(folder), Used(folder)
    watcher.began(whole, workers)
    earlier = ground.earlier_codes(template.store, folder), retried(folder)
    with Trainings(template, base, scheduler.trials.params, asked, answers, workers, told, *earlier) as engine:
        drive(scheduler, engine, _Log(folder, scheduler).write)
        study.keep(folder, scheduler, method.limits(asked, whole))
        document = _document(folder, asked, base, scheduler, engine, answers)
        for reason in engine.reasons:
            watcher.said(f"promoted trials were trained anew: {reason}")
        further = _Further(asked, base, scheduler, engine)
        fresh = _finalists(further)
        judged = _controls(further, watcher.said)
    return document | {
        "controls": judged,
        "rung_correlation": _between_rungs(scheduler, mode),
        "finalists": fresh,
        **engine.counts,
        "workers": workers,
        "threads": template.record.recipe.threads,
    }


class _Log:
    """Writes decisions as they are made: what a kill leaves is the beginning of the same log.

    Where the log has other decisions nothing more is written; `study.keep` says so when the study is over.
    """

    def __init__(self, folder: StudyFolder, scheduler: Scheduler) -> None:
        self._folder = folder
        self._scheduler = scheduler
        self._there = folder.decisions()
        self._at = 0
        self._differs = False

    def write(self, _job: Job, _score: Score) -> None:
        """Compare with the log what is in it, and add what is not."""
        lines = [decisions.line(entry) for entry in self._scheduler.entries[self._at :]]
        there = self._there[self._at : self._at + len(lines)]
        self._differs = self._differs or there != lines[: len(there)]
        if not self._differs:
            self._folder.append(lines[len(there) :])
        self._at += len(lines)


def _document(
    folder: StudyFolder,
    asked: Study,
    base: Base,
    scheduler: Scheduler,
    engine: Trainings | Recorded,
    answers: Answers,
) -> dict[str, Any]:
    assert asked.objective is not None  # noqa: S101
    metric, mode = asked.objective

    def metrics(trial: int, budget: Amount) -> Mapping[str, float]:
        return results.mean_metrics(engine.outcomes[trial, budget])

    def run_id(trial: int, budget: Amount) -> str:
        given_up = answers.of(Job(trial, 0, Amount(0), budget), range(asked.per_trial))
        return given_up.run_id if given_up else engine.outcomes[trial, budget][0].run_id

    reader = study.Reader(ladder_of(base), metric, mode, lambda _trial: None, run_id, metrics)
    given_up = [
        {"trial": item.trial, "budget": plain(item.budget), "reason": item.reason, "run_id": item.run_id}
        for item in answers.all
    ]
    return study.document(folder, asked, scheduler, reader) | {"given_up": given_up}


class _Further(NamedTuple):
    """A search that is over, and the engine for trainings after it, which decide nothing."""

    asked: Study
    base: Base
    scheduler: Scheduler
    engine: Trainings


def _finalists(further: _Further) -> list[dict[str, Any]] | None:
    """Train the best few at the full budget again on fresh seeds, and compare them."""
    asked, high = further.asked, further.base.axis.high
    if not asked.finalists:
        return None
    order = judging.in_full(further.scheduler, high)[: finalists.MOST]
    fresh = range(asked.per_trial, asked.per_trial + asked.finalists)
    further.engine.train([Job(trial, 0, Amount(0), high) for trial in order], fresh)
    metric, mode = asked.objective or ("", "min")
    outcomes = {trial: further.engine.outcomes[trial, high] for trial in order}
    values = {
        trial: [one.metrics.get(metric, math.nan) for one in found] or [math.nan] * asked.finalists
        for trial, found in outcomes.items()
    }
    return finalists.compared(values, mode)


def _controls(further: _Further, said: Callable[[str], None]) -> dict[str, Any] | None:
    """Train what was stopped to the end, and compare the search with its controls; None unless it is asked for."""
    asked, base, scheduler, engine = further
    if not asked.controls or asked.method.name not in LADDERS:
        return None
    high, count = base.axis.high, len(scheduler.trials.all)
    budgets = sorted({base.axis.low, *judging.cheap(scheduler, high), high})
    courses = (scheduler.trials.course, anew)
    more, most = (asked.per_trial * scheduler.trials.missing(budgets, course) for course in courses)
    otherwise = "" if more == most else f" ({number(plain(most))} where no checkpoint is there to go on from)"
    said(f"controls: {counted(plain(more), base.axis.name)} more at most, which are not the search's{otherwise}")
    engine.train((Job(at, 0, Amount(0), budget) for budget in budgets for at in range(count)), range(asked.per_trial))
    _, mode = asked.objective or ("", "min")

    def losses(budget: Amount) -> Any:
        return judging.losses(mode, (engine.score(at, budget) for at in range(count)))

    return judging.judge(asked, scheduler, ladder_of(base), mode, base.axis.low, losses)


def _between_rungs(scheduler: Scheduler, mode: Mode) -> list[dict[str, Any]]:
    """Return how rungs rank like the next one, over the trials that reached both: all that a search itself knows."""
    budgets = sorted({budget for trial in scheduler.trials.all for budget in trial.asked})
    found = []
    for low, high in itertools.pairwise(budgets):
        both = [trial.scores for trial in scheduler.trials.all if low in trial.scores and high in trial.scores]
        if len(both) > 1:
            cheap, dear = (judging.losses(mode, (scores[budget] for scores in both)) for budget in (low, high))
            found.append({"budget": plain(low), "next": plain(high), **controls.rank_correlation(cheap, dear)})
    return found


class _Derived(NamedTuple):
    study: Study
    base: Base
    scheduler: Scheduler
    engine: Recorded
    answers: Answers
    store: Store
    known: Known
    recipe_of: Callable[[Job, int], Recipe]


def _derive(store: Store, folder: StudyFolder) -> _Derived:
    """Derive a kept study again from the records; nothing is captured, and nothing is run."""
    asked, sealed = study.restored(folder), folder.specification()
    recipe = msgspec.convert(sealed["places"]["recipe"], Recipe)
    base = bases.sealed(asked, recipe, sealed["identity"]["experiment"], Path(sealed["places"]["root"]))
    environment = dict(os.environ)
    return _derived(store, folder, asked, base, lambda request: seal.recipe_of(recipe, request, environment))


def _derived(
    store: Store, folder: StudyFolder, asked: Study, base: Base, recipe: Callable[[Request], Recipe]
) -> _Derived:
    """Derive a study from the records as far as these go."""
    assert asked.objective is not None  # noqa: S101  (the file was checked for it)
    metric, mode = asked.objective
    scheduler = method.scheduler(asked, ladder_of(base), bases.source(asked, base), mode)

    def recipe_of(job: Job, replicate: int) -> Recipe:
        return recipe(base.of(scheduler.trials.params(job.trial), job, replicate))

    known, answers = (
        Known(store, base.request.root, ground.earlier_codes(store, folder), retried(folder)),
        Answers(folder),
    )
    engine = Recorded(known, recipe_of, metric, range(asked.per_trial), answers, Used(folder), store)
    drive(scheduler, engine)
    return _Derived(asked, base, scheduler, engine, answers, store, known, recipe_of)


def _give_up(
    folder: StudyFolder, asked: Study, base: Base, template: Template, trial: int, said: Callable[[str], None]
) -> None:
    """Seal that a trial is given up where it came to no result.

    Raises:
        UsageError: when there is no such trial, or nothing to give up.
    """
    found = _derived(template.store, folder, asked, base, template.recipe)
    begun = len(found.scheduler.trials.all)
    if trial >= begun:
        raise UsageError(f"there is no trial {trial}: {begun} have begun, from 0 on", hint="repro study trials last")
    given_up = _stuck(found, trial)
    if given_up is not None:
        found.answers.add(given_up)
        where = f"trial {trial} at {counted(plain(given_up.budget), base.axis.name)}"
        said(f"{where}: {given_up.reason}: given up, it counts as diverged")
    elif any(item.trial == trial for item in found.answers.all):
        said(f"trial {trial} was given up before")
    else:
        raise UsageError(
            f"trial {trial} has no training that came to no result: there is nothing to give up",
            hint="repro study trials last",
        )


def _stuck(found: _Derived, trial: int) -> GivenUp | None:
    """Return the first training of a trial that came to no result: in the search, its controls or its finalists."""
    axis, scheduler = found.base.axis, found.scheduler
    budgets = sorted({axis.low, axis.high, *judging.cheap(scheduler, axis.high)})
    for budget, replicate in itertools.product(budgets, range(found.study.per_trial + found.study.finalists)):
        job = Job(trial, 0, Amount(0), budget)
        recipe = found.recipe_of(job, replicate)
        failed = found.known.failures(recipe)
        if failed and not found.answers.of(job, range(replicate, replicate + 1)) and not found.known.result(recipe):
            return GivenUp(trial, budget, replicate, why(found.store, failed), failed[-1].run_id)
    return None


def verify(store: Store, folder: StudyFolder) -> Verified:
    """Derive every decision again from the records, and compare with the log and the sealed digests."""
    found = _derive(store, folder)
    lines = [decisions.line(entry) for entry in found.scheduler.entries]
    if not folder.ends():  # it goes on: what is in the log so far has to follow
        at = study.disagree(folder.decisions(), lines)
        faults = [] if at is None else [f"decision {at} in the log is not the one that follows from the trials"]
        return Verified(len(lines), decisions.digest_of(lines), faults)
    if not study.is_over(folder):  # it goes on beyond its last end
        return study.compared(folder, lines[: len(folder.decisions())])
    verified = study.compared(folder, lines)
    unit = found.base.axis.name
    missing = [f"trial {job.trial} has no record at {counted(plain(job.budget), unit)}" for job in found.engine.missing]
    return verified._replace(faults=[*missing, *verified.faults])


def document_of(store: Store, folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a kept study, as far as it has come, derived again from its records."""
    found = _derive(store, folder)
    document = _document(folder, found.study, found.base, found.scheduler, found.engine, found.answers)
    _, mode = found.study.objective or ("", "min")
    between = _between_rungs(found.scheduler, mode)
    return document | {"controls": None, "rung_correlation": between, "finalists": None, "run_now": 0}
