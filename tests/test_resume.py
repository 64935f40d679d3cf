"""A run that was killed and goes on from its checkpoint equals the uninterrupted one, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project
from resume_scripts import DEADLY, LOOP, RANKS, SIX

from repro.errors import UsageError
from repro.record import trail as form
from repro.run import resume


def points(project: Project, run_id: str) -> dict[str, list[tuple[int | None, float]]]:
    """Return step and value of every point of a run."""
    found = project.repro("log", run_id, "--json", check=0).json["metrics"]
    return {name: [(item["step"], item["value"]) for item in values] for name, values in found.items()}


def trail_files(done: dict[str, Any]) -> list[bytes]:
    """Return the bytes of a run's trail."""
    return [path.read_bytes() for path in sorted((Path(done["path"]) / "trail").iterdir())]


def assert_equal(project: Project, whole: dict[str, Any], last: dict[str, Any]) -> None:
    """Two runs have one recipe, one trail to the byte, one set of metric points."""
    assert last["state"] == whole["state"] == "COMPLETED"
    assert last["recipe_digest"] == whole["recipe_digest"]
    assert last["record_digest"] != whole["record_digest"]
    assert last["metrics"] == whole["metrics"]
    assert points(project, last["run_id"]) == points(project, whole["run_id"])
    assert last["trail_digest"] == whole["trail_digest"]
    assert trail_files(last) == trail_files(whole)


@pytest.mark.parametrize(("name", "deaths"), [("digits", ["25 KILL", "50 LOST"]), ("mnist5k", ["50 LOST", "140 KILL"])])
def test_an_experiment_killed_in_every_epoch_equals_the_uninterrupted(
    project: Project, name: str, deaths: list[str]
) -> None:
    """Killed in its second epoch, gone on, killed in its third, gone on: trail, metrics and recipe are the same.

    The record names run and checkpoint; the continuation's replay runs from the start and is IDENTICAL to all of it.
    """
    shutil.copytree(ROOT / "experiments" / name, project.root, dirs_exist_ok=True)
    project.write("deadly.py", DEADLY)
    file = project.root / "experiment.yaml"
    file.write_text(file.read_text().replace("train.py:train", "deadly.py:train"))
    project.commit()
    words = ["experiment.yaml", "--set", "epochs=3"]
    whole = project.run(*words)
    project.repro("run", *words, DIE=deaths[0])
    project.repro("run", "--resume", "last", DIE=deaths[1])
    last = project.run("--resume", "last")
    assert_equal(project, whole, last)
    runs = project.repro("ls", "--json", check=0).json
    assert [run["state"] for run in runs][1:3] == [death[3:].strip().replace("KILL", "FAILED") for death in deaths]
    record = project.repro("show", "last", "--json", check=0).json["record"]
    start = record["circumstances"]["resumed"]
    assert (start["run"], start["epoch"]) == (runs[2]["run_id"], 1)
    outcome = project.repro("show", start["run"], "--json", check=0).json["outcome"]
    for item in start["checkpoints"]:
        assert outcome["files"][item["path"].split("/", 2)[2]] == item["digest"]
    if name == "digits":
        assert project.replay(check=0)["compared"]["frames"] == whole["frames"]
    assert project.repro("verify", "--json", check=0).json["ok"]


def test_six_kinds_of_model_replay_and_go_on_bit_for_bit(project: Project) -> None:
    """MLP, CNN, transformer, LSTM, embedding, batch norm: a replay is IDENTICAL, and so is what was ended in any way.

    With six optimizers, four schedulers, a scaler, loaders with 0 and 2 workers, draws in the workers, named streams,
    and generators of the user's: killed, cancelled, failed; before an epoch's steps, amid them, behind its checkpoint.
    """
    project.write("six.py", SIX)
    words = ["--determinism", "strict", "--threads", "1", "--", "python", "six.py"]
    whole = project.run(*words)
    assert whole["notes"] == []
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
    first = project.run(*words, check=137, DIE="kill 1 before")
    assert first["state"] == "FAILED"
    second = project.run("--resume", "last", check=None, DIE="TERM 1 behind")  # that epoch's end was not seen
    assert (second["state"], second["resumed"]["epoch"]) == ("CANCELLED", 0)
    third = project.run("--resume", "last", check=1, DIE="raise 2 middle")
    assert (third["state"], third["resumed"]["epoch"]) == ("FAILED", 0)
    assert third["resumed"]["run"] == first["run_id"]
    last = project.run("--resume", "last")
    assert (last["resumed"]["run"], last["resumed"]["epoch"]) == (third["run_id"], 1)
    assert_equal(project, whole, last)
    assert last["notes"] == []
    assert project.replay(check=0)["verdict"] == "IDENTICAL"


def refused(project: Project, *words: str, code: int = 2) -> str:
    """Return what is said when a run cannot be gone on from; nothing new is in the store then."""
    before = sorted((project.store / "runs").iterdir())
    said = project.repro("run", "--resume", *words, check=code).err
    assert sorted((project.store / "runs").iterdir()) == before
    return said


