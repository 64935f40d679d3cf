"""The engine of real studies: a job is a run of the experiment, read where it is there, continued where it can be."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from repro.capture.data import StatCache
from repro.errors import ConfigError, ReproError, UsageError
from repro.record.values import Outcome, Recipe, recipe_digest
from repro.run import observed, resume
from repro.run.request import Request
from repro.store import index
from repro.store.store import Store
from repro.trials import pool, there
from repro.trials.slot import Template
from repro.tune.base import Base
from repro.tune.search import Amount, Job, Score
from repro.tune.space import Params

#: What a study's identity calls the project's own code.
PROJECT = "project"
#: A run that died of a signal is made again so often, alone.
_AGAIN = 2
_MEMORY = ("MemoryError", "out of memory", "OutOfMemoryError", "Cannot allocate memory")
_TAIL = 4096


class Work(NamedTuple):
    """One run of a job: which replicate."""

    job: Job
    replicate: int

    def __str__(self) -> str:
        return f"trial {self.job.trial} at {self.job.budget}"


class Told(NamedTuple):
    """A run that a study has: which one, whether it was run now, and where it went on from (0: from the beginning)."""

    work: Work
    run_id: str
    run_now: bool
    went_on_from: int


class Counts(NamedTuple):
    """How the runs of a study came about."""

    read: int
    run_now: int
    continued: int
    files_checked: int


def opened(store: Store, run_id: str) -> set[str]:
    """Return the files that a run opened in its own folder, relative to the project's root."""
    place = store.record(run_id).circumstances["project"]["place"] + os.sep
    seen = observed.read(store.run_folder(run_id))
    return {path.removeprefix(place) for path in seen.reads if path.startswith(place)}


class Known:
    """The runs that a store has, by recipe: what is a result, and what can be gone on from.

    ``others`` are the codes of earlier studies: a run of theirs counts where it opened nothing that has changed since.
    """

    def __init__(self, store: Store, root: Path, others: Sequence[Mapping[str, str]] = ()) -> None:
        self._store = store
        self._root = root
        self._others = others
        self._results = there.by_recipe(store, ("COMPLETED", "FAILED"))
        self._cache = StatCache(store.cache / "files.json")
        self._starts: dict[str, list[str]] | None = None
        self.files_checked = 0

    def result(self, recipe: Recipe, *, checked: bool = True) -> Outcome | None:
        """Return the outcome of the first run of this recipe that is a result and whose inputs are as they were.

        Without ``checked`` nobody asks what the inputs are now.
        """
        for run_id in [*self._results.get(recipe_digest(recipe), []), *self._of_other_code(recipe)]:
            outcome = self._store.outcome(run_id)
            if outcome is None or not is_result(self._store, outcome):
                continue
            if not checked:
                return outcome
            if there.is_as_read(self._store, self._root, outcome, self._cache):
                self.files_checked += len(outcome.inputs)
                return outcome
        return None

    def _of_other_code(self, recipe: Recipe) -> Iterator[str]:
        for code in self._others:
            sources = {name: tree for name, tree in code.items() if name != PROJECT}
            if sources != recipe.sources or code[PROJECT] == recipe.code:
                continue
            before = recipe_digest(msgspec.structs.replace(recipe, code=code[PROJECT]))
            changed = {item.path for item in self._store.code.changes(code[PROJECT], recipe.code)}
            yield from (run for run in self._results.get(before, []) if not changed & opened(self._store, run))

    def add(self, recipe: Recipe, run_id: str) -> None:
        """Take note of a run that was made now."""
        self._results.setdefault(recipe_digest(recipe), []).append(run_id)
        if self._starts is not None:
            self._starts.setdefault(_course(recipe), []).append(run_id)

    def start(self, recipe: Recipe) -> tuple[resume.Start | None, str]:
        """Return the furthest checkpoint on the way to a recipe's budget; or why there is none."""
        found, reason = [], ""
        for run_id in self._candidates().get(_course(recipe), []):
            try:
                start = self._of(run_id, recipe)
            except UsageError as error:
                reason = str(error)
                continue
            if start is not None:
                found.append((_epochs(start), run_id, start))
        return (max(found, key=lambda item: item[:2])[-1], "") if found else (None, reason)

    def _of(self, run_id: str, recipe: Recipe) -> resume.Start | None:
        record, (state, outcome) = self._store.record(run_id), self._store.state(run_id)
        if outcome is None:
            return None
        budget = recipe.budget.get("epochs", 0)
        if record.recipe.horizon != recipe.horizon and resume.read_horizon(self._store, record):
            return None
        if state == "COMPLETED":
            return resume.after(self._store, run_id, min(budget, record.recipe.budget.get("epochs", 0)))
        if state in ("LOST", "CANCELLED"):
            start = resume.find(self._store, run_id)
            return start if _epochs(start) <= budget else None
        return None

    def _candidates(self) -> dict[str, list[str]]:
        """Return all runs that have epochs by what they have in common with those of another budget or horizon."""
        if self._starts is None:
            self._starts = {}
            for row in index.rows(self._store):
                if row["replay_of"] is None and row["state"] in ("COMPLETED", "LOST", "CANCELLED"):
                    recipe = self._store.record(row["run_id"]).recipe
                    self._starts.setdefault(_course(recipe), []).append(row["run_id"])
        return self._starts

    def close(self) -> None:
        """Keep what was digested."""
        self._cache.save()


