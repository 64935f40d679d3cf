"""Which changes of the code make a run another one: what it opened, imported, listed and looked for."""

import os
import subprocess
import time

import pytest
from conftest import REPRO, Project, clean_environment

from repro.run import relevance
from repro.run.relevance import Seen
from repro.store.code import CodeChange


def seen(**fields: object) -> Seen:
    """Return what a run saw: `train.py` opened, nothing listed, no module missing, unless said otherwise."""
    values = {"opened": {"train.py"}, "listed": set(), "missing": set(), "is_blind": False, "is_whole": False} | fields
    return Seen(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "path", "run", "matters"),
    [
        ("M", "train.py", seen(), True),
        ("M", "README.md", seen(), False),
        ("A", "log.txt", seen(), False),
        ("A", "nb.ipynb", seen(), False),
        ("M", "other.py", seen(), False),
        ("A", "plot.py", seen(), False),
        ("A", "fast.py", seen(missing={"fast"}), True),
        ("A", "fast/__init__.py", seen(missing={"fast"}), True),
        ("A", "pkg/fast.so", seen(missing={"pkg.fast"}), True),
        ("A", "plot.py", seen(missing=None), True),
        ("A", "log.txt", seen(missing=None), False),
        ("A", "parts/b", seen(listed={"parts"}), True),
        ("A", "parts/deep/b", seen(listed={"parts"}), True),
        ("D", "parts/b", seen(listed={"parts"}), True),
        ("M", "parts/b", seen(listed={"parts"}), False),
        ("A", "b.txt", seen(listed={""}), True),
        ("A", "partsb/b", seen(listed={"parts"}), False),
        ("A", "flag.txt", seen(), True),
        ("M", "table.csv", seen(is_blind=True), True),
        ("M", "README.md", seen(is_blind=True), False),
        ("A", "slurm-101.out", seen(is_blind=True), False),
        ("M", "README.md", seen(is_whole=True), True),
    ],
)
def test_what_matters(status: str, path: str, run: Seen, matters: bool) -> None:
    """One change against what one run saw; the code that it opened names `flag.txt`."""
    found = relevance.matter([CodeChange(status=status, path=path)], run, lambda name: name == "flag.txt")
    assert bool(found) is matters


TRAIN = """
import os, json, helper
try:
    import fast
except ImportError:
    fast = None
def train(run):
    value = helper.F * json.load(open("conf.json"))["x"] + len(os.listdir("parts"))
    run.log(a=value + 5 * (fast is not None) + 7 * os.path.exists("flag.txt"))
"""


def test_a_study_trains_again_what_may_have_changed(project: Project) -> None:
    """A README, a notebook, a log and a module that nobody imports train nothing; what a run reads trains all."""
    project.with_experiment(TRAIN, "name: s\nentry: train.py:train\n")
    for name, text in (("helper.py", "F = 3"), ("conf.json", '{"x": 2}'), ("parts/a", "1")):
        project.write(name, text)

    def made(value: float) -> int:
        found = project.seeds("--n", "2", "experiment.yaml")
        assert {run["metrics"]["a"] for run in found["runs"]} == {value}
        return int(found["run_now"])

    assert made(7) == 2
    for name in ("README.md", "notes.ipynb", "log.txt", "plot.py"):
        project.write(name, "x = 1\n")
    assert made(7) == 0
    changes = [
        ("helper.py", "F = 4", 9),
        ("conf.json", '{"x": 3}', 13),
        ("parts/b", "2", 14),
        ("fast.py", "", 19),
        ("flag.txt", "", 26),
    ]
    for name, text, value in changes:
        project.write(name, text)
        assert made(value) == 2, name
    assert project.seeds("--n", "3", "experiment.yaml")["run_now"] == 1


RESUMED = """
import os, signal, torch, helper
def train(run):
    m = torch.nn.Linear(2, 1)
    o = torch.optim.SGD(m.parameters(), lr=0.1)
    run.resume(model=m, optimizer=o)
    for e in run.epochs():
        if e == 2 and not os.environ.get("SECOND"):
            os.kill(os.getpid(), signal.SIGKILL)
        loss = m(torch.randn(4, 2)).pow(2).mean()
        o.zero_grad()
        loss.backward()
        o.step()
        run.checkpoint(model=m, optimizer=o)
"""


def test_a_run_goes_on_beside_the_logs_of_its_jobs(project: Project) -> None:
    """What a scheduler, or `tee`, writes into the project is no other recipe; an imported module is, and is named."""
    project.with_experiment(RESUMED, "name: s\nentry: train.py:train\nparams: {epochs: 4}\n")
    project.write("helper.py", "")
    shell = f"{REPRO} run experiment.yaml 2>&1 | tee -a log.txt > slurm-101.out"
    subprocess.run(["bash", "-c", shell], cwd=project.root, env=clean_environment(), check=True)
    project.write("helper.py", "x = 1")
    refused = project.repro("run", "--resume", "last", check=2, SECOND="1")
    assert "helper.py (M)" in refused.err
    assert "slurm" not in refused.err
    project.write("helper.py", "")
    shell = f"set -o pipefail; {REPRO} run --resume last 2>&1 | tee -a log.txt > slurm-102.out"
    done = subprocess.run(["bash", "-c", shell], cwd=project.root, env=clean_environment(SECOND="1"), check=False)
    assert done.returncode == 0, (project.root / "slurm-102.out").read_text()


def test_what_a_run_writes_is_no_code_of_one_that_begins_meanwhile(project: Project) -> None:
    """Two jobs of one project at the same time: the second's tree has nothing that the first has left so far."""
    project.write(
        "a.py", "import sys, time\nopen(f'out{sys.argv[1]}', 'w').write('x')\ntime.sleep(float(sys.argv[2]))\n"
    )
    first = subprocess.Popen(
        [REPRO, "run", "--", "python", "a.py", "1", "30"], cwd=project.root, env=clean_environment()
    )
    while not (project.root / "out1").exists():
        time.sleep(0.05)
    second = project.run("--", "python", "a.py", "2", "0")
    first.terminate()
    first.wait()
    record = project.repro("show", second["run_id"], "--json").json["record"]
    tree = record["recipe"]["code"].removeprefix("git:")
    names = subprocess.check_output(
        ["git", "--git-dir", os.fspath(project.store / "code.git"), "ls-tree", "--name-only", tree], text=True
    )
    assert names.split() == ["a.py"]


def test_the_other_seeds_of_a_recipe_may_have_another_readme(project: Project) -> None:
    """COMPATIBLE rests on runs whose code differs in files that they never opened."""
    project.write(
        "draw.py", "import os, random, repro\nrepro.current().log(a=random.random() + float(os.environ.get('S', 0)))\n"
    )
    for seed in range(6):
        project.write("README.md", str(seed))
        project.run("--seed", str(seed), "--", "python", "draw.py")
    found = project.replay("last", "--with", "env.S=0.001", check=0)
    assert (found["verdict"], found["tests"][0]["n"]) == ("COMPATIBLE", 6)
