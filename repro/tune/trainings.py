"""The engine of real studies: a job is a run of the experiment, read where it is there, continued where it can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple, Self

from repro.errors import ConfigError
from repro.record.values import Outcome, Recipe
from repro.run import observed
from repro.run.request import Request
from repro.store.store import Store
from repro.trials import pool
from repro.trials.slot import Template
from repro.tune import answers, known, results
from repro.tune.answers import Answers, GivenUp
from repro.tune.base import Base
from repro.tune.report import counted
from repro.tune.search import Amount, Job, Score, plain
from repro.tune.space import Params
from repro.tune.specification import Study
from repro.tune.used import Used

#: A run that came to no result (a signal, a limit of time or memory) is made again so often, alone.
_AGAIN = 2


class Work(NamedTuple):
    """One run of a job: which replicate, and what its budget is counted in."""

    job: Job
    replicate: int
    unit: str

    def __str__(self) -> str:
        return f"trial {self.job.trial} at {counted(plain(self.job.budget), self.unit)}"


class Told(NamedTuple):
    """A run that a study has: which one, whether it was run now, and where it went on from (0: from the beginning).

    ``failed`` says why it is no result: it is made again.
    """

    work: Work
    run_id: str
    run_now: bool
    went_on_from: int
    failed: str | None = None


class Trainings:
    """An engine over real runs: so many at once, each job as many runs as a trial has replicates.

    A job that was given up has none: it diverged.
    """

    def __init__(
        self,
        template: Template,
        base: Base,
        params: Callable[[int], Params],
        asked: Study,
        answers: Answers,
        workers: int,
        told: Callable[[Told], None],
        others: Sequence[Mapping[str, str]] = (),
        retried: str | None = None,
    ) -> None:
        assert asked.objective is not None  # noqa: S101  (the file was checked for it)
        self._template = template
        self._base = base
        self._params = params
        self._metric = asked.objective[0]
        self._replicates = range(asked.per_trial)
        self._file = asked.path
        self._answers = answers
        self._is_after = False
        self._workers = workers
        self._told = told
        self._stack = ExitStack()
        self._pool: pool.Pool[Work] | None = None
        self._queue: deque[Work] = deque()
        self._alone: deque[Work] = deque()
        self._failed: dict[Work, list[Outcome]] = {}
        self._results: dict[Job, dict[int, Outcome]] = {}
        self._went_on: dict[Work, int] = {}
        self._known = known.Known(template.store, base.request.root, others, retried)
        self.outcomes: dict[tuple[int, Amount], list[Outcome]] = {}
        #: How the runs came about.
        self.counts = dict.fromkeys(("run_now", "continued", "read", "files_checked"), 0)
        self.reasons: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._known.close()
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
        for replicate in () if self._given_up(task) else self._replicates:
            work = Work(task, replicate, self._base.axis.name)
            outcome = self._known.result(self._recipe(work))
            if outcome is None:
                self._queue.append(work)
            else:
                self.counts["read"] += 1
                self.counts["files_checked"] += len(outcome.inputs)
                self._take(work, outcome, run_now=False)
        self._fill()

    def wait(self) -> tuple[Job, Score]:
        """Return the next job all of whose runs are over, and its score.

        Raises:
            ConfigError: when the runs do not log the objective, or do not heed their budget.
            ReproError: when a run cannot be started, or came to no result too often.
        """
        while (job := self._whole()) is None:
            self._fill()
            assert self._pool is not None  # noqa: S101  (something is missing, so something runs)
            work, outcome = self._pool.next()
            self._ended(work, outcome)
        found = self._results.pop(job)
        self.outcomes[job.trial, job.budget] = [
            found[replicate] for replicate in self._replicates if replicate in found
        ]
        return job, self._score(job)

    def train(self, jobs: Iterable[Job], replicates: range) -> None:
        """Make the runs of further jobs, with other replicates; ``outcomes`` are theirs then, and no others.

        These decide nothing: what was given up at a budget is not tried at a larger one. A trial is at one budget at a
        time, so that it goes on from there to the next and never trains the same epochs twice.
        """
        self._replicates, self.outcomes, queue = replicates, {}, list(jobs)
        self._is_after = True
        while queue or not self.idle:
            while self.free and (job := self._next(queue)) is not None:
                queue.remove(job)
                self.submit(job)
            self.wait()

    def _next(self, queue: Iterable[Job]) -> Job | None:
        """Return the first job of a trial that nothing is under way of."""
        busy = {job.trial for job in self._results}
        return next((job for job in queue if job.trial not in busy), None)

    def _whole(self) -> Job | None:
        whole = len(self._replicates)
        return next((job for job, found in self._results.items() if len(found) == whole or self._given_up(job)), None)

    def _given_up(self, job: Job) -> GivenUp | None:
        return self._answers.of(job, self._replicates, beyond=self._is_after)

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
            start, reason = self._known.start(self._template.recipe(request))
        if start is None and work.job.start and reason and reason not in self.reasons:
            self.reasons.append(reason)
        self._went_on[work] = 0 if start is None else known.epochs(start)
        self._pool.begin(work, request, start)

    def _ended(self, work: Work, outcome: Outcome) -> None:
        if outcome.state == "CANCELLED":
            raise KeyboardInterrupt
        self._known.add(self._recipe(work), outcome.run_id)
        if not results.is_result(self._template.store, outcome):
            self._failed.setdefault(work, []).append(outcome)
            if len(self._failed[work]) > _AGAIN:
                raise answers.question(self._template.store, self._file, work.job.trial, str(work), self._failed[work])
            self._alone.append(work)
            self._told(
                Told(work, outcome.run_id, True, self._went_on.pop(work), results.why(self._template.store, outcome))
            )
            return
        self.counts["run_now"] += 1
        self.counts["continued"] += bool(self._went_on[work])
        self._take(work, outcome, run_now=True)

    def _take(self, work: Work, outcome: Outcome, *, run_now: bool) -> None:
        self._check(work, outcome)
        self._results[work.job][work.replicate] = outcome
        self._told(Told(work, outcome.run_id, run_now, self._went_on.pop(work, 0)))

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
        return self._score(Job(trial, 0, Amount(0), budget))

    def _score(self, job: Job) -> Score:
        given_up = self._given_up(job)
        if given_up is not None:
            return given_up.score
        return results.score_of(self._template.store, self.outcomes[job.trial, job.budget], self._metric)


class Recorded:
    """An engine that runs nothing: jobs without a record or an answer stay open, and are named in ``missing``."""

    free = True

    def __init__(
        self,
        there: known.Known,
        recipe: Callable[[Job, int], Recipe],
        metric: str,
        replicates: range,
        answers: Answers,
        used: Used,
        store: Store,
    ) -> None:
        self._known = there
        self._used = used
        self._answers = answers
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
        """Look a job's runs up, unless it was given up."""
        if self._answers.of(task, self._replicates):
            self._over.append((task, []))
            return
        found = [self._outcome(task, at) for at in self._replicates]
        outcomes = [outcome for outcome in found if outcome is not None]
        if len(outcomes) == len(found):
            self._over.append((task, outcomes))
        else:
            self.missing.append(task)

    def _outcome(self, task: Job, replicate: int) -> Outcome | None:
        recipe, run_id = self._recipe(task, replicate), self._used.of(task, replicate)
        return self._known.result(recipe) if run_id is None else self._known.listed(recipe, run_id)

    def wait(self) -> tuple[Job, Score]:
        """Return the next job that has all its runs, and its score."""
        job, outcomes = self._over.popleft()
        self.outcomes[job.trial, job.budget] = outcomes
        given_up = self._answers.of(job, self._replicates)
        return job, given_up.score if given_up else results.score_of(self._store, outcomes, self._metric)
