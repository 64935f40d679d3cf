"""The space as a study file has it: one mapping for each parameter, read strictly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NoReturn

from repro.run.config import nearest
from repro.tune.space import Domain, Kind, Space, ordered, same

#: What a mapping may be named by: exactly one of these is in it.
KINDS = ("choice", "ordinal", "uniform", "log", "int", "step", "power_of_two", "constant")
_MORE = {"uniform": ("step",), "int": ("log", "step")}
_MOST = 100_000
Fail = Callable[..., NoReturn]
_Place = tuple[str | int, ...]


def read(value: Mapping[str, Any], fail: Fail) -> Space:
    """Return the space of a study file; ``fail(place, message, hint)`` raises its error."""
    found = {name: _domain(item, ("space", name), fail) for name, item in value.items()}
    for name, domain in found.items():
        _check_parents(name, domain, found, fail)
    space, circle = ordered(found)
    if circle:
        fail(("space", circle[0], "when"), f"a circle of conditions: {', '.join(circle)}")
    return Space(space)


def _domain(value: Any, place: _Place, fail: Fail) -> Domain:
    if not isinstance(value, dict):
        return _constant(value, place, fail)
    kind = _kind(value, place, fail)
    for name in value:
        known = (kind, "when", *_MORE.get(kind, ()))
        if name not in known:
            fail((*place, name), f"unknown key {name!r}", nearest(name, known))
    when = _when(value.get("when"), (*place, "when"), fail)
    if kind == "constant":
        return _constant(value[kind], (*place, kind), fail, when)
    if kind in ("choice", "ordinal"):
        return Domain(
            kind="ordinal" if kind == "ordinal" else "choice", values=_list(value, kind, place, fail), when=when
        )
    return _range(kind, value, place, fail, when)


def _kind(value: Mapping[str, Any], place: _Place, fail: Fail) -> str:
    named = [name for name in KINDS if name in value]
    if "int" in named and isinstance(value.get("log"), bool):
        named.remove("log")
    if len(named) == 2 and "step" in named and not isinstance(value["step"], list):  # noqa: PLR2004
        named.remove("step")
    if len(named) != 1:
        strange = next((name for name in value if name not in (*KINDS, "when")), None)
        if not named and strange is not None:
            fail((*place, strange), f"unknown key {strange!r}", nearest(strange, KINDS))
        fail(
            place,
            "one kind of range is expected" + (f", not {' and '.join(named)}" if named else ""),
            nearest("", KINDS),
        )
    return named[0]


def _constant(value: Any, place: _Place, fail: Fail, when: dict[str, tuple[Any, ...]] | None = None) -> Domain:
    if isinstance(value, list):
        fail(place, "a range is expected, or one value", f"{place[-1]}: {{choice: {value}}}")
    return Domain(kind="constant", values=(value,), when=when or {})


def _list(value: Mapping[str, Any], kind: str, place: _Place, fail: Fail) -> tuple[Any, ...]:
    found = value[kind]
    if not isinstance(found, list):
        fail((*place, kind), f"a list is expected, not {found!r}", f"{kind}: [a, b]")
    if not found:
        fail((*place, kind), "the range is empty: values to choose from are expected")
    for at, item in enumerate(found):
        if isinstance(item, dict):
            fail((*place, kind, at), "a value is expected, not a mapping")
        if any(same(item, other) for other in found[:at]):
            fail((*place, kind, at), f"{item!r} is there twice: it would be drawn twice as often")
    return tuple(found)


def _range(kind: str, value: Mapping[str, Any], place: _Place, fail: Fail, when: dict[str, tuple[Any, ...]]) -> Domain:
    at: _Place = (*place, kind)
    count = 3 if kind == "step" else 2
    given = value[kind]
    if not isinstance(given, list) or len(given) != count:
        what = "low, high and step" if kind == "step" else "low and high"
        fail(at, f"{what} are expected, not {given!r}", f"{kind}: {[0, 1, 0.1] if kind == 'step' else [1, 10]}")
    for index, item in enumerate(given):
        if isinstance(item, bool) or not isinstance(item, (int, float)) or not math.isfinite(item):
            fail((*at, index), f"a number is expected, not {item!r}", _exponent(item))
    low, high = given[:2]
    if low > high or (low == high and kind not in ("int", "step")):
        fail(at, f"the range is empty: {low} is not below {high}")
    log = kind == "log" or bool(value.get("log", False))
    if log and low <= 0:
        fail(at, f"a range on a log scale begins above 0, not at {low}", "uniform: [0, 1] can hold 0")
    if kind in ("int", "power_of_two") and not all(isinstance(item, int) for item in (low, high)):
        fail(at, "whole numbers are expected")
    if kind == "power_of_two":
        return Domain(kind="power_of_two", values=_powers(low, high, at, fail), when=when)
    step = given[2] if kind == "step" else value.get("step")
    if step is not None:
        if log:
            fail(at, "a log scale has no step", f"leave out one of the two, or {place[-1]}: {{choice: [1, 10, 100]}}")
        place_of_step = at if kind == "step" else (*place, "step")
        return Domain(kind="ordinal", values=_stepped(low, high, step, place_of_step, fail), when=when)
    found: Kind = "int" if kind == "int" else "log" if kind == "log" else "uniform"
    return Domain(kind=found, low=low, high=high, log=log, when=when)


def _exponent(item: Any) -> str | None:
    """Return a hint for ``1e-4x``-like texts; None where there is nothing to say."""
    return "numbers are written as 0.1 or 1.0e-4" if isinstance(item, str) else None


def _powers(low: int, high: int, place: _Place, fail: Fail) -> tuple[int, ...]:
    if low < 1:
        fail(place, f"powers of two begin at 1, not at {low}")
    found = tuple(2**at for at in range(low.bit_length() - 1, high.bit_length()) if low <= 2**at <= high)
    if not found:
        fail(place, f"the range is empty: no power of two lies between {low} and {high}")
    return found


def _stepped(low: float, high: float, step: Any, place: _Place, fail: Fail) -> tuple[Any, ...]:
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < math.inf:
        fail(place, f"a step above 0 is expected, not {step!r}")
    first, last, by = (Fraction(repr(item)) for item in (low, high, step))
    count = int((last - first) / by) + 1
    if count > _MOST:
        fail(place, f"{count:,} values; {_MOST:,} are the most", "leave the step out")
    whole = all(isinstance(item, int) for item in (low, step))
    return tuple(int(first + at * by) if whole else float(first + at * by) for at in range(count))


def _when(value: Any, place: _Place, fail: Fail) -> dict[str, tuple[Any, ...]]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not value:
        fail(place, "a parameter and its value are expected", "when: {optimizer: sgd}")
    return {name: tuple(item) if isinstance(item, list) else (item,) for name, item in value.items()}


def _check_parents(name: str, domain: Domain, found: Mapping[str, Domain], fail: Fail) -> None:
    for parent, wanted in domain.when.items():
        place = ("space", name, "when", parent)
        if parent not in found:
            fail(place, f"{parent} is not in the space", nearest(parent, [other for other in found if other != name]))
        values = found[parent].values
        if not values:
            fail(place, f"{parent} is a range; a condition needs a list of values (choice, ordinal, step)")
        for value in wanted:
            if not any(same(value, other) for other in values):
                fail(place, f"{parent} is never {value!r}", f"it is one of {', '.join(map(str, values))}")
