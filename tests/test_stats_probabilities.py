"""Predicted probabilities: loss, calibration, ensembles and greedy selection."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(2, 4), st.integers(0, 2**32 - 1))


def members_of(shape):
    """Return probabilities (members, examples, classes), true classes and weights, some of them 0."""
    members, examples, classes, seed = shape
    rng = np.random.default_rng(seed)
    return (
        rng.dirichlet(np.full(classes, 0.3), size=(members, examples)),
        rng.integers(classes, size=examples),
        rng.permutation(rng.integers(1, 4, size=members) * np.r_[True, rng.integers(2, size=members - 1) > 0]),
    )


def test_nll_by_hand():
    """The mean of -log p of the true class, in nats; infinite where it is 0, without a warning."""
    assert stats.nll([[0.5, 0.5], [0.25, 0.75]], [0, 1]) == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)
    assert stats.nll([[1.0, 0.0]], [1]) == math.inf
    assert stats.nll([[1.0, 0.0]], [0]) == 0


@given(SHAPES)
def test_the_ensembles_nll_is_never_above_the_members_mean(shape):
    """Jensen's inequality, for equal and for other weights."""
    probabilities, labels, weights = members_of(shape)
    each = [stats.nll(member, labels) for member in probabilities]
    assert stats.nll(stats.ensemble(probabilities), labels) <= np.mean(each) + 1e-9
    mean = sum(weight * loss for weight, loss in zip(weights, each, strict=True) if weight) / weights.sum()
    assert stats.nll(stats.ensemble(probabilities, weights), labels) <= mean + 1e-9


@given(SHAPES)
def test_an_ensemble_is_a_mean(shape):
    """Rows sum to 1; equal weights are no weights; only the weights' ratio counts; all weight on one is that member."""
    probabilities, _, weights = members_of(shape)
    found = stats.ensemble(probabilities, weights)
    assert found.sum(axis=1) == pytest.approx(1)
    assert found == pytest.approx(stats.ensemble(probabilities, 7 * weights))
    assert found == pytest.approx(np.average(probabilities, axis=0, weights=weights))
    assert stats.ensemble(probabilities) == pytest.approx(stats.ensemble(probabilities, np.ones(len(probabilities))))
    assert stats.ensemble(probabilities, np.arange(len(probabilities)) == 0) == pytest.approx(probabilities[0])


def test_calibration_error_by_hand():
    """Two bins: 0.9 right half the time, 0.6 always right, two examples each: (0.4 + 0.4) / 2."""
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]
    assert stats.calibration_error(probabilities, [0, 1, 1, 1], bins=4) == pytest.approx(0.4)
    assert stats.calibration_error(probabilities, [0, 1, 1, 1], bins=1) == pytest.approx(abs(0.75 - 0.75))


def test_a_bin_holds_its_upper_edge():
    """With two bins 0.5 is in the lower one, as in ((b-1)/bins, b/bins]: it does not offset 0.6."""
    probabilities = [[0.5, 0.5], [0.6, 0.4]]
    assert stats.calibration_error(probabilities, [0, 1], bins=2) == pytest.approx((0.5 + 0.6) / 2)
    assert stats.calibration_error(probabilities, [0, 1], bins=1) == pytest.approx(abs(0.5 - 0.55))


def test_a_calibrated_model_has_a_small_calibration_error():
    """Labels drawn from the probabilities leave little; the same sharpened leave much; it lies between 0 and 1."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=20_000)
    labels = (rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert 0 <= stats.calibration_error(probabilities, labels) < 0.015
    sharp = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    assert 0.1 < stats.calibration_error(sharp, labels) <= 1


@given(SHAPES)
def test_greedy_selection_never_loses_to_the_best_member_where_it_selects(shape):
    """The first pick is the best single member; the weights have the NLL of the best round, and sum to 1."""
    probabilities, labels, _ = members_of(shape)
    found = stats.greedy_selection(probabilities, labels, rounds=10)
    each = [stats.nll(member, labels) for member in probabilities]
    assert found.losses[0] == pytest.approx(min(each))
    assert found.weights.sum() == pytest.approx(1)
    chosen = stats.nll(stats.ensemble(probabilities, found.weights), labels)
    assert chosen == pytest.approx(found.losses.min())
    assert chosen <= min(each) + 1e-9


def test_greedy_selection_takes_members_again():
    """Two that complete each other get the best weights there are, as far as 40 picks go; the poor third none."""
    probabilities = [[[0.9, 0.1], [0.8, 0.2]], [[0.3, 0.7], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]]
    found = stats.greedy_selection(probabilities, [0, 1], rounds=40)
    assert found.weights == pytest.approx([0.33 / 0.84, 0.51 / 0.84, 0], abs=0.02)
    grid = [stats.nll(stats.ensemble(probabilities, [share, 1 - share, 0]), [0, 1]) for share in np.linspace(0, 1, 101)]
    assert found.losses.min() == pytest.approx(min(grid), abs=1e-3)


def test_greedy_selection_takes_the_first_of_equals():
    """Copies of one member: the first gets all the weight, so that the result does not hang on rounding."""
    found = stats.greedy_selection([[[0.7, 0.3]]] * 3, [0], rounds=5)
    assert list(found.weights) == [1, 0, 0]