def test_a_loop_of_the_scripts_own_goes_on_from_the_last_checkpoint(project: Project) -> None:
    """Without `run.epochs` the script begins where the plain values say; outputs of the lost run are no other code.

    Refused, and said why: what goes on, is complete, has other code or a damaged checkpoint, and further options.
    """
    project.write("loop.py", LOOP)
    project.commit()
    words = ["--", "python", "loop.py", "own"]
    whole = project.run(*words, ASK="1")
    asked = (Path(whole["path"]) / "stdout.log").read_text()
    assert asked.startswith("2 ")
    assert "is RUNNING" in asked
    assert "COMPLETED" in refused(project, "last")
    project.root.joinpath("result.txt").unlink()
    project.repro("run", *words, DIE="LOST")
    last = project.repro("ls", "--json", check=0).json[-1]["run_id"]
    assert (project.root / "result.txt").exists()
    (project.root / "loop.py").write_text(LOOP + "\n")
    assert f"not as {last} had it: loop.py (M)" in refused(project, "last")
    (project.root / "loop.py").write_text(LOOP)
    assert "takes everything from the run" in refused(project, "last", "--seed", "1")
    project.write("more.py", "")
    assert "more.py (A)" in refused(project, "last")
    project.root.joinpath("more.py").unlink()
    found = max((project.store / "runs" / last / "checkpoints").iterdir())
    content = found.read_bytes()
    found.chmod(0o644)
    found.write_bytes(content[:-1] + b"?")
    assert "is not what it was when it was sealed" in refused(project, "last", code=5)
    found.write_bytes(content)
    done = project.run("--resume", last, GOES_ON="1")
    assert done["resumed"]["epoch"] is None
    assert_equal(project, whole, done)
    assert project.replay(check=0)["compared"]["artifacts"] == 1


@pytest.mark.parametrize(
    ("how", "why", "told"),
    [
        ("early", "run.checkpoint() was not the last thing in its epoch", True),
        ("silent", "the script does not call run.resume() before it", False),
    ],
)
def test_a_checkpoint_that_will_not_do_is_told_before_it_is_needed(
    project: Project, how: str, why: str, told: bool
) -> None:
    """A step behind the checkpoint: a line when the first epoch ends, a note, and no continuation of other bits.

    A script that never asks to go on hears nothing of it.
    """
    project.write("loop.py", LOOP)
    done = project.repro("run", "--", "python", "loop.py", how, DIE="error", check=1)
    assert (f"repro: no run can go on from 00000-0000-000000.pt: {why}\n" in done.err) == told
    assert done.err.count(why) == 2 * told  # at once, and in the notes
    assert f"has no checkpoint to go on from: {why}" in refused(project, "last")


def test_ranks_go_on_together(project: Project) -> None:
    """Rank 1 dies before its checkpoint of an epoch, rank 0 may have made it: both go on from the one before."""
    project.write("ranks.py", RANKS)
    words = ["--", "torchrun", "--standalone", "--nproc-per-node", "2", "ranks.py"]
    whole = project.run(*words)
    project.repro("run", *words, DIE="1 1")
    done = project.run("--resume", "last")
    assert (done["resumed"]["epoch"], len(done["resumed"]["checkpoints"])) == (0, 2)
    assert_equal(project, whole, done)


def test_a_process_that_has_trained_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    """A rank, or a child, with rows or metrics that no checkpoint accounts for: it cannot be continued."""
    (tmp_path / "trail").mkdir()
    (tmp_path / "metrics").mkdir()
    row = form.pack(form.Frame(0, 0, 0, 0, (0,) * 9, b"x" * 16))
    (tmp_path / "trail" / "00000-0000-1-2.rows").write_bytes(row)
    (tmp_path / "trail" / "00002-0000-1-3.rows").write_bytes(bytes(form.ROW.size))  # reserved, and never written
    point = {"checkpoint": "a.pt", "trail": "00000-0000-1-2", "metrics": {"00000-0000-1-2.jsonl": 1}, "loader": []}
    resume._check_processes(tmp_path, {"00000-0000": point})
    (tmp_path / "metrics" / "00000-0003-1-2.jsonl").write_bytes(b"")
    with pytest.raises(UsageError, match=r"rank 0, child 0003 of .* has logged metrics and made no checkpoint"):
        resume._check_processes(tmp_path, {"00000-0000": point})
    (tmp_path / "trail" / "00001-0000-1-4.rows").write_bytes(row)
    with pytest.raises(UsageError, match=r"rank 1 of .* has trained and made no checkpoint"):
        resume._check_processes(tmp_path, {"00000-0000": point})


def test_a_run_without_a_checkpoint_or_of_a_replay_is_not_gone_on_from(project: Project) -> None:
    """A run that made none, a replay, metrics out of the output, and a store without runs: exit 2, with a hint."""
    assert "there is no store" in project.repro("run", "--resume", "last", check=2).err
    project.write("a.py", "print('acc=1'); raise SystemExit(1)\n")
    project.run("--", "python", "a.py", check=1)
    assert "it made none\nhint: run.checkpoint(" in refused(project, "last")
    replayed = project.replay(check=None)["run_id"]
    assert "is a replay" in refused(project, replayed)
    project.run("--metric", "acc=([0-9.]+)", "--", "python", "a.py", check=1)
    assert "--metric" in refused(project, "last")
