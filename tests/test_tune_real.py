"""Studies of experiments: real trainings of a network of one layer, by the command line, killed and resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPRO, ROOT, Project, clean_environment

TRAIN = """\
import os
import random
import time

import torch

import repro


def train(run):
    with run.stream("init"):
        model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr, momentum=run.params.momentum)
    x = torch.randn(64, 8, generator=run.rng("data"))
    y = x.sum(dim=1, keepdim=True)
    run.resume(model=model, optimizer=optimizer)
    if run.params.kind == "broken":
        raise RuntimeError(f"broken in {os.getpid()}")
    for epoch in run.epochs():
        time.sleep(random.SystemRandom().random() * float(os.environ.get("TOY_DELAY", "0")))
        for index in torch.randperm(64, generator=run.rng("order")).split(16):
            optimizer.zero_grad()
            loss = (model(x[index]) - y[index]).square().mean()
            loss.backward()
            optimizer.step()
        run.log(step=epoch, loss=(model(x) - y).square().mean().item())
        run.checkpoint(model=model, optimizer=optimizer)
"""
EXPERIMENT = """\
name: toy
entry: train.py:train
params: {epochs: 8, lr: 0.01, momentum: 0.5, kind: plain, unused: 1}
threads: 1
"""
STUDY = """\
experiment: experiment.yaml
space:
  lr: {log: [1.0e-3, 100.0]}
  momentum: {uniform: [0.0, 0.9]}
