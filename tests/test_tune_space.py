"""The space: draws, grids, conditions; a function of the seed, the parameter's name and the index of the draw."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ConfigError
from repro.tune import domains, draws
from repro.tune.draws import Draws

PLAIN = {
    "optimizer": {"choice": ["sgd", "adam"]},
    "lr": {"log": [1e-4, 1.0]},
    "batch_size": {"power_of_two": [16, 256]},
    "momentum": {"uniform": [0.0, 0.99], "when": {"optimizer": "sgd"}},
}


def fail(place, message, hint=None):
    """Raise as the study file's reader does."""
    raise ConfigError(f"{'.'.join(map(str, place))}: {message}", hint=hint)


def space(value):
    """The space of a mapping."""
    return domains.read(value, fail)


def take(suggestions, count):
    """The first configurations of a sequence."""
    return [item.params for item in itertools.islice(suggestions, count)]


def test_golden_draws():
    """The first draws of seed 7 are these: the derivation of suggestions does not move."""
    assert take(draws.random(space(PLAIN), 7), 2) == [
        {"batch_size": 32, "lr": 0.0248742151119, "optimizer": "adam"},
        {"batch_size": 256, "lr": 0.0624404693424, "optimizer": "adam"},
    ]


def test_a_further_parameter_never_moves_another():
    """Draws of a parameter depend on its name alone: with one more in the space the others stay."""
    more = space(PLAIN | {"width": {"int": [1, 64]}})
    for one, other in zip(take(draws.random(space(PLAIN), 7), 20), take(draws.random(more, 7), 20), strict=True):
        assert one.items() <= other.items()


def test_the_order_in_the_file_has_no_effect():
    """The same parameters in another order make the same space and the same draws."""
    turned = space(dict(reversed(PLAIN.items())))
    assert list(turned.domains) == list(space(PLAIN).domains) == ["batch_size", "lr", "optimizer", "momentum"]
    assert take(draws.random(turned, 7), 20) == take(draws.random(space(PLAIN), 7), 20)


def test_the_seed_matters_and_global_state_does_not():
    """Another seed draws others; the global generators neither matter nor change."""
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  (that it is not touched)
    first = take(draws.random(space(PLAIN), 7), 5) + take(draws.quasi_random(space(PLAIN), 7), 5)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert take(draws.random(space(PLAIN), 7), 5) + take(draws.quasi_random(space(PLAIN), 7), 5) == first
    assert take(draws.random(space(PLAIN), 8), 5) != first[:5]
    assert take(draws.quasi_random(space(PLAIN), 8), 5) != first[5:]


