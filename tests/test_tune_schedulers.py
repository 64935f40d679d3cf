"""The schedulers as pure state machines: sizes, budgets, costs, promotions; the order of arrival is nothing."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.tune import brackets, decisions
from repro.tune.asha import Asha
from repro.tune.brackets import Brackets
from repro.tune.draws import Draws
from repro.tune.median import MedianStopping
from repro.tune.scheduler import Limits, Trials
from repro.tune.search import Score, Suggestion, anew, going_on

ETAS = st.sampled_from([Fraction(2), Fraction(3), Fraction(4), Fraction(5, 2)])


class Pseudo:
    """Scores that look random, and are a function of trial and budget alone; some diverge, some are equal."""

    def __init__(self, salt=0, diverging=0, levels=0):
        self.salt, self.diverging, self.levels = salt, diverging, levels

    def __call__(self, job):
        """Return the score of a job."""
        mixed = (job.trial * 7919 + int(job.budget) * 104729 + self.salt * 15485863) * 2654435761 % 2**32
        if self.diverging and mixed % self.diverging == 0:
            return Score(None, "NaN")
        return Score(float(mixed % self.levels) if self.levels else mixed / 2**32)


def trials(mode="min", count=None):
    """Trials over configurations x = 0, 1, 2, ..."""
    numbers = itertools.count() if count is None else range(count)
    return Trials(Draws(Suggestion({"x": at}, "grid") for at in numbers), mode)


def run(scheduler, score, choose=lambda _waiting: 0, workers=1):
    """Run to the end; so many at once, ``choose`` says which of those that wait is over first. Return all jobs."""
    waiting, done = [], []
    while True:
        while len(waiting) < workers and (job := scheduler.ask()) is not None:
            waiting.append(job)
        if not waiting:
            return done
        job = waiting.pop(choose(waiting) % len(waiting))
        done.append(job)
        scheduler.tell(job, score(job))


def log(scheduler):
    """The digest of a scheduler's decisions."""
    return decisions.digest_of(map(decisions.line, scheduler.entries))


@settings(deadline=None)
@given(st.integers(1, 200), ETAS, st.integers(1, 5))
def test_rungs_of_successive_halving(count, eta, rungs):
    """Rung i has floor(n / eta^i) trials at R / eta^(k - 1 - i); the cost is what the sizes and budgets come to."""
    sizes = brackets.ladder(count, eta, rungs)
    budgets = brackets.climb(Fraction(100), eta, rungs, whole=False)
    assert sizes == tuple(math.floor(count / eta**at) for at in range(rungs))
    assert budgets[-1] == 100
    assert all(b == a * eta for a, b in itertools.pairwise(budgets))
    shape = brackets.shape(0, sizes, budgets)
    assert shape.retrained == sum(size * budget for size, budget in zip(sizes, budgets, strict=True))
    ends = [*sizes[1:], 0]
    assert shape.cost == sum((a - b) * budget for a, b, budget in zip(sizes, ends, budgets, strict=True))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 500), ETAS)
def test_brackets_of_hyperband(low, factor, eta):
    """Bracket s begins ceil((s_max + 1) / (s + 1) eta^s) trials at R eta^-s, never below the least; each ends at R."""
    high = Fraction(low * factor)
    most = brackets.steps(Fraction(low), high, eta)
    assert low * eta**most <= high < low * eta ** (most + 1)
    levels = brackets.climb(high, eta, most + 1, whole=False)
    found = list(itertools.islice(brackets.hyperband(levels, eta), 2 * (most + 1)))
    assert [shape.bracket for shape in found] == [*range(most, -1, -1)] * 2
    for shape in found:
        s = shape.bracket
        assert shape.sizes[0] == math.ceil(Fraction(most + 1, s + 1) * eta**s)
        assert shape.sizes[-1] >= 1
        assert shape.budgets == tuple(high / eta ** (s - at) for at in range(s + 1))
        assert shape.budgets[0] >= low


def test_hyperband_from_25_to_100():
    """With eta 2 from 25 to 100 a round has 10 configurations, and costs 700 continued, 850 retrained."""
    levels = (Fraction(25), Fraction(50), Fraction(100))
    shapes = list(itertools.islice(brackets.hyperband(levels, Fraction(2)), 3))
    assert [shape.sizes for shape in shapes] == [(4, 2, 1), (3, 1), (3,)]
    assert sum(shape.cost for shape in shapes) == 700
    assert sum(shape.retrained for shape in shapes) == 850
    scheduler = Brackets(iter(shapes), trials(), Limits())
    run(scheduler, Pseudo())
    assert (len(scheduler.trials.all), scheduler.trials.spent, scheduler.trials.retrained) == (10, 700, 850)


@settings(deadline=None)
@given(st.integers(4, 40), ETAS, st.integers(0, 9), st.sampled_from(["min", "max"]), st.sampled_from([0, 2, 5]))
def test_the_best_are_promoted(count, eta, salt, mode, diverging):
    """At each rung the best 1/eta of those that did not diverge go on, and nobody else; what diverged never does."""
    rungs = next(at for at in itertools.count(1) if math.floor(count / eta**at) < 1)
    budgets = brackets.climb(Fraction(1000), eta, rungs, whole=False)
    score = Pseudo(salt, diverging)
    scheduler = Brackets(iter([next(brackets.halvings(count, budgets, eta))]), trials(mode), Limits())
    jobs = run(scheduler, score)
    for at, budget in enumerate(budgets[:-1]):
        here = {job.trial: score(job).value for job in jobs if job.budget == budget}
        finite = sorted((value, trial) for trial, value in here.items() if value is not None)
        finite = finite if mode == "min" else finite[::-1]
        keep = math.floor(count / eta ** (at + 1))
        assert {job.trial for job in jobs if job.budget == budgets[at + 1]} == {trial for _, trial in finite[:keep]}


