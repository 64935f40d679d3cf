"""`kill -9` at any point, of any process: the store opens, what was sealed is whole, and the next run goes on."""

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, Project, clean_environment

from repro.base import digest, journal
from repro.cli import main
from repro.record.values import KEPT

#: For each job that it reads: forks, runs ``repro`` (or, without words, attaches a note to a run) there, and kills that
#: process at its n-th step: before each call that changes a file, takes a lock or starts a program, before each write
#: and in the middle of it. With n = 0 it goes to the end and leaves a list of its steps. Answers with the exit code.
DRIVER = """\
import json, os, signal, sys, threading
from pathlib import Path
from repro.cli import common, run, ls, show, verify
from repro.cli.main import main
from repro.record.values import Attachment
from repro.store.store import Store

EVENTS = ("mkdir", "rename", "link", "remove", "rmdir", "chmod", "truncate")
EVENTS = {"subprocess.Popen", "fcntl.flock", *("os." + name for name in EVENTS)}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
steps, lock, limit = [], threading.Lock(), 0

def step(name, before=lambda: None):
    with lock:
        steps.append(name)
        if len(steps) == limit:
            before()
            os.kill(os.getpid(), signal.SIGKILL)

def audit(event, args):
    if event in EVENTS:
        step(event + " " + str(args[0]))
    elif event == "open" and isinstance(args[0], (str, bytes)) and ".repro/" in os.fsdecode(args[0]):
        if isinstance(args[2], int) and args[2] & WRITES:
            step("open " + os.fsdecode(args[0]))

def wrap(name):
    plain = getattr(os, name)
    def wrapped(fd, *args):
        if fd > 2:
            where = os.readlink("/proc/self/fd/%d" % fd)
            step(name + " " + where)
            if args:
                step("half of " + name + " " + where, lambda: plain(fd, args[0][: len(args[0]) // 2], *args[1:]))
        return plain(fd, *args)
    setattr(os, name, wrapped)

def attach():
    store = Store(Path(".repro"))
    run_id = next(store.run_ids())
    store.attach(Attachment(kind="note", about="sha256:0", run_id=run_id, created="now", body={}))

def redirect(path):
    for number, name in enumerate((os.devnull, path + ".out", path + ".err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)

def one(job):
    global limit
    redirect(job["report"])
    os.chdir(job["folder"])
    limit = job["limit"]
    for name in ("write", "pwrite", "fsync"):
        wrap(name)
    sys.addaudithook(audit)
    code = 0
    try:
        main(job["words"]) if job["words"] else attach()
    except SystemExit as error:
        code = error.code
    finally:
        limit = 0
        Path(job["report"]).write_text("\\n".join(steps))
        sys.stdout.flush()
        os._exit(code or 0)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        one(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

#: Tells that it ran, logs metrics, and leaves a result.
SCRIPT = """\
import pathlib
import repro
pathlib.Path({witness!r}).touch()
run = repro.current()
for step in range(5):
    run.log(step=step, loss=1 / (step + 1))
pathlib.Path("result.txt").write_text("done")
run.artifact("result.txt")
"""


class Driver:
    """A process that runs ``repro`` in forks of itself; ``also`` has imports that these then need not do."""

    def __init__(self, also: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", also + DRIVER], env=clean_environment(), stdin=-1, stdout=-1, text=True
        )

    def __call__(self, project: "Crashed", limit: int, *words: str) -> int:
        """Run ``repro`` with ``words`` in a project until its step ``limit`` (0: to the end); its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"folder": str(project.root), "report": str(project.report), "limit": limit, "words": words}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@pytest.fixture(scope="module")
def drive() -> Iterator[Driver]:
    """The driver."""
    driver = Driver()
    yield driver
    driver.close()


