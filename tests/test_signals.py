"""Exit codes, signals and left-behind processes under ``repro run``: the child's own, as under plain python."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, Project, clean_environment


def start(project: Project, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start ``repro run -- words`` and return it running; the script says "ready" in a file when it is."""
    (project.root / "ready").unlink(missing_ok=True)
    command = [str(REPRO), "run", "--", *words]
    process = subprocess.Popen(
        command, cwd=project.root, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    wait_for((project.root / "ready").exists)
    return process


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Return when ``condition()`` holds; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def outcome(project: Project) -> dict[str, Any]:
    """Return the outcome of the last run."""
    return dict(project.repro("show", "last", "--json", check=0).json["outcome"])


def is_gone(pid: int) -> bool:
    """Say whether no process of this id is left (a zombie is gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


#: Handles a signal as its arguments say, with a child that would die of the signal if it got it.
HANDLES = """\
import os, signal, subprocess, sys, time

number, code = getattr(signal, sys.argv[1]), int(sys.argv[2])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])

def handle(number, frame):
    time.sleep(0.1)
    print("handled", signal.Signals(number).name, "child", child.poll() is None, flush=True)
    sys.exit(code)

signal.signal(number, handle)
open("ready", "w").close()
time.sleep(60)
"""

SLEEPS = "import time\nopen('ready', 'w').close()\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("name", "handler_code", "code", "state"),
    [
        ("SIGTERM", None, 143, "CANCELLED"),
        ("SIGINT", None, 130, "CANCELLED"),
        ("SIGTERM", 143, 143, "CANCELLED"),
        ("SIGTERM", 0, 0, "CANCELLED"),
        ("SIGINT", 5, 5, "CANCELLED"),
        ("SIGUSR1", 0, 0, "COMPLETED"),
    ],
)
def test_a_signal_to_repro_reaches_the_script(
    project: Project, name: str, handler_code: int | None, code: int, state: str
) -> None:
    """The script's own handler runs, its exit code is passed on, and a run that was told to end is CANCELLED.

    What a terminal sends goes to the children too; SIGTERM goes to the first process alone, as under plain python, so
    that a handler can still use its DataLoader's workers.
    """
    project.write("a.py", SLEEPS if handler_code is None else HANDLES)
    process = start(project, "python", "a.py", name, str(handler_code))
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == code
    found = outcome(project)
    assert found["state"] == state
    if handler_code is None:
        assert (found["signal"], found["exit_code"]) == (name, None)
    else:
        assert out.decode() == f"handled {name} child {name != 'SIGINT'}\n"
        assert (found["signal"], found["exit_code"]) == (None, code)


def test_a_script_that_dies_of_a_signal_has_failed_with_it(project: Project) -> None:
    """SIGSEGV and SIGKILL of the script are FAILED with the signal; the exit code is a shell's; its own code stays."""
    project.write("a.py", "import os, signal, sys\nos.kill(os.getpid(), int(sys.argv[1]))\n")
    for number in (signal.SIGSEGV, signal.SIGKILL):
        project.repro("run", "--", "python", "a.py", str(int(number)), check=128 + number)
        found = outcome(project)
        assert (found["state"], found["signal"], found["exit_code"]) == ("FAILED", number.name, None)
    project.write("b.py", "import sys\nsys.exit('bad')\n")
    done = project.repro("run", "--", "python", "b.py", check=1)
    assert "bad\n" in done.err
    assert outcome(project)["state"] == "FAILED"
    project.repro("run", "--", "python", "-c", "raise SystemExit(77)", check=77)


def test_nothing_that_the_script_left_behind_goes_on(project: Project) -> None:
    """Children in its group, daemons in sessions of their own, and one that ignores SIGTERM are gone with the run."""
    project.write(
        "a.py",
        "import subprocess, sys, os\n"
        "sleep = 'import time; time.sleep(60)'\n"
        "deaf = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); '\n"
        "plain = subprocess.Popen([sys.executable, '-c', sleep])\n"
        "daemon = subprocess.Popen([sys.executable, '-c', deaf + sleep], start_new_session=True,"
        " stdout=subprocess.PIPE)\n"
        "daemon.stdout.readline()\n"
        "print(plain.pid, daemon.pid)\n",
    )
    began = time.monotonic()
    pids = [int(word) for word in project.repro("run", "--", "python", "a.py", check=0).out.split()]
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)
    assert time.monotonic() - began < 5
    assert outcome(project)["state"] == "COMPLETED"


