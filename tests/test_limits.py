"""Limits of time and memory: what they end, what that is called, and how a study asks and takes an answer."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import REPRO, Done, Project, clean_environment

from repro.engines.limits import RunLimits, in_bytes, in_seconds, seconds, size
from repro.engines.watchdog import Watchdog
from repro.run.request import integer_seed

#: Prints a loss; with FAULT it hangs, or holds 400 MB, where lr, epochs and seed are those of the fault.
WORK = """\
import os
import sys
import time

lr, epochs, seed = sys.argv[1:4]
fault = os.environ.get("FAULT")
wanted = lr == os.environ.get("FAULT_LR", lr) and epochs == os.environ.get("FAULT_EPOCHS", epochs)
if fault and wanted and seed != os.environ.get("FAULT_NOT_SEED"):
    block = b"x" * 400_000_000 if fault == "eat" else None
    time.sleep(120)
print(f"loss={float(lr) / int(epochs)}")
"""
EXPERIMENT = """\
name: toy
command: python work.py {lr} {epochs} {seed}
params: {epochs: 4, lr: 0.1}
"""
STUDY = """\
experiment: experiment.yaml
space: {lr: {choice: [0.1, 0.2, 0.3, 0.4]}}
method: {successive_halving: {configurations: 4, eta: 2, rungs: 2}}
fidelity: {epochs: [2, 4]}
objective: {loss: min}
limits: {time: 5, memory: 300MB}
"""
METRIC = ("--metric", "loss=([0-9.]+)")


def lay_out(root: Path, study: str = STUDY) -> Project:
    """Write an experiment that needs no torch, and a study of it."""
    project = Project(root)
    root.mkdir(exist_ok=True)
    for name, text in {"work.py": WORK, "experiment.yaml": EXPERIMENT, "study.yaml": study}.items():
        project.write(name, text)
    return project


def tune(project: Project, *words: str, check: int = 0, **env: str) -> Done:
    """Run the study."""
    return project.repro("tune", "study.yaml", "--json", *METRIC, *words, check=check, **env)


def runs(project: Project, state: str) -> list[dict]:
    """Return the runs of a project that ended so."""
    return [run for run in project.repro("ls", "--json").json if run["state"] == state]


def outcome_of(project: Project, run_id: str) -> dict:
    """Return a run's outcome."""
    return json.loads((project.store / "runs" / run_id / "outcome.json").read_bytes())


@pytest.mark.parametrize(
    ("text", "expected"), [(600, 600.0), ("600", 600.0), (0.5, 0.5), ("90s", 90.0), ("10m", 600.0), ("1.5 h", 5400.0)]
)
def test_times(text, expected):
    """A time is a number of seconds, or has its unit."""
    assert seconds(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("4GiB", 2**32), ("500MB", 5 * 10**8), ("1.5 kib", 1536)])
def test_sizes(text, expected):
    """A size has its unit, of 1024 or of 1000."""
    assert size(text) == expected


@pytest.mark.parametrize("text", [0, -1, True, None, [], "", "soon", "5x", "-5", float("inf"), float("nan"), "1e3"])
def test_what_is_no_time(text):
    """Anything else is refused with what is expected."""
    with pytest.raises(ValueError, match="such as 10m"):
        seconds(text)


@pytest.mark.parametrize("text", [4, 4.5, "4", "4G", "0GiB", "GiB", "-4GiB", None, "4 gigabytes"])
def test_what_is_no_size(text):
    """A size without its unit could be anything, and is refused."""
    with pytest.raises(ValueError, match="such as 4GiB"):
        size(text)


def test_limits_in_words():
    """Limits are said in the unit that they were given in, and what was in use in the same."""
    assert in_seconds(600.0) == "600 s"
    assert (in_bytes(2**32, 2**32), in_bytes(4.1 * 2**30, 2**32)) == ("4 GiB", "4.1 GiB")
    assert (in_bytes(5 * 10**8, 5 * 10**8), in_bytes(5.5 * 10**8, 5 * 10**8)) == ("500 MB", "550 MB")
    assert (in_bytes(1.14 * 10**9, 9 * 10**8), in_bytes(1500 * 2**20, 2**20)) == ("1140 MB", "1500 MiB")


