"""Studies whose trials failed: once the cause is mended, they are run again."""

from pathlib import Path

from conftest import Project

EXPERIMENT = "name: c\ncommand: python train.py {lr}\nparams: {lr: 0.1}\n"
STUDY = "experiment: exp.yaml\nspace: {lr: {choice: [0.1, 0.2, 0.3]}}\nmethod: grid\nobjective: {loss: min}\n"
TRAIN = """
import os, sys
lr = float(sys.argv[1])
assert not os.path.exists({path!r}) or lr > {above}
print("loss=%f" % abs(lr - 0.2))
"""


def _study(project: Project, path: str, above: float = 1.0) -> None:
    project.write("train.py", TRAIN.format(path=path, above=above))
    project.write("exp.yaml", EXPERIMENT)
    project.write("study.yaml", STUDY)


def _tune(project: Project, *words: str, check: int = 0) -> dict:
    return project.repro("tune", "study.yaml", "--metric", "loss", "--json", *words, check=check).json


def test_what_failed_runs_again_once_what_it_read_has_changed(project: Project) -> None:
    """A file that made every trial fail is removed: the same command trains, and goes on with that study afterwards."""
    _study(project, "needed.txt")
    project.write("needed.txt", "bad")
    failed = _tune(project, check=1)
    (project.root / "needed.txt").unlink()
    mended = _tune(project)
    assert (mended["run_now"], mended["best"]["params"]) == (3, {"lr": 0.2})
    assert mended["study_id"] != failed["study_id"]
    again = _tune(project)
    assert (again["run_now"], again["study_id"]) == (0, mended["study_id"])


def test_failures_of_an_unseen_cause_are_retried_when_asked(project: Project, tmp_path: Path) -> None:
    """A cause outside of what a run reads: failures stay results until `--retry-failed`, what completed is read."""
    cause = tmp_path / "broken"
    cause.touch()
    _study(project, str(cause), above=0.15)
    assert _tune(project)["run_now"] == 3
    cause.unlink()
    assert _tune(project)["run_now"] == 0
    retried = _tune(project, "--retry-failed")
    assert (retried["run_now"], [trial["state"] for trial in retried["trials"]]) == (1, ["finished"] * 3)
    assert _tune(project)["study_id"] == retried["study_id"]
    assert "the log is as it must be" in project.repro("study", "verify", "last", check=0).out
