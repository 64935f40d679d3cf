"""What all schedulers share: trials by number, limits on the sequence, and the amounts that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from repro.tune.decisions import Entry, suggested
from repro.tune.search import (
    Amount,
    Course,
    Job,
    Mode,
    Ranking,
    Score,
    Source,
    Suggestion,
    anew,
    cost,
    going_on,
    step,
)
from repro.tune.space import Params


class Limits(NamedTuple):
    """Where the sequence of trials ends: by their number, by the budget; None: not there. Never by time."""

    trials: int | None = None
    budget: Amount | None = None

    def hold(self, trials: int, budget: Amount) -> bool:
        """Say whether so many trials at such a cost are within."""
        return (self.trials is None or trials <= self.trials) and (self.budget is None or budget <= self.budget)


class Trial:
    """A configuration that is tried: what it was asked to reach, and the scores that it has."""

    def __init__(self, suggestion: Suggestion) -> None:
        self.suggestion = suggestion
        self.asked: list[Amount] = []
        self.scores: dict[Amount, Score] = {}

    @property
    def last(self) -> Score | None:
        """The score at the largest budget that was reached."""
        return self.scores[max(self.scores)] if self.scores else None


class Trials:
    """The trials of a study; asks the source for each once, in order.

    ``course`` says from which budget to which a trial goes on, and where it is trained anew.
    """

    def __init__(self, source: Source, mode: Mode, course: Course = going_on) -> None:
        self.source = source
        self.course = course
        self.ranking = Ranking(mode, self.params)
        self.all: list[Trial] = []

    def params(self, trial: int) -> Params:
        """Return a trial's configuration."""
        return self.all[trial].suggestion.params

    def begin(self, count: int) -> list[Entry] | None:
        """Begin so many further trials and return their entries; None, and begin none, where there are fewer left."""
        found = []
        for trial in range(len(self.all), len(self.all) + count):
            suggestion = self.source.suggest(trial)
            if suggestion is None:
                return None
            found.append(suggestion)
        entries = [suggested(at, suggestion) for at, suggestion in enumerate(found, len(self.all))]
        self.all += map(Trial, found)
        return entries

    def job(self, trial: int, rung: int, budget: Amount) -> Job:
        """Return the job that takes a trial from where it is to ``budget``."""
        asked = self.all[trial].asked
        start = asked[-1] if asked else Amount(0)
        asked.append(budget)
        return Job(trial, rung, start, budget)

    def cost(self, job: Job) -> Amount:
        """Return what a job costs."""
        return step(job.start, job.budget, self.course)

    def spent_on(self, trial: int) -> Amount:
        """Return what all jobs of a trial cost."""
        return cost(self.all[trial].asked, self.course)

    def tell(self, job: Job, score: Score) -> None:
        """Keep a score."""
        self.all[job.trial].scores[job.budget] = score

    @property
    def spent(self) -> Amount:
        """What all jobs cost."""
        return sum(map(self.spent_on, range(len(self.all))), Amount(0))

    @property
    def left(self) -> Amount:
        """What the jobs cost that are not over, those before them in their course with them."""
        return self.spent - sum((cost(trial.scores, self.course) for trial in self.all), Amount(0))

    def missing(self, budgets: Sequence[Amount], course: Course) -> Amount:
        """Return what it costs beyond what was asked for to have all trials at all of these budgets."""
        both = ((trial.asked, {*budgets, *trial.asked}) for trial in self.all)
        return sum((cost(every, course) - cost(asked, course) for asked, every in both), Amount(0))

    @property
    def retrained(self) -> Amount:
        """What they would cost if each began anew."""
        return sum((cost(trial.asked, anew) for trial in self.all), Amount(0))


class Scheduler(Protocol):
    """A state machine: asked what to run, told what came of it, in any order; it knows no clock and no engine."""

    trials: Trials
    #: Decisions in the order of the study; it only grows.
    entries: list[Entry]

    def ask(self) -> Job | None:
        """Return a job that can run now; None when there is none before something is told, or none at all."""

    def tell(self, job: Job, score: Score) -> None:
        """Take in a job's score."""