def test_what_nohup_ignores_stays_ignored(project: Project) -> None:
    """A run that was started to ignore SIGHUP goes on after one."""
    project.write("a.py", "import time\nopen('ready', 'w').close()\ntime.sleep(1)\nprint('to the end')\n")
    process = start(project, "python", "a.py", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (b"to the end\n", 0)
    assert outcome(project)["state"] == "COMPLETED"


def test_a_stopped_run_stands_still_and_goes_on(project: Project) -> None:
    """Ctrl-Z stops the script together with repro, and ``fg`` lets both go on."""
    project.write(
        "a.py",
        "import time\nopen('ready', 'w').write('')\n"
        "for i in range(40):\n    open('count', 'w').write(str(i))\n    time.sleep(0.05)\n",
    )
    process = start(project, "python", "a.py", start_new_session=True)
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: "\nState:\tT" in Path(f"/proc/{process.pid}/status").read_text())
    before = (project.root / "count").read_text()
    time.sleep(0.3)
    assert (project.root / "count").read_text() == before
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (project.root / "count").read_text() == "39"


def test_points_and_output_survive_kill_9(project: Project) -> None:
    """Every point that was logged, and all output until then, can be read after SIGKILL of the script or of repro."""
    project.write(
        "a.py",
        "import os, signal, sys, time, repro\n"
        "run = repro.current()\n"
        "for i in range(1000):\n    run.log(loss=i / 7, step=i)\n"
        "print('all logged', flush=True)\nopen('ready', 'w').close()\n"
        "if sys.argv[1] == 'self':\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n",
    )
    for who in ("self", "repro"):
        process = start(project, "python", "a.py", who)
        if who == "repro":
            process.kill()
        process.communicate(timeout=30)
        points = project.repro("log", "last", "--json", check=0).json["metrics"]["loss"]
        assert [(point["step"], point["value"]) for point in points] == [(i, i / 7) for i in range(1000)]
        folder = Path(project.repro("show", "last", "--json").json["path"])
        wait_for(lambda place=folder: "all logged" in (place / "stdout.log").read_text())
    assert project.repro("show", "last", "--json").json["state"] == "LOST"


def test_ctrl_c_on_a_terminal_reaches_the_script(project: Project) -> None:
    """Ctrl-C typed on the terminal interrupts the script once, as under plain python; it ends by it, exit 130."""
    project.write(
        "a.py",
        "import time\n"
        "try:\n    open('ready', 'w').close()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
        "    raise\n",
    )
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(project.root)
        os.execve(REPRO, [str(REPRO), "run", "--", "python", "a.py"], clean_environment())  # noqa: S606
    wait_for((project.root / "ready").exists)
    os.write(master, b"\x03")
    data = b""
    while piece := _read(master):
        data += piece
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 130
    assert data.count(b"interrupted") == 1
    assert outcome(project)["state"] == "CANCELLED"


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # the other side is closed
        return b""


#: Notes the signals that it gets until it has had two of them, and heeds none.
NOTES = """\
import signal, sys, time
seen = []
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, frame: seen.append(signal.Signals(number).name))
open("ready", "w").close()
deadline = time.monotonic() + 20
while len(seen) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
print(*seen, flush=True)
"""