@settings(deadline=None)
@given(st.floats(0, 1, exclude_max=True))
def test_values_lie_within(u):
    """Whatever is drawn, each kind of range gives a value of its own."""
    found = space(
        {
            "a": {"uniform": [-1, 1]},
            "b": {"log": [1e-6, 10.0]},
            "c": {"int": [3, 7]},
            "d": {"int": [1, 1000], "log": True},
            "e": {"step": [0, 1, 0.1]},
            "f": {"power_of_two": [10, 70]},
            "g": {"ordinal": ["low", "high"]},
            "h": 5,
            "i": {"uniform": [0, 0.5], "step": 0.25},
        }
    ).configuration(lambda _name: u)
    assert -1 <= found["a"] <= 1
    assert 1e-6 <= found["b"] <= 10
    assert found["c"] in range(3, 8)
    assert found["d"] in range(1, 1001)
    assert found["e"] in [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert found["f"] in (16, 32, 64)
    assert found["g"] in ("low", "high")
    assert found["h"] == 5
    assert found["i"] in (0.0, 0.25, 0.5)


def test_draws_are_even():
    """Each value of a list, and each decade of a log range, is drawn as often as the others, within chance."""
    found = take(draws.random(space(PLAIN), 1), 2000)
    count = len(found) / 2
    assert sum(item["optimizer"] == "sgd" for item in found) == pytest.approx(count, abs=5 * math.sqrt(count / 2))
    decade = sum(1e-3 <= item["lr"] < 1e-2 for item in found)
    assert decade == pytest.approx(500, abs=5 * math.sqrt(375))


def test_conditions():
    """A parameter is there under its condition alone, also where its parent depends on another."""
    deep = space(
        {
            "a": {"choice": ["x", "y"]},
            "b": {"choice": [1, 2], "when": {"a": "x"}},
            "c": {"choice": [True, False], "when": {"b": [2]}},
        }
    )
    assert list(deep.grid(5)) == [
        {"a": "x", "b": 1},
        {"a": "x", "b": 2, "c": True},
        {"a": "x", "b": 2, "c": False},
        {"a": "y"},
    ]


def test_grid_and_draws_from_it():
    """Draws from the grid are all of its points, each once, in an order of the seed's."""
    small = space(PLAIN)
    every = take(draws.grid(small, 3), 1000)
    assert len(every) == 5 * 3 * (3 + 1)
    drawn = take(draws.random_grid(small, 3, 7), 1000)
    assert drawn != every
    assert sorted(map(str, drawn)) == sorted(map(str, every))
    assert take(draws.random_grid(small, 3, 8), 1000) != drawn
    assert {item["lr"] for item in every} == {1e-4, 0.01, 1.0}


def test_nothing_is_tried_twice():
    """Draws that were there before are passed over; a space with no more ends."""
    source = Draws(draws.random(space({"a": {"choice": [1, 2, 3]}, "b": {"choice": [True, False]}}), 0))
    found = [source.suggest(at) for at in range(6)]
    assert len({str(item.params) for item in found}) == 6
    assert source.suggest(6) is None


def test_quasi_random_points_are_even():
    """Of 64 points each eighth of a range has 8: what random draws do not do."""
    found = take(draws.quasi_random(space({"a": {"uniform": [0.0, 1.0]}, "b": {"uniform": [0.0, 1.0]}}), 3), 64)
    for name in "ab":
        assert np.histogram([item[name] for item in found], bins=8, range=(0, 1))[0].tolist() == [8] * 8


def test_one_at_a_time():
    """From a base each parameter takes its values, the others held; what does not exist under the base is left out."""
    base = {"optimizer": "adam", "lr": 0.01, "batch_size": 64, "momentum": 0.9}
    found = [(item.by.split()[1], item.params) for item in draws.one_at_a_time(space(PLAIN), base, 3)]
    assert [name for name, _ in found] == ["batch_size"] * 4 + ["lr"] * 2 + ["optimizer"]
    assert found[-1][1] == {"batch_size": 64, "lr": 0.01, "momentum": 0.9, "optimizer": "sgd"}
    assert all("momentum" not in params for name, params in found if name != "optimizer")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"lr": {"log": [0, 1]}}, "space.lr.log: a range on a log scale begins above 0"),
        ({"lr": {"log": [-1, 1]}}, "begins above 0, not at -1"),
        ({"lr": {"int": [0, 9], "log": True}}, "begins above 0"),
        ({"lr": {"uniform": [1, 0]}}, "the range is empty: 1 is not below 0"),
        ({"lr": {"uniform": [1, 1]}}, "the range is empty"),
        ({"lr": {"choice": []}}, "the range is empty"),
        ({"lr": {"power_of_two": [17, 31]}}, "no power of two lies between 17 and 31"),
        ({"lr": {"power_of_two": [0, 8]}}, "powers of two begin at 1"),
        ({"lr": {"int": [0.5, 2]}}, "whole numbers are expected"),
        ({"lr": {"uniform": [0, "1e-3x"]}}, "a number is expected, not '1e-3x'"),
        ({"lr": {"uniform": [0, float("inf")]}}, "a number is expected, not inf"),
        ({"lr": {"uniform": [0, 1, 2]}}, "low and high are expected"),
        ({"lr": {"uniform": [0, 1], "step": 0}}, "a step above 0 is expected"),
        ({"lr": {"int": [1, 10], "log": True, "step": 1}}, "a log scale has no step"),
        ({"lr": {"choice": [1, 2, 1]}}, "1 is there twice"),
        ({"lr": {"unifrom": [0, 1]}}, "unknown key 'unifrom'"),
        ({"lr": {"uniform": [0, 1], "choice": [1]}}, "one kind of range is expected, not choice and uniform"),
        ({"lr": [1, 2]}, "a range is expected, or one value"),
        ({"lr": {"choice": [1], "when": {"x": 1}}}, "x is not in the space"),
        ({"lr": {"choice": [1], "when": {"x": 3}}, "x": {"choice": [1, 2]}}, "x is never 3"),
        ({"lr": {"choice": [1], "when": {"x": 1}}, "x": {"uniform": [0, 2]}}, "x is a range"),
        (
            {"a": {"choice": [1], "when": {"b": 1}}, "b": {"choice": [1], "when": {"a": 1}}},
            "a circle of conditions: a, b",
        ),
    ],
)
def test_errors(value, words):
    """What cannot be a space is an error that names the place."""
    with pytest.raises(ConfigError) as error:
        space(value)
    assert words in str(error.value)