def _course(recipe: Recipe) -> str:
    """Return the digest of a recipe less what only says how far it goes."""
    params = {name: value for name, value in recipe.params.items() if name != "epochs"}
    return recipe_digest(msgspec.structs.replace(recipe, params=params, budget={}, horizon={}))


def _epochs(start: resume.Start) -> int:
    return int(next(iter(start.points.values()))["epoch"] or 0) + 1


class Trainings:
    """An engine over real runs: so many at once, each job as many runs as a trial has replicates."""

    def __init__(
        self,
        template: Template,
        base: Base,
        params: Callable[[int], Params],
        metric: str,
        replicates: range,
        workers: int,
        told: Callable[[Told], None],
        others: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self._template = template
        self._base = base
        self._params = params
        self._metric = metric
        self._replicates = replicates
        self._workers = workers
        self._told = told
        self._stack = ExitStack()
        self._pool: pool.Pool[Work] | None = None
        self._queue: deque[Work] = deque()
        self._alone: deque[Work] = deque()
        self._tries: Counter[Work] = Counter()
        self._results: dict[Job, dict[int, Outcome]] = {}
        self._went_on: dict[Work, int] = {}
        self.known = Known(template.store, base.request.root, others)
        self.outcomes: dict[tuple[int, Amount], list[Outcome]] = {}
        self.read = self.run_now = self.continued = 0
        self.reasons: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.known.close()
        self._stack.__exit__(kind, error, trace)

    @property
    def free(self) -> bool:
        """Whether another job can begin now."""
        return not self._queue and not self._alone and self._busy < self._workers

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._results

    @property
    def _busy(self) -> int:
        return 0 if self._pool is None else self._pool.busy

    def submit(self, task: Job) -> None:
        """Begin a job: what is there of it is read at once."""
        self._results[task] = {}
        for replicate in self._replicates:
            work = Work(task, replicate)
            outcome = self.known.result(self._recipe(work))
            if outcome is None:
                self._queue.append(work)
            else:
                self.read += 1
                self._take(work, outcome, run_now=False)
        self._fill()

    def wait(self) -> tuple[Job, Score]:
        """Return the next job all of whose runs are over, and its score.

        Raises:
            ConfigError: when the runs do not log the objective, or do not heed their budget.
            ReproError: when a run cannot be started, or died of a signal too often.
        """
        while (job := self._whole()) is None:
            self._fill()
            assert self._pool is not None  # noqa: S101  (something is missing, so something runs)
            work, outcome = self._pool.next()
            self._ended(work, outcome)
        results = self._results.pop(job)
        outcomes = [results[replicate] for replicate in self._replicates]
        self.outcomes[job.trial, job.budget] = outcomes
        return job, score_of(self._template.store, outcomes, self._metric)

    def _whole(self) -> Job | None:
        return next((job for job, found in self._results.items() if len(found) == len(self._replicates)), None)

    def _request(self, work: Work) -> Request:
        return self._base.of(self._params(work.job.trial), work.job, work.replicate)

    def _recipe(self, work: Work) -> Recipe:
        return self._template.recipe(self._request(work))

    def _fill(self) -> None:
        """Begin runs while workers are free; one that died of a signal has the machine to itself."""
        while self._queue and self._busy < self._workers and not self._alone:
            self._begin(self._queue.popleft())
        if self._alone and not self._busy:
            self._begin(self._alone.popleft())

    def _begin(self, work: Work) -> None:
        request = self._request(work)
        if self._pool is None:
            self._pool = self._stack.enter_context(pool.Pool[Work](self._template, request, self._workers))
        start, reason = (None, "")
        if self._base.continues:
            start, reason = self.known.start(self._template.recipe(request))
        if start is None and work.job.start and reason and reason not in self.reasons:
            self.reasons.append(reason)
        self._went_on[work] = 0 if start is None else _epochs(start)
        self._pool.begin(work, request, start)

    def _ended(self, work: Work, outcome: Outcome) -> None:
        if outcome.state == "CANCELLED":
            raise KeyboardInterrupt
        self.known.add(self._recipe(work), outcome.run_id)
        if not is_result(self._template.store, outcome):
            self._tries[work] += 1
            if self._tries[work] > _AGAIN:
                raise ReproError(
                    f"{work}: run {outcome.run_id} {_why(outcome)}, {self._tries[work]} times: that is no result",
                    hint=f"repro show {outcome.run_id}; the same command goes on from here",
                )
            self._alone.append(work)
            return
        self.run_now += 1
        self.continued += bool(self._went_on[work])
        self._take(work, outcome, run_now=True)

    def _take(self, work: Work, outcome: Outcome, *, run_now: bool) -> None:
        self._check(work, outcome)
        self._results[work.job][work.replicate] = outcome
        self._told(Told(work, outcome.run_id, run_now, self._went_on.get(work, 0)))

    def _check(self, work: Work, outcome: Outcome) -> None:
        """Raise ConfigError where a run does not log the objective, or trains in full whatever its budget."""
        if outcome.state != "COMPLETED":
            return
        if self._metric not in outcome.metrics:
            logged = ", ".join(sorted(outcome.metrics)) or "nothing"
            raise ConfigError(
                f"{work}: run {outcome.run_id} never logged the objective {self._metric}; it logged {logged}",
                hint=f"run.log({self._metric}=...), or another objective in the study file",
            )
        request = self._request(work)
        seen = observed.read(self._template.store.run_folder(outcome.run_id))
        if request.epochs is not None and not seen.epochs_asked:
            raise ConfigError(
                f"{work}: the entry never asks run.epochs(), so it trains in full whatever its budget",
                hint="for epoch in run.epochs(): ... in the entry",
            )
        if request.data_share is not None and not seen.subset_asked:
            raise ConfigError(
                f"{work}: the entry never asks run.subset(), so it trains on all data whatever its budget",
                hint="dataset = run.subset(dataset) in the entry",
            )

    def score(self, trial: int, budget: Amount) -> Score:
        """Return the score of a job that is over."""
        return score_of(self._template.store, self.outcomes[trial, budget], self._metric)

    def counts(self) -> Counts:
        """Return how the runs came about."""
        return Counts(self.read, self.run_now, self.continued, self.known.files_checked)


def is_result(store: Store, outcome: Outcome) -> bool:
    """Say whether how a run ended tells of its recipe: a signal, a time limit, or too little memory does not."""
    if outcome.state == "COMPLETED":
        return True
    if outcome.state != "FAILED" or outcome.signal is not None:
        return False
    return not any(word in _tail(store, outcome) for word in _MEMORY)


def _why(outcome: Outcome) -> str:
    return f"was {outcome.reason}" if outcome.signal is not None else "had too little memory"


def _tail(store: Store, outcome: Outcome) -> str:
    path = store.run_folder(outcome.run_id) / "stderr.log"
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""


def score_of(store: Store, outcomes: list[Outcome], metric: str) -> Score:
    """Return the mean over replicates; a trial diverges by NaN, infinity, or an exception of the script."""
    for outcome in outcomes:
        if outcome.state != "COMPLETED":
            return Score(None, _exception(store, outcome))
        if not math.isfinite(outcome.metrics[metric]):
            return Score(None, "NaN" if math.isnan(outcome.metrics[metric]) else "Infinity")
    return Score(math.fsum(outcome.metrics[metric] for outcome in outcomes) / len(outcomes))


def _exception(store: Store, outcome: Outcome) -> str:
    """Return the kind of exception that a script ended with: its words may differ from run to run."""
    for line in reversed(_tail(store, outcome).splitlines()):
        name = line.partition(":")[0]
        if (
            name
            and line[:1].isalpha()
            and name.replace(".", "").isidentifier()
            and name.endswith(("Error", "Exception"))
        ):
            return name
    return f"exit code {outcome.exit_code}"


def mean_metrics(outcomes: list[Outcome]) -> Mapping[str, float]:
    """Return the means of the metrics that all replicates have."""
    names = set.intersection(*(set(outcome.metrics) for outcome in outcomes))
    return {name: math.fsum(outcome.metrics[name] for outcome in outcomes) / len(outcomes) for name in sorted(names)}


def shown(found: Mapping[str, int]) -> Iterator[str]:
    """Yield how the runs of a study's document came about, as lines for people."""
    if found["read"]:
        yield f"{found['read']} read, not run; {found['files_checked']} input files checked"
    if found["continued"]:
        yield f"{found['continued']} of {found['run_now']} went on from a checkpoint, the others began anew"


class Recorded:
    """An engine that runs nothing: jobs without a record stay open, and are named in ``missing``."""

    free = True

    def __init__(
        self,
        known: Known,
        recipe: Callable[[Job, int], Recipe],
        metric: str,
        replicates: range,
        store: Store,
    ) -> None:
        self._known = known
        self._recipe = recipe
        self._metric = metric
        self._replicates = replicates
        self._store = store
        self._over: deque[tuple[Job, list[Outcome]]] = deque()
        self.outcomes: dict[tuple[int, Amount], list[Outcome]] = {}
        self.missing: list[Job] = []

    @property
    def idle(self) -> bool:
        """Whether all that is there was handed out."""
        return not self._over

    def submit(self, task: Job) -> None:
        """Look a job's runs up."""
        found = [self._known.result(self._recipe(task, at), checked=False) for at in self._replicates]
        outcomes = [outcome for outcome in found if outcome is not None]
        if len(outcomes) == len(found):
            self._over.append((task, outcomes))
        else:
            self.missing.append(task)

    def wait(self) -> tuple[Job, Score]:
        """Return the next job that has all its runs, and its score."""
        job, outcomes = self._over.popleft()
        self.outcomes[job.trial, job.budget] = outcomes
        return job, score_of(self._store, outcomes, self._metric)
