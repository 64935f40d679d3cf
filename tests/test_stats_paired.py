"""A against B on paired seeds: exact figures, when something is claimed, and the sentence."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=12)


def generator(seed: int = 0) -> np.random.Generator:
    """Return a fresh generator."""
    return np.random.default_rng(seed)


def with_wins(wins: int, n: int, ties: int = 0) -> stats.Comparison:
    """Return a comparison in which A wins so often of n."""
    a = np.r_[np.ones(wins), np.zeros(n - wins)]
    b = np.r_[np.zeros(wins), np.zeros(ties), np.ones(n - wins - ties)]
    return stats.compare_paired(a, b, rng=generator())


def test_ties_count_one_half():
    """One win, one tie, one loss: 0.5; two wins and a tie: 5/6."""
    assert stats.probability_of_improvement([2, 1, 0], [1, 1, 1]) == 0.5
    assert stats.probability_of_improvement([2, 1, 2], [1, 1, 1]) == pytest.approx(5 / 6)


@given(PAIRS)
def test_the_two_directions_add_to_one(pairs):
    """P(A>B) + P(B>A) = 1, ties included."""
    a, b = zip(*pairs, strict=True)
    assert stats.probability_of_improvement(a, b) + stats.probability_of_improvement(b, a) == pytest.approx(1)


@given(PAIRS, st.integers(1, 100), st.integers(-100, 100))
def test_p_values_see_neither_origin_nor_unit(pairs, scale, shift):
    """Another unit or origin changes no p-value, and neither does swapping A and B."""
    a, b = np.array(pairs, dtype=float).T
    for p in (stats.sign_test_p, lambda a, b: stats.permutation_p(a, b, rng=generator())):
        assert p(a * scale + shift, b * scale + shift) == pytest.approx(p(a, b))
        assert p(b, a) == pytest.approx(p(a, b))
        assert 0 < p(a, b) <= 1


def test_smallest_sign_test_p_of_five():
    """Five wins of five have a two-sided p of 0.0625; ties are dropped; all ties give 1."""
    assert stats.sign_test_p([1, 1, 1, 1, 1], [0, 0, 0, 0, 0]) == 0.0625
    assert stats.sign_test_p([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]) == 0.0625
    assert stats.sign_test_p([1, 1], [1, 1]) == 1


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (5, 5), (8, 10), (20, 44)])
def test_exact_figures_are_those_of_scipy(wins, n):
    """The sign test and Clopper-Pearson agree with scipy's binomial test."""
    test = scipy.stats.binomtest(wins, n)
    assert with_wins(wins, n).sign_p == pytest.approx(test.pvalue)
    assert stats.clopper_pearson(wins, n, 0.9) == pytest.approx(tuple(test.proportion_ci(0.9, "exact")))


def test_five_wins_of_five_leave_a_lower_end_of_0_478():
    """Clopper-Pearson for 5 of 5; for 6 of 6 it lies above one half."""
    assert stats.clopper_pearson(5, 5, 0.95).low == pytest.approx(0.478, abs=0.0005)
    assert stats.clopper_pearson(6, 6, 0.95).low == pytest.approx(0.541, abs=0.0005)


def test_the_permutation_test_takes_every_pattern_of_signs():
    """For few pairs p is the share of all patterns with a mean as far from 0, and the generator is not touched."""
    a, b = generator(5).standard_normal((2, 7))
    d, rng = a - b, generator()
    sums = [abs(np.dot(signs, d)) for signs in itertools.product([1, -1], repeat=7)]
    assert stats.permutation_p(a, b, rng=rng) == np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert rng.bit_generator.state == generator().bit_generator.state


def test_the_permutation_test_with_many_pairs_is_close_to_scipys():
    """Beyond 16 pairs patterns are drawn; p is within what drawing leaves, and never 0."""
    a, b = generator(6).standard_normal((2, 20))
    a += 0.4
    expected = scipy.stats.permutation_test(
        (a - b,), np.mean, permutation_type="samples", n_resamples=20_000, rng=generator(), vectorized=True
    ).pvalue
    assert stats.permutation_p(a, b, rng=generator()) == pytest.approx(expected, abs=0.02)
    assert stats.permutation_p(a + 100, b, rng=generator(), resamples=99) == 0.01


def test_the_permutation_test_errs_as_often_as_it_may():
    """Of 4,000 equal samples of six pairs 1/16 have a p of 1/16 or less, and 1/32 one of 1/32: four patterns of 64."""
    rows = generator(7).standard_normal((4000, 2, 6))
    p = np.array([stats.permutation_p(*row, rng=generator()) for row in rows])
    assert (p <= 1 / 16).mean() == pytest.approx(1 / 16, abs=0.012)
    assert (p <= 1 / 32).mean() == pytest.approx(1 / 32, abs=0.009)


def test_a_comparison_has_the_parts_that_its_functions_give():
    """Difference and interval are those of a - b; probability and counts those of the pairs."""
    a, b = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5], [0.8, 0.9, 0.5, 0.5, 0.5, 0.4]
    found = stats.compare_paired(a, b, rng=generator(), confidence=0.9)
    assert (found.n, found.wins, found.losses, found.ties) == (6, 4, 1, 1)
    assert found.difference == pytest.approx(np.mean(np.subtract(a, b)))
    assert found.interval == stats.t_interval(np.subtract(a, b), 0.9)
    assert found.probability == stats.probability_of_improvement(a, b) == 0.75
    assert (found.sign_p, found.permutation_p) == (
        stats.sign_test_p(a, b),
        stats.permutation_p(a, b, rng=generator()),
    )
    assert found.exact.low == stats.clopper_pearson(4, 6, 0.9).low
    assert found.exact.high == stats.clopper_pearson(5, 6, 0.9).high


