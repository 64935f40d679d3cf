"""Metrics of two runs held against each other: by step, by rank, and without what measures time."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import Project

from repro.record import differences
from repro.record.values import MetricSpec
from repro.replay import series, timing
from repro.run import metrics
from repro.run.metrics import Point


def points(*values: tuple[int | None, float], rank: str = "") -> list[Point]:
    """Return points of one metric, logged one second after the other."""
    return [Point("m", step, value, float(index), rank) for index, (step, value) in enumerate(values)]


def test_order_of_arrival_decides_nothing() -> None:
    """Equal pairs of step and value are equal in any order; also several of one step."""
    a = points((0, 1.0), (1, 0.5), (1, 0.25), (2, math.nan))
    assert series.unequal(a, [a[2], a[3], a[0], a[1]], "whole") is None


def test_the_first_unequal_step_is_named() -> None:
    """A difference is placed at the least step, with the last values at the greatest."""
    fault = series.unequal(points((2, 3.0), (0, 1.0), (1, 2.0)), points((0, 1.0), (1, 2.5), (2, 4.0)), "whole")
    assert fault is not None
    assert (fault["step"], fault["before"], fault["after"], fault["last"]) == (1, 2.0, 2.5, [3.0, 4.0])


def test_ranks_are_not_mixed_up() -> None:
    """Two ranks that exchange their values at one step differ."""
    one = points((0, 1.0), rank="00000") + points((0, 2.0), rank="00001")
    other = points((0, 2.0), rank="00000") + points((0, 1.0), rank="00001")
    assert series.unequal(one, one, "whole") is None
    assert series.unequal(one, other, "whole") is not None


def test_without_steps_the_order_counts() -> None:
    """Points without a step are compared as they came."""
    assert series.unequal(points((None, 1.0), (None, 2.0)), points((None, 2.0), (None, 1.0)), "whole") is not None


@pytest.mark.parametrize(("extent", "is_equal"), [("whole", False), ("first", True), ("common", True)])
def test_a_run_that_was_cut_short(extent: series.Extent, is_equal: bool) -> None:
    """What the first run lacks is a difference only where both are compared as wholes."""
    shorter, longer = points((0, 1.0), (1, 2.0)), points((0, 1.0), (1, 2.0), (1, 5.0), (2, 3.0))
    assert (series.unequal(shorter, longer, extent) is None) is is_equal
    assert (series.unequal(longer, shorter, extent) is None) is (extent == "common")


def test_the_last_value_is_that_of_the_greatest_step() -> None:
    """Whichever came last; without steps, the one that came last."""
    assert metrics.final(points((0, 1.0), (7, 2.0), (3, 5.0))) == 2.0
    assert metrics.final(points((None, 1.0), (None, 3.0))) == 3.0
    assert metrics.final(points((2, 1.0), rank="00000") + points((2, 4.0), rank="00001")) == 4.0
    assert metrics.final([]) is None


@pytest.mark.parametrize(
    "name",
    "charts/SPS fps tok/s tokens_per_second train/tok_per_sec mfu bf16_mfu dt it/s samples/s ms/step sec_per_step"
    " time/epoch epoch_time step_time_ms eta train_runtime train_samples_per_second imgs/sec s/it gpu_mem"
    " data_time".split(),
)
def test_names_of_measures(name: str) -> None:
    """What reinforcement learners and trainers of language models call their measures of time is known by name."""
    assert not series.is_compared(name, {})
    assert series.is_compared(name, {name: MetricSpec(compare="always")})


@pytest.mark.parametrize(
    "name",
    "loss train/loss val_acc f1 lr grad_norm bits_per_dim bpc losses/value_loss momentum items entropy width".split(),
)
def test_names_of_results(name: str) -> None:
    """What has letters of a measure in its name is none."""
    assert series.is_compared(name, {})


def clocked(seed: int, value: str) -> list[Point]:
    """Return a metric of a run whose steps take 5 ms, 10% more or less, and the first of all 2 s."""
    rng = np.random.default_rng(seed)
    gaps = 0.005 * (1 + 0.1 * rng.standard_normal(30)).clip(0.5)
    gaps[0] = 2.0
    times, steps = 1e9 + np.cumsum(gaps), np.arange(30)
    values = {
        "elapsed": times - 1e9 + 0.3,
        "interval": np.round(gaps * 1000, 4),
        "rate": 640 / gaps,
        "rate since the start": np.floor(1e6 * (steps + 1) / (times - 1e9 + 0.3)),
        "loss": np.exp(-steps / 9) + 0.01 * rng.standard_normal(30),
        "falls at once": np.where(steps == 0, 5.0, 0.1 + 0.01 * rng.standard_normal(30)),
        "constant": np.full(30, 0.5 + seed),
        "learning rate": (0.1 + seed) * (1 - steps / 30),
        "random walk": np.cumsum(rng.standard_normal(30)) + 50,
    }[value]
    return [Point("m", int(s), float(v), float(t)) for s, v, t in zip(steps, values, times, strict=True)]


@pytest.mark.parametrize("value", ["elapsed", "interval", "rate", "rate since the start"])
def test_what_follows_the_clock_is_a_measure_of_time(value: str) -> None:
    """In both runs: the time since the start or between points, and steps over these, under any name."""
    found = series.compare({"x": clocked(0, value)}, {"x": clocked(1, value)}, {}, "whole")
    assert (found.left_out, found.changed) == (["x"], {})
    declared = {"x": MetricSpec(compare="always")}
    assert series.compare({"x": clocked(0, value)}, {"x": clocked(1, value)}, declared, "whole").changed


@pytest.mark.parametrize("value", ["loss", "falls at once", "constant", "learning rate", "random walk"])
def test_a_result_never_follows_the_clock(value: str) -> None:
    """A loss, a constant, a schedule or noise that differs is a difference."""
    assert series.compare({"x": clocked(0, value)}, {"x": clocked(1, value)}, {}, "whole").changed


def test_a_count_of_steps_is_no_measure_of_time() -> None:
    """The length of an episode is proportional to the time that it took, and a result all the same."""
    sides = []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(5, 60, 20)
        times = np.cumsum(lengths * 0.001 * (1 + 0.02 * rng.standard_normal(20)))
        steps = np.cumsum(lengths)
        sides.append([Point("r", int(s), float(v), float(t)) for s, v, t in zip(steps, lengths, times, strict=True)])
    assert not timing.measures_time(*sides)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (math.nan, math.nan, True),
        ([math.nan, 1.0], [math.nan, 1.0], True),
        ({"a": [math.nan]}, {"a": [math.nan]}, True),
        (math.nan, 1.0, False),
        (1, 1.0, False),
        ([True], [1], False),
        ([1.0], [1.0, 2.0], False),
    ],
)
def test_nan_is_nan(a: object, b: object, expected: bool) -> None:
    """Parameters are compared by value and type, and NaN is one value."""
    assert differences.same(a, b) is expected


POOL = """
import os, time, repro, multiprocessing as mp
def fold(i):
    time.sleep(0.02 * ((os.getpid() + i) % 3))
    repro.current().log(score=1 / (i + 1), pid=os.getpid(), step=i)
