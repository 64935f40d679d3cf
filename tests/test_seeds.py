"""`repro seeds`: one recipe under several seeds, each an ordinary run; nothing is done twice."""

import contextlib
import json
import os
import pty
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPRO, Project, clean_environment

from repro.errors import UsageError
from repro.seeds import plan, studies
from repro.store.store import Store

TRAIN = """\
import torch


def train(run):
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    y = x.sum(1, keepdim=True)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr)
    for step in range(20):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    open("left.txt", "a").write("x")
    run.log(loss=loss.item(), length=len(open("left.txt").read()))
"""
EXPERIMENT = """\
name: seeds
entry: train.py:train
params: {lr: 0.05}
threads: 1
metrics: {loss: {direction: minimize}}
"""


@pytest.fixture
def experiment(project: Project) -> Project:
    """A project with a quick experiment that writes to one file name in every run."""
    return project.with_experiment(TRAIN, EXPERIMENT)


def test_replicates_are_ordinary_runs_that_are_run_once(experiment: Project) -> None:
    """Seeds 0 to n - 1, each a record; more later run only the missing ones, and a run made by hand counts.

    Every one ran in a folder of its own: none found the file that the others had left, and the tree is as it was.
    """
    by_hand = experiment.run("experiment.yaml", "--seed", "1")
    (experiment.root / "left.txt").unlink()
    first = experiment.seeds("--n", "3", "experiment.yaml")
    assert ([run["seed"] for run in first["runs"]], first["failed"], first["run_now"]) == ([0, 1, 2], 0, 2)
    assert first["runs"][1]["run_id"] == by_hand["run_id"]
    assert {run["metrics"]["length"] for run in first["runs"]} == {1.0}
    assert not (experiment.root / "left.txt").exists()
    assert len({run["metrics"]["loss"] for run in first["runs"]}) == 3
    values = first["metrics"]["loss"]
    assert values["mean"] == pytest.approx(sum(run["metrics"]["loss"] for run in first["runs"]) / 3)
    assert values["t_interval"][0] < values["mean"] < values["t_interval"][1]
    more = experiment.seeds("--n", "4", "experiment.yaml")
    assert (more["run_now"], more["study_id"], more["runs"][:3]) == (1, first["study_id"], first["runs"])
    assert experiment.seeds("--n", "4", "experiment.yaml")["run_now"] == 0
    run_id = more["runs"][3]["run_id"]
    assert json.loads(experiment.repro("replay", run_id, "--json", check=0).out)["verdict"] == "IDENTICAL"
    text = experiment.repro("seeds", "--n", "4", "experiment.yaml", check=0).out
    assert text.count("(the best of them: luck, not a result)") == 1


#: From seed 3 on it waits until there is a file, which is no input of its.
WAIT = """\
    while run.seed >= 3 and not os.path.exists(os.environ.get("GO", "/")):
        time.sleep(0.05)
"""


