"""Change one thing and the replay names it: the seven faults of the determinism notes, each by step and column."""

import pytest
from conftest import TRAIN, Project


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two runs that have no fault: the first ends after step 11, the second after step 57."""
    project = Project(tmp_path_factory.mktemp("honest"))
    project.write("train.py", TRAIN)
    project.commit()
    project.run("--", "python", "train.py")
    project.run("--", "python", "train.py", FAULT="none@53")
    return project


@pytest.mark.parametrize(
    ("fault", "step", "column", "tensor"),
    [
        ("draw", 7, "generators", None),
        ("batch", 7, "batch", None),
        ("lr", 7, "optimizer settings", None),
        ("gradient", 7, "gradients", "2.weight"),
        ("seed", 0, "parameters in", "0.weight"),
        ("weight", 7, "parameters in", "2.bias"),
        ("target", 7, "loss", None),
        ("momentum", 7, "optimizer state", "0.bias"),
    ],
)
def test_a_fault_is_placed_by_step_column_and_tensor(
    honest: Project, fault: str, step: int, column: str, tensor: str | None
) -> None:
    """A fault that only the replay has is DIFFERENT, placed exactly, and the variable that brought it is named."""
    found = honest.replay("last~1", check=3, FAULT=fault)
    assert found["verdict"] == "DIFFERENT"
    first = found["first_difference"]
    assert (first["step"], first["column"], first["tensor"]) == (step, column, tensor)
    assert ("environment", "variables.FAULT") in [(item["kind"], item["path"]) for item in found["differences"]]


@pytest.mark.parametrize(
    ("fault", "step", "column", "tensor"),
    [
        ("draw", 53, "generators", None),
        ("batch", 53, "batch", None),
        ("gradient", 53, "gradients", "2.weight"),
        ("weight", 53, "parameters in", "2.bias"),
        ("momentum", 54, "parameters in", "0.bias"),
    ],
)
def test_a_fault_far_from_the_first_steps_is_placed_as_exactly(
    honest: Project, fault: str, step: int, column: str, tensor: str | None
) -> None:
    """What a step makes is read in deep frames alone; in others a fault of it is in the parameters of the next one."""
    found = honest.replay(check=3, FAULT=f"{fault}@53")
    first = found["first_difference"]
    assert (first["step"], first["column"], first["tensor"], first["since"]) == (step, column, tensor, step - 1)


def test_nothing_changed_is_identical(honest: Project) -> None:
    """Without a fault there is no difference at all."""
    found = honest.replay("last~1", check=0)
    assert (found["verdict"], found["first_difference"], found["differences"]) == ("IDENTICAL", None, [])


#: As the other faults, with a network whose gradients depend on the number of threads; its loss does not.
THREADS = """\
import os

import torch
from torch import nn

if os.environ.get("FAULT") == "threads":
    torch.set_num_threads(1)
model = nn.Sequential(nn.LayerNorm(512), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(3):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(256, 512)), torch.randint(0, 10, (256,))).backward()
    optimizer.step()
"""


def test_another_number_of_threads_is_placed_in_the_first_gradients(project: Project) -> None:
    """1 thread for 2: equal batch and loss, other bits in the gradients of step 0; the thread counts are named."""
    project.write("train.py", THREADS)
    project.run("--threads", "2", "--", "python", "train.py")
    found = project.replay(check=3, FAULT="threads")
    first = found["first_difference"]
    assert (first["step"], first["column"], first["since"]) == (0, "gradients", None)
    assert first["tensor"].endswith(".weight")
    named = [(item["kind"], item["before"], item["after"]) for item in found["differences"]]
    assert ("threads", 2, 1) in named
