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
    x[0, 0] += words.index("a") * 0.001
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


@pytest.fixture
def several(project: Project) -> Project:
    """A project with an experiment that was run once, with ignored data beside its code."""
    rows = np.random.default_rng(0).normal(size=(64, 512))
    project.write("data/x.txt", "\n".join(" ".join(f"{value:.4f}" for value in row) for row in rows) + "\n")
    project.write(".gitignore", "data/\n")
    project.write("scale.py", "FACTOR = 1.0\n")
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    project.git("init", "-q")
    project.run("experiment.yaml")
    return project


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
def test_one_change_on_purpose_is_the_cause(several: Project, change: str, cause: tuple[str, str]) -> None:
    """Whatever is changed, exactly that is proved, though other circumstances were changed that do not matter."""
    found, _ = prove(several, "--with", change, "--with", "env.TZ=Asia/Tokyo")
    assert found == [cause]


def test_one_byte_of_the_data_is_the_cause(several: Project) -> None:
    """A data file that changed since is put back from the store for the proof; the user's file stays as it is."""
    path = several.root / "data" / "x.txt"
    changed = b"9" + path.read_bytes()[1:]
    path.write_bytes(changed)
    found, document = prove(several)
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
