"""Where the spread comes from: streams varied alone, and two crossed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from repro import stats

TABLES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(2, 5)),
    elements=st.integers(-1000, 1000).map(float),
)


def test_streams_varied_alone():
    """Each has its n, mean, sd with interval, and its share of the sum of variances; the order is kept."""
    found = stats.vary_alone({"init": [1.0, 3.0], "order": [2.0, 2.0, 2.0], "dropout": [1.0, 1.0, 4.0]}, 0.9)
    assert list(found) == ["init", "order", "dropout"]
    assert found["init"].share == pytest.approx(2 / (2 + 0 + 3))
    assert (found["order"].n, found["order"].sd, found["order"].share) == (3, 0, 0)
    assert found["dropout"].sd == pytest.approx(3**0.5)
    assert found["dropout"].interval == stats.sd_interval([1.0, 1.0, 4.0], 0.9)
    assert stats.vary_alone({"init": [1.0, 1.0]})["init"].share == 0


def test_additive_streams_have_no_interaction():
    """A table of row plus column effects: their variances, and exactly nothing between them."""
    a, b = np.array([1.0, 2.0, 6.0]), np.array([0.0, 4.0])
    found = stats.crossed(a[:, None] + b)
    assert found.a == pytest.approx(a.var(ddof=1))
    assert found.b == pytest.approx(b.var(ddof=1))
    assert found.interaction == pytest.approx(0)
    assert found.total == pytest.approx(found.a + found.b)


def test_crossed_by_hand():
    """[[0, 2], [4, 0]]: row means 1, 2, column means 2, 1, what is left ±1.5: MS_AB = 9, MS_A = MS_B = 1."""
    found = stats.crossed([[0, 2], [4, 0]])
    assert found.interaction == pytest.approx(9)
    assert (found.a, found.b) == pytest.approx(((1 - 9) / 2, (1 - 9) / 2))


def test_components_have_no_bias():
    """Simulated with variances 4, 1 and 0.25: the mean over 4,000 designs of 5 x 4 finds each."""
    rng = np.random.default_rng(0)
    a, b, both = (rng.standard_normal((4000, *shape)) for shape in ((5, 1), (1, 4), (5, 4)))
    found = np.array([stats.crossed(table) for table in 2 * a + b + 0.5 * both])
    assert found.mean(axis=0) == pytest.approx([4, 1, 0.25], rel=0.08)


@given(TABLES, st.integers(-100, 100), st.integers(1, 100))
def test_components_scale_with_the_square_and_see_no_origin(table, shift, scale):
    """Another origin changes nothing, another unit goes with its square, and the transpose swaps a and b."""
    found = stats.crossed(table)
    moved = stats.crossed(table * scale + shift)
    assert moved == pytest.approx(np.array(found) * scale**2, abs=1e-5 * scale**2)
    turned = stats.crossed(table.T)
    assert (turned.b, turned.a, turned.interaction) == pytest.approx(tuple(found), abs=1e-6)


@given(TABLES)
def test_components_are_those_of_the_sums_of_squares(table):
    """The three mean squares, put together from the components, give back the whole sum of squares."""
    found = stats.crossed(table)
    rows, columns = table.shape
    total = (
        (rows - 1) * (found.interaction + columns * found.a)
        + (columns - 1) * (found.interaction + rows * found.b)
        + (rows - 1) * (columns - 1) * found.interaction
    )
    assert total == pytest.approx(((table - table.mean()) ** 2).sum(), abs=1e-5)