def test_the_report_is_the_same_in_two_stores(make_project: Callable[[str], Project], tmp_path: Path) -> None:
    """Bytes are equal with 1 and with 2 workers, in another folder and store, and after a kill at 3 of 5.

    Killed with SIGKILL, the controller alone, while the fourth goes on: run again, exactly the 2 missing ones are run.
    """
    words = ["seeds", "--n", "5", "experiment.yaml"]
    projects = [make_project(name).with_experiment(TRAIN, EXPERIMENT) for name in ("one", "two", "killed")]
    for project in projects:
        script = TRAIN.replace("def train(run):\n", f"def train(run):\n{WAIT}")
        project.write("train.py", f"import os\nimport time\n\n{script}")
    one, two, killed = projects
    text = one.repro(*words, check=0).out
    assert two.repro(*words, "--workers", "2", check=0).out == text
    with subprocess.Popen(
        [REPRO, *words],
        cwd=killed.root,
        env=clean_environment(GO=str(tmp_path / "go")),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("[3/5] seed 2: COMPLETED" in line for line in process.stderr)
        process.kill()
    (tmp_path / "go").touch()
    again = killed.repro(*words, check=0, GO=str(tmp_path / "go"))
    assert again.out == text
    assert "3 read, not run" in again.err
    assert "[5/5] seed 4: COMPLETED" in again.err
    states = [run["state"] for run in killed.repro("ls", "--json", check=0).json]
    assert states.count("COMPLETED") == 5
    assert killed.repro(*words, check=0).err.count("(there already)") == 5


def test_a_command_gets_its_seed(project: Project) -> None:
    """`{seed}` is another number for each replicate; failed ones are counted, and are results: not run again."""
    project.write(
        "train.py",
        "import sys, torch, repro\ntorch.manual_seed(int(sys.argv[1]))\nw = torch.randn(3, requires_grad=True)\n"
        "o = torch.optim.SGD([w], lr=0.1)\nw.sum().backward()\no.step()\nrepro.current().log(w=w.sum().item())\n"
        "assert repro.current().seed != 2, 'no luck'\n",
    )
    words = ["--n", "4", "--", "python", "train.py", "{seed}"]
    found = project.seeds(*words)
    assert [run["state"] for run in found["runs"]] == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    assert (found["failed"], found["metrics"]["w"]["n"]) == (1, 3)
    assert len(set(found["metrics"]["w"]["values"].values())) == 3
    assert project.seeds(*words)["run_now"] == 0
    assert "4 seeds, 3 completed, 1 FAILED" in project.repro("seeds", *words, check=0).out


def test_a_script_that_seeds_with_a_constant_is_refused(project: Project) -> None:
    """Equal trails under other seeds are one run: refused with the line that seeds, never called stable."""
    project.write(
        "train.py",
        "import torch, repro\ntorch.manual_seed(42)\nw = torch.randn(3, requires_grad=True)\n"
        "o = torch.optim.SGD([w], lr=0.1)\nw.sum().backward()\no.step()\nrepro.current().log(w=w.sum().item())\n",
    )
    done = project.repro("seeds", "--n", "2", "--stable-within", "1", "--", "python", "train.py", check=2)
    assert "seeds 0 and 1 left equal trails: they are one run, not two" in done.err
    assert "train.py:2 calls torch.manual_seed(42), whatever repro says" in done.err
    assert "stable" not in done.out


def test_an_input_that_changed_is_no_ground_to_reuse(experiment: Project) -> None:
    """A replicate is read only while every file that it read is as it was; the line says how many were checked."""
    experiment.write(".gitignore", "data.txt\n")
    experiment.write("data.txt", "1.0\n")
    experiment.write("train.py", TRAIN.replace("y = x.sum(1, ", "y = float(open('data.txt').read()) * x.sum(1, "))
    experiment.git("init", "-q")
    assert experiment.seeds("--n", "2", "experiment.yaml")["run_now"] == 2
    again = experiment.repro("seeds", "--n", "2", "experiment.yaml", check=0)
    assert "2 read, not run; 2 input files checked" in again.err
    experiment.write("data.txt", "2.0\n")
    assert experiment.seeds("--n", "2", "experiment.yaml")["run_now"] == 2


def test_stable_or_not(experiment: Project) -> None:
    """A declared limit on the spread: within it `stable` and 0, beyond it `unstable`, why, and 1."""
    words = ["--n", "3", "experiment.yaml"]
    assert experiment.repro("seeds", "--stable-within", "1e6", *words, check=0).out.endswith("\nstable\n")
    done = experiment.repro("seeds", "--stable-within", "1e-9", *words, check=1)
    assert "loss: sd " in done.out
    assert done.out.endswith("\nunstable\n")
    assert experiment.seeds("--stable-within", "1e-9", *words, check=1)["verdict"] == "unstable"


def test_two_experiments_are_compared_seed_by_seed(experiment: Project) -> None:
    """Paired differences with interval, p and P(A>B); a sentence; no claim with few seeds; one recipe is refused."""
    experiment.write("slow.yaml", EXPERIMENT.replace("0.05", "0.001"))
    words = ["compare", "experiment.yaml", "slow.yaml", "--n", "3", "--json"]
    compared = json.loads(experiment.repro("seeds", *words, check=0).out)
    found = compared["metrics"]["loss"]
    assert (found["n"], found["probability_of_improvement"]) == (3, 0.0)
    assert found["difference"] > 0
    assert found["t_interval"][0] < found["difference"] < found["t_interval"][1]
    assert found["sentence"] == (
        "experiment is better than slow in 3 of 3 seeds; not enough to claim it: 44 pairs would be"
    )
    again = experiment.repro("seeds", "compare", compared["a"][:6], compared["b"], "--json", check=0)
    assert (json.loads(again.out)["metrics"]["loss"]["difference"], again.err) == (found["difference"], "")
    done = experiment.repro("seeds", "compare", compared["a"], "zz", check=2)
    assert "no study 'zz'" in done.err
    done = experiment.repro("seeds", "compare", compared["a"], "last", "--n", "9", check=2)
    assert "is read as it is: no --n" in done.err
    last = json.loads(experiment.repro("seeds", "plan", "--effect", "0.5", "last", "--json", check=0).out)
    assert last["study_id"] == compared["b"]
    experiment.write("same.yaml", EXPERIMENT)
    done = experiment.repro("seeds", "compare", "experiment.yaml", "same.yaml", "--n", "2", check=2)
    assert "one recipe" in done.err
    planned = experiment.repro("seeds", "plan", "--effect", "0.5", "--n", "3", "experiment.yaml", check=0)
    assert "seeds a side" in planned.out


@pytest.mark.parametrize(
    ("count", "given", "said"),
    [
        (None, "3,3,4", "seed 3 is there twice"),
        (None, "1", "at least 2 seeds"),
        (None, "1,x", "'x' is no whole number"),
        (1, None, "at least 2 seeds"),
        (3, "1,2", "are 2 seeds, --n says 3"),
    ],
)
def test_seeds_that_are_none_are_refused(count: int | None, given: str | None, said: str) -> None:
    """One seed twice would count luck twice; each refusal says what was expected."""
    with pytest.raises(UsageError, match=said):
        plan.seeds(count, given)


def test_seeds_are_counted_from_0() -> None:
    """5 unless given; a list is taken as it is."""
    assert plan.seeds(None, None) == [0, 1, 2, 3, 4]
    assert plan.seeds(None, "7, 2") == [7, 2]


def test_a_table_while_it_runs(project: Project) -> None:
    """On a terminal a table shows what waits, runs, failed or diverged; NO_COLOR takes its colours; elsewhere lines."""
    project.write(
        "train.py",
        "import repro\nrun = repro.current()\nrun.log(loss=[0.5, float('nan'), 0.2][run.seed])\n"
        "assert run.seed != 2, 'no luck'\n",
    )
    words = ["seeds", "--n", "3", "--", "python", "train.py"]
    shown = on_terminal(project, *words, TERM="xterm")
    for text in (
        "waiting",
        "running",
        "FAILED",
        "COMPLETED, loss diverged",
        "3 of 3 runs are over, 1 FAILED, 1 diverged",
    ):
        assert text in shown
    assert "\x1b[32m" in shown
    shown = on_terminal(project, *words, TERM="xterm", NO_COLOR="1")
    assert "(there already)" in shown
    assert not any(f"\x1b[{code}m" in shown for code in range(30, 38))
    assert "[3/3] seed 2: FAILED" in on_terminal(project, *words, TERM="dumb")
    done = project.repro(*words, check=0)
    assert "[2/3] seed 1: COMPLETED, loss diverged" in done.err
    assert "repro: 3 of 3 runs are over, 1 FAILED, 1 diverged" in done.err
    assert "\x1b" not in done.err
    assert "3 seeds, 2 completed, 1 FAILED\n\nloss (1 diverged)" in done.out


def on_terminal(project: Project, *words: str, **env: str) -> str:
    """Run ``repro`` with a terminal for its standard error; return what was shown there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 160))
    variables = {name: value for name, value in clean_environment().items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [REPRO, *words], cwd=project.root, env=variables | env, stdout=subprocess.DEVNULL, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal without a writer says
            while data := os.read(ours, 65536):
                shown += data
    os.close(ours)
    assert process.returncode == 0
    return shown.decode()


def test_one_study_is_found_by_its_beginning(tmp_path: Path) -> None:
    """Runs that differ in their master seed alone are one study, whoever made them; of one seed the first counts."""
    store = Store.create(tmp_path / "store")
    with pytest.raises(UsageError, match="no study is in the store"):
        studies.find(store, "last")
    with pytest.raises(UsageError, match="no study 'abc'"):
        studies.find(store, "abc")
