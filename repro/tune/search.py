"""What the parts of a search hand to one another: suggestions, jobs, scores, and how trials are ranked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

from repro.base import digest
from repro.tune.space import Params

Mode = Literal["min", "max"]
Amount = Fraction


class Suggestion(NamedTuple):
    """A configuration to try; ``by`` says what suggested it, ``draw`` the index of the draw where there is one."""

    params: Params
    by: str
    draw: int | None = None


class Job(NamedTuple):
    """Train a trial from ``start`` (0: from the beginning) to ``budget``."""

    trial: int
    rung: int
    start: Amount
    budget: Amount


class Point(NamedTuple):
    """What a training at a budget has of each axis of the fidelity; None of an axis that the study does not have."""

    epochs: Amount | None = None
    data: Amount | None = None
    model: str | None = None

    def plain(self) -> dict[str, int | float | str]:
        """Return the values by axis, as documents have them."""
        found = ((name, value) for name, value in self._asdict().items() if value is not None)
        return {name: plain(value) if isinstance(value, Amount) else value for name, value in found}


#: What a trial goes on within: from a budget to a larger one of the same course; of another course it begins anew.
Course = Callable[[Amount], Hashable]


def going_on(_budget: Amount) -> Hashable:
    """Return the one course of trials that go on from each budget to the next."""
    return None


def anew(budget: Amount) -> Hashable:
    """Return a course for each budget: trials begin anew at each."""
    return budget


def step(start: Amount, budget: Amount, course: Course) -> Amount:
    """Return what it costs to get from ``start`` (0: from nothing) to a budget."""
    return budget - start if start and course(start) == course(budget) else budget


def cost(budgets: Iterable[Amount], course: Course) -> Amount:
    """Return what it costs a trial to reach all of these budgets, the least first: in each course the largest."""
    furthest: dict[Hashable, Amount] = {}
    for budget in budgets:
        at = course(budget)
        furthest[at] = max(budget, furthest.get(at, budget))
    return sum(furthest.values(), Amount(0))


class Score(NamedTuple):
    """What a trial reached at a budget, in the metric's own direction; None where it diverged, for the reason.

    ``detail`` is the reason for people, where it has more than decisions may have.
    """

    value: float | None
    reason: str | None = None
    detail: str | None = None


class Source(Protocol):
    """Where configurations come from: trial k has one, whatever the trials were asked for by."""

    def ready(self, trial: int) -> bool:
        """Say whether a trial can be asked for now: all that it depends on was told."""

    def suggest(self, trial: int) -> Suggestion | None:
        """Return the configuration of a trial; None when there are no more."""

    def tell(self, trial: int, score: Score) -> None:
        """Take in what a trial came to at the full budget, in any order."""


class Ranking:
    """Orders trials: the better value first, what diverged last, ties by the digest of the configuration."""

    def __init__(self, mode: Mode, params: Callable[[int], Params]) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self._params = params
        self._digests: dict[int, str] = {}

    def order(self, scores: Iterable[tuple[int, Score]]) -> list[int]:
        """Return the trials, best first; equal configurations by number."""
        found = list(scores)
        keys = {trial: self.key(score) for trial, score in found}
        if len(set(keys.values())) == len(keys):
            return sorted(keys, key=keys.__getitem__)
        return sorted(keys, key=lambda trial: (keys[trial], self.digest(trial), trial))

    def key(self, score: Score) -> tuple[bool, float]:
        """Return what sorts a score, less being better."""
        return (True, 0.0) if score.value is None else (False, self._sign * score.value)

    def digest(self, trial: int) -> str:
        """Return the digest of a trial's configuration."""
        if trial not in self._digests:
            self._digests[trial] = digest.of_value("configuration/1", self._params(trial))
        return self._digests[trial]


def plain(amount: Amount) -> int | float:
    """Return an amount as the number that people read."""
    return int(amount) if amount.denominator == 1 else float(amount)
