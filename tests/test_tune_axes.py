"""Several axes of fidelity at once: what a rung comes to and costs, and real trainings that go on where they can."""

import itertools
import json
import math
import shutil
import signal
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import REPRO, Project, clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.errors import ConfigError
from repro.tune import axes, brackets, method, report, specification
from repro.tune.draws import Draws
from repro.tune.method import Ladder
from repro.tune.options import LADDERS
from repro.tune.search import Point, Score, Suggestion, cost, going_on
from repro.tune.specification import Axis

TRAIN = """\
import torch

import repro

WIDTHS = {"small": 2, "large": 8}


def train(run):
    with run.stream("init"):
        hidden = WIDTHS[run.params.model]
        model = torch.nn.Sequential(torch.nn.Linear(8, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr)
    x = torch.randn(64, 8, generator=run.rng("data"))
    y = x.sum(dim=1, keepdim=True)
    kept = torch.tensor([*run.subset(range(64))])
    run.resume(model=model, optimizer=optimizer)
    for epoch in run.epochs():
        for index in kept[torch.randperm(len(kept), generator=run.rng("order"))].split(16):
            optimizer.zero_grad()
            loss = (model(x[index]) - y[index]).square().mean()
            loss.backward()
            optimizer.step()
        run.log(step=epoch, loss=(model(x) - y).square().mean().item(), size=len(kept))
        run.checkpoint(model=model, optimizer=optimizer)
"""
EXPERIMENT = """\
name: toy
entry: train.py:train
params: {epochs: 8, lr: 0.01, model: small}
threads: 1
"""
STUDY = """\
experiment: experiment.yaml
space: {lr: {log: [1.0e-3, 0.1]}}
method: {successive_halving: {configurations: 8}}
fidelity: {epochs: [2, 8], data: [0.5, 0.5], model: {small: 1, large: 4}}
objective: {loss: min}
seed: 7
controls: true
"""
#: What the study's rungs come to: with eta 2 the shares 1/16 and 1/8 are both two epochs of the small model.
RUNGS = [
    {"budget": 0.0625, "epochs": 2, "data": 0.5, "model": "small"},
    {"budget": 0.125, "epochs": 4, "data": 0.5, "model": "small"},
    {"budget": 0.15625, "epochs": 5, "data": 0.5, "model": "small"},
    {"budget": 1, "epochs": 8, "data": 0.5, "model": "large"},
]
EPOCHS, DATA = Axis("epochs", Fraction(10), Fraction(40)), Axis("data", Fraction(1, 4), Fraction(1))
MODEL = Axis("model", Fraction(1), Fraction(4), {"narrow": Fraction(1), "medium": Fraction(2), "wide": Fraction(4)})
EQUAL = Axis("data", Fraction(1), Fraction(1))


def parsed(text: str, more: str = "fidelity: {epochs: [25, 100]}") -> specification.Study:
    """A study with this method."""
    study = f"experiment: a.yaml\nspace: {{lr: 1.0}}\nmethod: {text}\nobjective: {{a: max}}\n{more}"
    return specification.parse(study, Path("study.yaml"))


def of(text: str, fidelity: tuple[Axis, ...] = (EPOCHS, DATA, MODEL)) -> dict[Fraction, Point]:
    """The rungs of a method, as a study file has it, over these axes."""
    return axes.rungs(fidelity, parsed(text).method)


