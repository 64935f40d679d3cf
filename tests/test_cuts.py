"""Replays that are told to end or killed, and replays of runs that were: real signals to real processes."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, Project, clean_environment

from repro.record.values import OVER_MEMORY, Outcome
from repro.replay import cuts
from repro.run.observed import Observed

#: Takes two seconds, and says a number every twentieth of one.
SLOW = "import time\nfor i in range(40):\n    print(f'loss={i * 0.5}', flush=True)\n    time.sleep(0.05)\n"
METRIC = ("--metric", "loss")


@pytest.fixture
def slow(project: Project) -> Project:
    """A project whose script takes a while, run once to its end."""
    project.write("train.py", SLOW)
    project.run(*METRIC, "--", "python", "train.py")
    return project


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Return what ``condition()`` comes to, once it is something; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def runs(project: Project) -> list[Path]:
    """Return the folders of all runs that are sealed, the oldest first."""
    return [path.parent for path in sorted(project.store.glob("runs/*/record.json"))]


def has_said(project: Project, number: int, text: str = "loss=2.0") -> Callable[[], bool]:
    """Return what says whether the n-th run of the store has printed ``text``."""

    def said() -> bool:
        logs = [folder / "stdout.log" for folder in runs(project)[number - 1 : number]]
        return any(log.exists() and text in log.read_text() for log in logs)

    return said


def start(project: Project, *words: str, **env: str) -> subprocess.Popen[str]:
    """Start ``repro`` in a session of its own, as from a terminal of its own."""
    return subprocess.Popen(
        [str(REPRO), *words],
        cwd=project.root,
        env=clean_environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> list[int]:
    """Return a process's children."""
    lists = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for path in lists for child in path.read_text().split()]


def outcome(folder: Path) -> dict[str, Any]:
    """Return the outcome of a run."""
    return dict(json.loads((folder / "outcome.json").read_text()))


def verdicts(project: Project) -> list[str]:
    """Return the verdicts that are attached to runs."""
    found = [json.loads(path.read_text()) for path in sorted(project.store.glob("runs/*/attachments/*.json"))]
    return [item["body"]["verdict"] for item in found if item["kind"] == "verdict"]


@pytest.mark.parametrize(
    ("words", "number", "at", "kept"),
    [
        (("replay", "last"), signal.SIGINT, 2, []),
        (("replay", "last"), signal.SIGTERM, 2, []),
        (("replay", "last", "--times", "3"), signal.SIGINT, 3, ["IDENTICAL"]),
        (("replay", "last", "--with", "env.X=1", "--why"), signal.SIGINT, 2, []),
        (("replay", "last", "--narrow"), signal.SIGHUP, 2, []),
        (("diagnose", "last"), signal.SIGINT, 2, []),
    ],
    ids=["replay", "SIGTERM", "times", "why", "narrow", "diagnose"],
)
def test_what_is_told_to_end_stops_at_once(
    slow: Project, words: tuple[str, ...], number: signal.Signals, at: int, kept: list[str]
) -> None:
    """Exit code 130, the replay's own run is CANCELLED without a verdict, and no other is started.

    What was found before, of an earlier one of several, stays.
    """
    process = start(slow, *words)
    wait_for(has_said(slow, at))
    began = time.monotonic()
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, "IDENTICAL" in out, "DIFFERENT" in out) == (130, False, False)
    assert time.monotonic() - began < 10
    last = runs(slow)[-1]
    assert err.splitlines()[-1] == f"error: interrupted: the replay {last.name} is CANCELLED and has no verdict"
    assert len(runs(slow)) == at
    assert outcome(last)["state"] == "CANCELLED"
    assert verdicts(slow) == kept
    assert not [path for path in (slow.store / "work").glob("*") if path.is_dir()], "its folder is taken away"


def test_diagnose_stops_in_its_first_run_and_in_a_traced_one(project: Project) -> None:
    """Ctrl-C in a traced replay leaves no trace of it, and names nothing."""
    project.write("train.py", "import os\nprint(f'loss={int.from_bytes(os.urandom(4))}', flush=True)\n" + SLOW)
    process = start(project, "diagnose", "--", "python", "train.py")
    wait_for(has_said(project, 1))
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1].splitlines()[-1].endswith("is CANCELLED")
    assert process.returncode == 130
    project.run(*METRIC, "--", "python", "train.py")
    process = start(project, "diagnose", "last")
    wait_for(has_said(project, 4))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.count("train.py:")) == (130, 0)
    assert not list(project.store.glob("runs/*/trace"))


