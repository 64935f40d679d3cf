"""The main job, end to end, on the experiments of this repository."""

import shutil

import pytest
from conftest import ROOT, Project


@pytest.fixture
def experiments(project: Project) -> Project:
    """A project with a copy of this repository's experiments."""
    shutil.copytree(ROOT / "experiments", project.root / "experiments")
    project.commit()
    return project


@pytest.mark.parametrize(("name", "accuracy"), [("digits", 0.95), ("mnist5k", 0.93)])
def test_an_experiment_learns_and_replays_identically(experiments: Project, name: str, accuracy: float) -> None:
    """The experiment reaches its accuracy; its replay has the same trail, metrics and recipe, bit for bit."""
    done = experiments.run(f"experiments/{name}/experiment.yaml")
    assert done["state"] == "COMPLETED"
    assert done["metrics"]["test_acc"] > accuracy
    found = experiments.replay(done["run_id"], check=0)
    assert found["verdict"] == "IDENTICAL"
    assert found["replay_of"] == done["run_id"]
    assert found["first_difference"] is None
    assert found["differences"] == []
    assert found["compared"]["frames"] == done["frames"] > 500
    again = experiments.repro("show", found["run_id"], "--json", check=0).json
    assert again["outcome"]["trail_digest"] == done["trail_digest"]
    assert again["record"]["recipe_digest"] == done["recipe_digest"]