method: {hyperband: {eta: 2}}
fidelity: {epochs: [2, 8]}
objective: {loss: min}
seed: 7
"""


def lay_out(project: Project, study: str = STUDY) -> Project:
    """Write the experiment and a study of it."""
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    project.write("study.yaml", study)
    project.write("README.md", "a toy\n")
    return project


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Project, dict]:
    """A project with one round of Hyperband by one worker, and its document."""
    project = lay_out(Project(tmp_path_factory.mktemp("done")))
    return project, project.repro("tune", "study.yaml", "--json", "--workers", "1", check=0).json


@pytest.fixture
def copy(done, tmp_path) -> Project:
    """A copy of that project with its store, at another place: the study is another one's there."""
    shutil.copytree(done[0].root, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


def test_what_a_round_comes_to(done):
    """A round has 10 trials, trial 0 the experiment's own parameters; promoted ones went on; best is at full budget."""
    project, found = done
    assert (len(found["trials"]), found["budget_spent"], found["budget_retrained"]) == (10, 56, 68)
    assert (found["run_now"], found["continued"], found["read"]) == (14, 4, 0)
    first = found["trials"][0]
    assert (first["params"], first["by"]) == ({"lr": 0.01, "momentum": 0.5}, "baseline")
    full = [trial["metrics"]["loss"] for trial in found["trials"] if trial["state"] == "finished"]
    assert found["best"]["metrics"]["loss"] == min(full)
    assert found["best"]["run_id"] in os.listdir(project.store / "runs")
    diverged = [trial for trial in found["trials"] if trial["state"] == "diverged"]
    assert {trial["reason"] for trial in diverged} <= {"NaN", "Infinity"}
    assert diverged


def test_a_second_time_nothing_is_trained(done):
    """The same command again reads every trial, trains nothing, and says what each was replayed from."""
    project, found = done
    before = len(os.listdir(project.store / "runs"))
    again = project.repro("tune", "study.yaml", "--json", check=0)
    assert again.json["run_now"] == 0
    assert again.json["trials"] == found["trials"]
    assert again.json["decisions_digest"] == found["decisions_digest"]
    assert f"replayed from {found['trials'][0]['run_id'][:9]}" in again.err
    assert len(os.listdir(project.store / "runs")) == before
    verified = project.repro("study", "verify", "last", "--json", check=0).json
    assert (verified["digest"], verified["faults"]) == (found["decisions_digest"], [])
    assert project.repro("study", "show", "last", "--json", check=0).json["best"] == found["best"]


def test_a_promoted_trial_is_the_uninterrupted_run(done):
    """A trial that went on twice has the recipe, the trail and the metrics of one run to the full budget."""
    project, found = done
    promoted = next(trial for trial in found["trials"] if len(trial["scores"]) == 3 and trial["state"] == "finished")
    sets = [word for name, value in promoted["params"].items() for word in ("--set", f"{name}={value}")]
    whole = project.run("experiment.yaml", *sets)
    record = json.loads((project.store / "runs" / promoted["run_id"] / "record.json").read_bytes())
    outcome = json.loads((project.store / "runs" / promoted["run_id"] / "outcome.json").read_bytes())
    assert "resumed" in record["circumstances"]
    assert record["recipe_digest"] == whole["recipe_digest"]
    assert (outcome["trail_digest"], outcome["metrics"]) == (whole["trail_digest"], whole["metrics"])


def test_the_best_is_run_by_its_study(copy, done):
    """`repro run best:STUDY` runs the best configuration at the full budget: the recipe and metrics of the trial."""
    best = done[1]["best"]
    found = copy.run("best:last")
    record = json.loads((copy.store / "runs" / best["run_id"] / "record.json").read_bytes())
    assert found["recipe_digest"] == record["recipe_digest"]
    assert found["metrics"] == best["metrics"]
    assert "takes everything but --seed" in copy.repro("run", "best:last", "--set", "lr=1", check=2).err


def test_workers_delays_and_kills_decide_nothing(done, tmp_path):
    """Two workers with random delays, the controller killed three times: the same decisions and the same trails."""
    project = lay_out(Project(tmp_path / "killed"), STUDY)
    chance = random.Random(5)  # noqa: S311  (when to kill)
    environment = clean_environment(TOY_DELAY="0.1")
    killed = 0
    while killed < 3:
        if _killed_after_another_record(project, environment, chance.random() * 0.5) == 0:
            break
        killed += 1
    found = project.repro("tune", "study.yaml", "--json", "--workers", "2", check=0, TOY_DELAY="0.1").json
    assert found["decisions_digest"] == done[1]["decisions_digest"]
    assert _trails_of(project, found) == _trails_of(*done)
    assert project.repro("study", "verify", "last", check=0).code == 0


def _killed_after_another_record(project: Project, environment: dict, pause: float) -> int:
    """Run the study until one more record is there, and a pause; kill it, and return how it ended."""

    def records() -> int:
        return len(list((project.store / "runs").glob("*/record.json")))

    began = records()
    process = subprocess.Popen(
        [str(REPRO), "tune", "study.yaml", "--workers", "2"],
        cwd=project.root,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while records() == began and process.poll() is None:
        time.sleep(0.02)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def _trails_of(project: Project, found: dict) -> list[str]:
    """The trail digest of each trial's last run, in the order of the trials."""
    folders = [project.store / "runs" / str(trial["run_id"]) for trial in found["trials"]]
    return [json.loads((folder / "outcome.json").read_bytes())["trail_digest"] for folder in folders]


def test_controls(copy):
    """With `controls: true` the stopped trials are trained on to the end; the search stays, and stands beside them."""
    text = STUDY.replace("{hyperband: {eta: 2}}", "{successive_halving: {configurations: 4, eta: 2, rungs: 3}}")
    copy.write("controls.yaml", text + "controls: true\n")
    done = copy.repro("tune", "controls.yaml", "--json", check=0)
    found = done.json
    assert "epochs more at most, which are not the search's" in done.err
    assert found["budget_spent"] == 4 * 2 + 2 * 2 + 4
    judged = found["controls"]
    assert {"search", "random_full", "first_then_top", "rank_correlation"} <= judged.keys()
    assert (judged["search"]["runs"], [item["budget"] for item in judged["rank_correlation"]]) == (2, [2, 4])
    assert all(item["all"]["n"] == 4 for item in judged["rank_correlation"])
    assert copy.repro("tune", "controls.yaml", "--json", check=0).json["run_now"] == 0


def test_parts_of_the_data(project):
    """By data a trial is trained anew at each rung, on stratified parts, and costs that; an entry has to ask for it."""
    study = STUDY.replace("{hyperband: {eta: 2}}", "{successive_halving: {configurations: 4, eta: 2, rungs: 3}}")
    lay_out(project, study.replace("{epochs: [2, 8]}", "{data: [0.25, 1.0]}").replace("100.0", "0.1"))
    part = """    part = run.subset(range(64), labels=[at % 4 for at in range(64)])
    kept = list(getattr(part, "indices", part))
    run.log(size=len(part), classes=len({at % 4 for at in kept}))
    x, y = x[kept], y[kept]
    run.resume("""
    text = TRAIN.replace("    run.resume(", part).replace("torch.randperm(64,", "torch.randperm(len(x),")
    project.write("train.py", text)
    found = project.repro("tune", "study.yaml", "--json", check=0).json
    assert (found["budget_spent"], found["budget_retrained"], found["continued"]) == (4 * 0.25 + 2 * 0.5 + 1, 3, 0)
    metrics = [trial["metrics"] for trial in found["trials"]]
    assert sorted({values["size"] for values in metrics}) == [16.0, 32.0, 64.0]
    assert {values["classes"] for values in metrics} == {4.0}
    project.write("train.py", text.replace("run.subset(", "(lambda data, labels: data)("))
    assert "never asks run.subset()" in project.repro("tune", "study.yaml", "--new", check=2).err


def test_a_ladder_of_models(project):
    """By model the parameter `model` grows from rung to rung; its costs are those of the study file."""
    study = STUDY.replace("100.0", "0.1")
    lay_out(project, study.replace("{epochs: [2, 8]}", "{model: {small: 1, large: 4}}"))
    project.write("experiment.yaml", EXPERIMENT.replace("epochs: 8", "epochs: 1, model: small"))
    found = project.repro("tune", "study.yaml", "--json", check=0).json
    assert sorted(len(trial["scores"]) for trial in found["trials"]) == [1, 1, 1, 2]
    assert found["budget_spent"] == found["budget_retrained"] == 2 * 1 + 4 + 2 * 4
    record = json.loads((project.store / "runs" / found["best"]["run_id"] / "record.json").read_bytes())
    assert record["recipe"]["params"]["model"] == "large"
    text = (project.root / "study.yaml").read_text()
    project.write("study.yaml", text.replace("small: 1", "small: 2"))
    assert "specification.fidelity" in project.repro("tune", "study.yaml", check=2).err


def test_changed_code(copy):
    """Code that a run opened and that changed is refused in the middle of a study; a README is not; both are said."""
    study = (copy.root / "study.yaml").read_text()
    first = copy.repro("tune", "study.yaml", "--json", check=0).json
    copy.write("README.md", "a changed toy\n")
    same = copy.repro("tune", "study.yaml", "--json", check=0)
    assert (same.json["study_id"], same.json["run_now"]) == (first["study_id"], 0)
    assert "the code counts as the same" in same.err
    assert "README.md" in same.err
    assert "README.md" in copy.repro("tune", "study.yaml", "--exact", check=2).err
    copy.write("train.py", TRAIN + "\n# another line\n")
    refused = copy.repro("tune", "study.yaml", check=2).err
    assert "train.py" in refused
    assert "--code recorded" in refused
    recorded = copy.repro("tune", "study.yaml", "--code", "recorded", "--json", check=0).json
    assert (recorded["study_id"], recorded["run_now"]) == (first["study_id"], 0)
    copy.write("train.py", TRAIN)
    copy.write("study.yaml", study.replace("seed: 7", "seed: 7\ncontrols: true"))
    refused = copy.repro("tune", "study.yaml", check=2).err
    assert "specification.controls" in refused


def test_a_raised_limit_goes_on(copy, done):
    """--trials goes on with the same study: the decisions before stay, and what is shown and verified is all of it.

    So it is where the study was cut off before its further end was sealed; a line that does not follow is found then.
    """
    found = copy.repro("tune", "study.yaml", "--trials", "14", "--json", check=0).json
    assert (found["study_id"], found["run_now"], len(found["trials"])) == (done[1]["study_id"], 7, 14)
    assert found["trials"][:10] == done[1]["trials"]
    folder = copy.store / "studies" / found["study_id"]
    for cut_off in (False, True):
        if cut_off:
            (folder / "ends" / "0001.json").unlink()
        assert copy.repro("study", "show", "last", "--json", check=0).json["trials"] == found["trials"]
        verified = copy.repro("study", "verify", "last", "--json", check=0).json
        assert (verified["digest"], verified["faults"]) == (found["decisions_digest"], [])
    with (folder / "decisions.jsonl").open("ab") as log:
        log.write(b'{"kind":"rung"}\n')
    assert "the log has" in copy.repro("study", "verify", "last", check=3).out


def test_a_larger_fidelity_goes_on(copy):
    """A larger maximum is a new study by itself; runs that never read the horizon are gone on from, and it says so."""
    first = copy.repro("study", "show", "last", "--json", check=0).json
    copy.write("study.yaml", STUDY.replace("[2, 8]", "[2, 16]"))
    found = copy.repro("tune", "study.yaml", "--json", "--trials", "8", check=0)
    other = found.json
    assert "a larger fidelity than study" in found.err
    assert other["study_id"] != first["study_id"]
    assert (other["run_now"], other["continued"]) == (8 + 4 + 2 + 1, 8 + 4 + 2 + 1)
    assert [trial["scores"][0] for trial in other["trials"][:4]] == [
        trial["scores"][0] for trial in first["trials"][:4]
    ]
    assert other["best"]["budget"] == 16


WRONG = [
    (("lr: {log", "learning_rate: {log"), "experiment.yaml has no such parameter"),
    (("lr: {log: [1.0e-3, 100.0]}", "lr: {log: [0, 1]}"), "begins above 0"),
    (("lr: {log: [1.0e-3, 100.0]}", "lr: {uniform: [1, 0]}"), "the range is empty"),
    (("lr: {log: [1.0e-3, 100.0]}", "lr: {choice: [low, high]}"), "not of the type"),
    (("lr: {log: [1.0e-3, 100.0]}", "unused: {uniform: [0.5, 1.5]}"), "int: [1, 10]"),
    (("lr: {log: [1.0e-3, 100.0]}", "epochs: {int: [1, 8]}"), "it is the fidelity already"),
    (("{epochs: [2, 8]}", "{epochs: [8, 2]}"), "the range is empty"),
    (("{epochs: [2, 8]}", "{epochs: [2, 8], dat: [0.1, 1.0]}"), "unknown key 'dat'"),
    (("{epochs: [2, 8]}", "{data: [0.1, 1.5]}"), "a fraction of the data is expected"),
    (("{epochs: [2, 8]}", "{model: [small, large]}"), "the experiment has no parameter model"),
    (("{epochs: [2, 8]}", "{model: {small: 2, large: 1}}"), "costs that grow are expected"),
    (("objective: {loss: min}", ""), "the objective is missing"),
    (("experiment: experiment.yaml", "experiment: nowhere.yaml"), "no such file"),
    (("method: {hyperband: {eta: 2}}", "method: portfolio"), "portfolio"),
    (("method: {hyperband: {eta: 2}}", "method: tpe"), "a limit is expected"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_is_wrong_with_a_study_file(change, words, project, capsys, monkeypatch):
    """What cannot be a study of its experiment is exit code 2 with what was expected, before anything is captured."""
    from repro.cli.main import _guarded

    lay_out(project, STUDY.replace(*change))
    monkeypatch.chdir(project.root)
    assert _guarded(["tune", "study.yaml"]) == 2
    assert words in capsys.readouterr().err
    assert not (project.store / "studies").exists()


def test_an_exception_is_a_result_and_a_missing_objective_is_not(project):
    """A configuration whose script raises is ranked last with the exception; a metric that is never logged stops it.

    What was trained stays: with the right objective the same runs are read.
    """
    study = """\
experiment: experiment.yaml
space: {kind: {choice: [plain, broken]}}
method: grid
objective: {accuracy: max}
"""
    lay_out(project, study)
    assert project.repro("tune", "study.yaml", "--dry-run", "--json", check=0).json["trials"] == 2
    wrong = project.repro("tune", "study.yaml", "--workers", "1", check=2).err
    assert "never logged the objective accuracy; it logged loss" in wrong
    project.write("study.yaml", study.replace("accuracy: max", "loss: min"))
    found = project.repro("tune", "study.yaml", "--new", "--json", check=0).json
    assert [trial["state"] for trial in found["trials"]] == ["finished", "diverged"]
    assert found["trials"][1]["reason"] == "RuntimeError"
    assert (found["read"], found["best"]["trial"]) == (1, 0)


def test_an_unchanged_script(project):
    """A script that knows nothing of repro is tuned by its command line; its metric is taken out of what it prints."""
    project.write("script.py", "import sys\nprint(f'loss={abs(float(sys.argv[1]) - 3)} after {sys.argv[2]}')\n")
    project.write(
        "experiment.yaml", "name: script\ncommand: python script.py {x} {epochs}\nparams: {x: 1.0, epochs: 4}\n"
    )
    text = "experiment: experiment.yaml\nspace: {x: {choice: [1.0, 2.0]}}\nobjective: {loss: min}\n"
    method = "fidelity: {epochs: [1, 2]}\nmethod: {successive_halving: {configurations: 2}}\n"
    project.write("study.yaml", text + method)
    found = project.repro("tune", "study.yaml", "--metric", "loss=([0-9.]+)", "--json", check=0).json
    assert (found["best"]["params"], found["best"]["metrics"]) == ({"x": 2.0}, {"loss": 1.0})
    assert (found["budget_spent"], found["continued"]) == (1 + 1 + 2, 0)
    record = json.loads((project.store / "runs" / found["best"]["run_id"] / "record.json").read_bytes())
    assert record["recipe"]["command"][1:] == ["script.py", "2.0", "2"]


def test_an_entry_that_ignores_its_budget_is_told(project):
    """An entry with a loop of its own would train in full at each rung: that is an error with the line that helps."""
    lay_out(project)
    project.write("train.py", TRAIN.replace("run.epochs()", "range(run.params.epochs)"))
    assert "never asks run.epochs()" in project.repro("tune", "study.yaml", check=2).err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits", (24, 1600, 2000, [4, 3, 3] * 2 + [4])), ("resnet", (6, 500, 500, [6]))],
)
def test_the_studies_of_this_repository(name, expected, capsys):
    """The plans of the studies in `experiments/` are those that their comments promise, before anything is run."""
    from repro.cli.main import _guarded

    file = ROOT / "experiments" / name / "study.yaml"
    assert _guarded(["tune", str(file), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    begin = [bracket["rungs"][0]["trials"] for bracket in found["brackets"]]
    assert (found["trials"], found["budget"], found["budget_retrained"], begin) == expected


@pytest.mark.parametrize("name", ["tpe", "cma_es", "gp"])
def test_samplers_of_optuna(name, tmp_path):
    """A sampler's study is the same by 1 and 4 workers with delays, gets better, and heeds its seed."""
    pytest.importorskip("optuna")
    from repro.engines.simulated import Simulated
    from repro.tune import base, decisions, method, samplers, specification
    from repro.tune.drive import drive
    from repro.tune.method import Ladder
    from repro.tune.search import Amount, Score
    from repro.tune.specification import Axis

    text = STUDY.replace("{hyperband: {eta: 2}}", name).replace("fidelity: {epochs: [2, 8]}", "trials: 12")
    first = {"lr": 1.0, "momentum": 0.2}

    def digest(seed: int, workers: int) -> tuple[str, list[float]]:
        study = specification.parse(text.replace("seed: 7", f"seed: {seed}"), tmp_path / "study.yaml")
        source = samplers.source(study, base.baseline(study.space, first), first)
        scheduler = method.scheduler(study, Ladder(Axis("epochs", Amount(8), Amount(8)), bound=False), source, "min")
        chance = random.Random(workers)  # noqa: S311  (delays in a test)

        def loss(job) -> Score:
            params = scheduler.trials.params(job.trial)
            value = abs(params["lr"] - 0.01) + (params["momentum"] - 0.5) ** 2
            return Score(None, "NaN") if params["lr"] > 50 else Score(value)

        engine = Simulated(workers, loss, lambda _job: chance.random())
        drive(scheduler, engine)
        values = [trial.last.value for trial in scheduler.trials.all if trial.last.value is not None]
        return decisions.digest_of(map(decisions.line, scheduler.entries)), values

    one, values = digest(7, 1)
    assert digest(7, 4)[0] == one
    assert digest(8, 1)[0] != one
    assert min(values) < values[0]


def test_a_missing_extra_is_told(tmp_path, monkeypatch):
    """Without Optuna its methods are exit code 2 with the pip line."""
    import sys

    from repro.errors import UsageError
    from repro.tune import base, samplers, specification

    monkeypatch.setitem(sys.modules, "optuna", None)
    text = STUDY.replace("{hyperband: {eta: 2}}", "tpe").replace("fidelity: {epochs: [2, 8]}", "trials: 25")
    study = specification.parse(text, Path(tmp_path / "study.yaml"))
    first = {"lr": 1.0, "momentum": 0.2}
    with pytest.raises(UsageError) as error:
        samplers.source(study, base.baseline(study.space, first), first)
    assert "repro-runner[tune]" in str(error.value.hint)