def test_a_script_that_does_not_heed_the_interrupt_is_ended(project: Project) -> None:
    """A replay has five seconds to end: what it would still do is of no use."""
    project.write("train.py", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLOW)
    project.run(*METRIC, "--", "python", "train.py")
    project.write("train.py", (project.root / "train.py").read_text().replace("40", "4000"))
    process = start(project, "replay", "last", "--code", "current")
    wait_for(has_said(project, 2))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 130
    assert outcome(runs(project)[-1])["state"] == "CANCELLED"


#: Starts a script, and goes on whatever became of it.
PARENT = "import subprocess, sys\nprint(subprocess.run([sys.executable, 'train.py']).returncode)\n"


@pytest.mark.parametrize(
    ("command", "generation", "number", "said"),
    [
        (("python", "train.py"), 1, signal.SIGKILL, "it was ended by SIGKILL: from outside, or out of memory or time"),
        (("python", "train.py"), 1, signal.SIGTERM, "it was ended by SIGTERM"),
        (("python", "train.py"), 1, signal.SIGXCPU, "it was ended by SIGXCPU"),
        (("python", "parent.py"), 2, signal.SIGKILL, "a process that it had started was ended by SIGKILL"),
        (("bash", "-c", "python train.py; exit 0"), 2, signal.SIGKILL, "a process of it did not come to its end"),
        (("bash", "-c", "python train.py || exit $?"), 2, signal.SIGKILL, "a process of it was ended by SIGKILL"),
    ],
    ids=["SIGKILL", "SIGTERM", "CPU time", "a child of it", "in a shell", "a shell that tells"],
)
def test_a_replay_that_was_killed_is_no_finding(
    project: Project, command: tuple[str, ...], generation: int, number: signal.Signals, said: str
) -> None:
    """NOT_REPLAYABLE with that reason and what was equal until then; no cause is looked for, nor printed."""
    project.write("train.py", SLOW)
    project.write("parent.py", PARENT)
    project.run(*METRIC, "--", *command)
    process = start(project, "replay", "last", "--why", "--json", "--with", "env.X=1")
    wait_for(has_said(project, 2))
    pid = process.pid
    for _ in range(generation):
        pid = wait_for(lambda pid=pid: children(pid))[-1]
    os.kill(pid, number)
    document = json.loads(process.communicate(timeout=30)[0])
    assert process.returncode == 4
    assert (document["verdict"], document["killed"], document["differences"]) == ("NOT_REPLAYABLE", True, [])
    assert document["reason"].startswith(f"the replay was killed: {said}")
    assert 4 <= document["compared"]["points"] < 40  # the fifth may not have been taken down yet
    counts = document["compared"]["points"], document["compared"]["lines"]
    equal = f"{counts[0]} metric points and {counts[1]} lines"
    assert document["reason"].endswith(f"until then {equal} were equal")
    assert (document["cause"], document["why"]["replays"], len(runs(project))) == (None, 1, 2)