def test_ties_go_by_the_configuration():
    """Of equal values the configuration's digest decides, not the trial's number: another order keeps the same ones."""

    def kept(order):
        source = Draws(Suggestion({"x": at}, "grid") for at in order)
        scheduler = Brackets(
            brackets.halvings(8, (Fraction(1), Fraction(2)), Fraction(2)), Trials(source, "min"), Limits(8)
        )
        run(scheduler, lambda _job: Score(0.5))
        return {trial.suggestion.params["x"] for trial in scheduler.trials.all if len(trial.scores) == 2}

    assert kept(range(8)) == kept([3, 1, 7, 5, 0, 2, 6, 4])
    assert kept(range(8)) != {0, 1, 2, 3}


def machines(kind, limit):
    """A fresh scheduler of a kind."""
    budgets = (Fraction(1), Fraction(2), Fraction(4))
    limits = Limits(limit)
    if kind == "halving":
        return Brackets(brackets.halvings(8, budgets, Fraction(2)), trials(), limits)
    if kind == "hyperband":
        return Brackets(brackets.hyperband(budgets, Fraction(2)), trials(), limits)
    if kind == "full":
        return Brackets(brackets.full(Fraction(4)), trials(), limits)
    if kind == "asha":
        return Asha(budgets, Fraction(2), 3, trials(), limits)
    return MedianStopping(budgets, 2, 2, trials(), limits, "min")


KINDS = ["halving", "hyperband", "full", "asha", "median"]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(8, 40),
    workers=st.integers(1, 9),
    picks=st.lists(st.integers(0, 8), min_size=1),
    salt=st.integers(0, 9),
    diverging=st.sampled_from([0, 4]),
    levels=st.sampled_from([0, 3]),
)
def test_the_order_of_arrival_is_nothing(kind, limit, workers, picks, salt, diverging, levels):
    """Any number of workers and any order of arrival leave the same decisions, in the same order, at the same cost."""
    score = Pseudo(salt, diverging, levels)
    one, other = machines(kind, limit), machines(kind, limit)
    run(one, score)
    turn = itertools.cycle(picks)
    run(other, score, lambda _waiting: next(turn), workers)
    assert log(one) == log(other)
    assert one.trials.spent == other.trials.spent
    assert [trial.scores for trial in one.trials.all] == [trial.scores for trial in other.trials.all]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(low=st.integers(8, 30), more=st.integers(0, 20), salt=st.integers(0, 9))
def test_a_raised_limit_extends_the_study(kind, low, more, salt):
    """The decisions under a limit are the first ones of those under a larger limit."""
    short, long = machines(kind, low), machines(kind, low + more)
    run(short, Pseudo(salt, 5))
    run(long, Pseudo(salt, 5))
    assert long.entries[: len(short.entries)] == short.entries


@settings(deadline=None)
@given(st.integers(20, 400), st.integers(0, 9))
def test_the_budget_is_a_limit(budget, salt):
    """No scheduler spends more than the budget allows, and a bracket is begun whole or not at all."""
    for kind in KINDS:
        scheduler = machines(kind, None)
        scheduler._limits = Limits(None, Fraction(budget))
        run(scheduler, Pseudo(salt))
        assert scheduler.trials.spent <= budget


def test_what_is_missing_for_the_controls():
    """To have all trials at all rungs costs what is left of each where it goes on, else every rung that it has not."""
    budgets = (Fraction(1), Fraction(2), Fraction(4))
    found = []
    for course in (going_on, anew):
        scheduler = Brackets(brackets.halvings(4, budgets, Fraction(2)), trials(), Limits(4))
        scheduler.trials.course = course
        run(scheduler, Pseudo())
        found.append(scheduler.trials.missing(budgets, course))
    assert found == [2 * (4 - 1) + (4 - 2), 2 * (2 + 4) + 4]


def test_asha_promotes_the_best_of_its_rungs():
    """An ASHA promotion is among the best floor(n / eta) of its rung at that moment, and each trial goes once."""
    scheduler = machines("asha", 40)
    run(scheduler, Pseudo(3))
    promoted = [entry for entry in scheduler.entries if entry["kind"] == "promoted"]
    assert len(promoted) > 10
    assert all(entry["place"] <= entry["keep"] == entry["of"] // 2 for entry in promoted)
    assert len({(entry["trial"], entry["budget"]) for entry in promoted}) == len(promoted)
    assert any(Fraction(4) in trial.scores for trial in scheduler.trials.all)


def test_median_stopping_stops_what_is_worse_than_the_median():
    """A trial whose best so far is worse than the median of the finished trials' means is stopped at that rung."""
    scheduler = machines("median", 12)
    run(scheduler, lambda job: Score(float(job.trial % 4)))
    ends = {entry["trial"]: entry["what"] for entry in scheduler.entries if entry["kind"] == "judged"}
    assert all(ends[trial] == "finished" for trial in range(3))
    assert ends[7] == "stopped"
    assert ends[4] == ends[8] == "finished"