@pytest.mark.parametrize(
    ("option", "text"), [("--timeout", "0"), ("--timeout", "soon"), ("--memory-limit", "4"), ("--memory-limit", "4G")]
)
def test_a_wrong_limit_is_refused(tmp_path, option, text):
    """A limit that is none is exit code 2, and nothing is run."""
    project = lay_out(tmp_path)
    assert f"error: {option} {text}: a " in project.repro("run", option, text, "experiment.yaml", check=2).err
    assert not project.store.exists()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("{time: -1}", "study.yaml:6: limits.time: a time above 0 is expected"),
        ("{memory: 4}", "study.yaml:6: limits.memory: a size with its unit is expected"),
        ("{tim: 4}", "study.yaml:6: limits.tim: unknown key 'tim'"),
        ("600", "study.yaml:6: limits: the time or the memory that one training may have is expected"),
    ],
)
def test_a_wrong_limit_in_a_study(tmp_path, limits, words):
    """A study file with a limit that is none is exit code 2 with the line."""
    project = lay_out(tmp_path, STUDY.replace("{time: 5, memory: 300MB}", limits))
    assert words in tune(project, "--dry-run", check=2).err


def test_a_table_has_no_limits(tmp_path):
    """A study over a table trains nothing that could be limited."""
    project = lay_out(tmp_path, "table: a.npz\nmethod: random\ntrials: 2\nlimits: {time: 8}\n")
    assert "study.yaml:4: limits: a table has its own" in project.repro("tune", "study.yaml", check=2).err


def test_out_of_time(tmp_path):
    """Beyond its time a run is TIMED_OUT, exit code 124, whatever it made of the signal, and its children are gone."""
    project = Project(tmp_path)
    project.write(
        "train.py",
        "import pathlib, signal, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '120'], start_new_session=True)\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "time.sleep(120)\n",
    )
    found = project.repro("run", "--json", "--timeout", "5", "--", "python", "train.py", check=124)
    assert found.json["state"] == "TIMED_OUT"
    assert found.json["reason"] == "time limit of 5 s"
    assert "TIMED_OUT (time limit of 5 s)" in found.err
    assert [run["state"] for run in project.repro("ls", "--json").json] == ["TIMED_OUT"]
    shown = project.repro("show", "last", "--json", check=0).json
    assert shown["record"]["circumstances"]["launch"]["limits"] == {"time": 5.0, "memory": None}
    assert not Path(f"/proc/{(tmp_path / 'child').read_text()}").exists()


def test_one_that_does_not_heed_the_signal_is_killed(tmp_path):
    """A run that ignores SIGTERM is killed after a short grace; --timeout takes a command's whole group."""
    project = Project(tmp_path)
    (tmp_path / ".repro").mkdir()
    line = "trap '' TERM; sleep 120 & echo here; while :; do sleep 1; done"
    found = project.repro("run", "--json", "--timeout", "3s", "--", "bash", "-c", line, check=124).json
    assert (found["state"], found["signal"]) == ("TIMED_OUT", "SIGKILL")


def test_out_of_memory(tmp_path):
    """Processes count together, children too: beyond the limit the run is FAILED, exit code 137."""
    project = Project(tmp_path)
    project.write(
        "train.py",
        "import subprocess, sys, time\n"
        "held = 'import time; block = b\"x\" * 150_000_000; time.sleep(120)'\n"
        "children = [subprocess.Popen([sys.executable, '-c', held]) for _ in range(4)]\n"
        "time.sleep(120)\n",
    )
    found = project.repro("run", "--json", "--memory-limit", "400MB", "--", "python", "train.py", check=137).json
    reason = found["reason"]
    assert found["state"] == "FAILED"
    assert reason.startswith("memory limit of 400 MB: ")
    assert 400 < float(reason.removesuffix(" MB in use").rpartition(" ")[2]) < 900


def test_shared_memory_counts_once(tmp_path):
    """Forked processes that share a large block are within a limit that each of them has almost reached."""
    project = Project(tmp_path)
    project.write(
        "train.py",
        "import os, time\n"
        "block = b'x' * 200_000_000\n"
        "children = [os.fork() for _ in range(3)]\n"
        "time.sleep(1)\n"
        "if 0 in children: os._exit(0)\n"
        "for child in children: os.waitpid(child, 0)\n",
    )
    found = project.repro("run", "--json", "--memory-limit", "500MB", "--", "python", "train.py", check=0).json
    assert found["state"] == "COMPLETED"