def test_what_a_rung_has_of_each_axis():
    """The shares go by eta, each axis as far by ratio, rounded down; the cost is that of the rounded values."""
    found = of("{hyperband: {eta: 4}}")
    amounts = [(10, "0.25", "narrow"), (15, "0.39685", "narrow"), (25, "0.62996", "medium"), (40, "1", "wide")]
    assert list(found.values()) == [Point(Fraction(a), Fraction(b), c) for a, b, c in amounts]
    costs = [Fraction(a, 40) * Fraction(b) * MODEL.ladder[c] / 4 for a, b, c in amounts]
    assert list(found) == costs
    for rungs, count in (("1", 1), ("3", 3), ("[5%, 20%, 100%]", 3), ("[0.5, 1.0]", 2)):
        assert len(of(f"{{asha: {{rungs: {rungs}}}}}")) == count


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 10**6), st.sampled_from(["2", "3", "1.5"]))
def test_all_axes_grow_together(low, factor, parts, eta):
    """No axis ever falls, none leaves its range, none is beyond its share, and the last rung is a training in full."""
    high = low * factor
    fidelity = (
        Axis("epochs", Fraction(low), Fraction(high)),
        Axis("data", Fraction(parts, 10**6), Fraction(1)),
        Axis("model", Fraction(2), Fraction(7), {"a": Fraction(2), "b": Fraction(3), "c": Fraction(7)}),
    )
    found = of(f"{{asha: {{eta: {eta}}}}}", fidelity)
    points, costs = list(found.values()), list(found)
    assert points[-1] == Point(Fraction(high), Fraction(1), "c")
    assert costs[-1] == 1
    for one, other in itertools.pairwise(points):
        assert low <= one.epochs <= other.epochs
        assert fidelity[1].low <= one.data <= other.data
        assert one.model <= other.model
    whole, ratio, least = Fraction(1), Fraction(eta), Fraction(low, high) * fidelity[1].low * Fraction(2, 7)
    shares = brackets.climb(whole, ratio, brackets.steps(least, whole, ratio) + 1, whole=False)
    assert all(amount <= share for amount, share in zip(reversed(costs), reversed(shares), strict=False))
    assert costs[0] >= least


def test_one_axis_that_grows_is_that_axis_alone():
    """Where one axis grows beside others that do not, its amounts are those that it has alone."""
    texts = ("{hyperband: {eta: 2}}", "{hyperband: {eta: 3}}", "{asha: {rungs: [40%, 100%]}}", "median_stopping")
    for text, ends in itertools.product(texts, ([25, 100], [3, 27], [7, 56])):
        alone = parsed(text, f"fidelity: {{epochs: {ends}}}")
        axis = alone.fidelity[0]
        expected = method.budgets(Ladder(axis, bound=True), alone.method)
        found = of(text, (EQUAL, axis))
        assert [point.epochs for point in found.values()] == list(expected)
        assert list(found) == [amount / axis.high for amount in expected]


@pytest.mark.parametrize("name", sorted(specification.METHODS))
def test_axes_of_which_no_end_is_below_the_other(name):
    """Ranges that are one amount each leave one rung, a training in full, with any method."""
    text = "{successive_halving: {configurations: 4}}" if name == "successive_halving" else name
    assert of(text, (Axis("epochs", Fraction(8), Fraction(8)), EQUAL)) == {1: Point(Fraction(8), Fraction(1))}
    assert len(of(text)) > 1 if name in LADDERS else list(of(text)) == [1]


@pytest.mark.parametrize(
    ("text", "fidelity", "words"),
    [
        (
            "{asha: {rungs: 8}}",
            (EPOCHS, DATA, MODEL),
            "8 rungs begin at 0.0078125 full trainings, below the least, 0.015625",
        ),
        (
            "{asha: {rungs: [1%, 100%]}}",
            (EPOCHS, DATA, MODEL),
            "0.01 of a training in full is below the least, 0.015625",
        ),
        ("{asha: {rungs: [0.1, 0.9]}}", (EPOCHS, DATA, MODEL), "the whole is 1 full training$"),
        ("{asha: {rungs: [50%, 60%, 100%]}}", (MODEL, EQUAL), "of 3 rungs only 2 differ in model, data"),
    ],
)
def test_rungs_that_cannot_be(text, fidelity, words):
    """Rungs below the least of all axes, or more of them than differ, are refused where they were asked for."""
    with pytest.raises(ConfigError, match=words):
        of(text, fidelity)


