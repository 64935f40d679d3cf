"""The space of a study: the domain of each parameter, conditions between them, its grid. Nothing is drawn here.

A domain turns a number from [0, 1) into a value, so that whatever makes such numbers (draws, a quasi-random sequence)
can use it. Parents stand before the parameters that depend on them, otherwise names are sorted: the order in the file
has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Literal

import msgspec

Kind = Literal["constant", "choice", "ordinal", "uniform", "log", "int", "power_of_two"]
Params = dict[str, Any]
#: A grid of more points than this is not made.
MOST_POINTS = 1_000_000
_DIGITS = 12


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """What values a parameter may take, and under which values of others (``when``) it exists at all.

    ``values`` are there for a finite list; otherwise it is a range from ``low`` to ``high``, both within.
    """

    kind: Kind
    values: tuple[Any, ...] = ()
    low: float | int = 0
    high: float | int = 0
    log: bool = False
    when: dict[str, tuple[Any, ...]] = {}

    @property
    def count(self) -> int | None:
        """How many values there are; None for a continuous range."""
        if self.values:
            return len(self.values)
        return int(self.high - self.low + 1) if self.kind == "int" else None

    def at(self, u: float) -> Any:
        """Return the value at ``u`` in [0, 1): equal shares of a list, of the range, or of its logarithm."""
        if self.values:
            return self.values[int(u * len(self.values))]
        if self.kind == "int":
            return self._whole(u)
        if self.log:
            return self._rounded(self.low * (self.high / self.low) ** u)
        return self._rounded(self.low + (self.high - self.low) * u)

    def _whole(self, u: float) -> int:
        if not self.log:
            return int(self.low) + int(u * (self.high - self.low + 1))
        found = math.floor(float(self.low) * ((self.high + 1) / self.low) ** u + 1e-9)
        return int(min(self.high, max(self.low, found)))

    def _rounded(self, value: float) -> float:
        """Return a value of 12 digits, so that the last bit of another machine's ``pow`` does not show."""
        return min(float(self.high), max(float(self.low), float(f"{value:.{_DIGITS}g}")))

    def grid(self, points: int) -> tuple[Any, ...]:
        """Return the list, or at most so many points of a range, evenly from end to end."""
        if self.values:
            return self.values
        count = self.count
        if count is not None and count <= points:
            return tuple(range(int(self.low), int(self.high) + 1))
        found = [self._between(Fraction(at, max(1, points - 1))) for at in range(points)]
        return tuple(dict.fromkeys(found))

    def _between(self, share: Fraction) -> Any:
        if share == 1:
            return self.high
        value = (
            self.low * (self.high / self.low) ** float(share)
            if self.log
            else self.low + (self.high - self.low) * float(share)
        )
        return round(value) if self.kind == "int" else self._rounded(value)


class Space(msgspec.Struct, frozen=True):
    """Domains by name, parents first."""

    domains: dict[str, Domain]

    def configuration(self, unit: Callable[[str], float]) -> Params:
        """Return the configuration whose parameters lie where ``unit(name)``, in [0, 1), says."""
        found: Params = {}
        for name, domain in self.domains.items():
            if active(domain, found):
                found[name] = domain.at(unit(name))
        return found

    def grid(self, points: int) -> Iterator[Params]:
        """Yield all configurations, the last parameter varying fastest; ``points`` of a continuous range."""
        return self._grid(list(self.domains), {}, points)

    def _grid(self, names: list[str], found: Params, points: int) -> Iterator[Params]:
        if not names:
            yield dict(found)
            return
        name, domain = names[0], self.domains[names[0]]
        if not active(domain, found):
            yield from self._grid(names[1:], found, points)
            return
        for value in domain.grid(points):
            yield from self._grid(names[1:], found | {name: value}, points)

    def bound(self, points: int) -> int:
        """Return how many points the grid has at most: conditions leave some out."""
        return math.prod(len(domain.grid(points)) for domain in self.domains.values())

    @property
    def finite(self) -> bool:
        """Whether there are only so many configurations."""
        return all(domain.count is not None for domain in self.domains.values())

    def around(self, base: Mapping[str, Any], points: int) -> Iterator[tuple[str, Params]]:
        """Yield what differs from ``base`` in one parameter alone, with its name: the others are held.

        A parameter that does not exist under the base has nothing to vary. One that begins to exist by the change
        takes the base's value.
        """
        for name, domain in self.domains.items():
            if active(domain, base):
                for value in domain.grid(points):
                    if not same(value, base[name]):
                        yield name, self.only_active({**base, name: value})

    def only_active(self, values: Mapping[str, Any]) -> Params:
        """Return those of the values whose parameters exist under the others."""
        found: Params = {}
        for name, domain in self.domains.items():
            if name in values and active(domain, found):
                found[name] = values[name]
        return found


def active(domain: Domain, found: Mapping[str, Any]) -> bool:
    """Say whether a parameter exists under the values of those before it."""
    return all(
        name in found and any(same(found[name], value) for value in wanted) for name, wanted in domain.when.items()
    )


def same(a: Any, b: Any) -> bool:
    """Say whether two values are one: ``1`` and ``1.0`` are, ``1`` and ``true`` are not."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def ordered(domains: Mapping[str, Domain]) -> tuple[dict[str, Domain], list[str]]:
    """Return the domains with parents first, otherwise by name; and those that are left over, in a circle."""
    found: dict[str, Domain] = {}
    left = sorted(domains)
    while ready := [name for name in left if all(parent in found for parent in domains[name].when)]:
        found[ready[0]] = domains[ready[0]]
        left.remove(ready[0])
    return found, left
