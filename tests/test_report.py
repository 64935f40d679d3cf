"""Figures, and what seeds do to single examples."""

import hashlib
import json

import numpy as np
import pytest
from conftest import Project

from repro.cli import plot
from repro.report import figures
from repro.seeds import examples, report
from repro.seeds.plan import Replicate
from repro.stats import t_interval

VALUES = {"0": 0.91, "1": 0.93, "2": float("nan"), "3": 0.92, "4": 0.93}
CURVES = {seed: [(step, value - 0.1 / (step + 1)) for step in range(5)] for seed, value in VALUES.items()}

TRAIN = """\
import torch


def train(run):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=g)
    y = (x.sum(1) + torch.randn(60, generator=g) > 0).long()
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[:40]), y[:40]).backward()
        optimizer.step()
        p = model(x[40:]).softmax(1).detach()
        run.log(step=step, acc=(p.argmax(1) == y[40:]).float().mean().item())
    run.predictions("test", range(20), p.numpy(), y[40:].numpy())
"""


def replicate(seed: int, state: str = "COMPLETED", **metrics: float) -> Replicate:
    """Make a replicate by hand."""
    return Replicate(seed, f"run-{seed}", state, metrics, None, [], frozenset(), ())


def picture(**sources: float) -> figures.Picture:
    """Make a picture of five seeds, one of which diverged."""
    values = report.metrics([replicate(int(seed), acc=value) for seed, value in VALUES.items()])["acc"]
    return figures.Picture("val/acc", values, CURVES, sources)


def test_a_figure_has_the_same_bytes_each_time() -> None:
    """PNG and SVG, of whatever day and order of settings; another value is another figure."""
    first, again = figures.draw(picture()), figures.draw(picture())
    assert [*first] == ["png", "svg"]
    assert first == again
    assert first["png"].startswith(b"\x89PNG")
    assert b"<svg" in first["svg"]
    assert b"<dc:date>" not in first["svg"]
    moved = picture()._replace(curves={**CURVES, "0": [(0, 0.5), (1, 0.6)]})
    assert figures.draw(moved)["svg"] != first["svg"]
    assert figures.draw(picture(init=0.1, order=0.2))["png"] != first["png"]


def test_the_users_own_style_does_not_enter() -> None:
    """What matplotlib was told elsewhere changes no byte, and is as it was afterwards."""
    import matplotlib as mpl

    first = figures.draw(picture())
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.facecolor": "black"}):
        assert figures.draw(picture()) == first
        assert mpl.rcParams["font.size"] == 30


def test_what_there_is_nothing_to_show_of_is_left_out() -> None:
    """One value without a curve still makes a figure; none that is finite makes none, and no error."""
    one = report.metrics([replicate(0, acc=0.5)])["acc"]
    assert figures.draw(figures.Picture("acc", one, {"0": [(0, 0.5)]}, {}))
    none = report.metrics([replicate(0, acc=float("nan"))])["acc"]
    assert figures.draw(figures.Picture("acc", none, {}, {})) == {}


def test_the_running_interval_is_that_of_the_first_seeds() -> None:
    """Of n values it is Student's, for each n from 2 on."""
    rows = figures.running([1.0, 2.0, 4.0])
    assert [row[0] for row in rows] == [2, 3]
    assert rows[1][1] == pytest.approx(7 / 3)
    assert rows[0][2:] == tuple(t_interval([1.0, 2.0], 0.95))


def test_a_metric_names_its_files() -> None:
    """No metric's name leads out of the folder, and no two metrics have one file."""
    found = figures.stems(["val/acc", "val-acc", "../x", "..", "a=1.5", "val acc"])
    assert [*found.values()] == ["val-acc", "val-acc-2", "x", "metric", "a=1.5", "val-acc-3"]


def test_the_strip_shows_every_value() -> None:
    """Values that coincide are counted, those that are not finite left out; without a spread there is no strip."""
    metrics = report.metrics([replicate(int(seed), acc=value, flat=1.0) for seed, value in VALUES.items()])
    lines = [*plot.every(metrics)]
    assert len(lines) == 3
    assert lines[2].split()[0] == "acc"
    assert (lines[2].count("o"), lines[2].count("2")) == (2, 1 + lines[2].split()[1].count("2"))


def test_a_study_says_what_seeds_do_to_single_examples(project: Project) -> None:
    """Churn, classes and the split of the variance, as of the saved predictions; figures are made and are no code."""
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", "name: single\nentry: train.py:train\nthreads: 1\n")
    words = ("seeds", "--n", "3", "--plots", "figures", "experiment.yaml")
    found = json.loads(project.repro(*words, "--json", check=0).out)
    drawn = sorted((project.root / "figures").iterdir())
    bytes_before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in drawn]
    assert [path.name for path in drawn] == ["acc.png", "acc.svg"]
    item = found["examples"]["test"]
    assert (item["n"], item["examples"], [*item["classes"]]) == (3, 20, ["0", "1"])
    parts = item["variance"]
    assert parts["observed"] == pytest.approx(parts["test_set"] + parts["real"])
    assert parts["observed"] == pytest.approx(np.var([run["metrics"]["acc"] for run in found["runs"]], ddof=1))
    again = project.repro(*words, check=0)
    assert "3 read, not run" in again.err
    assert "two of them disagree on" in again.out
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in drawn] == bytes_before


def test_examples_that_differ_from_seed_to_seed_are_not_compared() -> None:
    """Where the split is drawn anew for each seed, its note says so and nothing is computed."""
    from repro.run.predictions import Predictions

    probabilities = np.full((3, 2), 0.5, np.float32)
    one = Predictions(np.arange(3), probabilities, np.array([0, 1, 0]))
    other = Predictions(np.arange(1, 4), probabilities, np.array([0, 1, 0]))
    assert "cannot be compared" in examples._of([one, other])["note"]
    assert "note" not in examples._of([one, one])
    assert [*examples.lines({"test": examples._of([one, other])})][1].startswith("predictions of 'test': each seed has")
