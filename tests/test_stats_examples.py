"""Seeds by examples: real variance against that of the test set, churn, spread per class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from repro import stats

TABLES = arrays.arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(2, 12)), elements=st.integers(0, 1))


@pytest.mark.parametrize(("observed", "independent", "real"), [(0.149, 0.145, 0.033), (0.56, 0.22, 0.52)])
def test_published_splits(observed, independent, real):
    """Jordan's figures, in percent: 0.149 and 0.145 leave 0.033 (rounded inputs: 0.034); 0.56 and 0.22 leave 0.52."""
    found = stats.real_variance((observed / 100) ** 2, (independent / 100) ** 2, 10_000)
    assert 100 * np.sqrt(found) == pytest.approx(real, abs=0.0015 if real < 0.1 else 0.006)


@given(TABLES)
def test_real_variance_is_the_mean_covariance_of_two_examples(correct):
    """Theorem 2 is an identity: the mean of the covariance matrix of examples off its diagonal. The parts add up."""
    found = stats.split_variance(correct)
    covariance = np.cov(correct, rowvar=False)
    n = len(covariance)
    assert found.real == pytest.approx((covariance.sum() - np.trace(covariance)) / (n * (n - 1)), abs=1e-12)
    assert found.observed == pytest.approx(np.var(correct.mean(axis=1), ddof=1))
    assert found.test_set + found.real == pytest.approx(found.observed)


@given(TABLES)
def test_the_split_does_not_mind_what_is_counted(correct):
    """Errors instead of correct answers, booleans, other orders of seeds and examples: the same split."""
    expected = pytest.approx(stats.split_variance(correct), abs=1e-12)
    assert stats.split_variance(1 - correct) == expected
    assert stats.split_variance(correct.astype(bool)) == expected
    assert stats.split_variance(correct[::-1, ::-1]) == expected


def test_the_split_has_no_bias():
    """Seeds whose true error varies by 0.0004, on 400 examples: the mean of 2,000 studies of five seeds finds it."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.28, 0.32], size=(2000, 5, 1))
    found = np.array([stats.split_variance(study) for study in rng.random((2000, 5, 400)) < rates])
    observed, test_set, real = found.mean(axis=0)
    assert real == pytest.approx(0.0004, rel=0.1)
    assert test_set == pytest.approx(0.21 / 400, rel=0.05)
    assert observed == pytest.approx(0.0004 + 0.21 / 400, rel=0.05)


def test_independent_errors_leave_nothing_real():
    """Seeds that differ by luck on each example alone: the real part is 0 on average, so often below it."""
    studies = np.random.default_rng(0).random((1000, 5, 200)) < 0.8
    real = np.array([stats.split_variance(study).real for study in studies])
    assert abs(real.mean()) < 4 * real.std() / np.sqrt(1000)
    assert 0.4 < (real < 0).mean() < 0.8


def test_calibrated_seeds_vary_by_the_error_over_2n():
    """Binary labels drawn from the ensemble's own probabilities: the variance over seeds is about err/(2n)."""
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    labels = rng.random(2000) < p
    errors = ((rng.random((1000, 2000)) < p) != labels).mean(axis=1)
    assert errors.var(ddof=1) == pytest.approx(stats.calibrated_variance(errors.mean(), 2000), rel=0.15)


def test_the_split_in_words():
    """One sentence with standard deviations; what is below 0 reads 0."""
    split = stats.VarianceSplit(0.149**2, 0.145**2, 0.149**2 - 0.145**2)
    assert split.in_words() == "of the observed sd 0.149, 0.145 is the finite test set, 0.0343 is real"
    assert stats.VarianceSplit(0.01, 0.0101, -0.0001).in_words().endswith("0 is real")


def test_churn_by_hand():
    """Three seeds, four examples: the pairs disagree on 1, 2 and 2 of them."""
    assert stats.churn([[0, 1, 2, 3], [0, 1, 2, 9], [0, 1, 7, 8]]) == pytest.approx((1 + 2 + 2) / 12)
    assert stats.churn([[5, 5], [5, 5]]) == 0
    assert stats.churn([[0, 1], [1, 0]]) == 1


@given(TABLES)
def test_churn_of_two_labels_is_twice_their_variance(labels):
    """For labels 0 and 1 it is the mean of 2 p (1 - p) k / (k - 1); names of labels and order of seeds do not count."""
    assert stats.churn(labels) == pytest.approx(2 * labels.var(axis=0, ddof=1).mean())
    assert stats.churn(7 - labels[::-1]) == pytest.approx(stats.churn(labels))


def test_spread_per_class_by_hand():
    """The accuracy on each class, its mean and sd over seeds, with the size of the class."""
    found = stats.class_spread([[1, 0, 1, 1], [1, 1, 0, 1]], [7, 7, 3, 7])
    assert list(found.label) == [3, 7]
    assert list(found.examples) == [1, 3]
    assert found.mean == pytest.approx([0.5, 5 / 6])
    assert found.sd == pytest.approx([np.sqrt(0.5), np.std([2 / 3, 1], ddof=1)])
