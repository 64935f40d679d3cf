"""Median stopping: a trial that is worse than the median of the finished ones at a rung is stopped there.

Trial k is judged by the trials 0 to k - lag alone, which are over when it begins: so the number of workers and the
order of arrival have no part in it. Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2.
"""

from __future__ import annotations

import bisect
import heapq
import statistics

from repro.tune.decisions import Entry, shown
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Amount, Job, Mode, Score, cost, plain


class MedianStopping:
    """A scheduler that trains trial after trial, ``lag`` at once, and judges each at every rung.

    A trial is stopped where the best that it has reached is worse than the median, over the finished trials, of their
    mean up to this rung; from ``after`` finished trials on.
    """

    def __init__(
        self, budgets: tuple[Amount, ...], lag: int, after: int, trials: Trials, limits: Limits, mode: Mode
    ) -> None:
        self.trials = trials
        self.entries: list[Entry] = []
        self._budgets = budgets
        self._lag = lag
        self._after = after
        self._limits = limits
        self._mode = mode
        self._over = False
        self._ended: set[int] = set()
        self._whole = cost(budgets, trials.course)
        self._known = 0
        self._spent = Amount(0)
        self._means: list[list[float]] = [[] for _ in budgets]
        self._against: list[tuple[list[float | None], int]] = []
        self._logs: list[list[Entry]] = []
        self._released = 0
        self._ready: list[tuple[int, int, Job]] = []

    def ask(self) -> Job | None:
        """Return a job that can run now, of the earliest trial that has one."""
        if not self._ready:
            self._begin()
        return heapq.heappop(self._ready)[-1] if self._ready else None

    def _begin(self) -> None:
        trial = len(self.trials.all)
        before = max(0, trial - self._lag + 1)
        if self._over or not self._ended.issuperset(range(self._known, before)):
            return
        while self._known < before:
            self._take(self._known)
        self._over = not self._limits.hold(trial + 1, self._spent + (trial + 1 - before) * self._whole)
        entries = None if self._over else self.trials.begin(1)
        self._over = entries is None
        if entries is not None:
            self._logs.append(entries)
            self._against.append(self._medians())
            self._start(trial, 0)

    def _take(self, trial: int) -> None:
        """Take in a trial that is over: what it cost, and its mean up to each rung where it was trained to the end."""
        self._known += 1
        self._spent += self.trials.spent_on(trial)
        values = [score.value for score in self.trials.all[trial].scores.values()]
        reached = [value for value in values if value is not None]
        if len(reached) == len(self._budgets):
            for rung, means in enumerate(self._means):
                bisect.insort(means, statistics.fmean(reached[: rung + 1]))

    def _medians(self) -> tuple[list[float | None], int]:
        """Return the median of the means at each rung, None where nobody is judged by it, and of how many."""
        of = len(self._means[0])
        judging = self._means[:-1] if of >= self._after else []
        medians: list[float | None] = [statistics.median(means) for means in judging]
        return medians + [None] * (len(self._budgets) - len(medians)), of

    def _start(self, trial: int, rung: int) -> None:
        heapq.heappush(self._ready, (trial, rung, self.trials.job(trial, rung, self._budgets[rung])))

    def tell(self, job: Job, score: Score) -> None:
        """Take in a job's score, and judge its trial by it."""
        self.trials.tell(job, score)
        last = job.rung + 1 == len(self._budgets)
        medians, of = self._against[job.trial]
        median = medians[job.rung]
        stopped = score.value is None or (median is not None and self._is_worse(self._best(job), median))
        what = "finished" if last else "stopped" if stopped else "promoted"
        self._logs[job.trial].append(
            {
                "kind": "judged",
                "trial": job.trial,
                "what": what,
                "budget": plain(job.budget),
                "value": shown(score),
                "median": median,
                "of": of,
            }
        )
        if what == "promoted":
            self._start(job.trial, job.rung + 1)
        else:
            self._ended.add(job.trial)
            self.trials.source.tell(job.trial, score)
        self._release()

    def _best(self, job: Job) -> float:
        found = [score.value for score in self.trials.all[job.trial].scores.values() if score.value is not None]
        return min(found) if self._mode == "min" else max(found)

    def _is_worse(self, value: float, other: float) -> bool:
        return value > other if self._mode == "min" else value < other

    def _release(self) -> None:
        """Move the entries of trials that are over into the log, in the order of the trials."""
        while self._released in self._ended:
            self.entries += self._logs[self._released]
            self._released += 1