def test_as_many_rungs_as_models():
    """Where the rungs that are asked for all differ there are so many."""
    found = of("{asha: {rungs: 3}}", (MODEL, EQUAL))
    assert [point.model for point in found.values()] == ["narrow", "medium", "wide"]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1, "epochs", "1 epoch"),
        (1600, "epochs", "1,600 epochs"),
        (1, "step", "1 step"),
        (0.5, "train_second", "0.5 train_seconds"),
        (3, "run", "3 runs"),
        (1, "full trainings", "1 full training"),
        (41, "model", "41 units of cost"),
        (1, "model", "1 unit of cost"),
        (0.1, "data", "10% of the data"),
        (1, "data", "all of the data"),
        (6.4, "data", "6.4 times the data"),
        (1, "s", "1 s"),
        (2, "percent", "2 percent"),
    ],
)
def test_budgets_in_words(value, unit, words):
    """A budget is said in plain words, whatever it is counted in; a unit that is no word is left as it is."""
    assert report.counted(value, unit) == words


def test_what_a_trial_costs_that_goes_on_for_a_while():
    """Within equal data and an equal model a trial goes on; where one of them grows it is paid whole."""
    points = {Fraction(at): Point(epochs=Fraction(at), model="a" if at < 4 else "b") for at in (1, 2, 3, 4, 8)}

    def course(budget):
        return points[budget]._replace(epochs=None)

    budgets = tuple(points)
    assert cost(budgets, course) == 3 + 8
    assert cost(budgets, going_on) == 8
    shape = brackets.shape(0, (16, 8, 4, 2, 1), budgets, course)
    assert (shape.cost, shape.retrained) == (16 + 8 + 4 + 2 * 4 + 4, 16 + 16 + 12 + 8 + 8)
    assert brackets.at_each([shape, shape], course)[Fraction(4)] == (4, 2 * 2 * 4)


@pytest.mark.parametrize("name", LADDERS)
@settings(deadline=None, max_examples=30)
@given(
    salt=st.integers(0, 9),
    workers=st.integers(1, 5),
    picks=st.lists(st.integers(0, 5), min_size=1),
    limit=st.integers(3, 12),
)
def test_schedulers_over_several_axes(name, salt, workers, picks, limit):
    """All keep to a budget of full trainings, decide the same in any order, and count what goes on as it does."""
    fidelity = (EPOCHS, EQUAL, Axis("model", Fraction(1), Fraction(4), {"narrow": Fraction(1), "wide": Fraction(4)}))
    options = ": {configurations: 8, rungs: 3}" if name == "successive_halving" else ": {}"
    study = parsed(f"{{{name}{options}}}", f"budget: {limit}\nfidelity: {{epochs: [10, 40]}}")
    points = axes.rungs(fidelity, study.method)
    ladder = Ladder(axes.joined(points), True, lambda budget: points[budget].model, points)

    def run(workers, picks):
        source = Draws(Suggestion({"x": at}, "grid") for at in itertools.count())
        scheduler, waiting, turn = method.scheduler(study, ladder, source, "max"), [], itertools.cycle(picks)
        while True:
            while len(waiting) < workers and (job := scheduler.ask()) is not None:
                waiting.append(job)
            if not waiting:
                return scheduler
            job = waiting.pop(next(turn) % len(waiting))
            value = (job.trial * 7919 + salt * 104729 + points[job.budget].epochs * 31) % 101
            scheduler.tell(job, Score(float(value)) if value % 10 else Score(None, "NaN"))

    one, other = run(1, [0]), run(workers, picks)
    assert one.entries == other.entries
    assert one.trials.spent == other.trials.spent <= limit
    cheap = [max([budget for budget in trial.asked if budget < 1], default=0) for trial in one.trials.all]
    assert one.trials.spent == sum(cheap) + sum(1 in trial.asked for trial in one.trials.all)


