"""`repro replay --why`: one machine plays several, and the cause is proved by undoing it."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st

from repro.replay.why import smallest

#: A network whose bits depend on threads, on each instruction set, on the hash seed, on data, code and parameters.
TRAIN = """\
import numpy as np
import torch
from torch import nn

import scale


def train(run):
    x = torch.tensor(np.loadtxt("data/x.txt", dtype=np.float32)) * scale.FACTOR
    words = list({"a", "b", "c", "d", "e", "f", "g", "h"})
    x[0, 0] += sum(ord(word) * 9**place for place, word in enumerate(words)) % 99_991 * 1e-5  # another in each order
    model = nn.Sequential(
        nn.Unflatten(1, (1, 16, 32)), nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(4096, 32),
        nn.LayerNorm(32), nn.Linear(32, 10), nn.LogSoftmax(1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr, momentum=0.9)
    for step in run.epochs():
        optimizer.zero_grad()
        loss = -model(x)[:, step].mean()
        loss.backward()
        optimizer.step()
        run.log(step=step, loss=loss.item())
"""
EXPERIMENT = "name: why\nentry: train.py:train\nparams: {epochs: 3, lr: 0.1}\nthreads: 2\n"


def lay_out(project: Project) -> Project:
    """Make an experiment with ignored data beside its code, and run it once."""
    rows = np.random.default_rng(0).normal(size=(64, 512))
    project.write("data/x.txt", "\n".join(" ".join(f"{value:.4f}" for value in row) for row in rows) + "\n")
    project.write(".gitignore", "data/\n")
    project.write("scale.py", "FACTOR = 1.0\n")
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    project.git("init", "-q")
    project.run("experiment.yaml")
    return project


@pytest.fixture
def several(project: Project) -> Project:
    """A project with an experiment that was run once."""
    return lay_out(project)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same for tests that leave its files as they are."""
    return lay_out(Project(tmp_path_factory.mktemp("untouched")))


def prove(project: Project, *words: str) -> tuple[list[tuple[str, str]], dict[str, object]]:
    """Return the proved cause by kind and path, and the document."""
    document = json.loads(project.repro("replay", "last", "--why", "--json", *words, check=3).out)
    assert document["cause"] is not None, document["why"]
    assert document["cause"]["proved"]
    return [(item["kind"], item["path"]) for item in document["cause"]["differences"]], document


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("threads=1", ("threads", "threads")),
        ("env.ATEN_CPU_CAPABILITY=default", ("environment", "environment.ATEN_CPU_CAPABILITY")),
        ("env.ONEDNN_MAX_CPU_ISA=SSE41", ("environment", "environment.ONEDNN_MAX_CPU_ISA")),
        ("env.MKL_CBWR=COMPATIBLE", ("environment", "environment.MKL_CBWR")),
        ("env.PYTHONHASHSEED", ("environment", "environment.PYTHONHASHSEED")),
        ("seed=1", ("seed", "seed")),
        ("params.lr=0.11", ("parameter", "params.lr")),
    ],
)
def test_one_change_on_purpose_is_the_cause(untouched: Project, change: str, cause: tuple[str, str]) -> None:
    """Whatever is changed, exactly that is proved, though other circumstances were changed that do not matter."""
    found, _ = prove(untouched, "--with", change, "--with", "env.TZ=Asia/Tokyo")
    assert found == [cause]


def test_one_byte_of_the_data_is_the_cause(several: Project) -> None:
    """A data file that changed since is put back from the store for the proof; the user's file stays as it is."""
    path = several.root / "data" / "x.txt"
    changed = b"9" + path.read_bytes()[1:]
    path.write_bytes(changed)
    found, document = prove(several, "--inputs", "current")
    assert found == [("data", "inputs.data/x.txt")]
    assert document["verdict"] == "DIFFERENT"
    assert path.read_bytes() == changed


def test_a_pair_planted_together_is_found_as_the_pair(several: Project) -> None:
    """A line of code and a variable, each of which breaks identity alone: both are named, and nothing else."""
    several.write("scale.py", "FACTOR = 1.5\n")
    several.write("new.py", "unused = 1\n")
    found, _ = prove(several, "--code", "current", "--with", "env.ATEN_CPU_CAPABILITY=default")
    assert sorted(found) == [("code", "scale.py"), ("environment", "environment.ATEN_CPU_CAPABILITY")]


