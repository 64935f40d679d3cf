"""ASHA in virtual time: a job lasts as long as its budget, on so many virtual workers, a constant of the study.

Real workers may end the jobs in any order: a decision is made when the job that ends first in virtual time has its
score. Source: Li et al., ASHA, MLSys 2020 (arXiv 1810.05934), algorithm 2.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import deque

from repro.tune.decisions import Entry, shown
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Amount, Job, Score, plain

_DIVERGED = (True, 0.0)


class Asha:
    """A scheduler that promotes as soon as a trial is among the best 1/eta of its rung, else begins a new one.

    The sequence ends where a further trial would be begun that is beyond the limits: what runs then is run to its end.
    """

    def __init__(self, budgets: tuple[Amount, ...], eta: Amount, workers: int, trials: Trials, limits: Limits) -> None:
        self.trials = trials
        self.entries: list[Entry] = []
        self._budgets = budgets
        self._eta = eta
        self._limits = limits
        self._spent = Amount(0)
        self._over = False
        self._count = 0
        self._ready: deque[Job] = deque()
        self._running: list[tuple[Amount, int, Job]] = []
        self._scores: dict[Job, Score] = {}
        self._order: list[list[tuple[tuple[bool, float], str, int]]] = [[] for _ in budgets]
        self._promoted: list[set[int]] = [set() for _ in budgets]
        for _ in range(workers):
            self._assign(Amount(0))

    def ask(self) -> Job | None:
        """Return a job that can run now."""
        return self._ready.popleft() if self._ready else None

    def tell(self, job: Job, score: Score) -> None:
        """Take in a job's score, and go on in virtual time as far as scores are known."""
        self.trials.tell(job, score)
        self._scores[job] = score
        while self._running and self._running[0][-1] in self._scores:
            now, _, first = heapq.heappop(self._running)
            key = self.trials.ranking.key(self._scores.pop(first))
            bisect.insort(self._order[first.rung], (key, self.trials.ranking.digest(first.trial), first.trial))
            self._assign(now)

    def _assign(self, now: Amount) -> None:
        """Give the virtual worker that is free now its next job."""
        found = None if self._over else self._promotion() or self._beginning()
        self._over = found is None
        if found is not None:
            job = self.trials.job(*found)
            cost = self.trials.cost(job)
            self._spent += cost
            self._count += 1
            heapq.heappush(self._running, (now + cost, self._count, job))
            self._ready.append(job)

    def _promotion(self) -> tuple[int, int, Amount] | None:
        """Promote the best trial, of the highest rung that has one to promote."""
        found = next(filter(None, map(self._candidate, range(len(self._budgets) - 2, -1, -1))), None)
        if found is None:
            return None
        rung, place, trial = found
        budget = self._budgets[rung + 1]
        cost = self.trials.cost(Job(trial, rung + 1, self._budgets[rung], budget))
        if not self._limits.hold(len(self.trials.all), self._spent + cost):
            self._over = True
            return None
        self._promoted[rung].add(trial)
        self.entries.append(self._entry(trial, rung, place))
        return trial, rung + 1, budget

    def _candidate(self, rung: int) -> tuple[int, int, int] | None:
        """Return rung, place and number of the best trial among its best 1/eta that has not been promoted yet."""
        keep = self._keep(rung)
        for place, (key, _, trial) in enumerate(self._order[rung][:keep], 1):
            if trial not in self._promoted[rung] and key < _DIVERGED:
                return rung, place, trial
        return None

    def _keep(self, rung: int) -> int:
        return math.floor(len(self._order[rung]) / self._eta)

    def _entry(self, trial: int, rung: int, place: int) -> Entry:
        return {
            "kind": "promoted",
            "trial": trial,
            "budget": plain(self._budgets[rung]),
            "to": plain(self._budgets[rung + 1]),
            "value": shown(self.trials.all[trial].scores[self._budgets[rung]]),
            "place": place,
            "of": len(self._order[rung]),
            "keep": self._keep(rung),
        }

    def _beginning(self) -> tuple[int, int, Amount] | None:
        trial = len(self.trials.all)
        if self._over or not self._limits.hold(trial + 1, self._spent + self._budgets[0]):
            return None
        entries = self.trials.begin(1)
        if entries is None:
            return None
        self.entries += entries
        return trial, 0, self._budgets[0]
