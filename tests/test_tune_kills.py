"""Studies that are disturbed: workers, delays, `kill -9` of any process, a full disk, two commands at once.

On a real training of handwritten digits, and on a table; the decisions and the trails are those of a quiet study.
"""

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import numpy as np
import pytest
from conftest import REPRO, Project, clean_environment
from sklearn.datasets import load_digits
from test_crash import Crashed, Driver
from test_tune_tables import write

TRAIN = """\
import os
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def train(run):
    digits = np.load("digits.npz")
    x, y = torch.from_numpy(digits["x"]), torch.from_numpy(digits["y"])
    order = torch.randperm(len(x), generator=run.rng("split"))
    training, validation = order[:600], order[600:]
    with run.stream("init"):
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr, momentum=run.params.momentum)
    run.resume(model=model, optimizer=optimizer)
    while not os.path.exists(os.environ.get("GATE", ".")):
        time.sleep(0.02)
    for epoch in run.epochs():
        time.sleep(random.SystemRandom().random() * float(os.environ.get("DELAY", "0")))
        for index in training[torch.randperm(600, generator=run.rng("order"))].split(run.params.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = functional.cross_entropy(model(x[validation]), y[validation])
        model.train()
        run.log(step=epoch, val_loss=loss.item())
        run.checkpoint(model=model, optimizer=optimizer)
"""
EXPERIMENT = """\
name: digits
entry: train.py:train
params: {epochs: 8, batch_size: 64, lr: 0.05, momentum: 0.5}
threads: 1
"""
STUDY = """\
experiment: experiment.yaml
space:
  lr: {log: [1.0e-3, 100.0]}
  momentum: {uniform: [0.0, 0.9]}
  batch_size: {power_of_two: [32, 256]}
method: {hyperband: {eta: 2}}
fidelity: {epochs: [2, 8]}
objective: {val_loss: min}
seed: 7
"""
KILLS = 10


class Made(NamedTuple):
    """What a study came to: its document, and the trail digest of each training, by parameters and epochs."""

    document: Any
    trails: set[tuple[str, int, str]]


def made(store: Path, document: Any) -> Made:
    """Read from a store what a study came to: every completed run counts, those that were made twice too."""
    trails = set()
    for path in store.glob("runs/*/outcome.json"):
        outcome = json.loads(path.read_bytes())
        recipe = json.loads(path.with_name("record.json").read_bytes())["recipe"]
        if outcome["state"] == "COMPLETED":
            budget = recipe["budget"].get("epochs", recipe["params"]["epochs"])
            trails.add((json.dumps(recipe["params"], sort_keys=True), budget, outcome["trail_digest"]))
    assert {trial["run_id"] for trial in document["trials"]} <= set(os.listdir(store / "runs"))
    return Made(document, trails)


