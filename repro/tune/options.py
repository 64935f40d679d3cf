"""The methods and their options: how each is read from a study file, and what it is where it is not there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option of a method: how it is read, and its default; REQUIRED where there is none."""

    read: Callable[[Any], Any]
    default: Any


REQUIRED = object()


def whole(least: int) -> Callable[[Any], int]:
    """Return a reader of whole numbers from ``least`` on."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"a whole number from {least} on is expected")
        return value

    return read


def above_zero(what: str) -> Callable[[Any], Fraction]:
    """Return a reader of finite numbers above 0."""

    def read(value: Any) -> Fraction:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{what} above 0 is expected")
        return exact(value)

    return read


def _eta(value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 < value < 1e6:  # noqa: PLR2004
        raise ValueError("a number above 1 is expected")
    return exact(value)


def _draw(value: Any) -> str:
    if value not in DRAWS:
        raise ValueError(f"one of {', '.join(DRAWS)} is expected")
    return str(value)


def _rungs(value: Any) -> int | tuple[Fraction, ...]:
    """Read a number of rungs, or their budgets: fractions that end in 1, per cent that end in 100%, or amounts."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    words = "a number of rungs is expected, or their budgets: [0.25, 0.5, 1.0], [25%, 50%, 100%] or amounts"
    if not isinstance(value, list) or not value:
        raise ValueError(words)
    found = tuple(_share(item, words) for item in value)
    if any(b <= a for a, b in zip((Fraction(0), *found), found, strict=False)):
        raise ValueError("budgets that grow are expected")
    if any(isinstance(item, str) for item in value) and found[-1] != 1:
        raise ValueError("the last budget is the whole: 100% is expected")
    return found


def _share(value: Any, words: str) -> Fraction:
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if isinstance(value, str) and value.endswith("%"):
            return Fraction(value[:-1].strip()) / 100
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return exact(value)
    raise ValueError(words)


def exact(value: float) -> Fraction:
    """Return the number that was written: 0.1 is a tenth. Raises ValueError for what is not finite."""
    return Fraction(repr(value))


DRAWS = ("random", "grid", "quasi_random")
_COUNT = whole(1)
_POINTS = Option(whole(2), 5)
_DRAW = Option(_draw, "random")
_LAG = Option(_COUNT, 2)
_ETA = Option(_eta, Fraction(2))
#: Each method's options. ``points`` is how many of a continuous range a grid takes.
METHODS: dict[str, dict[str, Option]] = {
    "grid": {"points": _POINTS},
    "random": {"draw": _DRAW, "points": _POINTS},
    "quasi_random": {},
    "successive_halving": {
        "configurations": Option(_COUNT, REQUIRED),
        "eta": _ETA,
        "rungs": Option(_rungs, None),
        "draw": _DRAW,
        "points": _POINTS,
    },
    "hyperband": {"eta": Option(_eta, Fraction(3)), "draw": _DRAW, "points": _POINTS},
    "asha": {
        "eta": _ETA,
        "workers": Option(_COUNT, 4),
        "rungs": Option(_rungs, None),
        "draw": _DRAW,
        "points": _POINTS,
    },
    "median_stopping": {
        "rungs": Option(_rungs, 4),
        "after": Option(_COUNT, 5),
        "lag": _LAG,
        "draw": _DRAW,
        "points": _POINTS,
    },
    "one_at_a_time": {"points": _POINTS},
    "tpe": {"lag": _LAG},
    "cma_es": {"lag": _LAG},
    "gp": {"lag": _LAG},
}
#: Methods that go on for ever unless a limit ends them.
ENDLESS = ("random", "quasi_random", "asha", "median_stopping", "tpe", "cma_es", "gp")
#: Methods that train less than in full.
LADDERS = ("successive_halving", "hyperband", "asha", "median_stopping")
