"""From a study's specification to its scheduler: budgets of rungs, limits, and what they come to beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from repro.errors import ConfigError
from repro.tune import brackets
from repro.tune.asha import Asha
from repro.tune.brackets import Brackets, Shape
from repro.tune.median import MedianStopping
from repro.tune.options import ENDLESS
from repro.tune.report import counted
from repro.tune.scheduler import Limits, Scheduler, Trials
from repro.tune.search import Amount, Course, Mode, Point, Source, going_on, plain
from repro.tune.specification import Axis, Method, Study

#: Rungs as a list end in the whole: 1 for fractions, 100 for per cent, or the largest amount itself.
_PER_CENT = 100


class Ladder(NamedTuple):
    """The fidelity that a scheduler climbs."""

    axis: Axis
    #: Whether the least amount was asked for by the user.
    bound: bool
    #: From which amount to which a trial goes on, and where it is trained anew.
    course: Course = going_on
    #: Of several axes: the rungs, what each costs and what it has of each axis.
    points: Mapping[Amount, Point] = {}

    def values(self, budget: Amount) -> dict[str, Any]:
        """Return what several axes have at a budget, as documents have it; nothing of one axis."""
        return self.points[budget].plain() if self.points else {}

    def rungs(self, shapes: Sequence[Shape] = ()) -> dict[str, Any]:
        """Return the rungs of several axes as documents have them, and what is planned at each; nothing of one axis."""
        planned = brackets.at_each(shapes, self.course)
        found = []
        for budget in self.points:
            trials, cost = planned.get(budget, (0, Amount(0)))
            more = {"trials": trials, "cost": plain(cost)} if shapes else {}
            found.append({"budget": plain(budget), **self.values(budget), **more})
        return {"rungs": found} if found else {}

    @property
    def whole(self) -> bool:
        """Whether amounts are whole numbers."""
        return self.axis.name == "epochs"


def budgets(ladder: Ladder, method: Method) -> tuple[Amount, ...]:
    """Return the budgets of a method's rungs.

    Raises:
        ConfigError: for more rungs than the fidelity has room for, or budgets that do not end in the whole.
    """
    if ladder.points:
        return tuple(ladder.points)
    axis, eta, rungs = ladder.axis, method.options.get("eta", Fraction(2)), method.options.get("rungs")
    if axis.ladder:
        return _models(axis, method, rungs)
    if isinstance(rungs, tuple):
        return _listed(ladder, rungs)
    if method.name == "median_stopping":
        found = _even(axis, int(rungs or 1))
    else:
        count = rungs or brackets.steps(axis.low, axis.high, eta) + 1
        found = brackets.climb(axis.high, eta, count, whole=ladder.whole)
    if ladder.bound and found[0] < axis.low:
        raise ConfigError(
            f"{method.name}: {len(found)} rungs begin at {counted(plain(found[0]), axis.name)}, below the least,"
            f" {counted(plain(axis.low), axis.name)}",
            hint=f"rungs: {brackets.steps(axis.low, axis.high, eta) + 1}",
        )
    return _growing(tuple(map(_floor, found)) if ladder.whole else found, method.name)


def _models(axis: Axis, method: Method, rungs: int | tuple[Fraction, ...] | None) -> tuple[Amount, ...]:
    if method.name != "median_stopping" and rungs not in (None, len(axis.ladder)):
        raise ConfigError(
            f"{method.name}: a ladder of {len(axis.ladder)} models has as many rungs", hint="leave rungs out"
        )
    return tuple(axis.ladder.values())


def _even(axis: Axis, count: int) -> tuple[Amount, ...]:
    if count == 1:
        return (axis.high,)
    return tuple(axis.low + (axis.high - axis.low) * Fraction(at, count - 1) for at in range(count))


def _floor(amount: Amount) -> Amount:
    return Fraction(max(1, amount.__floor__()))


def _growing(found: tuple[Amount, ...], name: str) -> tuple[Amount, ...]:
    if any(b <= a for a, b in itertools.pairwise(found)):
        shown = ", ".join(str(plain(item)) for item in found)
        raise ConfigError(f"{name}: the rungs' budgets do not grow: {shown}", hint="fewer rungs, or a larger fidelity")
    return found


def _listed(ladder: Ladder, rungs: tuple[Fraction, ...]) -> tuple[Amount, ...]:
    high = ladder.axis.high
    whole = next((item for item in (high, Fraction(1), Fraction(_PER_CENT)) if rungs[-1] == item), None)
    if whole is None:
        raise ConfigError(
            f"rungs: the last budget is {plain(rungs[-1])}, and the whole is {counted(plain(high), ladder.axis.name)}",
            hint="rungs: [0.25, 0.5, 1.0], [25%, 50%, 100%], or amounts that end in the whole",
        )
    found = tuple(item * high / whole for item in rungs)
    return _growing(tuple(map(_floor, found)) if ladder.whole else found, "rungs")


def shapes(study: Study, ladder: Ladder) -> Iterator[Shape] | None:
    """Return the sequence of a method's brackets; None where it has none."""
    name, options = study.method.name, study.method.options
    if name == "successive_halving":
        found = budgets(ladder, study.method)
        count = options["configurations"]
        if brackets.ladder(count, options["eta"], len(found))[-1] < 1:
            raise ConfigError(
                f"successive_halving: {count} configurations leave none for rung {len(found)}",
                hint=f"configurations: {(options['eta'] ** (len(found) - 1)).__ceil__()} or more, or fewer rungs",
            )
        return brackets.halvings(count, found, options["eta"], ladder.course)
    if name == "hyperband":
        return brackets.hyperband(budgets(ladder, study.method), options["eta"], ladder.course)
    return None if name in ("asha", "median_stopping") else brackets.full(ladder.axis.high)