def save(project: Project, first: int) -> None:
    """Write 800 of the 1,797 digits, from one on."""
    x, y = load_digits(return_X_y=True)
    some = slice(first, first + 800)
    np.savez(project.root / "digits.npz", x=(x[some] / 16).astype(np.float32), y=y[some])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The experiment and its study."""
    project = Project(tmp_path_factory.mktemp("digits"))
    save(project, 0)
    project.write(".gitignore", "digits.npz\n")  # data, no code
    project.git("init", "-q", ".")
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    project.write("study.yaml", STUDY)
    return project


def tune(project: Project, store: Path, *words: str, **env: str) -> Made:
    """Run the study to its end in a store of its own."""
    done = project.repro("tune", "study.yaml", "--json", *words, check=0, REPRO_STORE=str(store), **env)
    return made(store, done.json)


@pytest.fixture(scope="module")
def quiet(digits: Project) -> Made:
    """The study by one worker that nothing disturbs."""
    found = tune(digits, digits.root / ".repro", "--workers", "1")
    assert found.document["run_now"] == len(found.trails) == 14
    return found


def test_ten_kills(digits: Project, quiet: Made, tmp_path: Path) -> None:
    """Controller, supervisors, templates and runs killed ten times, two workers with delays: decisions and trails stay.

    Which and after how many further signs of life a generator draws; ``KILLS`` in the environment seeds another one.
    """
    seed = int(os.environ.get("KILLS", "7"))
    store, chance = tmp_path / "store", random.Random(seed)  # noqa: S311  (whom to kill, and when)
    killed: list[str] = []
    while len(killed) < KILLS:
        code = _disturbed(digits, store, chance, killed, tmp_path / "said")
        said = (tmp_path / "said").read_text()
        assert "Traceback" not in said, f"KILLS={seed}: {killed}\n{said}"
        assert code in (-signal.SIGKILL, 0, 1), f"KILLS={seed}: {killed}: exit {code}\n{said}"
        if code == 0:
            break
    assert len(killed) == KILLS, f"KILLS={seed}: the study was over after {killed}"
    found = tune(digits, store, "--workers", "2")
    assert found.document["decisions_digest"] == quiet.document["decisions_digest"], f"KILLS={seed}: {killed}"
    assert found.trails == quiet.trails, f"KILLS={seed}: {killed}"
    again = tune(digits, store)
    assert again.document["run_now"] == 0, f"KILLS={seed}: {killed}"
    for words in (("verify",), ("study", "verify", "last")):
        digits.repro(*words, check=0, REPRO_STORE=str(store))
    assert list((store / "open").iterdir()) == [], f"KILLS={seed}: {killed}"


def _disturbed(project: Project, store: Path, chance: random.Random, killed: list[str], said: Path) -> int:
    """Run the study and kill now this process of it, now that one; return how the controller ended."""
    process = _begun(project, store, said, DELAY="0.4")
    while len(killed) < KILLS and process.poll() is None:
        until, pause = _signs(store) + chance.randrange(6), chance.random() * 0.2
        while _signs(store) < until and process.poll() is None:
            time.sleep(0.005)
        time.sleep(pause)
        if process.poll() is None:
            there = _processes(process.pid)
            role = chance.choice(sorted(there))
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile: another one is killed
                os.kill(chance.choice(there[role]), signal.SIGKILL)
                killed.append(role)
    return process.wait()


def _begun(project: Project, store: Path, said: Path, *words: str, **env: str) -> subprocess.Popen[bytes]:
    """Begin the study with two workers."""
    with said.open("wb") as handle:
        return subprocess.Popen(
            [str(REPRO), "tune", "study.yaml", "--workers", "2", *words],
            cwd=project.root,
            env=clean_environment(REPRO_STORE=str(store), **env),
            stdout=subprocess.DEVNULL,
            stderr=handle,
        )


def _signs(store: Path) -> int:
    """Return how many signs of life a study has left: records, outcomes, logged epochs, decisions."""
    runs = os.listdir(store / "runs") if (store / "runs").is_dir() else []
    names = ("record.json", "outcome.json")  # asked one by one: a folder may be taken away meanwhile
    sealed = sum((store / "runs" / run / name).exists() for run in runs for name in names)
    logs = (*store.glob("runs/*/metrics/*"), *store.glob("studies/*/decisions.jsonl"))
    return sealed + sum(path.read_bytes().count(b"\n") for path in logs if path.exists())


def _processes(controller: int) -> dict[str, list[int]]:
    """Return the processes of a study by what they are."""
    found, level = {"controller": [controller]}, [controller]
    for role in ("supervisor", "template", "run"):
        level = [child for parent in level for child in _children(parent)]
        if level:
            found[role] = level
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:  # it is gone
        return


#: The study's first bracket: four trials, seven trainings.
FIRST = ("--trials", "4")


def assert_first(project: Project, quiet: Made, store: Path, found: Made) -> None:
    """Assert that a store has the quiet study's first bracket: its first decisions, and its trails."""
    assert found.document["trials"] == [trial | {"run_id": ANY} for trial in quiet.document["trials"][:4]]
    assert len(found.trails) == 7
    assert found.trails < quiet.trails
    logs = [
        project.repro("study", "decisions", "last", "--json", check=0, REPRO_STORE=str(place)).json["decisions"]
        for place in (project.root / ".repro", store)
    ]
    assert logs[0][: len(logs[1])] == logs[1]
    project.repro("verify", check=0, REPRO_STORE=str(store))


def test_cold_trials_are_warm_ones(digits: Project, quiet: Made, tmp_path: Path) -> None:
    """Two cold workers with delays make the decisions and the trails of one warm worker."""
    cold = tune(digits, tmp_path / "store", "--cold", "--workers", "2", *FIRST, DELAY="0.2")
    assert_first(digits, quiet, tmp_path / "store", cold)
    assert cold.document["run_now"] == 7
    records = map(json.loads, (path.read_bytes() for path in (tmp_path / "store").glob("runs/*/record.json")))
    assert not any("warm" in record["circumstances"]["launch"] for record in records)


def test_a_disk_that_fills(digits: Project, quiet: Made, tmp_path: Path) -> None:
    """The study ends with 5 and says what to do; no failure for want of room is a result; with room it goes on."""
    disk, said = tmp_path / "disk", tmp_path / "said"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    store, gate = disk / "store", tmp_path / "gate"
    try:
        with _begun(digits, store, said, *FIRST, GATE=str(gate)) as process:
            _until(lambda: len(list(store.glob("runs/*/record.json"))) == 2, process)
            _fill(disk / "filling")
            gate.touch()
            assert process.wait() == 5
        error, hint = said.read_text().splitlines()[-2:]
        assert error.startswith("error: ")
        assert "No space left on device" in error
        assert hint.startswith("hint: free some space")
        assert "Traceback" not in said.read_text()
        (disk / "filling").unlink()
        found = tune(digits, store, "--workers", "2", *FIRST)
        assert_first(digits, quiet, store, found)
        assert found.document["read"] == 0
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as handle, contextlib.suppress(OSError):
        while handle.write(bytes(512)):
            pass


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def test_commands_at_once(digits: Project, quiet: Made, tmp_path: Path) -> None:
    """Of three commands at once one has the study, the others are refused and name who has it; nothing is done twice.

    That is the one that runs it, or, for a moment, one that was about to begin it.
    """
    store, gate = tmp_path / "store", tmp_path / "gate"
    said = [tmp_path / f"said{at}" for at in range(3)]
    there = {path: _begun(digits, store, path, *FIRST, GATE=str(gate)) for path in said}
    refused = [path for path in said if _ended_before(there, path)]
    gate.touch()
    assert len(refused) == 2
    [won] = [there[path] for path in said if path not in refused]
    assert won.wait() == 0
    for path in refused:
        assert there[path].returncode == 2
        [holder] = re.findall(r"is being run by process ([0-9]+) on ", path.read_text())
        assert int(holder) in {process.pid for process in there.values()} - {there[path].pid}
    found = tune(digits, store, *FIRST)
    assert_first(digits, quiet, store, found)
    assert found.document["run_now"] == 0
    assert len(list(store.glob("runs/*/record.json"))) == 7


