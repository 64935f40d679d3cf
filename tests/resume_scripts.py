"""Scripts that train, die when they are told to, and go on."""

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
import multiprocessing
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


def draw(_):
    return random.random(), multiprocessing.current_process()._identity[0]


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
    if epoch == 3:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            drawn, number = pool.map(draw, [0])[0]
        run.log(drawn=drawn, number=number)  # by how many children there were before
    die(epoch, "behind")
run.log(best=best["loss"], points=len(best["curve"]), draw=torch.rand(1).item())
'''

#: A loop of the script's own, or one of `run.epochs`; with DIE the run ends in its last epoch, LOST or by an error.
LOOP = """\
import os
import subprocess
import sys

import torch
from torch import nn

import repro

run = repro.current()
if os.environ.get("ASK"):
    done = subprocess.run(["repro", "run", "--resume", "last"], capture_output=True, text=True)
    print(done.returncode, done.stderr)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters())


def step():
    optimizer.zero_grad()
    loss = model(torch.randn(6, 4)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


how = sys.argv[1]
saved = {} if how == "silent" else run.resume(model=model, optimizer=optimizer)
assert bool(saved) == (run.id is not None and os.environ.get("GOES_ON") == "1")
for epoch in range(saved.get("epoch", -1) + 1, 3) if how == "own" else run.epochs(3):
    loss = step()
    if epoch == 0:
        open("result.txt", "w").write(str(loss))
        run.artifact("result.txt")
    run.log(step=epoch, loss=loss)
    run.checkpoint(model=model, optimizer=optimizer, epoch=epoch)
    if how == "early":
        step()
    if epoch == 2 and os.environ.get("DIE") == "LOST":
        os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)
    if epoch == 2 and os.environ.get("DIE"):
        raise RuntimeError
run.log(draw=torch.rand(1).item())
"""

#: Two ranks that average their gradients; with DIE, "RANK EPOCH", one dies before its checkpoint.
RANKS = """\
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import repro

dist.init_process_group("gloo")
rank, run = dist.get_rank(), repro.current()
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run.resume(model=model, optimizer=optimizer)
for epoch in run.epochs(3):
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(torch.randn(5, 4)).square().mean()
        loss.backward()
        optimizer.step()
    run.log(loss=loss, step=epoch)
    if os.environ.get("DIE") == f"{rank} {epoch}":
        os.kill(os.getpid(), 9)
    run.checkpoint(model=model, optimizer=optimizer)
dist.destroy_process_group()
"""
