"""Several axes of fidelity at once: the budget is the cost of a training as a share of one in full.

All axes grow together: at a rung each stands as far, by ratio, between its least and its whole as the rung's share
stands between that of all leasts and 1. ADR 0023 has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

from repro.errors import ConfigError
from repro.run.request import MILLION
from repro.tune import method as methods
from repro.tune.method import Ladder
from repro.tune.options import LADDERS
from repro.tune.search import Amount, Point, plain
from repro.tune.specification import Axis, Method

#: What budgets are counted in.
UNIT = "full trainings"
_WHOLE = Amount(1)
_EXACT = Context(prec=50)
#: What was calculated is rounded to so many digits: what is 25 comes to 25, not to a little less.
_ROUNDED = Context(prec=30)


def rungs(axes: Sequence[Axis], method: Method) -> dict[Amount, Point]:
    """Return the rungs of a method over several axes, the cheapest first: what each costs, and has of each axis.

    Raises:
        ConfigError: for more rungs than the axes have room for, or shares that do not end in the whole.
    """
    wanted = _shares(axes, method)
    found = {_cost(axes, point): point for point in (_at(axes, share) for share in wanted)}
    if len(found) < len(wanted) and _given(method):
        names = ", ".join(axis.name for axis in axes)
        raise ConfigError(
            f"{method.name}: of {len(wanted)} rungs only {len(found)} differ in {names}",
            hint="fewer rungs, or a larger fidelity",
        )
    return found


def joined(points: Mapping[Amount, Point]) -> Axis:
    """Return the one axis that stands for several: from the cheapest rung to a training in full."""
    return Axis(UNIT, min(points), _WHOLE)


def _given(method: Method) -> bool:
    """Say whether the user asked for so many rungs, or for these; of median stopping a number is how often to look."""
    given = method.options.get("rungs")
    return given is not None and (method.name != "median_stopping" or isinstance(given, tuple))


def _shares(axes: Sequence[Axis], method: Method) -> Sequence[Amount]:
    """Return the shares of a training in full that the rungs may cost, as with one axis that ends in 1."""
    least = _least(axes)
    if method.name not in LADDERS or (least == 1 and not _given(method)):
        return (_WHOLE,)
    found = methods.budgets(Ladder(Axis(UNIT, least, _WHOLE), bound=True), method)
    if found[0] < least:
        raise ConfigError(
            f"rungs: {plain(found[0])} of a training in full is below the least, {plain(least)}",
            hint="rungs that begin later, or a lower end of an axis",
        )
    return found


def _least(axes: Sequence[Axis]) -> Amount:
    return math.prod((axis.low / axis.high for axis in axes), start=_WHOLE)


def _at(axes: Sequence[Axis], share: Amount) -> Point:
    """Return what a rung has of each axis."""
    least = _least(axes)
    with localcontext(_EXACT):
        way = _decimal(share).ln() / _decimal(least).ln() if least < 1 else Decimal(0)
    return Point(**{axis.name: _value(axis, way) for axis in axes})


def _value(axis: Axis, way: Decimal) -> Any:
    """Return what an axis has so far down, by ratio, from its whole (0) to its least (1); rounded down."""
    with localcontext(_EXACT):
        exact = _decimal(axis.high) * (way * _decimal(axis.low / axis.high).ln()).exp()
    amount = Fraction(_ROUNDED.plus(exact))
    if axis.ladder:
        return next(name for name, cost in reversed(axis.ladder.items()) if cost <= amount)
    if amount in (axis.low, axis.high):
        return amount
    parts = 1 if axis.name == "epochs" else MILLION
    return max(axis.low, Amount(math.floor(amount * parts), parts))


def _decimal(amount: Amount) -> Decimal:
    return Decimal(amount.numerator) / Decimal(amount.denominator)


def _cost(axes: Sequence[Axis], point: Point) -> Amount:
    """Return what a training costs, as a share of one in full."""
    values = point._asdict()
    amounts = ((axis, axis.ladder[values[axis.name]] if axis.ladder else values[axis.name]) for axis in axes)
    return math.prod((amount / axis.high for axis, amount in amounts), start=_WHOLE)