WRONG = [
    (("data: [0.5, 0.5]", "dat: [0.5, 0.5]"), "unknown key 'dat'"),
    (("data: [0.5, 0.5]", "data: [0.5, 1.5]"), "a fraction of the data is expected"),
    (("space: {lr:", "space: {model: {choice: [small, large]}, lr:"), "space.model: it is the fidelity already"),
    (("data: [0.5, 0.5], ", ""), "the command of experiment.yaml has no {model}"),
    (("configurations: 8", "configurations: 8, rungs: 6"), "below the least, 0.0625"),
    (("configurations: 8", "configurations: 7"), "7 configurations leave none for rung 4"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_is_wrong_with_several_axes(change, words, project, capsys, monkeypatch):
    """What cannot be is exit code 2 with what was expected, before anything is captured."""
    from repro.cli.main import _guarded

    lay_out(project, STUDY.replace(*change))
    if "command" in words:
        project.write(
            "experiment.yaml", EXPERIMENT.replace("entry: train.py:train", "command: python a.py {epochs} {lr}")
        )
    monkeypatch.chdir(project.root)
    assert _guarded(["tune", "study.yaml"]) == 2
    assert words in capsys.readouterr().err
    assert not (project.store / "studies").exists()


def lay_out(project: Project, study: str = STUDY) -> Project:
    """Write the experiment and a study of it."""
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    project.write("study.yaml", study)
    return project


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Project, dict]:
    """A project with the study by one worker, and its document."""
    project = lay_out(Project(tmp_path_factory.mktemp("done")))
    found = project.repro("tune", "study.yaml", "--json", "--workers", "1", check=0)
    assert "controls: 7.4375 full trainings more at most" in found.err
    assert "trial 0 at 0.0625 full trainings (2 epochs, 50% of the data, model small): run" in found.err
    assert "(4 epochs, 50% of the data, model small), on from 2 epochs: run" in found.err
    return project, found.json


def test_the_plan_says_what_each_rung_comes_to(done):
    """--dry-run has each rung's axes, its cost as a share, and in all; the brackets have them too."""
    plan = done[0].repro("tune", "study.yaml", "--dry-run", "--json", check=0).json
    costs = [(8, 8 / 16), (4, 4 / 16), (2, 2 / 32), (1, 1)]
    assert plan["budget_unit"] == "full trainings"
    assert plan["rungs"] == [rung | {"trials": n, "cost": c} for rung, (n, c) in zip(RUNGS, costs, strict=True)]
    assert plan["brackets"][0]["rungs"] == [rung | {"trials": n} for rung, (n, _) in zip(RUNGS, costs, strict=True)]
    assert (plan["budget"], plan["budget_retrained"]) == (1.8125, 2.3125)
    text = done[0].repro("tune", "study.yaml", "--dry-run", check=0).out
    assert "at 0.15625: 5 epochs, 50% of the data, model small; 2 trials for 0.0625 full trainings" in text
    assert "8 at 0.0625 > 4 at 0.125 > 2 at 0.15625 > 1 at 1 full trainings" in text


def test_what_a_study_over_several_axes_comes_to(done):
    """Trials go on within the small model, and begin anew with the large one; costs, correlations, controls follow."""
    project, found = done
    assert (found["rungs"], found["budget_unit"]) == (RUNGS, "full trainings")
    assert (found["budget_spent"], found["budget_retrained"]) == (1.8125, 2.3125)
    assert (found["run_now"], found["continued"], found["read"]) == (4 * 8, 2 * 8, 15)
    assert [(item["budget"], item["next"], item["n"]) for item in found["rung_correlation"]] == [
        (0.0625, 0.125, 4),
        (0.125, 0.15625, 2),
    ]
    assert (found["best"]["budget"], found["best"]["metrics"]["size"]) == (1, 32)
    assert found["controls"]["search"]["cost"] == 1.8125
    assert [item["budget"] for item in found["controls"]["rank_correlation"]] == [0.0625, 0.125, 0.15625]
    assert found["controls"]["first_then_top"]["cost"] == 8 / 16 + 2
    record = json.loads((project.store / "runs" / found["best"]["run_id"] / "record.json").read_bytes())
    assert (record["recipe"]["params"]["model"], record["recipe"]["params"]["epochs"]) == ("large", 8)
    assert record["recipe"]["budget"] == {"epochs": 8, "data": 500_000}
    assert record["recipe"]["horizon"] == {"epochs": 8}
    shown = project.repro("study", "show", "last", check=0).out
    assert "at 0.15625: 5 epochs, 50% of the data, model small" in shown
    assert "at 1 full training, run" in shown


def test_a_trial_that_went_on_is_the_uninterrupted_run(done, tmp_path):
    """With equal data and model a continuation has the recipe, trail and metrics of a run from the beginning."""
    project, _ = done
    runs = [json.loads(path.read_bytes()) for path in sorted((project.store / "runs").glob("*/record.json"))]
    went_on = next(run for run in runs if run["recipe"]["budget"] == {"epochs": 5, "data": 500_000})
    assert "resumed" in went_on["circumstances"]
    lr = went_on["recipe"]["params"]["lr"]
    other = STUDY.replace("{successive_halving: {configurations: 8}}", "{asha: {rungs: [0.5, 1.0]}}\ntrials: 1")
    alone = lay_out(Project(tmp_path), other.replace("controls: true", ""))
    alone.write("experiment.yaml", EXPERIMENT.replace("lr: 0.01", f"lr: {lr}"))
    first = alone.repro("tune", "study.yaml", "--json", check=0).json["trials"][0]
    record = json.loads((alone.store / "runs" / first["run_id"] / "record.json").read_bytes())
    assert "resumed" not in record["circumstances"]
    assert record["recipe"]["budget"] == went_on["recipe"]["budget"]
    outcomes = [
        json.loads((at.store / "runs" / run / "outcome.json").read_bytes())
        for at, run in ((project, went_on["run_id"]), (alone, first["run_id"]))
    ]
    assert outcomes[0]["trail_digest"] == outcomes[1]["trail_digest"]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]