def limits(study: Study, ladder: Ladder) -> Limits:
    """Return the limits of a study: the file's, else one round of what has rounds.

    Raises:
        ConfigError: where the method would never end.
    """
    if study.trials is not None or study.budget is not None:
        return Limits(study.trials, study.budget)
    name = study.method.name
    if name in ENDLESS:
        raise ConfigError(
            f"{study.path}: {name} goes on for ever: a limit is expected",
            hint="trials: 64, budget: 1600, or --trials 64",
        )
    if name == "successive_halving":
        return Limits(study.method.options["configurations"])
    if name == "hyperband":
        found = shapes(study, ladder)
        assert found is not None  # noqa: S101  (Hyperband has brackets)
        return Limits(sum(shape.sizes[0] for shape in itertools.takewhile(lambda shape: shape.round == 0, found)))
    return Limits()


def planned(study: Study, ladder: Ladder, available: int | None) -> list[Shape]:
    """Return the brackets that the limits leave room for, of at most so many configurations; none without brackets.

    Raises:
        ConfigError: where not even the first one fits.
    """
    found, within = shapes(study, ladder), limits(study, ladder)
    if found is None:
        return []
    if available is not None:
        within = within._replace(trials=min(available, available if within.trials is None else within.trials))
    kept: list[Shape] = []
    trials, cost = 0, Amount(0)
    for shape in found:
        trials, cost = trials + shape.sizes[0], cost + shape.cost
        if not within.hold(trials, cost):
            break
        kept.append(shape)
    if not kept:
        first = next(shapes(study, ladder) or iter(()))
        has = counted(first.sizes[0], "trials")
        raise ConfigError(
            f"{study.path}: the first bracket has {has} and costs {counted(plain(first.cost), ladder.axis.name)}:"
            f" the limits leave no room for it",
            hint="raise trials: or budget:, or take fewer configurations",
        )
    return kept


def scheduler(study: Study, ladder: Ladder, source: Source, mode: Mode) -> Scheduler:
    """Return the state machine of a study."""
    trials = Trials(source, mode, ladder.course)
    within, options = limits(study, ladder), study.method.options
    if study.method.name == "asha":
        return Asha(budgets(ladder, study.method), options["eta"], options["workers"], trials, within)
    if study.method.name == "median_stopping":
        rungs = budgets(ladder, study.method)
        return MedianStopping(rungs, options["lag"], options["after"], trials, within, mode)
    found = shapes(study, ladder)
    assert found is not None  # noqa: S101  (the others have brackets)
    return Brackets(found, trials, within)
