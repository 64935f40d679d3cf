"""What `repro` costs, each claim as a ratio or a difference measured side by side in one run: medians and spread.

    .venv/bin/python benchmarks/overhead.py            all four, about four minutes
    .venv/bin/python benchmarks/overhead.py run trail  some of them

* run: wall time of `repro run -- python train.py` against `python train.py`; the limit is 0.3 s more.
* trail: steps with the trail against steps without: the digits experiment's and steps of about 1 ms, where the limit
  is 5%, and steps of about 100 ms, where it is 1%; apart for the first 1,000 steps, whose frames are all full.
* log: `run.log` of one scalar against a flushed JSON line written by hand; the limit is twice.
* ls: `repro ls` in a store of 1,000 runs; the limit is 0.3 s.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from repro.record.values import TrailSchedule

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
REPRO = str(Path(PYTHON).with_name("repro"))
SCHEDULE = TrailSchedule()

SCRIPT = """\
import torch
model = torch.nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(20):
    optimizer.zero_grad()
    model(torch.randn(32, 64)).square().mean().backward()
    optimizer.step()
"""

#: Blocks of steps of the digits experiment, the trail on and off in turn: its hooks are taken off and put on again.
TRAINING = """\
import json, sys, time
sys.path.insert(0, "experiments/digits")
import torch, repro
from sklearn.datasets import load_digits
from torch.optim import optimizer as hooks
from train import network
images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
y = torch.tensor(labels)
run = repro.current()
[run.rng(name) for name in ("split", "order")]
width, batch, rounds = map(int, sys.argv[1:])
x, y = x[:1078], y[:1078]
model = network(width, 0.2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.0005)
def block():
    start = time.perf_counter()
    order = torch.randperm(1078, generator=run.rng("order")).split(batch)[: 1078 // batch]
    for index in order:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - start) / len(order) * 1e3
places = [(torch.nn.Module, "__call__"), (torch.autograd, "backward")]
watching = [getattr(*place) for place in places]
registered = [dict(hooks._global_optimizer_pre_hooks), dict(hooks._global_optimizer_post_hooks)]
def switch(on):
    for (owner, name), function in zip(places, watching):
        setattr(owner, name, function if on else function.__wrapped__)
    for found, kept in zip((hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks), registered):
        found.clear()
        found.update(kept if on else {})
assert all(registered)
block()
times = {True: [], False: []}
for index in range(rounds):
    on = index % 2 == 0
    switch(on)
    times[on].append(block())
print(json.dumps([times[True], times[False]]))
"""

LOGGING = """\
import json, sys, time, repro
n = 20_000
run = repro.current()
run.log(step=0, loss=0.5)
mine, theirs = [], []
with open(sys.argv[1], "w") as handle:
    for _ in range(7):
        start = time.perf_counter()
        for step in range(n):
            run.log(step=step, loss=0.1234567)
        mine.append((time.perf_counter() - start) / n * 1e6)
        start = time.perf_counter()
        for step in range(n):
            handle.write(json.dumps({"t": time.time(), "step": step, "loss": 0.1234567}) + "\\n")
            handle.flush()
        theirs.append((time.perf_counter() - start) / n * 1e6)
print(json.dumps([mine, theirs]))
"""


def seconds(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> float:
    """Return the wall time of one command."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, env=env)
    return time.perf_counter() - start


def spread(values: list[float]) -> str:
    """Return median, minimum and maximum."""
    return f"median {statistics.median(values):.4g} (min {min(values):.4g}, max {max(values):.4g}, n {len(values)})"