def test_an_identical_pair_has_no_cause(several: Project) -> None:
    """Where the replay is identical, nothing is searched and nothing named, also with code that does not matter."""
    several.write("new.py", "unused = 1\n")
    document = json.loads(several.repro("replay", "last", "--why", "--json", "--code", "current", check=0).out)
    assert (document["verdict"], document["cause"]) == ("IDENTICAL", None)
    assert document["why"]["replays"] == 1


def test_a_run_that_differs_from_itself_has_no_cause(project: Project) -> None:
    """Two replays that disagree are no matter of circumstances: no cause, and a hint at `repro diagnose`."""
    project.write(
        "train.py",
        "import os, torch\nw = torch.nn.Parameter(torch.zeros(3))\no = torch.optim.SGD([w], lr=1.0)\n"
        "w.grad = torch.tensor([*os.urandom(3)]).float()\no.step()\n",
    )
    project.run("--", "python", "train.py")
    document = json.loads(project.repro("replay", "last", "--why", "--json", check=3, UNUSED="1").out)
    assert document["cause"] is None
    assert "differs from itself" in document["why"]["reason"]
    assert "repro diagnose" in document["why"]["hint"]


#: It differs from itself in those of its executions that RARE names; the count is kept where no replay is refused to.
RARE = """\
import os, subprocess
count = int(subprocess.run(["sh", "-c", "echo >> $COUNT; wc -l < $COUNT"], capture_output=True, text=True).stdout) - 1
with open("out.txt", "w") as out:
    out.write(str(count in map(int, os.environ["RARE"].split(","))))
"""


@pytest.mark.parametrize(
    ("rare", "evidence"),
    [
        ("1", "of two replays that were made alike, one was identical and one was not"),
        ("1,2", "with environment.TZ put back it was identical as well"),
        ("1,2,4", "without environment.TZ it was identical 1 of 2 times"),
        ("1,2,5,6", "without environment.TZ it was identical 2 of 3 times"),
    ],
)
def test_a_run_that_rarely_differs_from_itself_proves_nothing(project: Project, rare: str, evidence: str) -> None:
    """What was changed is not the cause: runs with and without it, in turns, come out as they should not.

    The reason says so, and `repro diagnose` is offered; the first replay keeps its verdict.
    """
    project.write("train.py", RARE)
    around = {"COUNT": str(project.root.parent / "count"), "RARE": rare}
    project.run("--", "python", "train.py", **around)
    document = project.replay("last", "--why", "--with", "env.TZ=Asia/Tokyo", check=3, **around)
    assert (document["verdict"], document["cause"]) == ("DIFFERENT", None)
    assert document["why"]["reason"] == f"the run differs from itself: {evidence}"
    assert document["why"]["hint"] == f"repro diagnose {document['replay_of']}"


#: Its result hangs on two variables together with one of its own.
PAIR = """\
import os
with open("out.txt", "w") as out:
    out.write("other" if os.environ.get("ONE") or os.environ.get("TWO") else "same")
"""


def test_the_proof_says_how_often_each_way_was_run(project: Project) -> None:
    """Without the set and with each of its members in turns, twice: numbers of both in the sentence and in JSON."""
    project.write("train.py", PAIR)
    project.run("--", "python", "train.py")
    one = project.replay("last", "--why", "--with", "env.ONE=1", "--with", "env.TZ=Asia/Tokyo", check=3)["cause"]
    assert (one["proved"], one["replays"], one["undone"], one["put_back"]) == (True, 7, 3, 4)
    done = project.repro("replay", "last", "--why", "--with", "env.ONE=1", "--with", "env.TWO=1", check=3)
    title = "cause, proved by 14 replays (3 without them: identical each time; 6 with them or one of them: not once):"
    assert title in done.out
    assert "environment: environment.ONE: none -> 1" in done.out


def test_what_cannot_be_undone_is_said(trained: Project) -> None:
    """A variable that was set then and is set to another value now cannot be undone: it is named as such."""
    trained.run("--", "python", "train.py", FAULT="none@7")
    done = trained.repro("replay", "last", "--why", check=3, FAULT="lr@7")
    assert "cause: none proved" in done.out
    assert "cannot be undone here:\n    environment: variables.FAULT" in done.out
    assert done.out.splitlines()[-1] == "DIFFERENT"


