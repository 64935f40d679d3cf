"""Median stopping: a trial that is worse than the median of the finished ones at a rung is stopped there.

Trial k is judged by the trials 0 to k - lag alone, which are over when it begins: so the number of workers and the
order of arrival have no part in it. Source: Golovin et al., Google Vizier, KDD 2017, section 3.2.2.
"""

from __future__ import annotations

import heapq
import statistics

from repro.tune.decisions import Entry, shown
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Amount, Job, Mode, Score, plain


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
        before = range(max(0, trial - self._lag + 1))
        if self._over or not self._ended.issuperset(before):
            return
        spent = sum(map(self.trials.spent_on, before), Amount(0))
        whole = self._budgets[-1] if self.trials.continues else sum(self._budgets, Amount(0))
        self._over = not self._limits.hold(trial + 1, spent + (trial + 1 - len(before)) * whole)
        entries = None if self._over else self.trials.begin(1)
        self._over = entries is None
        if entries is not None:
            self._logs.append(entries)
            self._start(trial, 0)

    def _start(self, trial: int, rung: int) -> None:
        heapq.heappush(self._ready, (trial, rung, self.trials.job(trial, rung, self._budgets[rung])))

    def tell(self, job: Job, score: Score) -> None:
        """Take in a job's score, and judge its trial by it."""
        self.trials.tell(job, score)
        last = job.rung + 1 == len(self._budgets)
        others = self._others(job)
        median = statistics.median(others) if len(others) >= self._after and not last else None
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
                "of": len(others),
            }
        )
        if what == "promoted":
            self._start(job.trial, job.rung + 1)
        else:
            self._ended.add(job.trial)
            self.trials.source.tell(job.trial, score)
        self._release()

    def _others(self, job: Job) -> list[float]:
        """Return the mean up to this rung of each trial before that was trained to the end."""
        found = []
        for other in self.trials.all[: max(0, job.trial - self._lag + 1)]:
            values = [score.value for score in other.scores.values()]
            reached = [value for value in values[: job.rung + 1] if value is not None]
            if len(values) == len(self._budgets) and None not in values:
                found.append(statistics.fmean(reached))
        return found

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
