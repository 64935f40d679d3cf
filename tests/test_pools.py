"""Trainings in the workers of a pool are paired by what they did, whichever worker had them."""

from pathlib import Path

import pytest
from conftest import Project

from repro.record import trail as form
from repro.replay import compare, pools
from repro.run.trails import ProcessTrail

Training = tuple[int, ...]


def worker(number: int, *trainings: Training, rank: int = 0) -> ProcessTrail:
    """Return a worker's trail: of each training the parameters in of its steps; generators are the worker's own."""
    frames = []
    for optimizer, values in enumerate(trainings):
        for step, value in enumerate(values):
            columns = tuple(100 + number if at == form.GENERATORS else value for at in range(len(form.COLUMNS)))
            chain = f"{number} {optimizer} {step} {value}".encode().ljust(16)[:16]
            frames.append(form.Frame(step, optimizer, form.FULL, 0, columns, chain))
    label = f"rank {rank}" + (f" #{number}" if number > 1 else "")
    return ProcessTrail(label, frames, Path(f"{rank:05d}-{number:04d}-1-1.details"), {})


A, B, C = (1, 2, 3), (4, 5), (6, 7, 8, 9)


def verdict(before: list[ProcessTrail], after: list[ProcessTrail]) -> tuple[int, object, list[str], int]:
    """Compare two pools as wholes."""
    return compare._of_trails(before, after, "whole")


def test_trainings_that_moved_are_equal() -> None:
    """The second worker had the training that the first had before."""
    frames, first, uneven, pooled = verdict([worker(1, A, B), worker(2, C)], [worker(1, C), worker(2, B, A)])
    assert (frames, first, uneven, pooled) == (9, None, [], 3)


def test_a_training_that_differs_is_found_among_those_that_moved() -> None:
    """Its first step that is not as it was is named, whichever worker has it."""
    changed = (6, 7, 80, 9)
    _, first, _, pooled = verdict([worker(1, A, B), worker(2, C)], [worker(1, changed), worker(2, B, A)])
    assert isinstance(first, compare.FirstDifference)
    assert (first.step, first.column, pooled) == (2, "parameters in", 3)


def test_a_training_without_a_counterpart_is_said() -> None:
    """One more, or one less, is a difference in words."""
    _, first, uneven, _ = verdict([worker(1, A, B), worker(2, C)], [worker(1, C), worker(2, B)])
    assert first is None
    assert uneven == ["a training of 3 steps in rank 0 has no counterpart"]
    _, _, uneven, _ = verdict([worker(1, A), worker(2, B)], [worker(1, B, C), worker(2, A)])
    assert uneven == ["a training of 4 steps in rank 0 had no counterpart"]


def test_where_nothing_moved_generators_count() -> None:
    """Workers that had the same trainings in the same turns are compared as any process: the draw is a difference."""
    drawn = worker(1, A)
    at = form.GENERATORS
    columns = [(*frame.columns[:at], 5, *frame.columns[at + 1 :]) for frame in drawn.frames]
    frames = [frame._replace(columns=own, chain=bytes(16)) for frame, own in zip(drawn.frames, columns, strict=True)]
    _, first, _, pooled = verdict([worker(1, A), worker(2, B)], [drawn._replace(frames=frames), worker(2, B)])
    assert isinstance(first, compare.FirstDifference)
    assert (first.column, pooled) == ("generators", 0)


def test_ranks_and_first_processes_are_never_mixed() -> None:
    """What a launcher numbers, and the program's first process, is no worker of a pool."""
    one, other = worker(1, A, rank=0), worker(1, B, rank=1)
    assert verdict([one, other], [worker(1, B, rank=0), worker(1, A, rank=1)])[1] is not None
    assert pools.workers([ProcessTrail("rank 0", [], Path("00000-0000-1-1.details"), {})]) == []


POOL = """
import multiprocessing as mp, os, sys, time, torch
def train(seed):
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 + (seed == 3) * float(os.environ.get("MORE", 0)))
    for _ in range(3 + seed):
        loss = (model(torch.randn(8, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    time.sleep(0.3 * ((seed + int(os.environ.get("SLOW", 0))) % 2))
    return loss.item()
if __name__ == "__main__":
    with mp.get_context("fork").Pool(2) as pool:
        print(pool.map(train, range(4), chunksize=1))
"""


@pytest.mark.parametrize(("words", "verdict_now"), [((), "IDENTICAL"), (("--with", "env.MORE=0.01"), "DIFFERENT")])
def test_a_pool_of_trainings(project: Project, words: tuple[str, ...], verdict_now: str) -> None:
    """Another worker for each training is the same result; another learning rate in one of them is not."""
    project.write("train.py", POOL)
    project.run("--", "python", "train.py")
    found = project.replay("last", *words, "--with", "env.SLOW=1")
    assert found["verdict"] == verdict_now
    assert found["compared"]["frames"] == 3 + 4 + 5 + 6
    if words:
        assert found["first_difference"]["column"] == "optimizer settings"
