"""Is A better than B? Paired seeds: difference, exact tests, P(A>B), and one sentence in plain words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks
from repro.stats.bootstrap import RESAMPLES, bootstrap_interval
from repro.stats.intervals import Interval, t_interval
from repro.stats.power import sign_test_sample_size

#: With fewer pairs nothing is claimed: 5 wins of 5 leave a P(A>B) of 0.478, and a sign-test p of 0.0625.
LEAST_FOR_CLAIM = 6
#: P(A>B) from here on is worth having: A wins three times of four (Bouthillier et al.).
MEANINGFUL = 0.75
#: Up to this many pairs that differ the permutation test takes every pattern of signs.
EXACT_PAIRS = 16


class Comparison(NamedTuple):
    """What n pairs say of A against B.

    ``difference`` is the mean of a - b in the metric's unit, ``interval`` its t interval. ``wins`` are the pairs in
    which A is better. ``probability`` is P(A>B) with ties as one half, ``bootstrap`` its percentile interval,
    ``exact`` that of Clopper and Pearson (a tie counts against A at the lower end, for A at the upper one).
    """

    n: int
    wins: int
    losses: int
    ties: int
    difference: float
    interval: Interval
    sign_p: float
    permutation_p: float
    probability: float
    bootstrap: Interval
    exact: Interval
    confidence: float

    @property
    def significant(self) -> bool:
        """Whether the bootstrap interval of P(A>B) lies above 0.5, from six pairs on (Bouthillier et al., 2021)."""
        return self.n >= LEAST_FOR_CLAIM and self.bootstrap.low > 0.5  # noqa: PLR2004 - as often as not

    @property
    def meaningful(self) -> bool:
        """Whether it is significant, and the upper end is above 0.75 as well."""
        return self.significant and self.bootstrap.high > MEANINGFUL

    @property
    def claimed(self) -> bool:
        """Whether to say that A is better: significant, and the exact interval lies above 0.5 as well.

        The bootstrap alone says so too often: of seven equal pairs 6.2% have six wins, where 2.5% is promised.
        """
        return self.significant and self.exact.low > 0.5  # noqa: PLR2004 - as often as not

    def swapped(self) -> Comparison:
        """Return the comparison of B with A."""
        return self._replace(
            wins=self.losses,
            losses=self.wins,
            difference=-self.difference,
            interval=Interval(-self.interval.high, -self.interval.low),
            probability=1 - self.probability,
            bootstrap=Interval(1 - self.bootstrap.high, 1 - self.bootstrap.low),
            exact=Interval(1 - self.exact.high, 1 - self.exact.low),
        )


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Return P(A>B) of paired seeds, ``mean(1{a_i > b_i})`` with ties as one half.

    Args:
        a: metric of A, larger is better, shape (n,).
        b: metric of B with the same seeds in the same order, shape (n,).

    Source: Bouthillier et al., MLSys 2021.

    Raises:
        ValueError: for fewer than two values, one that is not finite, or unequal lengths.
    """
    return float(_scores(*checks.pair(a, b)).mean())