class Crashed(Project):
    """A project whose script tells by a file outside that it ran."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        root.mkdir()
        self.witness = root.parent / f"{root.name}-witness"
        self.report = root.parent / f"{root.name}-steps"
        self.write("train.py", SCRIPT.format(witness=str(self.witness)))

    def steps(self) -> list[str]:
        """The steps of the run that went to its end."""
        return self.report.read_text().splitlines()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command line in this process (hundreds are needed): called with a project and words, gives a document."""

    def run(project: Project, *words: str) -> Any:
        monkeypatch.chdir(project.root)
        monkeypatch.delenv("REPRO_STORE", raising=False)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main._guarded([*words, "--json"])
        assert code == 0, f"repro {' '.join(words)}: exit {code}\n{out.getvalue()}\n{err.getvalue()}"
        return json.loads(out.getvalue())

    return run


def journaled(project: Project) -> dict[str, str]:
    """Path and digest of all that the journal knows."""
    return {entry["path"]: entry["digest"] for entry in journal.check(project.store / "journal.jsonl")[0]}


def assert_opens(project: Project, command: Callable[..., Any]) -> list[dict[str, Any]]:
    """Assert that the store can be read in every way, that each run of it is whole; return the runs."""
    runs = command(project, "ls")
    for run in runs:
        shown = command(project, "show", run["run_id"])
        assert shown["record"]["run_id"] == run["run_id"]
        assert shown["state"] == run["state"] in ("COMPLETED", "LOST")
        command(project, "log", run["run_id"])
    for record in project.store.glob("runs/*/record.json"):
        assert stat.S_IMODE(record.stat().st_mode) == 0o444
        assert json.loads(record.read_bytes())["run_id"] == record.parent.name
    if (project.store / "store.json").exists():
        assert command(project, "verify")["ok"]
    return list(runs)


def assert_sealed(project: Project, run_id: str) -> None:
    """Assert that a run's record is on the disk, read-only, and in the journal."""
    path = project.store / "runs" / run_id / "record.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert journaled(project)[f"runs/{run_id}/record.json"] == digest.of_file(path)


def assert_settled(project: Crashed, command: Callable[..., Any], drive: Driver) -> list[dict[str, Any]]:
    """Assert that after a further run every run has its outcome and the crash left nothing; return the runs."""
    before = {run["run_id"] for run in command(project, "ls")}
    code = drive(project, 0, "run", "--", "true")
    assert code == 0, Path(f"{project.report}.err").read_text()
    runs = assert_opens(project, command)
    assert "COMPLETED" in [run["state"] for run in runs if run["run_id"] not in before]
    known = journaled(project)
    for run in runs:
        path = f"runs/{run['run_id']}/outcome.json"
        assert known[path] == digest.of_file(project.store / path)
    assert list((project.store / "open").iterdir()) == []
    folders = {path.name for path in (project.store / "runs").iterdir()}
    assert folders == {run["run_id"] for run in runs}
    litter = [path for path in (project.store / "runs").rglob("*") if path.name.startswith(".")]
    assert litter == []
    return runs


def walk(drive: Driver, make: Callable[[int], Crashed], first: int, *words: str) -> Iterator[Crashed]:
    """Yield a project for each step at which its supervisor was killed, until one run comes to its end."""
    for limit in range(first, first + 1000):
        project = make(limit)
        if drive(project, limit, *words) != -signal.SIGKILL:
            assert limit - first > 5, "the driver does not see the steps"
            return
        yield project


def copies(original: Crashed) -> Callable[[int], Crashed]:
    """A maker of copies of a project as it is now, with its store."""

    def make(number: int) -> Crashed:
        project = Crashed(original.root.parent / f"copy{number}")
        shutil.copytree(original.root, project.root, dirs_exist_ok=True)
        return project

    return make


def test_the_supervisor_is_killed_at_each_step(tmp_path: Path, command: Callable[..., Any], drive: Driver) -> None:
    """From an empty folder on: at no step is a run half there, and user code never ran without a sealed record."""
    seen = set()

    def make(number: int) -> Crashed:
        return Crashed(tmp_path / f"p{number}")

    for project in walk(drive, make, 1, "run", "--", "python", "train.py"):
        runs = assert_opens(project, command)
        ran = project.witness.exists()
        assert len(runs) <= 1
        if ran:
            assert_sealed(project, runs[0]["run_id"])
        seen.add((len(runs), ran, runs[0]["state"] if runs else ""))
        after = assert_settled(project, command, drive)
        assert {run["run_id"] for run in runs} <= {run["run_id"] for run in after}
    assert seen >= {(0, False, ""), (1, False, "LOST"), (1, True, "LOST"), (1, True, "COMPLETED")}


