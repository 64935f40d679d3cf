"""DataLoader workers: each leaves a row for each batch it makes, and a replay names the one that made another."""

from pathlib import Path

from conftest import Project

from repro.run import trails

#: Augments with the worker's own generators; one worker's draw is one more where FAULT says so.
TRAIN = """\
import os

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

METHOD = os.environ.get("METHOD", "fork")


class Noisy(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        if os.environ.get("FAULT") == "draw" and index == 21:
            np.random.random()
        value = float(np.random.random()) + float(torch.rand(1))
        if os.environ.get("FAULT") == "value" and index == 21:
            value += 1
        return torch.full((3,), value), torch.tensor([float(index)]), f"item {index}"


if __name__ == "__main__":
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        for x, y, _ in DataLoader(Noisy(), batch_size=5, num_workers=2, multiprocessing_context=METHOD):
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()
        if os.environ.get("FAULT") == "early":
            break
"""


def test_each_worker_leaves_a_row_for_each_batch(project: Project) -> None:
    """Two epochs of eight batches by two workers: four files of four rows, also where workers are spawned anew."""
    project.write("train.py", TRAIN)
    for method in ("fork", "spawn"):
        done = project.run("--", "python", "train.py", METHOD=method)
        found = trails.of_workers(Path(done["path"]))
        assert [(item.process, len(item.frames)) for item in found] == [("worker 0", 4), ("worker 1", 4)] * 2
        assert all(frame.columns[1] and frame.columns[2] for item in found for frame in item.frames)
        assert project.replay(check=0, METHOD=method)["verdict"] == "IDENTICAL"
    project.repro("verify", check=0)


def test_the_worker_that_made_another_batch_is_named(project: Project) -> None:
    """Item 21 is in batch 4, the third of worker 0: its value, or its generators at the batch that comes next."""
    project.write("train.py", TRAIN)
    project.run("--", "python", "train.py")
    first = project.replay(check=3, FAULT="value")["first_difference"]
    assert (first["step"], first["column"]) == (4, "batch")
    assert first["loader"] == {"worker": "worker 0", "batch": 2, "column": "batch"}
    done = project.repro("replay", "last", check=3, FAULT="value")
    assert "step 4, batch; worker 0 of its loader made it: batch of its batch 2" in done.out
    drawn = project.replay(check=3, FAULT="draw")["first_difference"]
    assert drawn["loader"]["worker"] == "worker 0"


def test_how_far_workers_fetched_ahead_decides_nothing(project: Project) -> None:
    """A script that stops reading in the middle is IDENTICAL however many batches its workers had made by then."""
    project.write(
        "train.py", TRAIN.replace("        optimizer.step()\n", "        optimizer.step()\n            break\n")
    )
    project.run("--", "python", "train.py")
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
