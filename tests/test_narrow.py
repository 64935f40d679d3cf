"""`repro replay --narrow`: a difference between two full frames is placed by running both sides with all full."""

import json

import pytest
from conftest import Project

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