def test_what_fails_by_itself_is_not_killed(project: Project) -> None:
    """An exception for want of memory, an exit without clean-up and a crash are results: DIFFERENT, as they were."""
    project.write(
        "train.py",
        "import os, resource, signal\nbad = os.environ.get('BAD')\nprint('loss=1', flush=True)\n"
        "if bad == 'memory':\n    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n    bytearray(1 << 31)\n"
        "if bad == 'exit':\n    os._exit(3)\nif bad == 'crash':\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    )
    project.run(*METRIC, "--", "python", "train.py")
    ends = {"memory": "exit code 1", "exit": "exit code 3", "crash": "SIGSEGV"}
    for bad, end in ends.items():
        document = project.replay(check=3, BAD=bad)
        assert (document["killed"], document["reason"]) == (False, f"it ended with exit code 0, now with {end}")


def ended(**fields: Any) -> Outcome:
    """Return an outcome."""
    empty: dict[str, Any] = {key: [] for key in ("trails", "inputs", "outputs", "artifacts", "notes", "gaps")}
    texts = dict.fromkeys(("run_id", "record_digest", "started", "ended"), "")
    known = {"state": "COMPLETED", "exit_code": 0, "signal": None, "reason": None, "trail_digest": None}
    return Outcome(**texts, **empty, metrics={}, files={}, **known | fields)


@pytest.mark.parametrize(
    ("original", "now", "is_killed"),
    [
        ({}, {"state": "FAILED", "exit_code": None, "signal": "SIGKILL"}, True),
        ({}, {"state": "FAILED", "exit_code": 143}, True),
        ({}, {"state": "FAILED", "exit_code": None, "signal": "SIGABRT"}, False),
        ({}, {"state": "FAILED", "exit_code": 1}, False),
        ({}, {"state": "FAILED", "exit_code": None, "signal": "SIGTERM", "reason": OVER_MEMORY + "1 GiB"}, True),
        ({}, {"state": "LOST", "exit_code": None, "reason": "taken along"}, True),
        ({}, {"exit_code": None, "reason": "far enough"}, False),
        ({"exit_code": 137}, {"state": "FAILED", "exit_code": 137}, False),
        ({"exit_code": None, "signal": "SIGKILL"}, {"exit_code": None, "signal": "SIGKILL"}, False),
        ({"exit_code": None, "signal": "SIGKILL"}, {"exit_code": None, "signal": "SIGTERM"}, True),
    ],
)
def test_what_ended_a_replay_is_told_by_its_end_and_the_runs(
    original: dict[str, Any], now: dict[str, Any], is_killed: bool
) -> None:
    """Signals of others, and exit codes that a shell makes of them, unless the run ended by the same."""
    assert (cuts.killed(ended(**original), ended(**now), Observed(), Observed()) is not None) is is_killed


@pytest.mark.parametrize(
    ("fields", "is_cut"),
    [
        ({}, False),
        ({"state": "FAILED", "exit_code": 1}, False),
        ({"state": "FAILED", "exit_code": None, "signal": "SIGSEGV"}, False),
        ({"state": "FAILED", "exit_code": None, "signal": "SIGKILL"}, True),
        ({"state": "FAILED", "exit_code": 1, "reason": OVER_MEMORY + "1 GiB"}, True),
        ({"state": "CANCELLED"}, True),
        ({"state": "TIMED_OUT"}, True),
        ({"state": "LOST"}, True),
    ],
)
def test_a_run_that_others_ended_was_cut(fields: dict[str, Any], is_cut: bool) -> None:
    """By its user, a limit, its supervisor's end, a signal of others; a run that failed or crashed has ended."""
    assert cuts.is_cut(ended(**fields)) is is_cut


#: A training of three seconds after its imports, which says its loss after each step.
TRAIN = """\
import time
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(60):
    loss = (model(torch.randn(8, 4)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"loss={loss.item()} step={step}", flush=True)
    time.sleep(0.05)
"""


@pytest.mark.parametrize("how", ["cancelled", "lost"])
def test_a_run_that_was_cut_is_replayed_to_its_cut(project: Project, how: str) -> None:
    """The replay ends after the last step that the run had, and IDENTICAL is said of that; in a shell's loop too."""
    project.write("train.py", TRAIN)
    command = ["python", "train.py"] if how == "cancelled" else ["bash", "-c", "for i in 1 2; do python train.py; done"]
    process = start(project, "run", *METRIC, "--", *command)
    wait_for(has_said(project, 1, "step=4"))
    os.kill(process.pid, signal.SIGINT if how == "cancelled" else signal.SIGKILL)
    process.communicate(timeout=30)
    document = project.replay(check=0)
    folders = runs(project)
    steps = sum(trail["frames"] for trail in outcome(folders[0])["trails"])
    assert outcome(folders[0])["state"] == how.upper()
    assert document["cut"].startswith(f"the run was {how.upper()} after {steps} steps")
    assert (document["verdict"], document["compared"]["frames"]) == ("IDENTICAL", steps)
    assert sum(trail["frames"] for trail in outcome(folders[1])["trails"]) == steps
    assert document["compared"]["points"] >= 4  # the fifth may not have been taken down yet


@pytest.mark.parametrize("options", [METRIC, ()], ids=["metric", "lines"])
def test_a_run_without_a_trail_is_replayed_as_far_as_its_output(project: Project, options: tuple[str, ...]) -> None:
    """The replay is ended once it has said more, and what both have is compared; a cut file decides nothing."""
    project.write("train.py", SLOW.replace("40", "4000") + "    open('out.txt', 'a').write('x')\n")
    process = start(project, "run", *options, "--", "python", "train.py")
    wait_for(has_said(project, 1))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    document = project.replay(check=0)
    assert document["verdict"] == "IDENTICAL"
    assert document["cut"].startswith("the run was CANCELLED")
    assert document["cut"].endswith(", and is replayed up to there")
    found = outcome(project.store / "runs" / document["run_id"])
    assert (found["state"], found["exit_code"], found["signal"]) == ("COMPLETED", None, None)
    assert found["reason"] == "ended by repro: it had gone as far as it was to"
    assert 4 <= document["compared"]["points" if options else "lines"] < 500


def test_a_run_that_was_cut_before_it_said_anything_has_nothing_to_compare(project: Project) -> None:
    """It is not run again for that."""
    project.repro("run", "--timeout", "0.5", "--", "python", "-c", "import time; time.sleep(30)", check=124)
    document = project.replay(check=4)
    assert document["run_id"] is None
    assert document["reason"] == (
        "nothing to compare: the run was TIMED_OUT before its first step, metric or line of output"
    )