def _ended_before(there: dict[Path, subprocess.Popen[bytes]], path: Path) -> bool:
    """Wait until a process ends, or all others have; say whether it has."""
    others = [process for other, process in there.items() if other != path]
    while there[path].poll() is None:
        if all(process.poll() is not None for process in others):
            return False
        time.sleep(0.01)
    return True


def test_data_that_changes(digits: Project, quiet: Made, tmp_path: Path) -> None:
    """A study whose data changed is refused by name; --new trains on the new data, also after a kill.

    Each of the two keeps its own decisions.
    """
    project = Project(tmp_path / "copy")
    shutil.copytree(digits.root, project.root, symlinks=True)
    store = project.root / ".repro"
    save(project, 900)
    refused = project.repro("tune", "study.yaml", check=2).err
    assert f"what the runs of study {quiet.document['study_id']} read has changed: digits.npz\n" in refused
    assert "--new" in refused
    with _begun(project, store, tmp_path / "said", "--new", *FIRST, GATE=str(tmp_path / "gate")) as process:
        _until(lambda: len(list(store.glob("runs/*/record.json"))) == 16, process)
        process.kill()
    begun = project.repro("study", "show", "last", "--json", check=0).json
    assert {trial["state"] for trial in begun["trials"]} == {"running"}  # the runs on the old data are not its own
    new = tune(project, store, "--new", *FIRST).document
    assert (new["run_now"], new["read"]) == (7, 0)
    assert new["study_id"] != quiet.document["study_id"]
    assert new["trials"][0]["scores"] != quiet.document["trials"][0]["scores"]
    for first, expected in ((0, quiet.document), (900, new)):
        save(project, first)
        words = () if expected is quiet.document else FIRST
        found = tune(project, store, *words).document
        assert (found["run_now"], found["study_id"]) == (0, expected["study_id"])
        assert found["decisions_digest"] == expected["decisions_digest"]
    (project.root / "digits.npz").unlink()
    assert "digits.npz (gone)" in project.repro("tune", "study.yaml", check=2).err
    for expected in (quiet.document, new):
        verified = project.repro("study", "verify", expected["study_id"], "--json", check=0).json
        assert verified["digest"] == expected["decisions_digest"]
        shown = project.repro("study", "show", expected["study_id"], "--json", check=0).json
        assert shown["trials"] == expected["trials"]


TABLE = """\
table: table.npz
method: {hyperband: {eta: 2}}
fidelity: {epoch: [20, 80]}
seeds: {per_trial: 1, finalists: 2}
seed: 7
"""


def test_a_table_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hundred: a study over a table that is killed at any step of its process goes on to the same decisions.

    Each time again at a step that a generator draws, and then to the end; the store is whole after it.
    """
    project = Crashed(tmp_path / "project")
    write(project.root)
    project.write("study.yaml", TABLE)
    driver = Driver("from repro.cli import study, tune\nfrom repro.tune import finalists, judging\n")
    chance = random.Random(7)  # noqa: S311  (where to kill)
    monkeypatch.chdir(project.root)
    expected, kills = None, 0
    for limit in itertools.count():
        shutil.rmtree(project.store, ignore_errors=True)
        code = driver(project, limit, "tune", "study.yaml")
        if limit and code == 0:
            break
        if code == -signal.SIGKILL:
            kills += 1
            kills += driver(project, 1 + chance.randrange(limit), "tune", "study.yaml") == -signal.SIGKILL
        found = _document("tune", "study.yaml", "--json")
        expected = expected or found["decisions_digest"]
        assert found["decisions_digest"] == expected, f"killed at step {limit}"
        assert _document("study", "verify", "last", "--json")["faults"] == [], f"killed at step {limit}"
        assert _document("verify", "--json")["ok"], f"killed at step {limit}"
    driver.close()
    assert kills > 100


def _document(*words: str) -> Any:
    """Run ``repro`` in this process; return its document."""
    from repro.cli.main import _guarded

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert _guarded(list(words)) == 0, words
    return json.loads(out.getvalue())