def sign_test_p(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided p of the exact sign test: ties dropped, wins binomial with 1/2.

    Its smallest value is ``2^(1-n)``: 0.0625 at five pairs. 1 if all pairs tie. Source: Dixon and Mood, JASA 41, 1946.

    Raises:
        ValueError: as ``probability_of_improvement``.
    """
    from scipy import special

    first, second = checks.pair(a, b)
    wins, losses = int((first > second).sum()), int((first < second).sum())
    return min(1.0, 2 * float(special.bdtr(min(wins, losses), wins + losses, 0.5)))


def permutation_p(a: ArrayLike, b: ArrayLike, *, rng: np.random.Generator, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p of the paired permutation test of the mean difference: signs flipped at random.

    Exact over all ``2^n`` patterns for up to 16 pairs that differ; beyond, ``(1 + count) / (1 + resamples)`` over
    drawn ones, which keeps its level. Sums that differ by rounding alone count as equal. Source: Fisher, The Design of
    Experiments, 1935; Phipson and Smyth, 2010.

    Args:
        a: metric of A, shape (n,).
        b: metric of B with the same seeds in the same order, shape (n,).
        rng: draws the patterns where there are too many; otherwise not touched.
        resamples: how many it draws.

    Raises:
        ValueError: as ``probability_of_improvement``, and for no resamples.
    """
    first, second = checks.pair(a, b)
    checks.count(resamples, "resamples", 1)
    differences = (first - second)[first != second]
    n = len(differences)
    if n > EXACT_PAIRS:
        flipped = rng.integers(2, size=(resamples, n))
        return (1 + _as_far(differences, flipped)) / (1 + resamples)
    every = (np.arange(2**n)[:, np.newaxis] >> np.arange(n)) & 1
    return _as_far(differences, every) / len(every)


def _as_far(differences: checks.Floats, flipped: checks.Whole) -> int:
    """Return how many patterns of flipped signs leave a sum as far from 0 as that of the differences."""
    sums = np.abs((1 - 2 * flipped) @ differences)
    least = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    return int(np.count_nonzero(sums >= least))


def clopper_pearson(wins: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the exact interval of a probability from ``wins`` of ``n``, by quantiles of the beta distribution.

    Source: Clopper and Pearson, Biometrika 26, 1934.

    Raises:
        ValueError: for n below 1, wins outside 0..n, or a confidence outside (0, 1).
    """
    from scipy import special

    checks.count(n, "n", 1)
    if checks.count(wins, "wins", 0) > n:
        raise ValueError(f"wins: {n} are possible, not {wins}")
    outside = (1 - checks.inside(confidence, "confidence")) / 2
    low = float(special.betaincinv(wins, n - wins + 1, outside)) if wins else 0.0
    high = float(special.betaincinv(wins + 1, n - wins, 1 - outside)) if wins < n else 1.0
    return Interval(low, high)


def compare_paired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    larger_is_better: bool = True,
) -> Comparison:
    """Return all that paired seeds say of A against B.

    Args:
        a: metric of A, shape (n,).
        b: metric of B with the same seeds in the same order, shape (n,).
        rng: draws the bootstrap, and the permutations where there are too many for all.
        confidence: of each interval.
        larger_is_better: which of two values wins; ``difference`` stays a - b.

    Raises:
        ValueError: for fewer than two values, one that is not finite, unequal lengths, or a confidence outside (0, 1).
    """
    first, second = checks.pair(a, b)
    scores = _scores(first, second) if larger_is_better else _scores(second, first)
    n, wins, ties = len(scores), int((scores == 1).sum()), int((first == second).sum())
    differences = first - second
    return Comparison(
        n=n,
        wins=wins,
        losses=n - wins - ties,
        ties=ties,
        difference=float(differences.mean()),
        interval=t_interval(differences, confidence),
        sign_p=sign_test_p(first, second),
        permutation_p=permutation_p(first, second, rng=rng),
        probability=float(scores.mean()),
        bootstrap=bootstrap_interval(scores, confidence, rng=rng),
        exact=Interval(clopper_pearson(wins, n, confidence).low, clopper_pearson(wins + ties, n, confidence).high),
        confidence=confidence,
    )


def _scores(a: checks.Floats, b: checks.Floats) -> checks.Floats:
    return np.asarray((a > b) + (a == b) / 2, dtype=np.float64)


def in_words(found: Comparison, a: str = "A", b: str = "B") -> str:
    """Return a comparison as one sentence, without a full stop: who is better how often, and whether to claim it.

    "B is better than A in 8 of 10 seeds; not enough to claim it: 44 pairs would be", where 44 is
    ``sign_test_sample_size()``: for one that wins three times of four.
    """
    ties = f" ({found.ties} tie{'s' * (found.ties > 1)})" if found.ties else ""
    if found.wins == found.losses:
        return f"{a} and {b} are each better in {found.wins} of {found.n} seeds{ties}; there is nothing to claim"
    if found.losses > found.wins:
        found, a, b = found.swapped(), b, a
    start = f"{a} is better than {b} in {found.wins} of {found.n} seeds{ties}"
    return f"{start}; {_claim(found, a, b)}"


def _claim(found: Comparison, a: str, b: str) -> str:
    """Return what to make of a comparison in which A leads."""
    enough = sign_test_sample_size()
    if not found.claimed and found.n < enough:
        return f"not enough to claim it: {enough} pairs would be"
    chance = f"P({a}>{b}) is {found.probability:.2f}, {found.exact.low:.2f} to {found.exact.high:.2f}"
    if not found.claimed:
        return f"not enough to claim it, with as many pairs as it should take: {chance}"
    return f"{'a meaningful' if found.meaningful else 'a significant but small'} improvement: {chance}"