def test_where_smaller_is_better_the_smaller_one_wins():
    """A loss counts the other way round; the difference keeps its sign."""
    found = stats.compare_paired([0.1] * 6, [0.2] * 6, rng=generator(), larger_is_better=False)
    assert (found.wins, found.probability) == (6, 1.0)
    assert found.difference == pytest.approx(-0.1)
    assert found.claimed


def test_swapping_is_comparing_the_other_way_round():
    """``swapped`` gives what B against A gives with the same draws, up to rounding."""
    a, b = generator(8).integers(5, size=(2, 9))
    swapped = stats.compare_paired(a, b, rng=generator()).swapped()
    other = stats.compare_paired(b, a, rng=generator())
    for mine, theirs in zip(swapped, other, strict=True):
        assert mine == pytest.approx(theirs)


def test_nothing_is_claimed_under_six_seeds():
    """Five wins of five: no flag is set, though the bootstrap interval is [1, 1]; six of six: all are."""
    five, six = with_wins(5, 5), with_wins(6, 6)
    assert five.bootstrap == (1.0, 1.0)
    assert [five.significant, five.meaningful, five.claimed] == [False] * 3
    assert [six.significant, six.meaningful, six.claimed] == [True] * 3


def test_significant_and_meaningful_are_two_things():
    """120 of 200: the interval lies above 0.5 and below 0.75; 8 of 10 reaches down to 0.5 and is neither."""
    small, few = with_wins(120, 200), with_wins(8, 10)
    assert small.bootstrap == pytest.approx((0.53, 0.665), abs=0.015)
    assert small.significant
    assert not small.meaningful
    assert not few.significant
    assert not few.meaningful


@pytest.mark.parametrize("n", range(6, 21))
def test_equal_things_are_rarely_claimed_to_differ(n):
    """A claim that A is better, where it is not, comes in 2.5% at most, as two-sided 95% promises."""
    chance = scipy.stats.binom.pmf(np.arange(n + 1), n, 0.5)
    claimed = np.array([wins > n / 2 and with_wins(wins, n).claimed for wins in range(n + 1)])
    assert chance @ claimed <= 0.025


def test_the_bootstrap_alone_would_claim_too_often():
    """Six wins of seven are significant by the bootstrap (6.2% of equal things have as many), but not claimed."""
    found = with_wins(6, 7)
    assert found.significant
    assert not found.claimed
    assert found.exact.low < 0.5


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (with_wins(2, 10), "B is better than A in 8 of 10 seeds; not enough to claim it: 44 pairs would be"),
        (with_wins(5, 5), "A is better than B in 5 of 5 seeds; not enough to claim it: 44 pairs would be"),
        (with_wins(6, 7), "A is better than B in 6 of 7 seeds; not enough to claim it: 44 pairs would be"),
        (
            with_wins(6, 10, 3),
            "A is better than B in 6 of 10 seeds (3 ties); not enough to claim it: 44 pairs would be",
        ),
        (with_wins(4, 9, 1), "A and B are each better in 4 of 9 seeds (1 tie); there is nothing to claim"),
        (
            with_wins(0, 10),
            "B is better than A in 10 of 10 seeds; a meaningful improvement: P(B>A) is 1.00, 0.69 to 1.00",
        ),
        (
            with_wins(120, 200),
            "A is better than B in 120 of 200 seeds; a significant but small improvement: P(A>B) is 0.60, 0.53 to 0.67",
        ),
        (
            with_wins(28, 50),
            (
                "A is better than B in 28 of 50 seeds; not enough to claim it, with as many pairs as it should take: "
                "P(A>B) is 0.56, 0.41 to 0.70"
            ),
        ),
    ],
)
def test_the_sentence_says_who_is_better_how_often_and_what_to_claim(found, expected):
    """One sentence in plain words: the better one first, with the pairs that a claim would need."""
    assert stats.in_words(found) == expected


def test_the_sentence_takes_names():
    """The two get their own names."""
    assert stats.in_words(with_wins(3, 5), "adam", "sgd").startswith("adam is better than sgd in 3 of 5 seeds")


def test_holm_by_hand():
    """The textbook steps: 0.01 x 4, 0.02 x 3, then the largest so far; in the order given."""
    found = stats.holm([0.04, 0.01, 0.03, 0.02])
    assert found == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert stats.holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert stats.holm([0.03]) == pytest.approx([0.03])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_never_weaker_than_no_correction_nor_stronger_than_bonferroni(p):
    """Each corrected p is between p and m p (at most 1), and they keep the order of p."""
    found = stats.holm(p)
    assert (found >= p).all()
    assert (found <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()


def test_holm_gets_stricter_with_more_metrics():
    """A metric's p grows with the number of metrics that are looked at."""
    assert list(np.diff([stats.holm([0.01] + [0.5] * more)[0] for more in range(5)])) == pytest.approx([0.01] * 4)
