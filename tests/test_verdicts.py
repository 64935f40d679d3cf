"""Verdicts between IDENTICAL and DIFFERENT: tolerances, other seeds; and replays that are cut short, or many."""

import json
import math

import numpy as np
import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st

from repro.cli import plot
from repro.record.values import MetricSpec, Tolerance
from repro.replay import grade, series
from repro.run.metrics import Point
from repro.stats import prediction

TRAIN = """\
import torch


def train(run):
    x = torch.randn(64, 8)
    y = x.sum(1, keepdim=True) + torch.randn(64, 1)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr)
    for step in range(run.params.steps):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(step=step, loss=loss.item())
    run.log(final=loss.item())
"""
EXPERIMENT = """\
name: verdicts
entry: train.py:train
params: {lr: 0.05, steps: 30}
threads: 1
metrics:
  loss: {direction: minimize, tolerance: {rel: 0.01}}
  final: {direction: minimize, tolerance: {abs: 0.005}}
"""


@pytest.fixture
def experiment(project: Project) -> Project:
    """A project with an experiment whose metrics have tolerances."""
    return project.with_experiment(TRAIN, EXPERIMENT)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same, run once for one step, for what is refused before anything runs."""
    project = Project(tmp_path_factory.mktemp("short")).with_experiment(TRAIN, EXPERIMENT)
    project.run("experiment.yaml", "--set", "steps=1")
    return project


def replayed(project: Project, *words: str, check: int = 0) -> dict[str, object]:
    """Replay the last run and return the document."""
    return dict(json.loads(project.repro("replay", "last", "--json", *words, check=check).out))


def test_a_metric_within_its_tolerance_is_within_tolerance(experiment: Project) -> None:
    """Trails differ, the last values are close enough: exit 0, and where they part is said; further off: DIFFERENT."""
    experiment.run("experiment.yaml")
    found = replayed(experiment, "--with", "params.lr=0.0501")
    assert found["verdict"] == "WITHIN_TOLERANCE"
    assert found["first_difference"]["column"] == "optimizer settings"
    assert found["metrics"]["loss"]["relative"] < 0.01
    assert replayed(experiment, "--with", "params.lr=0.01", check=3)["verdict"] == "DIFFERENT"


def test_compatible_with_other_seeds(experiment: Project) -> None:
    """With five other seeds in the store, what a further seed gives is COMPATIBLE: test, p and n are stated.

    With fewer the verdict is DIFFERENT and says how many there are; so it is for a change that no seed would give.
    """
    for seed in range(1, 5):
        experiment.run("experiment.yaml", "--seed", str(seed))
    few = replayed(experiment, "--with", "seed=77", check=3)
    assert (few["verdict"], few["tests"]) == ("DIFFERENT", [])
    assert "only 4 runs differ in their seed alone" in few["reason"]
    for seed in (5, 0):
        experiment.run("experiment.yaml", "--seed", str(seed))
    found = replayed(experiment, "--with", "seed=77")
    assert found["verdict"] == "COMPATIBLE"
    tests = {test["metric"]: test for test in found["tests"]}
    assert tests["final"]["n"] == 6
    assert tests["final"]["low"] < tests["final"]["value"] < tests["final"]["high"]
    assert 0.05 <= tests["final"]["p"] <= 1
    worse = replayed(experiment, "--with", "params.steps=2", check=3)
    assert worse["verdict"] == "DIFFERENT"
    assert "not what another seed would give" in worse["reason"]
    text = experiment.repro("replay", "last", "--with", "seed=77", check=0).out
    assert "of 6 runs that differ in their seed alone (Student's t, p = " in text
    assert text.splitlines()[-1] == "COMPATIBLE"


def test_several_replays_agree_or_do_not(experiment: Project) -> None:
    """`--times` says of each replay what it is, and whether they agree; two that both end in NaN are not near."""
    experiment.run("experiment.yaml")
    honest = replayed(experiment, "--times", "3")
    assert [item["verdict"] for item in honest["times"]] == ["IDENTICAL"] * 3
    assert honest["agree"] is True
    other = replayed(experiment, "--times", "2", "--with", "params.lr=0.01", check=3)
    assert ([item["verdict"] for item in other["times"]], other["agree"]) == (["DIFFERENT"] * 2, True)
    luck = "randn(64, 8) * (1e25 + 1e20 * int.from_bytes(__import__('os').urandom(2), 'big'))"
    experiment.write("train.py", TRAIN.replace("randn(64, 8)", luck))
    experiment.run("experiment.yaml")
    assert replayed(experiment, "--times", "2", check=3)["agree"] is False


def test_a_replay_ends_where_it_was_told_to(experiment: Project) -> None:
    """`--until` ends after that step and compares up to there; a difference that comes later is not seen."""
    experiment.run("experiment.yaml")
    found = replayed(experiment, "--until", "4")
    assert (found["verdict"], found["until"], found["compared"]["frames"]) == ("IDENTICAL", 4, 5)
    late = TRAIN.replace(
        "    optimizer.step()\n", "    optimizer.step()\n        model.bias.data += float(step == 9)\n"
    )
    experiment.write("train.py", late)
    assert replayed(experiment, "--until", "8", "--code", "current")["verdict"] == "IDENTICAL"
    found = replayed(experiment, "--until", "12", "--code", "current", check=3)
    assert (found["first_difference"]["step"], found["first_difference"]["column"]) == (10, "parameters in")
    points = experiment.repro("log", "last", "--json").json["metrics"]["loss"]
    assert len(points) == 30
    assert found["metrics"]["loss"]["step"] == 10
    assert found["metrics"]["loss"]["last"][0] == points[11]["value"]  # it ends within its step 12
    assert replayed(experiment, "--until", "1000")["until"] is None
    text = experiment.repro("replay", "last", "--until", "4", check=0).out
    assert text.splitlines()[-1] == "IDENTICAL up to step 4"


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--with", "thread=1"], "thread is nothing that a replay can change", "threads"),
        (["--with", "threads=many"], "a number of threads", "--with threads=1"),
        (["--with", "threads"], "NAME=VALUE is expected", "env.NAME"),
        (["--with", "determinism=very"], "one of strict, portable, warn, off", None),
        (["--with", "params.rl=1"], "params.rl: no such parameter", "lr"),
        (["--with", "params.lr=fast"], "a number is expected", None),
        (["--with", "seed=random"], "a whole number", "--with seed=1"),
        (["--why", "--times", "2"], "--why makes its own replays", None),
    ],
)
def test_a_change_that_is_none_is_refused(short: Project, words: list[str], said: str, hint: str | None) -> None:
    """What a replay cannot change is said before anything runs: exit 2, what was expected, what is meant perhaps."""
    done = short.repro("replay", "last", *words, check=2)
    assert said in done.err
    assert hint is None or hint in done.err.partition("hint: ")[2]
    assert "Traceback" not in done.err


def test_the_interval_is_students() -> None:
    """At n = 2 it reaches 15.6 standard deviations to each side, at n = 5 3.04; p falls to 0.05 at its edge."""
    two = prediction.predict([0.0, math.sqrt(2)], 1.0)
    assert two.high - two.mean == pytest.approx(15.56, abs=0.01)
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    five = prediction.predict(values, 3.0)
    reach = 2.7764451 * values.std(ddof=1) * math.sqrt(1.2)
    assert (five.low, five.high) == pytest.approx((3 - reach, 3 + reach))
    assert prediction.predict(values, five.high).p == pytest.approx(0.05)
    assert not prediction.predict(values, five.high + 1e-6).holds
    assert prediction.predict(values, five.high - 1e-6).holds
    assert prediction.predict([2.0] * 5, 2.0).holds
    assert not prediction.predict([2.0] * 5, 2.1).holds


def test_worse_asks_in_one_direction() -> None:
    """Welch's test in one direction, against scipy's two-sided one: half of it, or the rest."""
    before, now = [0.9, 0.91, 0.92, 0.9, 0.93], [0.85, 0.88, 0.86]
    assert prediction.worse(before, now, larger_is_better=True) < 0.02
    assert prediction.worse(before, now, larger_is_better=False) > 0.98
    assert prediction.worse([1.0, 1.0], [1.0, 1.0], larger_is_better=True) == 1.0


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 10), st.floats(0, 1))
def test_a_tolerance_is_the_larger_of_both(before: float, after: float, absolute: float, relative: float) -> None:
    """``max(abs, rel * |before|)``, at any sign; without a tolerance bits count."""
    spec = MetricSpec(tolerance=Tolerance(abs=absolute, rel=relative))
    expected = abs(after - before) <= max(absolute, relative * abs(before))
    assert grade.is_within(before, after, spec) is (expected or series.same_bits(before, after))
    assert grade.is_within(before, after, None) is series.same_bits(before, after)


def test_ulps_count_32_bit_floats() -> None:
    """The next number is 1 apart, also across zero; numbers that round to one are 0 apart; infinities tell nothing."""
    one = float(np.nextafter(np.float32(1), np.float32(2)))
    assert series.ulps(1.0, one) == 1
    assert series.ulps(0.1, 0.1 + 1e-12) == 0
    smallest = float(np.nextafter(np.float32(0), np.float32(1)))
    assert series.ulps(-smallest, smallest) == 2
    assert series.ulps(0.0, -0.0) == 0
    assert series.ulps(math.inf, 1.0) is None
    assert series.ulps(1e300, 1.0) is None


def test_another_artifact_alone_is_not_within_tolerance(experiment: Project) -> None:
    """Where trails and metrics are equal, no tolerance of a metric is about the artifact that differs."""
    end = "    import os\n    open('a.bin', 'wb').write(os.urandom(9))\n    run.artifact('a.bin')\n"
    experiment.write("train.py", TRAIN + end)
    experiment.run("experiment.yaml")
    found = replayed(experiment, check=3)
    assert (found["verdict"], found["reason"]) == ("DIFFERENT", "artifact a.bin differs")


def test_curves_that_lie_as_far_apart_as_can_be_are_plotted() -> None:
    """A distance that no number holds is the largest there is, and no error."""
    points = [[Point("m", step, value, 0.0) for step in range(9)] for value in (5e-324, 1.7e308, -1.7e308)]
    for before, after in ((points[0], points[1]), (points[1], points[2])):
        assert list(plot.parting({"m": before}, {"m": after}, ["m"]))


def test_a_seed_that_python_would_not_read_is_an_error_in_words(short: Project) -> None:
    """No traceback for some thousand digits."""
    done = short.repro("replay", "last", "--with", f"seed={'9' * 5000}", check=2)
    assert "a whole number from 0 on is expected" in done.err