def test_one_that_ended_while_its_memory_was_looked_at_was_not_cut():
    """What is found of a job after its end breaks no limit, and no signal goes to a group that may be another's now."""
    sent: list[int] = []

    def members() -> list[int]:
        dog._done.wait()
        return [os.getpid()]

    dog = Watchdog(RunLimits(memory=1), members, sent.append)
    dog.start()
    assert dog.end() is None
    assert sent == []


@pytest.mark.parametrize(("before", "still"), [(0.2, 2.5), (0.9, 3)])
def test_time_in_which_the_supervisor_stood_still_is_none(tmp_path, before, still):
    """A script that ended in time while its supervisor alone was stopped is COMPLETED, whenever it goes on."""
    project = Project(tmp_path)
    project.write("a.py", "import time\nopen('ready', 'w').close()\ntime.sleep(1.2)\n")
    for _ in range(4):
        (tmp_path / "ready").unlink(missing_ok=True)
        command = [str(REPRO), "run", "--timeout", "2", "--", "python", "a.py"]
        process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.DEVNULL)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        time.sleep(before)
        process.send_signal(signal.SIGSTOP)
        time.sleep(still)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0
    assert {run["state"] for run in project.repro("ls", "--json").json} == {"COMPLETED"}


def test_time_in_which_both_stood_still_is_none(tmp_path):
    """A suspended machine: supervisor and script stopped together, several times, for longer than the limit."""
    project = Project(tmp_path)
    project.write(
        "a.py", "import os, time\nopen('ready', 'w').write(str(os.getpid()))\nfor _ in range(150): time.sleep(0.01)\n"
    )
    command = [str(REPRO), "run", "--timeout", "4", "--", "python", "a.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.DEVNULL)
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        time.sleep(0.01)
    pids = (process.pid, int((tmp_path / "ready").read_text()))
    for _ in range(3):
        for number, pause in ((signal.SIGSTOP, 2.5), (signal.SIGCONT, 0.2)):
            for pid in pids:
                os.kill(pid, number)
            time.sleep(pause)
    assert process.wait(30) == 0
    assert [run["state"] for run in project.repro("ls", "--json").json] == ["COMPLETED"]


def test_a_cut_run_is_compared_as_far_as_it_came(tmp_path):
    """A replay has no limits; of a run that one ended, it compares what was there."""
    project = Project(tmp_path)
    project.write(
        "train.py",
        "import os, time, torch\n"
        "model = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for step in range(6):\n"
        "    if step == 4 and 'EAT' in os.environ:\n"
        "        block = b'x' * 2_000_000_000\n"
        "        time.sleep(120)\n"
        "    optimizer.zero_grad()\n"
        "    model(torch.ones(4, 2)).sum().backward()\n"
        "    optimizer.step()\n",
    )
    found = project.repro("run", "--json", "--memory-limit", "1500MB", "--", "python", "train.py", check=137, EAT="1")
    assert found.json["frames"] == 4
    assert project.repro("replay", "last", "--json", check=0).json["verdict"] == "IDENTICAL"


def test_a_cut_run_is_no_replicate(tmp_path):
    """`repro seeds` makes a replicate anew whose run of the same recipe was ended by a limit."""
    project = lay_out(tmp_path)
    for option, limit, fault, code in (("--timeout", "2", "hang", 124), ("--memory-limit", "300MB", "eat", 137)):
        project.repro("run", option, limit, "experiment.yaml", *METRIC, check=code, FAULT=fault)
    found = project.repro("seeds", "--n", "2", "experiment.yaml", "--json", *METRIC, check=0).json
    assert [run["state"] for run in found["runs"]] == ["COMPLETED", "COMPLETED"]
    assert len(runs(project, "COMPLETED")) == 2


@pytest.fixture(scope="module")
def stuck(tmp_path_factory) -> tuple[Project, Done]:
    """A study by two workers that has stopped: its trial of lr 0.2 hung, three times; and what it said."""
    project = lay_out(tmp_path_factory.mktemp("stuck") / "study")
    return project, tune(project, "--workers", "2", check=1, FAULT="hang", FAULT_LR="0.2")


@pytest.fixture
def copy(stuck, tmp_path) -> Project:
    """A copy of that project: its study goes on from there."""
    shutil.copytree(stuck[0].root, tmp_path / "study", symlinks=True)
    return Project(tmp_path / "study")


def trial_of(project: Project, lr: float) -> dict:
    """Return the trial of a study that has a learning rate."""
    trials = project.repro("study", "trials", "last", "--json", check=0).json
    return next(trial for trial in trials if trial["params"]["lr"] == lr)


def test_a_study_asks(stuck):
    """A trial that is out of time is made again alone, twice; then the study stops and names both ways on."""
    project, said = stuck
    trial = trial_of(project, 0.2)["trial"]
    assert len(runs(project, "TIMED_OUT")) == 3
    assert said.err.count("is made again, alone") == 2
    assert f"error: trial {trial} at 2 epochs: out of time at 5 s, three times: that is no result" in said.err
    assert "hint: raise limits.time in study.yaml and run the same command" in said.err
    assert f"repro tune study.yaml --give-up {trial}" in said.err
    assert trial_of(project, 0.2)["state"] == "running"
    used = next(project.store.glob("studies/*/runs.jsonl")).read_text()
    assert not [run for run in runs(project, "TIMED_OUT") if run["run_id"] in used]


def test_a_raised_limit_goes_on(stuck, copy):
    """Limits are no part of what is sealed: under others the same study goes on, and nobody was given up."""
    study_id = stuck[0].repro("study", "show", "last", "--json").json["study_id"]
    copy.write("study.yaml", STUDY.replace("time: 5", "time: 10m"))
    found = tune(copy).json
    assert (found["study_id"], found["given_up"]) == (study_id, [])
    assert {trial["state"] for trial in found["trials"]} == {"finished", "stopped"}
    assert copy.repro("study", "verify", "last", check=0)


def test_an_answer_is_sealed_and_counts(copy, tmp_path):
    """A trial that was given up is last, with its reason, for this call, the next one, and whoever verifies.

    With the same answer another study comes to the same decisions, whatever it was that it was given up for.
    """
    trial = trial_of(copy, 0.2)["trial"]
    found = tune(copy, "--give-up", str(trial)).json
    given_up = found["trials"][trial]
    assert (given_up["state"], given_up["reason"]) == ("diverged", "out of time at 5 s, three times; given up")
    assert [(item["trial"], item["budget"]) for item in found["given_up"]] == [(trial, 2)]
    assert given_up["run_id"] == found["given_up"][0]["run_id"]
    assert outcome_of(copy, given_up["run_id"])["state"] == "TIMED_OUT"
    again = tune(copy, "--give-up", str(trial))
    assert (again.json["run_now"], again.json["decisions_digest"]) == (0, found["decisions_digest"])
    assert "was given up before" in again.err
    assert len(list(copy.store.glob("studies/*/answers/*.json"))) == 1
    shown = copy.repro("study", "show", "last", "--json", check=0).json
    assert (shown["trials"], shown["given_up"]) == (found["trials"], found["given_up"])
    assert copy.repro("study", "verify", "last", "--json", check=0).json["digest"] == found["decisions_digest"]
    assert copy.repro("verify", check=0)
    assert "given up" in copy.repro("study", "decisions", "last", check=0).out

    other = lay_out(tmp_path / "other")
    tune(other, "--workers", "1", check=1, FAULT="eat", FAULT_LR="0.2")
    assert tune(other, "--give-up", str(trial)).json["decisions_digest"] == found["decisions_digest"]


def test_an_answer_that_is_gone_is_missed(copy):
    """Without the answer the decisions do not follow any more, and the store says which file is missing."""
    tune(copy, "--give-up", str(trial_of(copy, 0.2)["trial"]))
    next(copy.store.glob("studies/*/answers/*.json")).unlink()
    assert "has no record at 2" in copy.repro("study", "verify", "last", check=3).out
    assert "answers/0000.json" in copy.repro("verify", check=3).out


def test_what_cannot_be_given_up(copy):
    """A trial that has its results, or does not exist, is not given up: exit code 2."""
    trials = [trial["trial"] for trial in copy.repro("study", "trials", "last", "--json").json]
    good = str(trial_of(copy, 0.3)["trial"])
    assert "there is nothing to give up" in tune(copy, "--give-up", good, check=2).err
    assert "there is no trial 9: 4 have begun" in tune(copy, "--give-up", "9", check=2).err
    assert "--give-up is of a study's trainings" in tune(copy, "--give-up", "1", "--dry-run", check=2).err
    assert trials == [0, 1, 2, 3]


def test_finalists_and_controls_that_are_given_up(tmp_path):
    """What is given up after the search decides nothing: a finalist has no mean, a control is the worst."""
    whole = STUDY + "seeds: {finalists: 2}\ncontrols: true\n"
    project = lay_out(tmp_path, whole)
    fault = {"FAULT": "eat", "FAULT_LR": "0.1", "FAULT_EPOCHS": "4", "FAULT_NOT_SEED": str(integer_seed(0))}
    assert "trial 0 at 4 epochs" in tune(project, check=1, **fault).err
    before = project.repro("study", "show", "last", "--json", check=0).json
    worst = str(trial_of(project, 0.4)["trial"])
    control = {"FAULT": "eat", "FAULT_LR": "0.4", "FAULT_EPOCHS": "4"}
    assert f"trial {worst} at 4 epochs" in tune(project, "--give-up", "0", check=1, **control).err
    found = tune(project, "--give-up", worst).json
    assert found["decisions_digest"] == before["decisions_digest"]
    assert found["best"] == before["best"]
    assert found["trials"][0]["state"] == "finished"
    assert {item["trial"]: item["mean"] for item in found["finalists"]}[0] is None
    assert found["controls"]["random_full"]["runs"]
    assert [item["trial"] for item in found["given_up"]] == [0, int(worst)]
    assert project.repro("study", "verify", "last", check=0)


def test_what_was_given_up_is_not_tried_in_full(tmp_path):
    """A control of a trial that was given up at a smaller budget is the worst, and nothing is run for it."""
    project = lay_out(tmp_path, STUDY + "controls: true\n")
    fault = {"FAULT": "eat", "FAULT_LR": "0.4"}
    tune(project, check=1, **fault)
    trial = trial_of(project, 0.4)["trial"]
    found = tune(project, "--give-up", str(trial), **fault).json
    assert [(item["trial"], item["budget"]) for item in found["given_up"]] == [(trial, 2)]
    assert found["controls"]["random_full"]["runs"]
    assert len(runs(project, "FAILED")) == 3


def test_warm_trainings_have_limits(tmp_path):
    """Workers that are forked from a template are watched too; too little memory in torch is no result either."""
    project = Project(tmp_path)
    project.write(
        "train.py",
        "import time, torch\n"
        "def train(run):\n"
        "    if run.params.kind == 'eat':\n"
        "        block = b'x' * 2_000_000_000\n"
        "        time.sleep(120)\n"
        "    if run.params.kind == 'huge': torch.empty(10**15)\n"
        "    if run.params.kind == 'broken': raise ValueError('broken')\n"
        "    run.log(loss=1.0)\n",
    )
    project.write("experiment.yaml", "name: toy\nentry: train.py:train\nparams: {kind: plain}\nthreads: 1\n")
    project.write(
        "study.yaml",
        "experiment: experiment.yaml\nspace: {kind: {choice: [broken, eat, huge, plain]}}\nmethod: grid\n"
        "objective: {loss: min}\nlimits: {memory: 1500MB}\n",
    )
    words: tuple[str, ...] = ()
    for code in (1, 1, 0):
        done = project.repro("tune", "study.yaml", "--workers", "2", "--json", *words, check=code)
        words = ("--give-up", done.err.partition("--give-up ")[2].partition(":")[0])
    reasons = {trial["params"]["kind"]: trial["reason"] for trial in done.json["trials"]}
    assert (reasons["plain"], reasons["broken"]) == (None, "ValueError")
    assert reasons["eat"].startswith("out of memory at 1.5 GB, ")
    assert reasons["huge"].startswith("out of memory, ")
    for run in runs(project, "FAILED"):
        record = json.loads((project.store / "runs" / run["run_id"] / "record.json").read_bytes())
        assert record["circumstances"]["launch"]["warm"]


def test_ctrl_c_beside_a_limit_is_an_interrupt(tmp_path):
    """A run that was interrupted is CANCELLED also where it has a limit."""
    project = Project(tmp_path)
    line = f"import os, time; os.kill(os.getppid(), {int(signal.SIGINT)}); time.sleep(60)"
    found = project.repro("run", "--json", "--timeout", "60", "--", "python", "-c", line, check=130).json
    assert found["state"] == "CANCELLED"
    assert os.path.isdir(found["path"])
