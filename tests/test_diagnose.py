"""`repro diagnose` names what makes two runs of one thing differ, with its line: planted scripts, real processes."""

from typing import Any

from conftest import Project

#: A few real steps on `x`, a list or an array that what stands before has made.
TRAIN = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    inputs = torch.as_tensor(x, dtype=torch.float32).reshape(-1, 4)  # ENTERS
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
"""


def line_of(text: str, mark: str) -> int:
    """Return the number of the line that holds ``mark``."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


def diagnose(project: Project, script: str, *options: str, check: int = 3) -> Any:
    """Diagnose a script of the project; return the document."""
    project.write("train.py", script)
    return project.repro("diagnose", "--json", *options, "--", "python", "train.py", check=check).json


def test_an_honest_script_agrees(project: Project) -> None:
    """Where nothing differs, two runs agree: found is false, exit code 0, and there was one replay."""
    found = diagnose(project, "x = [0.5] * 8" + TRAIN, check=0)
    assert (found["found"], found["kind"], found["line"], len(found["replays"])) == (False, None, None, 1)
    assert "agree to the bit" in found["text"]


UNSEEDED = """\
import numpy as np

rng = np.random.default_rng()  # HERE
x = rng.random(8)
"""


def test_an_unseeded_generator_is_named(project: Project) -> None:
    """The culprit is the line that makes the generator, not the one that draws, nor the one where a tensor is made."""
    script = UNSEEDED + TRAIN
    found = diagnose(project, script)
    assert (found["found"], found["kind"]) == (True, "seed")
    assert (found["file"], found["line"]) == ("train.py", line_of(script, "HERE"))
    assert (found["step"], found["column"]) == (0, "batch")
    assert "operating system" in found["text"]
    assert len(found["replays"]) == 3
    runs = project.store / "runs"
    assert not list(runs.glob("*/trace")), "the logs are taken away"


#: A custom operator whose kernel lies: its result is moved by an ULP or two, each time otherwise.
OPERATOR = """\
import os

import torch
from torch import nn


@torch.library.custom_op("planted::noisy", mutates_args=())
def noisy(x: torch.Tensor) -> torch.Tensor:
    bits = x.detach().clone().contiguous().numpy().view("i4")
    bits.reshape(-1)[3] += 1 + os.urandom(1)[0]
    return torch.from_numpy(bits.view("f4"))


@noisy.register_fake
def _(x):
    return torch.empty_like(x)


noisy.register_autograd(lambda ctx, gradient: gradient)
model = nn.Linear(4, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    optimizer.zero_grad()
    hidden = model(torch.ones(2, 4))
    if step == 3:
        hidden = noisy(hidden)  # HERE
    hidden.square().mean().backward()
    optimizer.step()
"""


def test_an_operator_that_gives_other_bits_from_equal_inputs_is_named(project: Project) -> None:
    """Its name, shapes, dtype, the step, the user's line, how many elements differ and by how many ULP."""
    found = diagnose(project, OPERATOR)
    assert (found["kind"], found["operator"]) == ("operator", "planted.noisy.default")
    assert (found["file"], found["line"]) == ("train.py", line_of(OPERATOR, "HERE"))
    assert (found["step"], found["column"]) == (3, "loss")
    assert (found["shapes"], found["dtype"]) == ([[[2, 8]], [[2, 8]]], ["float32"])
    assert found["unequal"] == 1
    assert 1 <= found["ulp"] <= 255
    said = project.repro("diagnose", "last", check=3).out
    assert f"train.py:{line_of(OPERATOR, 'HERE')}: planted.noisy.default gives another result from equal inputs" in said
    assert "1 element of the result differ" in said
