"""Successive halving, Hyperband and full training: a sequence of brackets, each a ladder of rungs.

A bracket's rung is decided when all its trials have a score there: the best 1/eta go on. What diverged never does.
Brackets run side by side; the log has them in their order.
Sources: Jamieson and Talwalkar, AISTATS 2016; Li et al., Hyperband, JMLR 2018 (arXiv 1603.06560), algorithm 1.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from repro.tune.decisions import Entry, shown
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Amount, Course, Job, Score, anew, going_on, plain, step


class Shape(NamedTuple):
    """A bracket to be: how many trials each rung has, and its budget.

    ``cost`` is the budget that it takes where promoted trials go on from their checkpoints as far as they can,
    ``retrained`` that where all begin anew.
    """

    round: int
    bracket: int
    sizes: tuple[int, ...]
    budgets: tuple[Amount, ...]
    cost: Amount
    retrained: Amount


def shape(bracket: int, sizes: tuple[int, ...], budgets: tuple[Amount, ...], course: Course = going_on) -> Shape:
    """Return a bracket of the first round, with its costs."""
    return Shape(0, bracket, sizes, budgets, cost(sizes, budgets, course), cost(sizes, budgets, anew))


def cost(sizes: tuple[int, ...], budgets: tuple[Amount, ...], course: Course = going_on) -> Amount:
    """Return the budget that a ladder takes where promoted trials go on within their course."""
    steps = zip(sizes, budgets, (Amount(0), *budgets), strict=False)
    return sum((size * step(before, budget, course) for size, budget, before in steps), Amount(0))


def at_each(shapes: Sequence[Shape], course: Course) -> dict[Amount, tuple[int, Amount]]:
    """Return how many trials brackets have at each budget, and what they cost there."""
    found: dict[Amount, tuple[int, Amount]] = {}
    for one in shapes:
        for size, budget, before in zip(one.sizes, one.budgets, (Amount(0), *one.budgets), strict=False):
            trials, spent = found.get(budget, (0, Amount(0)))
            found[budget] = (trials + size, spent + size * step(before, budget, course))
    return found


def rounds(first: Sequence[Shape]) -> Iterator[Shape]:
    """Yield the brackets of a round, again and again."""
    return (found._replace(round=turn) for turn in itertools.count() for found in first)


def ladder(configurations: int, eta: Amount, rungs: int) -> tuple[int, ...]:
    """Return the sizes of the rungs, ``floor(n / eta^i)``."""
    return tuple(math.floor(configurations / eta**at) for at in range(rungs))


def climb(top: Amount, eta: Amount, rungs: int, *, whole: bool) -> tuple[Amount, ...]:
    """Return budgets that grow by eta up to ``top``; ``whole`` ones are rounded down, and are 1 at least."""
    exact = [top / eta ** (rungs - 1 - at) for at in range(rungs)]
    return tuple(Amount(max(1, math.floor(item))) if whole else item for item in exact)


def steps(low: Amount, high: Amount, eta: Amount) -> int:
    """Return how often ``low`` can grow by eta and stay within ``high``: floor(log_eta(high / low)), exactly."""
    return next(at for at in itertools.count() if low * eta ** (at + 1) > high)


def halvings(
    configurations: int, budgets: tuple[Amount, ...], eta: Amount, course: Course = going_on
) -> Iterator[Shape]:
    """Return the one bracket of successive halving, again and again."""
    sizes = ladder(configurations, eta, len(budgets))
    return rounds([shape(len(budgets) - 1, sizes, budgets, course)])


def hyperband(levels: tuple[Amount, ...], eta: Amount, course: Course = going_on) -> Iterator[Shape]:
    """Return the brackets of Hyperband, round after round, from the one with most rungs to full training.

    ``levels`` are the budgets of the longest ladder; a shorter one has the last of them.
    """
    most = len(levels) - 1
    firsts = {rung: math.ceil(Amount(most + 1, rung + 1) * eta**rung) for rung in range(most, -1, -1)}
    return rounds(
        [shape(rung, ladder(first, eta, rung + 1), levels[most - rung :], course) for rung, first in firsts.items()]
    )


def full(high: Amount) -> Iterator[Shape]:
    """Return brackets of one trial trained to the end."""
    return rounds([shape(0, (1,), (high,))])


class _Bracket:
    """One bracket under way."""

    def __init__(self, number: int, shape: Shape, entries: list[Entry], first: int) -> None:
        self.number = number
        self.shape = shape
        self.entries = entries
        self.members = list(range(first, first + shape.sizes[0]))
        self.rung = 0
        self.scores: dict[int, Score] = {}
        self.complete = False

    def decide(self, order: Sequence[int]) -> bool:
        """Enter the decision on a rung whose trials stand in this order; say whether any go on."""
        at = self.rung + 1
        keep = self.shape.sizes[at] if at < len(self.shape.sizes) else 0
        promoted = [trial for trial in order[:keep] if self.scores[trial].value is not None]
        self.entries.append(
            {
                "kind": "rung",
                "bracket": self.number,
                "rung": self.rung,
                "budget": plain(self.shape.budgets[self.rung]),
                "ranked": [[trial, shown(self.scores[trial])] for trial in order],
                "promoted": promoted,
            }
        )
        self.rung, self.members, self.scores = at, promoted, {}
        self.complete = not promoted
        return bool(promoted)


class Brackets:
    """A scheduler over a sequence of shapes. A bracket that the limits or the source cut short is not begun."""

    def __init__(self, shapes: Iterator[Shape], trials: Trials, limits: Limits) -> None:
        self.trials = trials
        self.entries: list[Entry] = []
        self.shapes: list[Shape] = []
        self._shapes = shapes
        self._limits = limits
        self._next = next(shapes, None)
        self._planned = Amount(0)
        self._under_way: deque[_Bracket] = deque()
        self._taken = 0
        self._of: dict[int, _Bracket] = {}
        self._ready: list[tuple[int, int, int, Job]] = []

    def ask(self) -> Job | None:
        """Return a job that can run now, of the earliest bracket that has one."""
        if not self._ready:
            self._open()
        return heapq.heappop(self._ready)[-1] if self._ready else None

    def _open(self) -> None:
        shape = self._next
        if shape is None:
            return
        first = len(self.trials.all)
        if not self._limits.hold(first + shape.sizes[0], self._planned + shape.cost):
            self._next = None
            return
        if not self.trials.source.ready(first + shape.sizes[0] - 1):
            return
        entries = self.trials.begin(shape.sizes[0])
        if entries is None:
            self._next = None
            return
        bracket = _Bracket(len(self.shapes), shape, entries, first)
        self._planned += shape.cost
        self.shapes.append(shape)
        self._under_way.append(bracket)
        self._of |= dict.fromkeys(bracket.members, bracket)
        self._next = next(self._shapes, None)
        self._start(bracket)
        self._release()

    def _start(self, bracket: _Bracket) -> None:
        budget = bracket.shape.budgets[bracket.rung]
        for trial in bracket.members:
            job = self.trials.job(trial, bracket.rung, budget)
            heapq.heappush(self._ready, (bracket.number, bracket.rung, trial, job))

    def tell(self, job: Job, score: Score) -> None:
        """Take in a job's score; the last one of a rung decides it."""
        self.trials.tell(job, score)
        bracket = self._of[job.trial]
        bracket.scores[job.trial] = score
        if job.budget == bracket.shape.budgets[-1] or score.value is None:
            self.trials.source.tell(job.trial, score)
        if len(bracket.scores) == len(bracket.members):
            if bracket.decide(self.trials.ranking.order(bracket.scores.items())):
                self._start(bracket)
            self._release()

    def _release(self) -> None:
        """Move entries into the log, in the order of the brackets."""
        while self._under_way:
            bracket = self._under_way[0]
            self.entries += bracket.entries[self._taken :]
            self._taken = len(bracket.entries)
            if not bracket.complete:
                return
            self._under_way.popleft()
            self._taken = 0
