"""Warm workers: forked from a template that has torch loaded, they leave what cold ones leave, bit for bit."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, ROOT, Project, clean_environment

from repro.record.values import Outcome
from repro.run import request
from repro.store.store import Store
from repro.trials import pool
from repro.trials.libraries import imported

#: Draws from every kind of generator, and writes what it finds of the world to a file.
EVERYTHING = """\
import atexit, json, os, random, sys, threading
import numpy as np
import torch
from beside import noise
from shaped import compiled

atexit.register(lambda: print("at exit", flush=False))


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.randn(8) + random.random() + np.random.rand() + index


def train(run):
    torch.manual_seed(run.seed + 1)
    with run.stream("init"):
        model = torch.nn.Sequential(torch.nn.Linear(8, 300), torch.nn.Dropout(0.5), torch.nn.Linear(300, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(Data(), 8, shuffle=True, num_workers=2, generator=run.rng("order"))
    for _ in run.epochs(2):
        for x in loader:
            x = x + noise() + torch.tensor(run.rng("augment").numpy.random()) + len(set("abc"))
            loss = model(x.float()).square().mean() + (torch.randn(400, 400) @ torch.randn(400, 400)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    out = sum((torch.randn(300, 300) @ torch.randn(300, 300)).sum().item() for _ in range(3))
    run.log(loss=loss.item(), product=out, numpy=float((np.random.rand(500, 500) @ np.random.rand(500, 500)).sum()))
    run.log(compiled=compiled(torch.ones(3)).sum().item())
    place = os.getcwd()
    world = {
        "argv": [word.removeprefix(place) for word in sys.argv],
        "path": [entry.replace(place, "PLACE") for entry in sys.path],
        "variables": {
            k: v.replace(os.environ["REPRO_JOB"], "JOB").replace(place, "PLACE") for k, v in sorted(os.environ.items())
        },
        "job": os.path.basename(os.path.dirname(os.environ["REPRO_JOB"])),
        "told": os.environ["REPRO_JOB"].encode() in open("/proc/self/environ", "rb").read(),
        "words": [w for w in sys.orig_argv if not w.startswith(os.environ["REPRO_JOB"])],
        "main": [sys.modules["__main__"].__name__, str(sys.modules["__main__"].__spec__.name)],
        "hash": [hash("a"), hash(b"b")],
        "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
        "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd") if int(n) < 1000),
        "input": os.fstat(0).st_rdev,
        "signals": [str(__import__("signal").getsignal(n)) for n in (2, 13, 15)],
        "masks": os.umask(0o22),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(), threading.active_count()],
        "default": [str(torch.get_default_dtype()), torch.are_deterministic_algorithms_enabled()],
        "terminal": sys.stdout.isatty(),
        "repro": "repro" in sys.modules,
        "main thread": threading.current_thread() is threading.main_thread(),
    }
    json.dump(world, open("world.json", "w"), indent=1)
    print("so it goes", run.seed)
    print("an error", file=sys.stderr)
    if run.seed == 1:
        sys.exit("ended by hand")
"""
#: A file that is closed by nobody: Python writes it out when it takes the module apart.
BESIDE = """\
import torch

left_open = open("left-open.txt", "w")
left_open.write("never closed\\n")


def noise():
    return torch.rand(1)
"""
#: torch.compile holds on to the module for ever.
SHAPED = """\
import torch


@torch.compile(backend="eager")
def compiled(x):
    return (x * 2).sin()
