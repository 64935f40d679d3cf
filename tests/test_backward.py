"""Frames of scripts without an optimizer, and batches that require a gradient."""

import pytest
from conftest import Project

MANUAL = """
import os, torch
w = torch.randn(5, requires_grad=True)
x = torch.randn(20, 5)
y = x @ torch.arange(5.0)
for i in range(12):
    loss = ((x @ w - y) ** 2).mean()
    UPDATE
    if os.environ.get("BAD") and i == 7:
        with torch.no_grad():
            w[3] += 1e-6
"""
IN_PLACE = "loss.backward()\n    with torch.no_grad():\n        w -= 0.05 * w.grad\n    w.grad = None"
ANEW = "(g,) = torch.autograd.grad(loss, w)\n    w = (w - 0.05 * g).detach().requires_grad_()"


@pytest.mark.parametrize("update", [IN_PLACE, ANEW])
def test_a_manual_update_leaves_frames(project: Project, update: str) -> None:
    """Each backward pass is a frame; a change of the parameters after pass 7 is placed in frame 8."""
    project.write("train.py", MANUAL.replace("UPDATE", update))
    assert project.run("--", "python", "train.py")["frames"] == 12
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
    first = project.replay("last", "--with", "env.BAD=1", check=3)["first_difference"]
    assert (first["step"], first["column"], first["tensor"]) == (8, "parameters in", "group0.0")


WITH_OPTIMIZER = """
import torch
m = torch.nn.Linear(3, 1)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for i in range(4):
    for part in range(3):
        m(torch.randn(4, 3)).pow(2).mean().backward()
    o.step()
    o.zero_grad()
"""


def test_accumulated_passes_belong_to_their_step(project: Project) -> None:
    """Where there is an optimizer its steps are the frames, however many backward passes lead to one."""
    project.write("train.py", WITH_OPTIMIZER)
    assert project.run("--", "python", "train.py")["frames"] == 4


POINTS = """
import os, torch
m = torch.nn.Linear(1, 1)
o = torch.optim.SGD(m.parameters(), lr=0.1)
for i in range(2):
    x = (torch.rand(16, 1) + float(os.environ.get("SHIFT", "0"))).requires_grad_()
    u = m(x)
    loss = (torch.autograd.grad(u.sum(), x, create_graph=True)[0] - u).pow(2).mean()
    o.zero_grad()
    loss.backward()
    o.step()
"""


def test_points_that_require_a_gradient_are_a_batch(project: Project) -> None:
    """As in a physics-informed network: a change of them is placed in the batch, and no gap says it was not seen."""
    project.write("train.py", POINTS)
    assert not project.run("--", "python", "train.py")["gaps"]
    first = project.replay("last", "--with", "env.SHIFT=1", check=3)["first_difference"]
    assert (first["step"], first["column"]) == (0, "batch")
