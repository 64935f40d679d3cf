"""A run that was killed and goes on from its checkpoint equals the uninterrupted one, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project

#: An experiment's entry that dies behind the first loss of the step that DIE names: "40 KILL", "40 LOST".
DEADLY = """\
import os
import signal

import train as experiment


def train(run):
    log = run.log
    step_of_death, _, how = os.environ.get("DIE", "").partition(" ")

    def deadly(*values, step=None, **named):
        log(*values, step=step, **named)
        if str(step) == step_of_death and "loss" in named:
            if how == "LOST":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    run.log = deadly
    experiment.train(run)
"""

#: Six kinds of model with what else a training has: loaders with and without workers, schedulers, a scaler, generators
#: of one's own. With DIE it dies in its own way at an epoch: before its training, in the middle, behind its checkpoint.
SIX = '''\
import os
import random
import signal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import repro


class Noisy(Dataset):
    """Points of five dimensions, moved at random whenever they are read."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        noise = torch.randn(5) + random.random() + np.random.rand()
        return torch.full((5,), i / 24) + 0.1 * noise.float(), i % 3


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 8, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.lstm(x.unsqueeze(2))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.first, self.body, self.out = nn.Linear(1, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.body(self.first(x.unsqueeze(2))).mean(1))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(50, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.bag((x * 10).long().clamp(0, 49)))


def mlp():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def cnn():
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


def normed():
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


run = repro.current()
warm = torch.randn(3)  # what is drawn before the run goes on has no effect
with run.stream("init"):
    models = [mlp(), cnn(), Transformer(), LSTM(), Embedding(), normed()]
optimizers = [
    torch.optim.SGD(models[0].parameters(), lr=0.1, momentum=0.9, nesterov=True),
    torch.optim.Adam(models[1].parameters(), lr=0.01, amsgrad=True),
    torch.optim.AdamW(models[2].parameters(), lr=0.01),
    torch.optim.RMSprop(models[3].parameters(), lr=0.01, centered=True),
    torch.optim.Adagrad(models[4].parameters(), lr=0.1),
    torch.optim.NAdam(models[5].parameters(), lr=0.01),
]
schedules = [
    torch.optim.lr_scheduler.LambdaLR(optimizers[0], lambda epoch: np.float64(0.9) ** epoch),
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[1], T_max=4),
    torch.optim.lr_scheduler.OneCycleLR(optimizers[2], max_lr=0.02, total_steps=12),
    torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[5], patience=0),
]
scaler = torch.amp.GradScaler("cpu")
mine, numpys = torch.Generator(), np.random.default_rng(7)
mine.manual_seed(3)
loaders = [
    DataLoader(Noisy(), batch_size=8, shuffle=True),
    DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2, generator=run.rng("order")),
    DataLoader(Noisy(), batch_size=8, shuffle=True, generator=mine),
]
if run.rng("flip").random() > 2:
    raise AssertionError
best = {"loss": float("inf"), "curve": []}
parts = dict(models=models, optimizers=optimizers, schedules=schedules, scaler=scaler, mine=mine, numpys=numpys)
saved = run.resume(**parts, best=best)
count = saved.get("count", 0)
run.log(before=1.0)
torch.rand(7)
how, _, when = os.environ.get("DIE", "").partition(" ")


def die(epoch, place):
    if when == f"{epoch} {place}":
        if how == "TERM":
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
        if how == "raise":
            raise RuntimeError("the disk is on fire")
        os.kill(os.getpid(), signal.SIGKILL)


for epoch in run.epochs(4):
    die(epoch, "before")
    if epoch == 0:
        run.rng("warm").random()
    for batches in zip(*loaders):
        total = 0.0
        for i, (model, optimizer) in enumerate(zip(models, optimizers)):
            if i == 5 and epoch % 2:
                continue  # this one trains in every other epoch alone
            x, y = batches[i % 3]
            x = x + 0.01 * torch.from_numpy(numpys.random(5).astype("float32"))
            if run.rng("flip").random() < 0.5:
                x = x.flip(1)
            optimizer.zero_grad()
            with run.stream("dropout"):
                loss = cross_entropy(model(x), y)
            if i == 0:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
            total += loss.item()
        count += 1
        run.log(step=count, loss=total)
        if count % 3 == 2:
            die(epoch, "middle")
        schedules[2].step()
    for schedule in (schedules[0], schedules[1]):
        schedule.step()
    schedules[3].step(total)
    best["loss"] = min(best["loss"], total)
    best["curve"].append(total)
    run.checkpoint(**parts, best=best, count=count)
    run.log(step=epoch, behind=total)
    die(epoch, "behind")
run.log(best=best["loss"], points=len(best["curve"]), draw=torch.rand(1).item())
'''


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
    third = project.run("--resume", "last", check=1, DIE="raise 3 middle")
    assert (third["state"], third["resumed"]["epoch"]) == ("FAILED", 0)
    assert third["resumed"]["run"] == first["run_id"]
    last = project.run("--resume", "last")
    assert (last["resumed"]["run"], last["resumed"]["epoch"]) == (third["run_id"], 2)
    assert_equal(project, whole, last)
    assert last["notes"] == []
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