#: As the script, and then ends its supervisor and itself in the middle.
LOST = """\
import os
exec(open("train.py").read())
os.kill(os.getppid(), 9)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def lost(tmp_path: Path, drive: Driver) -> Crashed:
    """A project with one run that lost its supervisor after five points of a metric and one result."""
    project = Crashed(tmp_path / "lost")
    project.write("lost.py", LOST)
    assert drive(project, 0, "run", "--", "python", "lost.py") == -signal.SIGKILL
    assert project.witness.exists()
    return project


def test_the_one_that_concludes_a_lost_run_is_killed_at_each_step(
    lost: Crashed, command: Callable[..., Any], drive: Driver
) -> None:
    """A crash while another crash is cleaned up loses nothing: metrics and results of the first are all there."""
    make = copies(lost)
    run_id = command(lost, "ls")[0]["run_id"]
    concluded = set()
    for project in walk(drive, make, 1, "run", "--", "true"):
        runs = assert_opens(project, command)
        assert runs[0]["run_id"] == run_id
        assert len(command(project, "log", run_id)["metrics"]["loss"]) == 5
        over = not (project.store / "open" / run_id).exists()
        concluded.add((project.store / "runs" / run_id / "outcome.json").exists())
        assert len(assert_settled(project, command, drive)) == 2
        outcome = command(project, "show", run_id)["outcome"]
        assert (outcome["state"], outcome["metrics"]) == ("LOST", {"loss": 0.2})
        assert [item["path"] for item in outcome["artifacts"]] == ["result.txt"]
        if over:
            break
    assert concluded == {True, False}


def test_the_one_that_attaches_is_killed_at_each_step(
    tmp_path: Path, command: Callable[..., Any], drive: Driver
) -> None:
    """An attachment (a replay's verdict) is there or not: after the next run `verify` knows every one that is."""
    original = Crashed(tmp_path / "original")
    run_id = original.run("--", "python", "train.py")["run_id"]
    seen = set()
    for project in walk(drive, copies(original), 1):
        assert [run["state"] for run in assert_opens(project, command)] == ["COMPLETED"]
        assert_settled(project, command, drive)
        seen.add(len(command(project, "show", run_id)["attachments"]))
    assert seen == {0, 1}


#: Logs a metric every 10 ms, with a child, and a grandchild in a session of its own.
LONG = """\
import os, subprocess, sys, time
import repro
child = subprocess.Popen(["sleep", "1000"])
other = subprocess.Popen(["setsid", "sleep", "1000"])
print(os.getpid(), child.pid, other.pid, flush=True)
step = 0
while True:
    repro.current().log(step=step, loss=1.0)
    print("logged", step, flush=True)
    step += 1
    time.sleep(0.01)
"""


class Going:
    """A run that is going on: the supervisor, and the processes that it told of."""

    def __init__(self, project: Project, *words: str) -> None:
        self.supervisor = subprocess.Popen(
            [str(REPRO), "run", "--", *words],
            cwd=project.root,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pids = [int(word) for word in self.line().split()]

    def line(self) -> str:
        """The next line that the run prints."""
        assert self.supervisor.stdout is not None
        return self.supervisor.stdout.readline()

    def logged(self, count: int) -> None:
        """Wait until it has logged so many points more."""
        for _ in range(count):
            assert self.line().startswith("logged")

    def end(self) -> int:
        """Wait for the supervisor's end; return its exit code."""
        assert self.supervisor.stdout is not None
        if not self.supervisor.stdout.closed:
            self.supervisor.stdout.read()
            self.supervisor.stdout.close()
        return self.supervisor.wait(timeout=30)


def gone(pid: int) -> bool:
    """Say whether a process is gone (or has only its exit code left for its parent to read)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait at most 10 seconds for a condition."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def started(project: Project, *words: str) -> Iterator[Going]:
    """A run that is going on; whatever of it is left at the end is ended."""
    run = Going(project, *words)
    try:
        yield run
    finally:
        if run.supervisor.poll() is None:
            run.supervisor.kill()
        mark = f"REPRO_JOB={project.store}".encode()
        for pid in run.pids:
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes():  # still ours
                    os.kill(pid, signal.SIGKILL)
        run.end()


@pytest.fixture
def going(project: Project) -> Iterator[Going]:
    """A run that logs, and has children."""
    project.write("long.py", LONG)
    with started(project, "python", "long.py") as run:
        yield run


def points(project: Project, name: str = "last") -> int:
    """How many points of its metric `repro log` shows."""
    return len(project.repro("log", name, "--json", check=0).json["metrics"]["loss"])


def state(project: Project) -> str:
    """The state of the first run, as `ls` and `show` say it."""
    listed = project.repro("ls", "--json", check=0).json[0]
    shown = project.repro("show", listed["run_id"], "--json", check=0).json
    assert shown["state"] == listed["state"]
    return str(listed["state"])


def test_the_worker_alone_is_killed(project: Project, going: Going) -> None:
    """The run FAILED with SIGKILL, all that it had logged is there, and its children are gone with it."""
    going.logged(5)
    os.kill(going.pids[0], signal.SIGKILL)
    assert going.end() == 128 + signal.SIGKILL
    shown = project.repro("show", "last", "--json", check=0).json
    assert (shown["outcome"]["state"], shown["outcome"]["signal"]) == ("FAILED", "SIGKILL")
    assert shown["metrics"] == {"loss": 1.0}
    assert points(project) >= 5
    assert all(map(gone, going.pids))
    project.repro("verify", check=0)


@pytest.mark.parametrize("both", [False, True], ids=["supervisor", "both"])
def test_the_supervisor_is_killed_in_the_middle(project: Project, going: Going, both: bool) -> None:
    """RUNNING becomes LOST with the lock; the points are shown at once, and sealed by the next run, children ended."""
    going.logged(5)
    assert state(project) == "RUNNING"
    before = points(project)
    for pid in [going.supervisor.pid] + both * [going.pids[0]]:
        os.kill(pid, signal.SIGKILL)
    assert going.supervisor.wait(timeout=10) == -signal.SIGKILL
    wait_until(lambda: gone(going.pids[0]), "the worker ends with its supervisor")
    assert state(project) == "LOST"
    count = points(project)
    assert count >= before >= 5
    project.repro("verify", check=0)
    project.repro("run", "--", "true", check=0)
    outcome = project.repro("show", "last~1", "--json", check=0).json["outcome"]
    assert (outcome["state"], outcome["metrics"]) == ("LOST", {"loss": 1.0})
    assert points(project, "last~1") == count
    assert all(map(gone, going.pids))
    project.repro("verify", check=0)


TRAINING = """\
import os, torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print(os.getpid(), flush=True)
while True:
    optimizer.zero_grad()
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    print("logged", flush=True)
"""


def test_the_trail_of_a_lost_run_is_kept(project: Project) -> None:
    """Killed in the middle of training, the run keeps every step of its trail until then, sealed by the next writer."""
    project.write("training.py", TRAINING)
    with started(project, "python", "training.py") as run:
        run.logged(20)
        for pid in (run.supervisor.pid, *run.pids):
            os.kill(pid, signal.SIGKILL)
    project.repro("run", "--", "true", check=0)
    outcome = project.repro("show", "last~1", "--json", check=0).json["outcome"]
    assert outcome["state"] == "LOST"
    assert outcome["trails"][0]["frames"] >= 20
    assert outcome["trail_digest"]
    project.repro("verify", check=0)


def test_a_run_that_goes_on_is_left_alone_by_the_next(project: Project, going: Going) -> None:
    """A second run beside it neither ends it nor marks it."""
    going.logged(1)
    project.repro("run", "--", "true", check=0)
    assert state(project) == "RUNNING"
    going.logged(3)
    assert not any(map(gone, going.pids))


def test_a_run_of_another_host_is_unknown(project: Project, going: Going) -> None:
    """Another machine's lock cannot be judged from here while its lease holds: UNKNOWN, and it is not marked LOST."""
    going.logged(1)
    (lock,) = project.store.glob("runs/*/lock")
    os.kill(going.supervisor.pid, signal.SIGKILL)
    going.supervisor.wait(timeout=10)
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"host": "elsewhere", "boot": "another"}))
    assert state(project) == "UNKNOWN"
    project.repro("run", "--", "true", check=0)
    assert state(project) == "UNKNOWN"
    project.repro("verify", check=0)


