"""Scripts with several processes: each draws from a place of its own, leaves a trail, and repeats to the bit."""

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import Project

DDP = """\
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import repro

dist.init_process_group("gloo")
rank = dist.get_rank()
run = repro.current()
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x = torch.arange(64.0).view(16, 4) / 64
data = TensorDataset(x, x.sum(1, keepdim=True))
sampler = DistributedSampler(data)
for epoch in range(3):
    sampler.set_epoch(epoch)
    for a, b in DataLoader(data, batch_size=4, sampler=sampler):
        optimizer.zero_grad()
        loss = ((model(a) - b) ** 2).mean()
        loss.backward()
        optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    run.log(loss=total, mine=loss, step=epoch)
    run.checkpoint(model=model)
# One write: torchrun starts its ranks with -u, and print would write word by word.
sys.stdout.write(f"RANK {rank} {os.environ['WORLD_SIZE']} {torch.get_num_threads()} {torch.rand(1).item()}\\n")
dist.destroy_process_group()
"""


@pytest.mark.parametrize("launcher", ["torchrun", "module"])
def test_ranks_of_torchrun_leave_a_trail_each_and_replay_identically(project: Project, launcher: str) -> None:
    """Two gloo ranks with gradient averaging: one trail a rank, metrics and checkpoints of both, the same bits again.

    The ranks draw different numbers, and share the cores as torchrun has it: one thread each unless told otherwise.
    """
    project.write("ddp.py", DDP)
    words = ["torchrun"] if launcher == "torchrun" else ["python", "-m", "torch.distributed.run"]
    done = project.repro("run", "--", *words, "--standalone", "--nproc-per-node", "2", "ddp.py", check=0)
    ranks = sorted(line.split()[1:] for line in done.out.splitlines() if line.startswith("RANK"))
    assert [line[:3] for line in ranks] == [["0", "2", "1"], ["1", "2", "1"]]
    assert ranks[0][3] != ranks[1][3]
    document = project.repro("show", "last", "--json").json
    trails = document["outcome"]["trails"]
    assert [(item["process"], item["frames"]) for item in trails] == [("rank 0", 6), ("rank 1", 6)]
    assert trails[0]["digest"] != trails[1]["digest"]
    assert len(list((Path(document["path"]) / "checkpoints").iterdir())) == 6
    if launcher == "module":
        return
    points = project.repro("log", "last", "--json").json["metrics"]
    assert [point["step"] for point in points["mine"]] == [0, 1, 2, 0, 1, 2]
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["frames"], found["compared"]["points"]) == ("IDENTICAL", 12, 12)


PROCESSES = """\
import json
import multiprocessing
import os
import random
import subprocess
import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import repro


class Noisy(Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, index):
        draws = [random.random(), float(np.random.rand()), torch.rand(1).item()]
        steady = repro.current().rng("augment", 0, index).random()
        return torch.tensor([index / 12, *draws, steady], dtype=torch.float32)


def train(batches, size=5):
    model = nn.Sequential(nn.Linear(size, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    return round(sum(p.sum().item() for p in model.parameters()), 6)


def draws(_=None):
    return [random.random(), float(np.random.rand()), torch.rand(1).item()]


def put(queue):
    queue.put(draws())


def spawned(index, folder):
    with open(os.path.join(folder, f"spawned-{index}"), "w") as file:
        json.dump([train([torch.rand(3, 5)] * 2), draws()], file)


if __name__ == "__main__":
    found = {}
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        for _ in range(2):
            child = context.Process(target=put, args=(queue,))
            child.start()
            found["draws", method, len(found)] = queue.get()
            child.join()
    found["loader"] = train(DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2))
    with multiprocessing.Pool(1) as pool:
        found["pool"] = pool.map(draws, range(2))
    torch.multiprocessing.spawn(spawned, (os.getcwd(),), nprocs=2)
    for index in range(2):
        with open(f"spawned-{index}") as file:
            found["spawned", index] = json.load(file)
    child = os.fork()
    if child == 0:
        with open("forked", "w") as file:
            json.dump([train([torch.rand(3, 5)] * 3), draws()], file)
        os._exit(0)
    os.waitpid(child, 0)
    with open("forked") as file:
        found["forked"] = json.load(file)
    code = "import torch; print(torch.rand(2).tolist())"
    found["subprocess"] = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    print(json.dumps({str(key): value for key, value in found.items()}))
"""


def test_children_of_all_kinds_draw_apart_and_repeat(project: Project) -> None:
    """A script that seeds nothing, with loaders, pools, spawned and forked children: twice the same, to the bit.

    Children that plain python would seed from the operating system differ from one another, as they do there; each
    process that steps an optimizer has a trail.
    """
    project.write("a.py", PROCESSES)
    project.write(".gitignore", "spawned-*\nforked\n")
    one = project.repro("run", "--", "python", "a.py", check=0)
    first = project.repro("show", "last", "--json").json["outcome"]
    other = project.repro("run", "--", "python", "a.py", check=0)
    second = project.repro("show", "last", "--json").json["outcome"]
    assert one.out == other.out
    assert first["trail_digest"] == second["trail_digest"]
    assert [item["frames"] for item in first["trails"]] == [3, 3, 2, 2]
    found = json.loads(one.out)
    apart = [tuple(value[1]) for key, value in found.items() if "spawned" in key]
    apart += [tuple(value) for key, value in found.items() if "draws" in key and "spawn" in key]
    for column in range(3):
        assert max(Counter(values[column] for values in apart).values()) == 1, (column, apart)
    forked = [tuple(value) for key, value in found.items() if "draws" in key and "'fork'" in key]
    assert len({values[0] for values in forked}) == 2  # Python's random, as under plain python
    assert len({values[1:] for values in forked}) == 1  # numpy's and torch's go on from the parent's, as there


SIDE_BY_SIDE = """\
import sys, time, torch
from torch import nn
import repro

time.sleep(float(sys.argv[2]))
torch.manual_seed(int(sys.argv[1]))
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(2):
    model(torch.rand(3, 2)).sum().backward()
    optimizer.step()
"""


def test_processes_side_by_side_are_held_against_their_like(project: Project) -> None:
    """Two trainings that a shell script starts at once come first in any order; the replay still is IDENTICAL."""
    project.write("a.py", SIDE_BY_SIDE)
    project.write("run.sh", "python a.py 1 $FIRST &\npython a.py 2 $SECOND &\nwait\n")
    project.run("--", "bash", "run.sh", FIRST="0", SECOND="1")
    found = project.replay(check=0, FIRST="1", SECOND="0")
    assert (found["verdict"], found["compared"]["frames"]) == ("IDENTICAL", 4)


ENTRY = """\
import torch
from torch.utils.data import DataLoader, Dataset

import repro


class Numbers(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return torch.tensor([index / 8, torch.rand(1).item()])


def train(run: repro.Run) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr)
    for method in ("fork", "spawn"):
        order = run.rng("order")
        for batch in DataLoader(Numbers(), 4, True, num_workers=2, multiprocessing_context=method, generator=order):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
"""


def test_an_experiments_loaders_have_workers_of_both_kinds(project: Project) -> None:
    """Under an ``experiment.yaml`` forked and spawned workers find the dataset's class, and the replay is IDENTICAL."""
    project.write("experiment.yaml", "name: loaders\nentry: train.py:train\nparams: {lr: 0.1}\n")
    project.write("train.py", ENTRY)
    done = project.run("experiment.yaml")
    assert done["frames"] == 4
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["frames"], found["compared"]["points"]) == ("IDENTICAL", 4, 4)