def job(folder: Path, *, trail: bool) -> dict[str, str]:
    """Make a job directory by hand, and return the environment of a process that belongs to it."""
    for name in ("observed", "metrics", "trail", "checkpoints", "artifacts", "inputs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    value = {
        "folder": str(folder),
        "run_id": "benchmark",
        "seed": 0,
        "profile": "strict",
        "threads": 1,
        "root": str(ROOT),
        "store": str(folder),
        "started_ns": time.time_ns(),
        "trail": msgspec.to_builtins(SCHEDULE) | {"enabled": trail},
    }
    (folder / "job.json").write_text(json.dumps(value))
    return {**os.environ, "REPRO_JOB": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(scratch: Path) -> None:
    """Compare the wall time of a script under `repro run` with plain python, in a copy of this repository."""
    project = scratch / "project"
    shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".venv", ".repro", ".git", "__pycache__", ".*_cache"))
    (project / "bench.py").write_text(SCRIPT)
    subprocess.run(["git", "init", "-q", "."], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    recorded, plain = [REPRO, "run", "--", PYTHON, "bench.py"], [PYTHON, "bench.py"]
    first = seconds(recorded, project) - seconds(plain, project)
    pairs = [(seconds(recorded, project), seconds(plain, project)) for _ in range(11)]
    print(f"run     plain python      {spread([b for _, b in pairs])} s")
    print(f"        repro run adds    {spread([a - b for a, b in pairs])} s; the first time {first:.3g} s; limit 0.3 s")


#: Of a step: what it is called, the network's width, the batch's size, blocks of steps, the limit in percent.
STEPS = (("digits", 20, 64, 500, 5), ("about 1 ms", 8, 48, 500, 5), ("about 100 ms", 96, 512, 60, 1))


def trail(scratch: Path) -> None:
    """Compare blocks of steps with and without the trail, in turn in one process; five processes."""

    def once(folder: Path, *size: int) -> list[tuple[float, float]]:
        env = job(folder, trail=True)
        words = [PYTHON, "-c", TRAINING, *map(str, size)]
        done = subprocess.run(words, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
        on, off = json.loads(done.stdout)
        early = -(-SCHEDULE.thin_after // (1078 // size[1]))  # blocks
        parts = [slice(early), slice(early, None)] if len(on) > early else [slice(None)]
        return [(statistics.median(on[part]), statistics.median(off[part])) for part in parts]

    for name, *size, limit in STEPS:
        found = [once(scratch / f"{name}-{index}", *size) for index in range(5)]
        print(f"trail   {name:12} step {spread([pairs[-1][1] for pairs in found])} ms")
        for part, when in enumerate(("the first 1,000 steps", "from then on")[: len(found[0])]):
            pairs = [item[part] for item in found]
            added = spread([(on / off - 1) * 100 for on, off in pairs])
            print(f"        the trail adds    {added} %, {when}{f'; limit {limit} %' * (part + 1 == len(found[0]))}")


def log(scratch: Path) -> None:
    """Compare one scalar logged with a JSON line written and flushed by hand."""
    env = job(scratch / "log", trail=False)
    command = [PYTHON, "-c", LOGGING, str(scratch / "lines.jsonl")]
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    mine, theirs = json.loads(done.stdout)
    print(f"log     by hand           {spread(theirs)} us")
    print(f"        run.log           {spread(mine)} us")
    print(f"        ratio             {spread([a / b for a, b in zip(mine, theirs, strict=True)])}; limit 2")


def ls(scratch: Path) -> None:
    """Time `repro ls` on 1,000 runs: copies of one real run, sealed through the store's own code."""
    from repro.base import clock
    from repro.store.store import Store

    project = scratch / "many"
    project.mkdir()
    (project / "pyproject.toml").touch()
    (project / "tiny.py").write_text("import repro; repro.current().log(acc=0.5)")
    seconds([REPRO, "run", "--", PYTHON, "tiny.py"], project)
    store = Store(project / ".repro")
    run_id = next(store.run_ids())
    record, outcome = store.record(run_id), store.outcome(run_id)
    assert outcome is not None  # noqa: S101
    for _ in range(999):
        copy = clock.new_run_id()
        _, lock = store.new_run(copy)
        digest = store.seal_record(msgspec.structs.replace(record, run_id=copy))
        store.seal_outcome(msgspec.structs.replace(outcome, run_id=copy, record_digest=digest, files={}))
        os.close(lock)
    first = seconds([REPRO, "ls"], project)
    times = [seconds([REPRO, "ls"], project) for _ in range(11)]
    print(f"ls      1,000 runs        {spread(times)} s; building the index {first:.3g} s; limit 0.3 s")


def main() -> None:
    """Run the benchmarks that are named, or all."""
    every: dict[str, Callable[[Path], None]] = {"run": run, "trail": trail, "log": log, "ls": ls}
    for name in sys.argv[1:] or every:
        with tempfile.TemporaryDirectory(prefix="repro-benchmark-") as scratch:
            every[name](Path(scratch))


if __name__ == "__main__":
    main()