KILL_AT_ONCE = "import os; os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("first.py", KILL_AT_ONCE, ["python", "first.py"]),
        ("first.sh", "kill -9 $PPID $$\n", ["bash", "first.sh"]),
        ("first.sh", "#!/bin/sh\nkill -9 $PPID $$\n", ["./first.sh"]),
    ],
    ids=["python", "bash", "executable"],
)
def test_the_record_is_sealed_before_the_first_line(project: Project, name: str, text: str, words: list[str]) -> None:
    """A script whose first line kills everything has a whole record, read-only, synced, in the journal: LOST."""
    project.write(name, text).chmod(0o755)
    done = project.repro("run", "--seed", "7", "--", *words)
    assert done.code == -signal.SIGKILL
    (run,) = project.repro("ls", "--json", check=0).json
    assert run["state"] == "LOST"
    assert_sealed(project, run["run_id"])
    record = project.repro("show", "last", "--json", check=0).json["record"]
    assert record["recipe"]["command"] == words
    assert record["recipe"]["seeds"]["master"] == "7"
    assert len(record["recipe"]["packages"]) > 20
    assert record["circumstances"]["host"]["value"]
    project.repro("verify", check=0)


def test_all_that_is_sealed_is_read_only(tmp_path: Path) -> None:
    """Of a run that is over, every file but its lock is read-only; so is what it keeps among the objects."""
    project = Crashed(tmp_path / "p")
    project.run("--", "python", "train.py")
    (folder,) = (project.store / "runs").iterdir()
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    files += [path for part in ("objects", "code.git/objects") for path in (project.store / part).rglob("??/*")]
    assert len(files) >= 10
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {path.name: 0o444 for path in files}


