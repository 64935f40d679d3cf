"""Bootstrap intervals agree with scipy's, and are points where nothing varies."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from repro import stats

#: Skewed, so that BCa and the percentile interval differ.
SKEWED = np.random.default_rng(1).exponential(size=25)
BOTH = {"percentile": stats.bootstrap_interval, "BCa": stats.bca_interval}


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("statistic", [np.mean, np.std])
def test_both_kinds_agree_with_scipy(method, statistic):
    """With 10,000 resamples the ends are scipy's, up to what resampling leaves; BCa is not the percentile interval."""
    options = {"statistic": statistic, "rng": np.random.default_rng(2)}
    found = BOTH[method](SKEWED, 0.9, **options)
    expected = scipy.stats.bootstrap(
        (SKEWED,), statistic, method=method, confidence_level=0.9, rng=np.random.default_rng(3)
    ).confidence_interval
    width = expected.high - expected.low
    assert found == pytest.approx(tuple(expected), abs=0.04 * width)
    plain = stats.bootstrap_interval(SKEWED, 0.9, **options)
    assert (method == "percentile") == (abs(found.high - plain.high) < 0.04 * width)


@pytest.mark.parametrize("interval", BOTH.values())
def test_equal_values_leave_a_point(interval):
    """Nothing varies: a point, and neither NaN nor a warning."""
    assert interval([0.5] * 4, 0.95, rng=np.random.default_rng(0)) == (0.5, 0.5)


@pytest.mark.parametrize("interval", BOTH.values())
@given(x=st.lists(st.integers(-1000, 1000), min_size=2, max_size=8), confidence=st.floats(0.01, 0.999))
def test_ends_are_in_order_and_within_the_values(interval, x, confidence):
    """Both ends are means of resamples: none is beyond the values, in any sample."""
    low, high = interval(x, confidence, rng=np.random.default_rng(0), resamples=50)
    assert min(x) <= low <= high <= max(x)


def test_mirrored_values_have_the_mirrored_interval():
    """With the same draws the interval of -x is that of x turned round: neither end is favoured."""
    for confidence in (0.5, 0.9, 0.95, 0.99):
        low, high = stats.bootstrap_interval(SKEWED, confidence, rng=np.random.default_rng(0), resamples=999)
        mirrored = stats.bootstrap_interval(-SKEWED, confidence, rng=np.random.default_rng(0), resamples=999)
        assert mirrored == pytest.approx((-high, -low))