"""
EXPERIMENT = "name: warm\nentry: train.py:train\nparams: {epochs: 2}\nthreads: 2\n"


_LOGS = ("stdout.log", "stderr.log")


def left(project: Project, run_id: str) -> dict[str, Any]:
    """Return what a run left that is to be the same wherever and however it ran."""
    store = Store(project.store)
    outcome = store.outcome(run_id)
    assert outcome is not None
    folder = store.run_folder(run_id)
    return {
        "state": (outcome.state, outcome.exit_code, outcome.signal, outcome.reason),
        "trail": (outcome.trail_digest, [(item.process, item.frames) for item in outcome.trails]),
        "metrics": outcome.metrics,
        "files": {item.path: item.digest for item in outcome.outputs},
        "inputs": [item.path for item in outcome.inputs],
        "said": re.sub(r"/work/[^/]+/", "/work/ID/", f"{outcome.notes} {outcome.gaps}"),
        "output": [re.sub(r"/work/[^/]+/", "/work/ID/", (folder / name).read_text()) for name in _LOGS],
        "recipe": store.record(run_id).recipe_digest,
        "warm": "warm" in store.record(run_id).circumstances["launch"],
    }


def test_warm_and_cold_leave_the_same(project: Project) -> None:
    """Trails, metrics, files, output and end are equal, with every kind of generator, loaders' workers and 2 threads.

    So is what a script can find of the world around it: variables, arguments, descriptors, signals, hashes, where
    modules are imported from.
    """
    project.write("train.py", EVERYTHING)
    project.write("lib/beside.py", BESIDE)
    project.write("shaped.py", SHAPED)
    project.write("experiment.yaml", EXPERIMENT)
    words, env = ["--n", "2", "experiment.yaml"], {"PYTHONPATH": "lib"}
    cold = [left(project, run["run_id"]) for run in project.seeds(*words, "--cold", **env)["runs"]]
    shutil.rmtree(project.store)
    warm = [left(project, run["run_id"]) for run in project.seeds(*words, **env)["runs"]]
    assert all(run.pop("warm") for run in warm)
    assert not any(run.pop("warm") for run in cold)
    assert warm == cold

    assert cold[0]["state"][0] == "COMPLETED"
    assert cold[1]["output"][1].endswith("ended by hand\n")


#: One step, and what it came to.
STEP = """\
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    run.log(weight=model.weight.sum().item())
"""
#: Ends as its seed says, after a step; leaves a process in a session of its own.
ENDS = (
    """\
import ctypes, os, signal, subprocess, sys, time
import torch

assert {*os.listdir(".")} - {"__pycache__"} == {"experiment.yaml", "kept", "train.py"}, os.listdir(".")
assert open("experiment.yaml").read().startswith("name: ends"), "not as it was captured"


def train(run):
"""
    + STEP
    + """\
    if run.seed == 0:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        os.remove("kept/file.txt")
        os.rmdir("kept")
        open("experiment.yaml", "w").write("another")
        open("new", "w").write("left behind")
    if run.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.seed == 2:
        ctypes.string_at(0)
    if run.seed == 3:
        raise ValueError("no luck")
    if run.seed == 4:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
"""
)


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, with their states."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = int(fields[1]), fields[0]
    below = {pid}
    while more := {child for child, (parent, _) in found.items() if parent in below} - below:
        below |= more
    return {child: found[child][1] for child in below - {pid} if child in found}


def new(before: dict[int, str]) -> dict[int, str]:
    """Return the processes below this one that were not there before; other tests may have left some."""
    return {pid: state for pid, state in descendants(os.getpid()).items() if pid not in before}


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; what never does is a failure."""
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail("it never came to that")


def gone(pids: Iterable[int]) -> bool:
    """Say whether none of the processes runs any more; one that its new parent has not taken note of counts."""
    return not any(state(pid) not in "ZX" for pid in pids)


def state(pid: int) -> str:
    """Return the state of a process, X where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


@contextmanager
def pool_of(
    project: Project, workers: int, monkeypatch: pytest.MonkeyPatch, *changes: str
) -> Iterator[tuple[pool.Pool[str], Callable[[int], request.Request], Store]]:
    """Open a pool for the project's experiment, with a maker of requests and the store."""
    for name in [name for name in os.environ if name not in clean_environment()]:
        monkeypatch.delenv(name)
    store = Store.create(project.store)

    def make(seed: int) -> request.Request:
        return request.of_words([str(project.root / "experiment.yaml")], request.Choices(changes, seed=seed, threads=1))

    with pool.Pool[str](pool.capture(store, make(0)), make(0), workers) as found:
        yield found, make, store