def test_a_run_that_cannot_be_concluded_keeps_nobody_from_running(lost: Crashed) -> None:
    """A lost run whose record was damaged stays LOST and is named by `verify`; the next run is made all the same."""
    (record,) = lost.store.glob("runs/*/record.json")
    record.chmod(0o644)
    record.write_bytes(record.read_bytes().replace(b'"schema":1', b'"schema":7'))
    lost.repro("run", "--", "true", check=0)
    assert [run["state"] for run in lost.repro("ls", "--json", check=0).json] == ["LOST", "COMPLETED"]
    assert record.parent.name in lost.repro("verify", check=3).out


def test_what_a_lost_run_read_is_kept_for_its_replay(project: Project) -> None:
    """The inputs of a run whose supervisor was killed are taken in by the next one, an earlier output's bytes too."""
    project.write(".gitignore", "data.txt\ndie\n")
    project.write("data.txt", "ignored")
    script = """\
        import os, repro
        run = repro.current()
        try:
            run.log(x=float(open("left.txt").read()))
        except FileNotFoundError:
            run.log(x=len(open("data.txt").read()))
        open("left.txt", "w").write("5")
        if os.path.exists("die"):
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
    """
    project.write("train.py", textwrap.dedent(script))
    project.commit()
    project.run("--", "python", "train.py")
    (project.root / "die").touch()
    project.repro("run", "--", "python", "train.py")
    (project.root / "die").unlink()
    (project.root / "left.txt").write_text("6")
    project.run("--", "python", "train.py")
    shown = project.repro("show", "last~1", "--json", check=0).json
    assert shown["state"] == "LOST"
    assert [(item["path"], item["note"]) for item in shown["outcome"]["inputs"]] == [("left.txt", KEPT)]
    found = project.replay("last~1")
    assert found["metrics"] == {}
    assert found["compared"]["points"] == 1