@pytest.mark.parametrize("gap", [0, 0.03])
@pytest.mark.parametrize(
    "names",
    [
        ("SIGTERM", "SIGINT"),
        ("SIGINT", "SIGTERM"),
        ("SIGTERM", "SIGHUP"),
        ("SIGHUP", "SIGQUIT"),
        ("SIGUSR1", "SIGTERM"),
    ],
)
def test_two_signals_at_once_both_reach_the_script(project: Project, names: tuple[str, str], gap: float) -> None:
    """Neither is lost, whichever thread the kernel gives them to; a moment apart they keep their order.

    The run is CANCELLED, and says by which it was told to end.
    """
    project.write("a.py", NOTES)
    process = start(project, "python", "a.py", *names)
    for name in names:
        process.send_signal(getattr(signal, name))
        time.sleep(gap)
    out, _ = process.communicate(timeout=30)
    seen = out.decode().split()
    assert sorted(seen) == sorted(names)
    found = outcome(project)
    assert found["state"] == "CANCELLED"
    ending = [name for name in names if name != "SIGUSR1"]
    told = found["reason"].removeprefix("told to end by ").split(", ")
    assert sorted(told) == sorted(ending)
    if gap:
        assert (seen, told) == (list(names), ending)


@pytest.mark.parametrize("gap", [0, 0.005, 0.03, 0.1])
@pytest.mark.parametrize("names", [("SIGTERM", "SIGHUP"), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGQUIT")])
def test_a_second_signal_does_not_lose_the_outcome(project: Project, names: tuple[str, str], gap: float) -> None:
    """A script that the first one ends is CANCELLED, also where the second comes while its outcome is being made."""
    project.write("a.py", SLEEPS)
    process = start(project, "python", "a.py")
    for name in names:
        process.send_signal(getattr(signal, name))
        time.sleep(gap)
    process.communicate(timeout=30)
    found = outcome(project)
    assert found["state"] == "CANCELLED"
    if gap < 0.01:
        assert all(name in found["reason"] for name in names)


def test_a_signal_while_the_record_is_sealed_is_heeded_before_the_first_line(project: Project) -> None:
    """What comes between the seal and the gate ends the run as CANCELLED, and no line of the script has run."""
    project.write("a.py", "open('ran', 'w').close()\n")
    code = (
        "import os, signal, sys\n"
        "from repro.cli import main\n"
        "from repro.store.store import Store\n"
        "seal = Store.seal_record\n"
        "def sealed(store, record):\n"
        "    found = seal(store, record)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return found\n"
        "Store.seal_record = sealed\n"
        "main.main(['run', '--', 'python', 'a.py'])\n"
    )
    command = [str(REPRO.with_name("python")), "-c", code]
    done = subprocess.run(command, cwd=project.root, env=clean_environment(), capture_output=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    found = outcome(project)
    assert (found["state"], found["reason"]) == (
        "CANCELLED",
        "told to end by SIGTERM, SIGHUP; ended by SIGTERM before its first line",
    )
    assert not (project.root / "ran").exists()


def test_a_run_that_had_ended_by_itself_is_what_it_was(project: Project) -> None:
    """A signal to a supervisor whose script is over (it stood still meanwhile) makes no CANCELLED of it."""
    project.write("a.py", "import os, time\nopen('ready', 'w').write(str(os.getpid()))\ntime.sleep(0.5)\n")
    process = start(project, "python", "a.py")
    process.send_signal(signal.SIGSTOP)
    child = int((project.root / "ready").read_text())
    wait_for(lambda: is_gone(child))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    found = outcome(project)
    assert (process.returncode, found["state"]) == (0, "COMPLETED")
    assert "SIGHUP came when it was over, and changed nothing" in found["notes"]


def test_several_signals_end_a_study_in_order(project: Project) -> None:
    """SIGTERM, SIGINT and SIGHUP at once end `repro seeds` as Ctrl-C does: what ran is CANCELLED, nothing is LOST."""
    project.write(
        "a.py", SLEEPS.replace("'ready'", "'/dev/null'").replace("time.sleep", "print(1, flush=True); time.sleep")
    )
    command = [str(REPRO), "seeds", "--n", "2", "--workers", "2", "--", "python", "a.py", "{seed}"]
    process = subprocess.Popen(command, cwd=project.root, env=clean_environment(), stdout=-1, stderr=-1)
    wait_for(lambda: len([log for log in project.store.glob("runs/*/stdout.log") if log.stat().st_size]) == 2)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert [run["state"] for run in project.repro("ls", "--json", check=0).json] == ["CANCELLED"] * 2