def test_a_worker_that_ends_takes_nobody_along(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, crashed, failed and interrupted workers end as cold ones do; others go on, from a clean folder.

    What a worker left running is ended, and nothing is left of it: one template is all that each supervisor has.
    """
    before = descendants(os.getpid())
    project.write("train.py", ENDS)
    project.write("kept/file.txt", "kept")
    project.write("experiment.yaml", "name: ends\nentry: train.py:train\n")
    with pool_of(project, 2, monkeypatch) as (workers, make, _):
        assert [ready.why_cold for ready in workers.ready()] == [None, None]
        ended: dict[str, Outcome] = {}
        for seed in (5, 0, 1, 2, 3, 4, 6, 7):
            if not workers.free:
                ended |= [workers.next()]
            workers.begin(f"seed {seed}", make(seed))
        while workers.busy:
            ended |= [workers.next()]
        assert len(new(before)) == 4
        assert "Z" not in new(before).values()
    found = {name: (end.state, end.exit_code, end.signal) for name, end in sorted(ended.items())}
    completed = ("COMPLETED", 0, None)
    assert found == {
        "seed 0": completed,
        "seed 1": ("FAILED", None, "SIGKILL"),
        "seed 2": ("FAILED", None, "SIGSEGV"),
        "seed 3": ("FAILED", 1, None),
        "seed 4": ("FAILED", None, "SIGINT"),
        "seed 5": completed,
        "seed 6": completed,
        "seed 7": completed,
    }
    assert new(before) == {}


#: Waits for a file beside the project, and says that it does.
WAITS = (
    """\
import os, time
import torch


def train(run):
"""
    + STEP
    + """\
    open(run.params.flag + f"-begun-{run.seed}-{time.time_ns()}", "w").close()
    while not os.path.exists(run.params.flag):
        time.sleep(0.005)
"""
)


def begun(flag: Path, *seeds: int) -> int:
    """Say how often runs under these seeds have come to where they wait."""
    marks = tuple(f"{flag.name}-begun-{seed}-" for seed in seeds)
    return sum(name.startswith(marks) for name in os.listdir(flag.parent))


@pytest.fixture
def waiting(project: Project, tmp_path: Path) -> Path:
    """A project whose runs wait for a file; return its path."""
    flag = tmp_path / "flag"
    project.write("train.py", WAITS)
    project.write("experiment.yaml", f"name: waits\nentry: train.py:train\nthreads: 1\nparams: {{flag: {flag}}}\n")
    return flag


def test_what_is_killed_around_a_run_is_made_up_for(
    project: Project, waiting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes with its template or supervisor is LOST and made again; the other worker's never notices."""
    before = descendants(os.getpid())
    with pool_of(project, 2, monkeypatch) as (workers, make, store):
        workers.ready()
        for seeds, victim in (((1, 2), "template"), ((3, 4), "supervisor")):
            supervisor = workers._supervisors[0].process.pid or 0
            for seed in seeds:
                workers.begin(f"{seed}", make(seed))
            eventually(lambda seeds=seeds: begun(waiting, *seeds) == 2)
            mine = descendants(supervisor)
            (template,) = (pid for pid in mine if parent(pid) == supervisor)
            os.kill(template if victim == "template" else supervisor, signal.SIGKILL)
            eventually(lambda mine=mine: gone(mine))
            helper = threading.Thread(target=let_go, args=(waiting, seeds))
            helper.start()
            ended = dict([workers.next(), workers.next()])
            assert {int(name): outcome.state for name, outcome in ended.items()} == dict.fromkeys(seeds, "COMPLETED")
            helper.join()
            waiting.unlink()
    states = [outcome.state for name in store.run_ids() if (outcome := store.outcome(name))]
    assert sorted(states) == [*["COMPLETED"] * 4, *["LOST"] * 2]
    assert gone(new(before))  # orphans of the killed are this process's, where a test before has made it their heir


def let_go(flag: Path, seeds: tuple[int, ...]) -> None:
    """Let the runs go on once one of them has begun for the second time."""
    eventually(lambda: begun(flag, *seeds) == 3)
    flag.touch()


def resident(pid: int) -> int:
    """Return the memory of its own that a process has, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_memory_comes_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template is no larger after 50 trials that each took 50 MB, and its supervisor has one child and no zombie."""
    project.write("train.py", "import torch\n\n\ndef train(run):\n    run.log(x=torch.ones(12_500_000).sum().item())\n")
    project.write("experiment.yaml", "name: memory\nentry: train.py:train\nthreads: 1\n")
    with pool_of(project, 1, monkeypatch) as (workers, make, _):
        workers.ready()
        supervisor = workers._supervisors[0].process.pid or 0
        (template,) = descendants(supervisor)
        sizes = []
        for seed in range(50):
            workers.begin(f"{seed}", make(seed))
            assert workers.next()[1].metrics == {"x": 12_500_000.0}
            sizes.append(resident(template))
        assert sizes[-1] - sizes[4] < 1000
        assert list(descendants(supervisor)) == [template]


def controller(project: Project) -> "subprocess.Popen[str]":
    """Start `repro seeds` with two workers in a process group of its own."""
    words = [str(REPRO), "seeds", "--n", "2", "--workers", "2", "--json", "experiment.yaml"]
    return subprocess.Popen(
        words, cwd=project.root, env=clean_environment(), stdout=subprocess.PIPE, text=True, process_group=0
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_controller_ends_all(project: Project, waiting: Path, number: int) -> None:
    """Ctrl-C and `kill -9` of the command alone leave no process; runs are CANCELLED or LOST; the command goes on."""
    with controller(project) as command:
        eventually(lambda: begun(waiting, 0, 1) == 2)
        below = descendants(command.pid)
        command.send_signal(number)
        assert command.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL)
        eventually(lambda: gone(below))
    assert len(below) == 6
    waiting.touch()
    done = project.seeds("--n", "2", "--workers", "2", "experiment.yaml")
    assert (done["run_now"], done["failed"]) == (2, 0)
    store = Store(project.store)
    states = [outcome.state for name in store.run_ids() if (outcome := store.outcome(name))]
    ended = "CANCELLED" if number == signal.SIGINT else "LOST"
    assert sorted(states) == sorted(["COMPLETED", "COMPLETED", ended, ended])
    assert list(store.work.iterdir()) == []


def test_digits_are_the_same_warm_and_cold(project: Project) -> None:
    """The digits experiment has equal trails and metrics, with its library loaded by the template."""
    shutil.copytree(ROOT / "experiments" / "digits", project.root / "digits", ignore=shutil.ignore_patterns(".*"))
    project.write("pyproject.toml", "")
    words = ["--n", "2", "--set", "epochs=1", "digits/experiment.yaml"]
    warm = [left(project, run["run_id"]) for run in project.seeds(*words)["runs"]]
    shutil.rmtree(project.store)
    assert all(run.pop("warm") for run in warm)
    cold = [left(project, run["run_id"]) for run in project.seeds("--cold", *words)["runs"]]
    assert not any(run.pop("warm") for run in cold)
    assert warm == cold


def test_names_that_a_template_has_loaded_are_left_to_the_user(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module beside the script that has the name of one that only the template has: workers are cold, and say why."""
    project.write("statistics.py", "mine = 1.0\n")
    project.write("train.py", "import statistics\n\n\ndef train(run):\n    run.log(mine=statistics.mine)\n")
    project.write("experiment.yaml", "name: names\nentry: train.py:train\n")
    with pool_of(project, 1, monkeypatch) as (workers, make, _):
        assert "has a module 'statistics'" in str(workers.ready()[0].why_cold)
        workers.begin("0", make(0))
        assert workers.next()[1].metrics == {"mine": 1.0}


def test_libraries_that_are_imported_whatever_happens(project: Project) -> None:
    """Outermost imports of inert libraries, also of the modules beside a script; not what the user has a module for."""
    script = project.write("code/train.py", "import numpy as np, wandb\nfrom sklearn.datasets import x\nimport help\n")
    project.write("code/help/__init__.py", "import scipy.stats\nfrom help import deep\ndef f():\n    import pandas\n")
    project.write("code/torchvision.py", "")
    assert imported(script) == ["numpy", "sklearn.datasets", "scipy.stats"]
    assert imported(project.root / "missing.py") == []
