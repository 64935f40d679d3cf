"""`repro replay --narrow`: a difference between two full frames is placed by running both sides with all full."""

import json
from pathlib import Path

import pytest
from conftest import Project

from repro.record import trail as form
from repro.replay import compare, narrow
from repro.run import trails

#: 200 small tensors: a frame in six is full after step 9. What goes wrong is wrong in every gradient's next loss.
TRAIN = """\
import os

import torch

torch.manual_seed(0)
weights = torch.nn.ParameterList(torch.nn.Parameter(torch.randn(3)) for _ in range(200))
optimizer = torch.optim.SGD(weights, lr=0.1)
at = int(os.environ.get("FAULT", -1))
for step in range(24):
    optimizer.zero_grad()
    loss = torch.stack([(weight * torch.randn(3)).sum() for weight in weights]).sum()
    loss.backward()
    if step == at:
        weights[7].grad[1] += 1
    optimizer.step()
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a run of a network of many small tensors."""
    root = tmp_path_factory.mktemp("narrow") / "project"
    root.mkdir()
    project = Project(root)
    project.write("train.py", TRAIN)
    project.run("--", "python", "train.py")
    return project


def narrowed(project: Project, *words: str, **env: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return a replay's first difference, and what narrowing says."""
    document = json.loads(project.repro("replay", "last", "--narrow", "--json", *words, check=3, **env).out)
    return document["first_difference"], document["narrowed"]


def test_both_sides_run_again_and_the_tensor_is_named(many: Project) -> None:
    """A gradient of step 14 shows in the loss of step 15; with full frames on both sides it is named where it is."""
    done = many.repro("replay", "last", "--narrow", "--with", "env.FAULT=14", check=3)
    assert "first difference: step 15, loss\n" in done.out
    assert "narrowed by two more replays, every frame full: step 14, gradients, tensor group0.7\n" in done.out
    assert done.out.endswith("DIFFERENT\n")
    assert done.err.count("narrowing") == 2


def test_what_cannot_be_narrowed_says_why(many: Project) -> None:
    """A full frame, a difference that nobody made on purpose, and a run that does not come out again."""
    first, found = narrowed(many, "--with", "env.FAULT=4")
    assert (first["step"], first["column"], first["tensor"]) == (4, "gradients", "group0.7")
    assert (found["first_difference"], found["replays"]) == (None, [])
    assert "as near as can be" in found["reason"]
    first, found = narrowed(many, FAULT="14")
    assert (first["step"], first["column"], found["first_difference"]) == (15, "loss", None)
    assert "changed on purpose" in found["reason"]
    found = narrowed(many, "--with", "env.OTHER=1", FAULT="14")[1]
    assert found["reason"].startswith("the run does not come out again")
    assert len(found["replays"]) == 1
    assert "--times" in many.repro("replay", "last", "--narrow", "--times", "2", check=2).err


def frames(*rows: tuple[int, int, int]) -> list[form.Frame]:
    """Return frames of so many optimizers, steps and flags; parameters and gradients have digests where it is full."""
    found: list[form.Frame] = []
    for optimizer, step, flags in rows:
        read = 5 if flags & form.FULL else 0
        columns = (read, 1, 1, 1, 1, read, 0, 0, 0)
        found.append(form.Frame(step, optimizer, flags, 0, columns, bytes([len(found) + 1, flags] * 8)))
    return found


def place(step: int, column: str, optimizer: int = 0) -> compare.FirstDifference:
    """Return a first difference there."""
    known = {"tensor": None, "process": "rank 0", "since": None}
    return compare.FirstDifference(step=step, column=column, optimizer=optimizer, **known)


def test_near_is_where_all_was_read_that_could_be_nearer() -> None:
    """Buffers need deep frames, and the optimizer's own last row counts, whatever another's was."""
    full, deep = form.FULL, form.FULL | form.DEEP
    plain = frames((0, 0, deep), (0, 1, full), (0, 2, full), (0, 3, deep))
    assert narrow._is_near(plain, 2, place(2, "gradients"))
    assert narrow._is_near(plain, 1, place(1, "parameters in"))
    assert not narrow._is_near(plain, 2, place(2, "parameters in"))  # the state of step 1 may have differed before
    assert not narrow._is_near(plain, 3, place(3, "buffers"))
    two = frames((0, 0, deep), (1, 0, deep), (0, 1, 0), (1, 1, full), (0, 2, full))
    assert not narrow._is_near(two, 4, place(2, "gradients"))
    assert not narrow._is_near(two, 2, place(1, "loss"))
    assert narrow._is_near(two, 3, place(1, "gradients", 1)) is False  # the row of the other one between was not read


def test_trails_of_two_schedules_are_alike_in_what_both_read_and_never_identical(tmp_path: Path) -> None:
    """Frames that are full elsewhere are a difference for a verdict; `repro diff` looks at what both have read."""
    a, b = (
        trails.ProcessTrail("rank 0", frames((0, 0, form.FULL), (0, 1, flags)), tmp_path / "x.details", {})
        for flags in (form.FULL, 0)
    )
    assert compare.first_difference(a, b).step == 1
    assert compare.first_difference_read(a, b) is None
    other = b._replace(frames=[b.frames[0], b.frames[1]._replace(columns=(0, 1, 1, 1, 2, 0, 0, 0, 0))])
    first = compare.first_difference_read(a, other)
    assert (first.step, first.column) == (1, "loss")
