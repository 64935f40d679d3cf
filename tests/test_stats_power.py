"""Power and sample sizes: the published figures, and simulations of the tests they are about."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats


@pytest.mark.parametrize(("n", "exact", "shifted"), [(5, 0.486, 0.510), (10, 0.193, 0.196)])
def test_colas_example(n, exact, shifted):
    """The paper's two algorithms: beta by the noncentral t, and by the paper's own shifted t."""
    example = (1382, 1341, 990, n)
    assert 1 - stats.welch_power(*example) == pytest.approx(exact, abs=0.0005)
    assert 1 - stats.welch_power(*example, shifted=True) == pytest.approx(shifted, abs=0.0005)


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (1, 17), (2, 6), (-2, 6)])
def test_seeds_for_an_effect(effect, seeds):
    """64, 17 and 6 per arm find half, one and two standard deviations with 80%; one seed less does not."""
    assert stats.seeds_needed(effect) == seeds
    assert stats.t_test_power(effect, seeds - 1) < 0.8 <= stats.t_test_power(effect, seeds)


def test_smallest_effect_of_five_seeds():
    """2.02 sd unpaired and 1.68 sd paired at n = 5 and 80%."""
    assert round(stats.minimum_detectable_effect(5, 0.8, False), 2) == 2.02
    assert round(stats.minimum_detectable_effect(5, 0.8, True), 2) == 1.68


@pytest.mark.parametrize(("gamma", "pairs"), [(0.75, 44), (0.7, 68), (0.8, 31), (0.9, 17)])
def test_pairs_for_a_sign_test(gamma, pairs):
    """44 pairs at 0.75; 68, 31 and 17 at 0.7, 0.8 and 0.9."""
    assert stats.sign_test_sample_size(gamma, 0.05, 0.05) == pairs


def test_noether_is_per_arm():
    """29 seeds per arm at 0.75: the figure that is quoted for pairs, which need 44."""
    assert stats.noether_sample_size(0.75, 0.05, 0.05) == 29


@pytest.mark.parametrize("gamma", [0.7, 0.75, 0.8, 0.9])
def test_the_sign_test_has_the_power_that_its_size_promises(gamma):
    """Exactly computed, the one-sided sign test at 5% finds gamma in 93% at least of 95% promised: signs come whole."""
    n = stats.sign_test_sample_size(gamma, 0.05, 0.05)
    wins = scipy.stats.binom.isf(0.05, n, 0.5) + 1
    assert scipy.stats.binom.sf(wins - 1, n, 0.5) <= 0.05
    assert scipy.stats.binom.sf(wins - 1, n, gamma) > 0.93


def test_noethers_size_finds_it_with_mann_whitney():
    """Simulated: 29 per arm and a P(A>B) of 0.75 give p < 0.05 in about 95%."""
    shift = np.sqrt(2) * scipy.stats.norm.ppf(0.75)
    arms = np.random.default_rng(0).standard_normal((2, 29, 4000))
    found = scipy.stats.mannwhitneyu(arms[0] + shift, arms[1], alternative="greater", method="asymptotic")
    assert (found.pvalue < 0.05).mean() == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("paired", [False, True])
def test_power_is_how_often_the_t_test_finds_it(paired):
    """Simulated with 20,000 pairs of samples, paired and not, the share of p < 0.05 is the computed power."""
    a, b = np.random.default_rng(0).standard_normal((2, 6, 20_000))
    test = scipy.stats.ttest_1samp(a + 1.2, 0) if paired else scipy.stats.ttest_ind(a + 1.2, b)
    assert (test.pvalue < 0.05).mean() == pytest.approx(stats.t_test_power(1.2, 6, paired=paired), abs=0.012)


@given(st.integers(2, 200), st.floats(0.06, 0.999), st.booleans())
def test_detectable_effect_and_power_undo_each_other(n, power, paired):
    """The smallest detectable effect has exactly the power that was asked for."""
    effect = stats.minimum_detectable_effect(n, power, paired)
    assert stats.t_test_power(effect, n, paired=paired) == pytest.approx(power, abs=1e-6)


@given(st.floats(-1e6, 1e6), st.integers(2, 10**6), st.booleans())
def test_power_is_a_probability_far_out_as_well(effect, n, paired):
    """No effect and no n gives NaN, less than the level, or more than 1."""
    assert 0.05 - 1e-9 <= stats.t_test_power(effect, n, paired=paired) <= 1
    assert 0 <= stats.welch_power(effect, 1.0, 2.0, n) <= 1


def test_no_effect_is_found_as_often_as_the_level_says():
    """Under equal means the power is alpha, for each test."""
    assert stats.t_test_power(0.0, 5) == pytest.approx(0.05)
    assert stats.t_test_power(0.0, 5, paired=True, alpha=0.01) == pytest.approx(0.01)
    assert stats.welch_power(0.0, 1.0, 3.0, 5) == pytest.approx(0.05)


def test_small_effects_need_many_seeds_and_too_small_ones_are_refused():
    """0.002 sd needs four million per arm, 0.001 is said to be too small."""
    assert stats.seeds_needed(0.002) == pytest.approx(2 * ((1.959964 + 0.841621) / 0.002) ** 2, rel=1e-4)
    with pytest.raises(ValueError, match="too small"):
        stats.seeds_needed(0.001)