if __name__ == "__main__":
    with mp.get_context("fork").Pool(2) as pool:
        pool.map(fold, range(8), chunksize=1)
"""


def test_folds_in_a_pool(project: Project) -> None:
    """Which worker logs which fold, and when, decides nothing; the metric that alone differs is the first line."""
    project.write("cv.py", POOL)
    project.run("--", "python", "cv.py")
    project.write("equal.py", POOL.replace(" pid=os.getpid(),", ""))
    done = project.repro("replay", "last", check=3)
    assert done.out.splitlines()[0].strip() == "metric pid alone differs, all else that was compared is equal"
    assert project.run("--", "python", "equal.py")["metrics"] == {"score": 1 / 8}
    assert {project.replay()["verdict"] for _ in range(2)} == {"IDENTICAL"}


def test_a_parameter_that_is_nan(project: Project) -> None:
    """Two runs with NaN as a parameter do not differ in it."""
    project.with_experiment(
        "def train(run): run.log(a=float('nan'))", "name: n\nentry: train.py:train\nparams: {x: [.nan]}\n"
    )
    project.run("experiment.yaml")
    project.run("experiment.yaml")
    assert "nan" not in project.repro("diff", "last~1", "last", check=0).out


def test_equal_logs_are_compared_without_their_points(tmp_path: Path) -> None:
    """What was logged with the same bytes but for its moments is equal; ends and counts are those of all points."""
    lines = [(None, {"a": 1.0}), (0, {"a": 2.0, "b": "nan"}), (3, {"a": 5.0}), (1, {"a": 7.0, "time": 1.0})]
    folders = [tmp_path / name for name in ("one", "other")]
    for at, folder in enumerate(folders):
        (folder / "metrics").mkdir(parents=True)
        text = "".join(json.dumps({"t": at + 0.5, "step": step, "m": points}) + "\n" for step, points in lines)
        (folder / "metrics" / f"00000-{at}.jsonl").write_text(text)
    assert metrics.are_equal(*folders)
    found = metrics.summary(folders[0])
    logged = metrics.series(folders[0])
    assert {name: item.points for name, item in found.items()} == {name: len(items) for name, items in logged.items()}
    assert {name: repr(item.last) for name, item in found.items()} == {
        name: repr(metrics.final(items)) for name, items in logged.items()
    }
    assert series.of_equal(found, {}) == series.compare(logged, metrics.series(folders[1]), {}, "whole")
    path = next((folders[1] / "metrics").iterdir())
    changes = (("5.0", "-5.0"), ("\n", "\n{"), ("3,", "4,"))
    for old, new in changes:
        before = path.read_text()
        path.write_text(before.replace(old, new))
        assert not metrics.are_equal(*folders)
        path.write_text(before)
    path.rename(path.with_name("00001-1.jsonl"))
    assert not metrics.are_equal(*folders)
