"""Studies of experiments: every trial an ordinary record, every decision derived from the records."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from repro.errors import UsageError
from repro.record.values import Recipe, recipe_digest
from repro.run import recover, seal
from repro.store import studies
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.trials import pool
from repro.trials.slot import Template
from repro.tune import base as bases
from repro.tune import controls, decisions, judging, method, study, tabled
from repro.tune.base import Base
from repro.tune.drive import drive
from repro.tune.method import Ladder
from repro.tune.options import LADDERS
from repro.tune.report import number
from repro.tune.scheduler import Scheduler, Trial
from repro.tune.search import Amount, Job, Mode, Score, plain
from repro.tune.specification import Study
from repro.tune.tabled import Verified
from repro.tune.trainings import PROJECT, Counts, Known, Recorded, Told, Trainings, mean_metrics, opened

_SHOWN = 6


class Options(NamedTuple):
    """How a study is run, where that has no bearing on its decisions."""

    workers: int | None = None
    new: bool = False
    recorded: bool = False
    exact: bool = False
    patterns: Sequence[str] = ()


class Watcher(NamedTuple):
    """Hears how a study gets on."""

    began: Callable[[Scheduler, Ladder, int], None]
    told: Callable[[Told, Scheduler], None]
    said: Callable[[str], None]


def ladder_of(base: Base) -> Ladder:
    """Return the fidelity of a study of an experiment."""
    return Ladder(base.axis, bound=base.given, continues=base.continues)


def run(store: Store, root: Path, asked: Study, options: Options, watcher: Watcher) -> dict[str, Any]:
    """Run what is missing of a study, and return its document.

    Raises:
        ConfigError, UsageError: when the file cannot be a study of its experiment, or it changed since it began.
        ReproError: when a run cannot be made.
    """
    base = bases.read(asked, options.patterns)
    method.planned(asked, ladder_of(base), bases.available(asked, base))
    recover.recover(store)
    template = pool.capture(store, base.of({}, Job(0, 0, Amount(0), base.axis.high), 0))
    folder, template = _begin(store, root, asked, base, template, options, watcher.said)
    threads = template.record.recipe.threads or 1
    workers = options.workers or max(1, len(os.sched_getaffinity(0)) // threads)
    with folder.held():
        return _run(folder, asked, base, template._replace(study_id=folder.study_id), workers, watcher)


def _run(
    folder: StudyFolder, asked: Study, base: Base, template: Template, workers: int, watcher: Watcher
) -> dict[str, Any]:
    assert asked.objective is not None  # noqa: S101  (the file was checked for it)
    metric, mode = asked.objective
    whole = ladder_of(base)
    scheduler = method.scheduler(asked, whole, bases.source(asked, base), mode)

    def told(found: Told) -> None:
        watcher.told(found, scheduler)

    replicates = range(asked.per_trial)
    watcher.began(scheduler, whole, workers)
    others = _earlier_codes(template.store, folder)
    with Trainings(template, base, scheduler.trials.params, metric, replicates, workers, told, others) as engine:
        drive(scheduler, engine, _Log(folder, scheduler).write)
        study.keep(folder, scheduler, method.limits(asked, whole))
        document = _document(folder, asked, base, scheduler, engine)
    for reason in engine.reasons:
        watcher.said(f"promoted trials were trained anew: {reason}")
    further = _Further(asked, base, template, scheduler, workers, told)
    finalists = _finalists(further)
    judged = _controls(further, watcher.said)
    counts = [engine.counts(), *further.counts]
    return document | {
        "controls": judged,
        "rung_correlation": _between_rungs(scheduler, mode),
        "finalists": finalists,
        "run_now": sum(item.run_now for item in counts),
        "continued": sum(item.continued for item in counts),
        "read": sum(item.read for item in counts),
        "files_checked": sum(item.files_checked for item in counts),
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
    folder: StudyFolder, asked: Study, base: Base, scheduler: Scheduler, engine: Trainings | Recorded
) -> dict[str, Any]:
    assert asked.objective is not None  # noqa: S101
    metric, mode = asked.objective

    def metrics(trial: int, budget: Amount) -> Mapping[str, float]:
        return mean_metrics(engine.outcomes[trial, budget])

    def run_id(trial: int, budget: Amount) -> str | None:
        return engine.outcomes[trial, budget][0].run_id

    reader = study.Reader(ladder_of(base), metric, mode, lambda _trial: None, run_id, metrics)
    return study.document(folder, asked, scheduler, reader)


class _Further:
    """Trainings after the search is over: they decide nothing."""

    def __init__(
        self,
        asked: Study,
        base: Base,
        template: Template,
        scheduler: Scheduler,
        workers: int,
        told: Callable[[Told], None],
    ) -> None:
        assert asked.objective is not None  # noqa: S101  (the file was checked for it)
        self.asked, self.base, self.scheduler = asked, base, scheduler
        self.metric, self.mode = asked.objective
        self._template, self._workers, self._told = template, workers, told
        self.counts: list[Counts] = []

    def train(self, jobs: Sequence[Job], replicates: range) -> Trainings:
        """Make the runs of all jobs; return the engine that has their outcomes."""
        params, queue = self.scheduler.trials.params, deque(jobs)
        with Trainings(self._template, self.base, params, self.metric, replicates, self._workers, self._told) as engine:
            while queue or not engine.idle:
                while queue and engine.free:
                    engine.submit(queue.popleft())
                engine.wait()
        self.counts.append(engine.counts())
        return engine


def _finalists(further: _Further) -> list[dict[str, Any]] | None:
    """Train the best few at the full budget again on fresh seeds, and compare them."""
    asked, trials, high = further.asked, further.scheduler.trials, further.base.axis.high
    if not asked.finalists:
        return None
    scores = [(at, trial.scores[high]) for at, trial in enumerate(trials.all) if high in trial.scores]
    order = trials.ranking.order(item for item in scores if item[1].value is not None)[: tabled.FINALISTS]
    fresh = range(asked.per_trial, asked.per_trial + asked.finalists)
    engine = further.train([Job(trial, 0, Amount(0), high) for trial in order], fresh)
    values = {
        trial: [outcome.metrics.get(further.metric, float("nan")) for outcome in engine.outcomes[trial, high]]
        for trial in order
    }
    return tabled.finalists(values, further.mode == "max")


def _controls(further: _Further, said: Callable[[str], None]) -> dict[str, Any] | None:
    """Train what was stopped to the end, and compare the search with its controls; None unless it is asked for."""
    asked, base, scheduler = further.asked, further.base, further.scheduler
    if not asked.controls or asked.method.name not in LADDERS:
        return None
    high = base.axis.high
    budgets = sorted({base.axis.low, *judging.cheap(scheduler, high), high})
    missing = sum((high - (trial.asked[-1] if base.continues else 0) for trial in _stopped(scheduler, high)), Amount(0))
    said(f"controls: {number(plain(missing))} {base.axis.name} more at most, which are not the search's")
    jobs = [Job(at, 0, Amount(0), budget) for budget in budgets for at in range(len(scheduler.trials.all))]
    engine = further.train(jobs, range(asked.per_trial))
    sign = judging.sign_of(further.mode)

    def losses(budget: Amount) -> Any:
        scores = [engine.score(at, budget).value for at in range(len(scheduler.trials.all))]
        return np.array([np.inf if value is None else sign * value for value in scores])

    return judging.judge(asked, scheduler, ladder_of(base), further.mode, base.axis.low, losses)


def _stopped(scheduler: Scheduler, high: Amount) -> list[Trial]:
    return [trial for trial in scheduler.trials.all if high not in trial.asked]


def _between_rungs(scheduler: Scheduler, mode: Mode) -> list[dict[str, Any]]:
    """Return how rungs rank like the next one, over the trials that reached both: all that a search itself knows."""
    budgets = sorted({budget for trial in scheduler.trials.all for budget in trial.asked})
    sign, found = judging.sign_of(mode), []
    for low, high in itertools.pairwise(budgets):
        pairs = [(trial.scores[low].value, trial.scores[high].value) for trial in _reached(scheduler, low, high)]
        values = np.array([[np.inf if value is None else sign * value for value in pair] for pair in pairs])
        if len(values) > 1:
            figures = controls.rank_correlation(values[:, 0], values[:, 1])
            found.append({"budget": plain(low), "next": plain(high), **figures})
    return found


def _reached(scheduler: Scheduler, *budgets: Amount) -> list[Trial]:
    return [trial for trial in scheduler.trials.all if all(budget in trial.scores for budget in budgets)]


def _ground(base: Base, recipe: Recipe) -> study.Ground:
    """Return what a study of an experiment stands on: its own parameters, the code, and all else of the recipe."""
    bare = msgspec.structs.replace(
        recipe,
        code="",
        sources={},
        params={},
        command=None,
        budget={},
        horizon={},
        seeds=msgspec.structs.replace(recipe.seeds, master=""),
    )
    experiment = {
        "params": dict(base.params),
        "entry": base.request.entry,
        "command": base.command,
        "seed": str(base.request.seed),
        "environment": recipe_digest(bare),
    }
    digests = {"experiment": experiment, "code": {PROJECT: recipe.code, **recipe.sources}}
    return study.Ground(digests, {"recipe": msgspec.to_builtins(recipe), "root": str(base.request.root)})


def _begin(
    store: Store,
    root: Path,
    asked: Study,
    base: Base,
    template: Template,
    options: Options,
    said: Callable[[str], None],
) -> tuple[StudyFolder, Template]:
    """Return the study to go on with, and the template under the code that it has.

    The code of the study before, of the same file, is kept where no run of it opened what has changed since.
    """
    place = study.identity(root, asked, _ground(base, template.record.recipe))["path"]
    earlier = [one for one in studies.all_of(store) if one.specification()["identity"]["path"] == place]
    same = [
        one for one in earlier if _is_same_but_code(one, study.identity(root, asked, _ground_of(one, base, template)))
    ]
    before = same[-1] if same and not options.new else earlier[-1] if earlier else None
    if before is not None:
        template = _keep_code(store, before, template, options, said, must=before in same and not options.new)
    folder, words = study.open_study(store, root, asked, _ground(base, template.record.recipe), new=options.new)
    for word in words:
        said(word)
    return folder, template


def _ground_of(one: StudyFolder, base: Base, template: Template) -> study.Ground:
    """Return what a study would stand on now, under the code that an earlier one had."""
    return _ground(base, _with_code(template.record.recipe, one.specification()["identity"]["code"]))


def _is_same_but_code(one: StudyFolder, wanted: dict[str, Any]) -> bool:
    return bool(one.specification()["identity"] == wanted)


def _with_code(recipe: Recipe, code: Mapping[str, str]) -> Recipe:
    sources = {name: tree for name, tree in code.items() if name != PROJECT}
    return msgspec.structs.replace(recipe, code=code[PROJECT], sources=sources)


def _keep_code(
    store: Store,
    before: StudyFolder,
    template: Template,
    options: Options,
    said: Callable[[str], None],
    *,
    must: bool,
) -> Template:
    """Return the template under the code of an earlier study where that may be; refuse other code where it must be.

    Raises:
        UsageError: where the study is to go on, and a run of it opened what has changed.
    """
    recipe, code = template.record.recipe, before.specification()["identity"]["code"]
    now = {PROJECT: recipe.code, **recipe.sources}
    if code == now:
        return template
    kept = template._replace(record=msgspec.structs.replace(template.record, recipe=_with_code(recipe, code)))
    names = [name for name in {*code, *now} if code.get(name) != now.get(name) and name != PROJECT]
    changed = [item.path for item in store.code.changes(code[PROJECT], recipe.code)]
    shown = ", ".join([*sorted(changed)[:_SHOWN], *sorted(names)])
    if must and options.recorded:
        said(f"going on with the code that study {before.study_id} was begun with, not as it is now ({shown})")
        return kept
    seen = set() if options.exact or names else _opened(store, before.study_id)
    touched = sorted(set(changed) & seen)
    if seen and not touched:
        said(f"the code counts as the same: no run of study {before.study_id} opened what has changed ({shown})")
        return kept
    if must:
        raise UsageError(
            f"the code has changed since study {before.study_id} began: {', '.join(touched[:_SHOWN]) or shown}",
            hint="--code recorded goes on with the code as it was; --new begins a study that reads what still holds",
        )
    return template


def _opened(store: Store, study_id: str) -> set[str]:
    """Return the files of the project that the runs of a study opened, relative to its root."""
    mine = (run_id for run_id in store.run_ids() if _is_of(store, run_id, study_id))
    return set().union(*(opened(store, run_id) for run_id in mine))


def _is_of(store: Store, run_id: str, study_id: str) -> bool:
    launch = store.record(run_id).circumstances["launch"]
    return launch.get("study") == study_id and store.outcome(run_id) is not None


def _earlier_codes(store: Store, folder: StudyFolder) -> list[Mapping[str, str]]:
    """Return the codes of the other studies of this file: what their runs found may still hold."""
    path = folder.specification()["identity"]["path"]
    found = [one.specification()["identity"] for one in studies.all_of(store) if one.study_id != folder.study_id]
    return [identity["code"] for identity in found if identity["path"] == path and "code" in identity]


class _Derived(NamedTuple):
    study: Study
    base: Base
    scheduler: Scheduler
    engine: Recorded


def _derive(store: Store, folder: StudyFolder) -> _Derived:
    """Derive a kept study again from the records; nothing is captured, and nothing is run."""
    asked, sealed = tabled.restored(folder), folder.specification()
    assert asked.objective is not None  # noqa: S101  (the file was checked for it)
    metric, mode = asked.objective
    recipe = msgspec.convert(sealed["places"]["recipe"], Recipe)
    base = bases.sealed(asked, recipe, sealed["identity"]["experiment"], Path(sealed["places"]["root"]))
    scheduler = method.scheduler(asked, ladder_of(base), bases.source(asked, base), mode)
    environment = dict(os.environ)

    def recipe_of(job: Job, replicate: int) -> Recipe:
        return seal.recipe_of(recipe, base.of(scheduler.trials.params(job.trial), job, replicate), environment)

    known = Known(store, base.request.root, _earlier_codes(store, folder))
    engine = Recorded(known, recipe_of, metric, range(asked.per_trial), store)
    drive(scheduler, engine)
    return _Derived(asked, base, scheduler, engine)


def verify(store: Store, folder: StudyFolder) -> Verified:
    """Derive every decision again from the records, and compare with the log and the sealed digests."""
    found = _derive(store, folder)
    lines = [decisions.line(entry) for entry in found.scheduler.entries]
    if not folder.ends():  # it goes on: what is in the log so far has to follow
        at = study.disagree(folder.decisions(), lines)
        faults = [] if at is None else [f"decision {at} in the log is not the one that follows from the trials"]
        return Verified(len(lines), decisions.digest_of(lines), faults)
    if not study.is_over(folder):  # it goes on beyond its last end
        return tabled.compared(folder, lines[: len(folder.decisions())])
    verified = tabled.compared(folder, lines)
    missing = [f"trial {job.trial} has no record at {job.budget}" for job in found.engine.missing]
    return verified._replace(faults=[*missing, *verified.faults])


def document_of(store: Store, folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a kept study, as far as it has come, derived again from its records."""
    found = _derive(store, folder)
    document = _document(folder, found.study, found.base, found.scheduler, found.engine)
    _, mode = found.study.objective or ("", "min")
    between = _between_rungs(found.scheduler, mode)
    return document | {"controls": None, "rung_correlation": between, "finalists": None, "run_now": 0}