def test_a_second_time_and_after_a_kill(done, tmp_path):
    """Killed and gone on with by two workers the decisions are those of one; a second call trains nothing."""
    project = lay_out(Project(tmp_path / "killed"), STUDY.replace("controls: true", ""))
    _killed_after_another_record(project)
    found = project.repro("tune", "study.yaml", "--json", "--workers", "2", check=0).json
    assert found["decisions_digest"] == done[1]["decisions_digest"]
    assert [trial["scores"] for trial in found["trials"]] == [trial["scores"] for trial in done[1]["trials"]]
    again = project.repro("tune", "study.yaml", "--json", check=0).json
    assert (again["run_now"], again["trials"]) == (0, found["trials"])
    verified = project.repro("study", "verify", "last", "--json", check=0).json
    assert (verified["digest"], verified["faults"]) == (found["decisions_digest"], [])
    best = project.run("best:last")
    assert best["metrics"] == found["best"]["metrics"]


def _killed_after_another_record(project: Project) -> None:
    """Run the study until one more record is there, and kill it."""

    def records() -> int:
        return len(list((project.store / "runs").glob("*/record.json")))

    began = records()
    process = subprocess.Popen(
        [str(REPRO), "tune", "study.yaml", "--workers", "2"],
        cwd=project.root,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while records() == began and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_where_the_data_grows_a_trial_begins_anew(done, tmp_path):
    """From a checkpoint on another part of the data nothing goes on, neither in its study nor in a later one."""
    shutil.copytree(done[0].root, tmp_path / "copy", symlinks=True)
    project = Project(tmp_path / "copy")
    part = STUDY.replace("controls: true", "").replace("configurations: 8", "configurations: 2, rungs: 2")
    project.write("study.yaml", part.replace("data: [0.5, 0.5], model: {small: 1, large: 4}", "data: [0.25, 1.0]"))
    found = project.repro("tune", "study.yaml", "--new", "--json", check=0).json
    assert found["rungs"][0] == {"budget": 0.44194125, "epochs": 5, "data": 0.707106}
    assert (found["run_now"], found["continued"]) == (3, 0)
    assert found["budget_spent"] == found["budget_retrained"]
    sizes = {trial["state"]: trial["metrics"]["size"] for trial in found["trials"]}
    assert sizes == {"finished": 64, "stopped": math.ceil(64 * 0.707106)}
