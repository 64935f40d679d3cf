"""Warm workers: so many short trainings with 2 of them, against two bare processes that run the same in a loop.

    .venv/bin/python benchmarks/warm.py                    8 of 2 s (limit 1.25), then 200 of 0.2 s (limit 1.7)
    .venv/bin/python benchmarks/warm.py trials --n 40      one of the two, with another number

Both sides have torch loaded before the clock starts; the start of the templates is printed apart. Rounds of both are
made in turn, in one run; each training has one thread. `trials` then says where the time of a trial goes.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.engines import local, warm
from repro.record.values import TrailSchedule
from repro.run import conclude, request
from repro.store.store import Store
from repro.trials import pool, slot
from repro.trials.folder import Folder

#: A small convolutional network on images of 8 x 8: steps of 1 to 2 ms, as the digits experiment has them.
TRAIN = """\
import torch
from torch import nn


def train(run):
    x = torch.randn(1024, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    y = x.view(-1, 64)[:, :10].argmax(1)
    with run.stream("init"):
        first = nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        second = nn.Conv2d(20, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        model = nn.Sequential(*first, *second, nn.Flatten(), nn.Dropout(0.2), nn.Linear(160, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(run.params.steps):
        index = torch.randint(1024, (64,), generator=run.rng("order"))
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run.log(loss=loss.item())
"""
#: The same trainings in a loop, and first how many steps take a second of the processor.
BARE = """\
import sys, time
import torch, torch._dynamo, repro
from train import train

def once(steps):
    run = repro.Run()
    run.params = type("Params", (), {"steps": steps})
    train(run)

torch.set_num_threads(1)
once(50)
start = time.process_time()
once(300)
print(300 / (time.process_time() - start), flush=True)
for line in sys.stdin:
    count, steps = map(int, line.split())
    for _ in range(count):
        once(steps)
    print("done", flush=True)
"""
EXPERIMENT = (
    "name: warm\nentry: train.py:train\nparams: {steps: 100}\nthreads: 1\nmetrics: {loss: {direction: minimize}}\n"
)
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
WORKERS = 2


class Bare:
    """Plain processes that train in a loop, side by side."""

    def __init__(self, folder: Path, processes: int) -> None:
        command = [sys.executable, "-c", BARE]
        self._processes = [
            subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **THREADS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for _ in range(processes)
        ]
        self.steps_a_second = statistics.mean(float(process.stdout.readline()) for process in self._processes)

    def run(self, count: int, steps: int) -> float:
        """Run the trainings, each its share of them, and return the wall time."""
        start = time.perf_counter()
        for process in self._processes:
            process.stdin.write(f"{count // len(self._processes)} {steps}\n")
        for process in self._processes:
            process.stdout.readline()
        return time.perf_counter() - start

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stdin.close()
            process.wait()


def requests(folder: Path, steps: int) -> Iterator[Any]:
    """Yield requests of one experiment under ever other seeds."""
    first = request.of_words([str(folder / "experiment.yaml")], request.Choices([f"steps={steps}"], seed=0))
    for seed in itertools.count():
        yield replace(first, seed=seed)


def compare(count: int, seconds: float, rounds: int, limit: float) -> None:
    """Run so many trainings of so many seconds on both sides, in turn, and print the ratio of their wall times."""
    with project() as (folder, store):
        bare = Bare(folder, WORKERS)
        steps = round(bare.steps_a_second * seconds)
        asked = requests(folder, steps)
        template = pool.capture(store, next(asked))
        times, controller = [], []
        with pool.Pool(template, next(asked), WORKERS) as workers:
            print(f"{count} trainings of {seconds:g} s ({steps} steps); the templates start in", end=" ")
            print(", ".join(f"{ready.seconds:.2f} s" for ready in workers.ready()))
            for _ in range(rounds):
                base = bare.run(count, steps)
                start, used = time.perf_counter(), time.process_time()
                begun = 0
                while begun < count or workers.busy:
                    while begun < count and workers.free:
                        workers.begin(begun, next(asked))
                        begun += 1
                    outcome = workers.next()[1]
                    assert outcome.state == "COMPLETED", outcome  # noqa: S101
                times.append((time.perf_counter() - start, base))
                controller.append((time.process_time() - used) / count * 1e3)
        bare.close()
    print(f"  bare   {spread([base for _, base in times])} s")
    print(f"  warm   {spread([mine for mine, _ in times])} s")
    print(f"  ratio  {spread([mine / base for mine, base in times])}; limit {limit}")
    print(f"  controller, of each training {spread(controller)} ms of its processor time")


def where(seconds: float, count: int = 15) -> None:
    """Print where the time of a trial goes: one worker, each part timed around the functions that do it."""
    with project() as (folder, store):
        bare = Bare(folder, 1)
        steps = round(bare.steps_a_second * seconds)
        alone = statistics.median(bare.run(1, steps) for _ in range(5))
        bare.close()
        asked = requests(folder, steps)
        template = pool.capture(store, next(asked))
        spent: dict[str, list[float]] = defaultdict(list)
        quiet: dict[str, list[float]] = defaultdict(list)
        with slot.Slot(template) as one:
            one.prepare(next(asked))
            one.make(next(asked))
            for _ in range(count):
                with watched(spent):
                    timed(spent, "all", one.make)(next(asked))
                with watched(quiet):
                    one.make(replace(next(asked), trail=TrailSchedule(enabled=False)))
    parts = {name: statistics.median(values) * 1e3 for name, values in spent.items()}
    trail = parts["worker"] - statistics.median(quiet["worker"]) * 1e3
    print(f"  a trial of {alone * 1e3:.0f} ms, one worker alone: median of {count}, ms")
    named = ("folder", "new run", "fork", "seal record", "look", "take in", "seal outcome")
    for name in named:
        print(f"    {name:14}{parts[name]:7.1f}")
    print(f"    {'trail':14}{trail:7.1f}")
    print(
        f"    {'worker':14}{parts['worker'] - trail - alone * 1e3:7.1f}  (hooks, first step, end) beside its training"
    )
    rest = parts["all"] - parts["worker"] - sum(parts[name] for name in named)
    print(f"    {'rest':14}{rest:7.1f}")
    print(f"    {'all':14}{parts['all']:7.1f}")


#: Each part of a trial and the function that does it.
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("folder", Folder, "fresh"),
    ("new run", Store, "new_run"),
    ("fork", warm.Engine, "launch"),
    ("seal record", Store, "seal_record"),
    ("worker", local.LocalProcess, "wait"),
    ("look", conclude, "look"),
    ("take in", conclude, "outcome_of"),
    ("seal outcome", Store, "seal_outcome"),
)


@contextlib.contextmanager
def watched(spent: dict[str, list[float]]) -> Iterator[None]:
    """Time each part."""
    before = [getattr(owner, name) for _, owner, name in PARTS]
    for (label, owner, name), function in zip(PARTS, before, strict=True):
        setattr(owner, name, timed(spent, label, function))
    try:
        yield
    finally:
        for (_, owner, name), function in zip(PARTS, before, strict=True):
            setattr(owner, name, function)


def timed(spent: dict[str, list[float]], label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its time noted."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[label].append(time.perf_counter() - start)

    return call


@contextlib.contextmanager
def project() -> Iterator[tuple[Path, Store]]:
    """Make the experiment in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="repro-benchmark-") as scratch:
        folder = Path(scratch)
        (folder / "pyproject.toml").touch()
        (folder / "train.py").write_text(TRAIN)
        (folder / "experiment.yaml").write_text(EXPERIMENT)
        yield folder, Store.create(folder / ".repro")


def spread(values: list[float]) -> str:
    """Return median, minimum and maximum."""
    return f"median {statistics.median(values):.4g} (min {min(values):.4g}, max {max(values):.4g}, n {len(values)})"


def main() -> None:
    """Run what is named, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["replicates", "trials", []], help="all unless given")
    parser.add_argument("--n", type=int, help="how many trainings (8 and 200)")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if "replicates" in asked.what or not asked.what:
        compare(asked.n or 8, 2.0, asked.rounds, 1.25)
    if "trials" in asked.what or not asked.what:
        compare(asked.n or 200, 0.2, asked.rounds, 1.7)
        where(0.2)


if __name__ == "__main__":
    main()
