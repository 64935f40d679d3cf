"""`repro replay --narrow`: a difference between two full frames is placed by running both sides with all full."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project

from repro.record import trail as form
from repro.replay import compare, narrow, ulp
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


def narrowed(project: Project, run: str, *words: str, **env: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a replay's first difference, and what narrowing says."""
    document = json.loads(project.repro("replay", run, "--narrow", "--json", *words, check=3, **env).out)
    return document["first_difference"], document["narrowed"]


def test_both_sides_run_again_and_the_tensor_is_named(many: Project) -> None:
    """A gradient of step 14 shows in the loss of step 15; with full frames on both sides it is named where it is."""
    done = many.repro("replay", "last", "--narrow", "--with", "env.FAULT=14", check=3)
    assert "first difference: step 15, loss\n" in done.out
    assert "narrowed by 4 more replays, every frame full: step 14, gradients, tensor group0.7\n" in done.out
    assert "how far there: 1 of 3 elements differs, by at most " in done.out
    assert done.out.endswith("DIFFERENT\n")
    assert done.err.count("narrowing") == 4
    assert not list((many.store / "runs").glob("*/values")), "the values are taken away"
    assert many.repro("verify", "--json", check=0).json["ok"]


def test_what_cannot_be_narrowed_says_why(many: Project) -> None:
    """A full frame, a difference that nobody made on purpose, and a run that does not come out again."""
    first, found = narrowed(many, "last", FAULT="4")
    assert (first["step"], first["column"], first["tensor"]) == (4, "gradients", "group0.7")
    assert (found["first_difference"], found["replays"]) == (None, [])
    assert "as near as can be" in found["reason"]
    first, found = narrowed(many, "last", FAULT="14")
    assert (first["step"], first["column"], found["first_difference"]) == (15, "loss", None)
    assert "changed on purpose" in found["reason"]
    found = narrowed(many, "last", "--with", "env.OTHER=1", FAULT="14")[1]
    assert found["reason"].startswith("the run does not come out again")
    assert len(found["replays"]) == 1
    assert "--times" in many.repro("replay", "last", "--narrow", "--times", "2", check=2).err


#: Changes an element of what FAULT says by one step of a float at step 3; the loss and Adam's step count are numbers.
COLUMNS = """\
import os

import torch
from torch import nn


def moved(tensor):
    with torch.no_grad():
        tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0], torch.tensor(9.0, dtype=tensor.dtype))


kind = torch.bfloat16 if "half" in os.environ else torch.float32
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(kind)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
fault = os.environ.get("FAULT")
optimizer.register_step_post_hook(
    lambda *_: moved(optimizer.state[model[0].bias]["exp_avg"]) if step == 3 and fault == "state" else None
)
for step in range(5):
    optimizer.zero_grad()
    out = model(torch.randn(8, 4).to(kind))
    loss = out.square().mean()
    if step == 3 and fault == "loss":
        loss = loss + 1e-7
    loss.backward()
    if step == 3 and fault == "buffer":
        moved(model[1].running_mean)
    if step == 3 and fault == "gradient":
        moved(model[0].weight.grad)
    optimizer.step()
"""


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a run of a network whose columns can be changed one by one, and one of it in half precision."""
    project = Project(tmp_path_factory.mktemp("columns"))
    project.write("train.py", COLUMNS)
    project.run("--", "python", "train.py")
    project.run("--", "python", "train.py", half="1")
    return project


@pytest.mark.parametrize(
    ("fault", "column", "tensor", "elements"),
    [
        ("gradient", "gradients", "0.weight", 12),
        ("buffer", "buffers", "1.running_mean", 3),
        ("state", "optimizer state", "0.bias", 7),
    ],
)
def test_how_far_apart_a_tensor_is(columns: Project, fault: str, column: str, tensor: str, elements: int) -> None:
    """One element that was moved by one step of a float is 1 ULP off, in whatever column; two replays say so."""
    found = narrowed(columns, "last~1", "--with", f"env.FAULT={fault}")[1]
    first, far = found["first_difference"], found["distance"]
    assert (first["step"], first["column"], first["tensor"]) == (3, column, tensor)
    assert (far["elements"], far["unequal"], far["ulp"], len(found["replays"])) == (elements, 1, 1, 2)
    assert 0 < far["relative"] < 1e-6


def test_how_far_apart_losses_and_half_precision_are(columns: Project) -> None:
    """The loss is one number; a bfloat16's step is a 256th to a 128th of it."""
    far = narrowed(columns, "last~1", "--with", "env.FAULT=loss")[1]["distance"]
    assert (far["elements"], far["unequal"]) == (1, 1)
    assert 1 <= far["ulp"] <= 8
    far = narrowed(columns, "last", "--with", "env.FAULT=gradient", half="1")[1]["distance"]
    assert (far["unequal"], far["ulp"]) == (1, 1)
    assert far["relative"] <= 2**-7


def test_values_that_have_no_distance_and_several_tensors(tmp_path: Path) -> None:
    """Whole numbers, other sizes and files that are not there tell nothing; of several tensors all elements count."""

    def kept(name: str, *arrays: np.ndarray) -> Path:
        parts = [
            f'{{"dtype": "{array.dtype}", "size": {array.nbytes}}}\n'.encode() + array.tobytes() for array in arrays
        ]
        (tmp_path / name).write_bytes(b"".join(parts))
        return tmp_path / name

    ones = np.ones(3, "float32")
    more = np.float64([0, 5, np.nextafter(-4, -5)])
    found = ulp.of_values(kept("a", ones, np.arange(3), np.float64([0, 5, -4])), kept("b", ones, np.arange(3), more))
    assert found is not None
    assert (found.elements, found.unequal, found.ulp) == (6, 1, 1)
    assert found.relative == (4 * 2**-52) / 5
    zeros = ulp.of_values(kept("c", 0 * ones), kept("d", ones))
    assert zeros is not None
    assert zeros.relative is None
    for pair in (("a", "none"), ("none", "a")):
        assert ulp.of_values(tmp_path / pair[0], tmp_path / pair[1]) is None
    assert ulp.of_values(kept("e", np.arange(3)), kept("f", np.arange(3) + 1)) is None
    assert ulp.of_values(kept("g", ones), kept("h", ones[:2])) is None


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
