"""Sources without a state: the configuration of trial k is a function of the study's seed and k.

A draw takes 64 bits for each parameter from the stream of its name (purpose ``suggest``, replicate = index of the
draw), so that a further parameter never moves another. What was tried already is passed over.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from repro.errors import ConfigError
from repro.record import seeds
from repro.tune.search import Score, Suggestion
from repro.tune.space import MOST_POINTS, Params, Space

#: So many draws in a row that were there before: the space holds no more.
_PATIENCE = 1000
_BLOCK = 64


class Draws:
    """A source over a sequence of suggestions, each configuration once, or with ``again`` as often as it comes."""

    def __init__(self, suggestions: Iterable[Suggestion], *, again: bool = False) -> None:
        self._again = again
        self._left = iter(suggestions)
        self._found: list[Suggestion] = []
        self._known: set[bytes] = set()

    def ready(self, trial: int) -> bool:  # noqa: ARG002  (as every source has it)
        """Say yes: nothing depends on a score."""
        return True

    def suggest(self, trial: int) -> Suggestion | None:
        """Return the configuration of a trial; None when there are no more."""
        while len(self._found) <= trial:
            fresh = self._fresh()
            if fresh is None:
                return None
            self._found.append(fresh)
        return self._found[trial]

    def _fresh(self) -> Suggestion | None:
        for again, suggestion in enumerate(self._left):
            key = repr(suggestion.params).encode()
            if self._again or key not in self._known:
                self._known.add(key)
                return suggestion
            if again == _PATIENCE:
                return None
        return None

    def tell(self, trial: int, score: Score) -> None:
        """Do nothing: what comes next does not depend on it."""


def unit(seed: int, name: str, *, draw: int) -> float:
    """Return a number in [0, 1) of 53 bits: that of one parameter in one draw."""
    return (seeds.integer(seed, name, 64, replicate=draw, purpose="suggest") >> 11) / 2**53


def random(space: Space, seed: int) -> Iterator[Suggestion]:
    """Yield draws from the space."""
    for draw in itertools.count():
        yield Suggestion(space.configuration(functools.partial(unit, seed, draw=draw)), "random", draw)


def grid(space: Space, points: int) -> Iterator[Suggestion]:
    """Yield the points of the grid in their order."""
    return (Suggestion(params, "grid") for params in _grid(space, points))


def random_grid(space: Space, points: int, seed: int) -> Iterator[Suggestion]:
    """Yield the points of the grid in an order of the seed's."""
    found = list(_grid(space, points))
    return (Suggestion(found[at], "grid", at) for at in order(len(found), seed, "grid"))


def _grid(space: Space, points: int) -> Iterator[Params]:
    if space.bound(points) > MOST_POINTS:
        hint = "fewer points, or method: random"
        raise ConfigError(f"the grid has {space.bound(points):,} points; {MOST_POINTS:,} are the most", hint=hint)
    return space.grid(points)


def order(count: int, seed: int, name: str) -> list[int]:
    """Return 0 to ``count`` - 1 in an order of the seed's: sorted by raw bits, which no version of numpy changes."""
    import numpy as np

    bits = np.random.PCG64(seeds.sequence(seed, name, purpose="suggest")).random_raw(count)
    return [int(at) for at in np.argsort(bits, kind="stable")]


def quasi_random(space: Space, seed: int) -> Iterator[Suggestion]:
    """Yield points of a scrambled Sobol sequence. Source: Owen, 1998; scipy.stats.qmc.Sobol."""
    import numpy as np
    from scipy.stats import qmc

    generator = np.random.Generator(np.random.PCG64(seeds.sequence(seed, "quasi_random", purpose="suggest")))
    names = list(space.domains)
    points = qmc.Sobol(len(names), scramble=True, rng=generator)
    draw = 0
    while True:
        for row in points.random(_BLOCK):  # whole blocks: the sequence is balanced over powers of two
            place = dict(zip(names, map(float, row), strict=True))
            yield Suggestion(space.configuration(place.__getitem__), "quasi_random", draw)
            draw += 1


def one_at_a_time(space: Space, base: Mapping[str, Any], points: int) -> Iterator[Suggestion]:
    """Yield what differs from the base in one parameter alone."""
    return (Suggestion(params, f"one_at_a_time {name}") for name, params in space.around(base, points))


def rows(table: list[Params], seed: int | None) -> Iterator[Suggestion]:
    """Yield the configurations of a table, in its order or in one of the seed's."""
    if seed is None:
        return (Suggestion(params, "grid", at) for at, params in enumerate(table))
    return (Suggestion(table[at], "random", at) for at in order(len(table), seed, "rows"))
