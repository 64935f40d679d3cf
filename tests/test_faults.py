"""Change one thing and the replay names it: the seven faults of the determinism notes, each by step and column."""

import pytest
from conftest import Project


@pytest.mark.parametrize(
    ("fault", "step", "column", "tensor"),
    [
        ("draw", 7, "generators", None),
        ("batch", 7, "batch", None),
        ("lr", 7, "optimizer settings", None),
        ("gradient", 7, "gradients", "2.weight"),
        ("seed", 0, "parameters in", "0.weight"),
    ],
)
def test_a_fault_is_placed_by_step_column_and_tensor(
    trained: Project, fault: str, step: int, column: str, tensor: str | None
) -> None:
    """A fault that only the replay has is DIFFERENT, placed exactly, and the variable that brought it is named."""
    trained.run("--", "python", "train.py")
    found = trained.replay(check=3, FAULT=fault)
    assert found["verdict"] == "DIFFERENT"
    first = found["first_difference"]
    assert (first["step"], first["column"], first["tensor"]) == (step, column, tensor)
    assert ("environment", "variables.FAULT") in [(item["kind"], item["path"]) for item in found["differences"]]


def test_nothing_changed_is_identical(trained: Project) -> None:
    """Without a fault there is no difference at all."""
    trained.run("--", "python", "train.py")
    found = trained.replay(check=0)
    assert (found["verdict"], found["first_difference"], found["differences"]) == ("IDENTICAL", None, [])
