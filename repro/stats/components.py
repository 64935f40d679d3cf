"""Which source of randomness the spread comes from: each stream varied alone, and two streams crossed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from numpy.typing import ArrayLike

from repro.stats import checks
from repro.stats.intervals import Interval, sd_interval


class Source(NamedTuple):
    """One stream varied alone over n seeds: mean, sd with its interval, and its share of the variances' sum."""

    n: int
    mean: float
    sd: float
    interval: Interval
    share: float


def vary_alone(groups: Mapping[str, ArrayLike], confidence: float = 0.95) -> dict[str, Source]:
    """Return what each stream does when it alone varies and the others are held.

    ``share_i = s_i^2 / sum_j s_j^2`` (0 if nothing varies). What streams do together is in none of them, and where the
    others are held matters: ``crossed`` has both for two streams.

    Args:
        groups: stream to metric values, shape (n,) each; n may differ.
        confidence: of the chi-square intervals.

    Source: Bouthillier et al., MLSys 2021.

    Raises:
        ValueError: for no stream, and as ``sd_interval``.
    """
    if not groups:
        raise ValueError("groups: one stream is expected at least")
    values = {name: checks.sample(group, name=name) for name, group in groups.items()}
    variances = {name: float(group.var(ddof=1)) for name, group in values.items()}
    total = sum(variances.values())
    return {
        name: Source(
            n=len(group),
            mean=float(group.mean()),
            sd=variances[name] ** 0.5,
            interval=sd_interval(group, confidence),
            share=variances[name] / total if total else 0.0,
        )
        for name, group in values.items()
    }


class Crossed(NamedTuple):
    """Variances of two streams and of what they do together; each without bias, so that one may be below 0."""

    a: float
    b: float
    interaction: float

    @property
    def total(self) -> float:
        """The variance of a run in which both streams are new."""
        return self.a + self.b + self.interaction


def crossed(table: ArrayLike) -> Crossed:
    """Return the variance components of a crossed design by the expected mean squares of a two-way random ANOVA.

    ``E MS_AB = s_AB^2``, ``E MS_A = s_AB^2 + columns s_A^2``, ``E MS_B = s_AB^2 + rows s_B^2``. With one run a cell
    the interaction holds all that is left: it is the interaction alone where the same seeds twice give the same number.

    Args:
        table: metric, shape (seeds of stream a, seeds of stream b): row i, column j is the run with both.

    Source: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4; Dodge et al., 2020, for init x order.

    Raises:
        ValueError: for fewer than two rows or columns, or a value that is not finite.
    """
    values = checks.table(table, "table", (2, 2))
    rows, columns = values.shape
    by_row, by_column = values.mean(axis=1), values.mean(axis=0)
    left = values - by_row[:, None] - by_column[None, :] + values.mean()
    both = float((left**2).sum()) / ((rows - 1) * (columns - 1))
    return Crossed(
        a=float(by_row.var(ddof=1)) - both / columns,
        b=float(by_column.var(ddof=1)) - both / rows,
        interaction=both,
    )