def test_a_variable_of_the_users_own_is_undone_by_unsetting_it(trained: Project) -> None:
    """One that was not set when the run was recorded is the cause, among others that do not matter."""
    trained.run("--", "python", "train.py")
    document = json.loads(trained.repro("replay", "last", "--why", "--json", check=3, FAULT="lr", OTHER="1").out)
    assert [item["path"] for item in document["cause"]["differences"]] == ["variables.FAULT"]


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_the_set_found_is_the_smallest_that_holds(case: tuple[int, set[int]]) -> None:
    """Where exactly the supersets of one set hold, that set is found, whatever lies around it, in few tries."""
    count, wanted = case
    tries = []

    def holds(things: Sequence[int]) -> bool:
        tries.append(things)
        return wanted <= set(things)

    assert smallest(range(count), holds) == sorted(wanted)
    assert len(tries) <= count**2 + 3 * count


def test_where_nothing_holds_nothing_is_found() -> None:
    """None, not an empty set: also with nothing to try."""
    assert smallest([], lambda _things: True) is None
    assert smallest([1, 2, 3], lambda _things: False) is None


#: A script whose bits depend on files with odd names, on a variable, and on data that it is told the place of.
ODD = """\
import os
import pathlib
import sys

import torch

paths = map(pathlib.Path, [":odd.txt", "thing", *sys.argv[1:]])
factor = sum(float(path.read_text()) for path in paths if path.is_file())
weight = torch.nn.Parameter(torch.zeros(3))
optimizer = torch.optim.SGD([weight], lr=1.0)
weight.grad = torch.ones(3) * (factor + float(os.environ.get("MINE", "0")))
optimizer.step()
"""


@pytest.fixture
def odd(project: Project) -> Project:
    """A project with such a script, and its files."""
    project.write("train.py", ODD)
    project.write(":odd.txt", "1")
    project.write("thing", "2")
    project.git("init", "-q")
    return project


def test_names_that_git_could_misread_and_files_that_became_folders(odd: Project) -> None:
    """A file is undone by its very name, whatever that means to git; also one whose name a folder has now."""
    odd.run("--", "python", "train.py")
    odd.write(":odd.txt", "3")
    found, document = prove(odd, "--code", "current")
    assert found == [("code", ":odd.txt")]
    [item] = document["cause"]["differences"]
    assert item["before"].startswith("git:")
    assert item["after"].startswith("git:")
    odd.write(":odd.txt", "1")
    (odd.root / "thing").unlink()
    odd.write("thing/inside", "2")
    found, _ = prove(odd, "--code", "current")
    assert found == [("code", "thing")]


def test_what_a_file_is_counts_as_well(odd: Project) -> None:
    """Two entries of one content that are of different kinds are told apart in words."""
    odd.write("train.py", ODD.replace("path.is_file()", "os.access(path, os.X_OK)"))
    odd.run("--", "python", "train.py")
    (odd.root / "thing").chmod(0o755)
    _, document = prove(odd, "--code", "current")
    [item] = document["cause"]["differences"]
    assert item["after"] == f"{item['before']} (executable)"


def test_a_variable_of_the_users_own_that_is_unset_on_purpose_is_the_cause(odd: Project) -> None:
    """Its value is not kept, but it is there: undone, the variable is as it is now."""
    odd.run("--", "python", "train.py", MINE="5")
    document = json.loads(odd.repro("replay", "last", "--why", "--json", "--with", "env.MINE", check=3, MINE="5").out)
    assert document["cause"]["proved"]
    assert [item["path"] for item in document["cause"]["differences"]] == ["environment.MINE"]
    assert document["why"]["not_undone"] == []


def test_data_that_a_replay_cannot_put_back_is_not_ruled_out(odd: Project) -> None:
    """A file that is read by its absolute path is read where it lies: it is named, and not said to be no cause."""
    data = odd.root.parent / "elsewhere.txt"
    data.write_text("3")
    odd.run("--", "python", "train.py", str(data))
    data.write_text("4")
    done = odd.repro("replay", "last", "--why", check=3)
    assert "cannot be undone here:\n    data: inputs./" in done.out
    assert "read past the replay's folder" in done.out
    assert "restores identity" not in done.out


def test_the_current_code_of_a_project_that_was_moved(odd: Project) -> None:
    """It is that of the place where the project lies now."""
    odd.run("--", "python", "train.py")
    there = odd.root.parent / "there"
    odd.root.rename(there)
    moved = Project(there)
    assert moved.replay("last", "--code", "current", check=0)["verdict"] == "IDENTICAL"
    moved.write("thing", "7")
    assert moved.replay("last", "--code", "current", check=3)["verdict"] == "DIFFERENT"
