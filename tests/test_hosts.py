"""Whose run is it: host names, containers, other machines, leases, and ``repro recover``."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import REPRO, Project, clean_environment

from repro.base import clock, holders

SLEEPS = "import time, repro\nrepro.current().log(acc=1)\nopen('ready', 'w').close()\ntime.sleep(60)\n"
#: Leaves a file that nobody saw it write.
LEAVES = "import subprocess\nsubprocess.run('echo hi > shell_out.txt', shell=True)\n"


def start(project: Project, *before: str) -> subprocess.Popen[bytes]:
    """Start a run that sleeps, under the words ``before``, and return when its script runs."""
    project.write("s.py", SLEEPS)
    (project.root / "ready").unlink(missing_ok=True)
    command = [*before, str(REPRO), "run", "--", "python", "s.py"]
    process = subprocess.Popen(command, cwd=project.root, env=clean_environment(), stdout=-3, stderr=-3)
    deadline = time.monotonic() + 30
    while not (project.root / "ready").exists():
        if process.poll() is not None:
            pytest.skip(f"{before[0]} is not allowed here")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a supervisor, and wait until it is gone."""
    process.kill()
    process.wait(timeout=10)


def supervisors(run_folder: Path) -> list[int]:
    """Return the processes that have a run's lock open, as we see them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if any(os.readlink(link) == str(run_folder / "lock") for link in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def states(project: Project) -> list[str]:
    """Return the states of all runs."""
    return [run["state"] for run in project.repro("ls", "--json", check=0).json]


def change(project: Project, **fields: object) -> Path:
    """Have the lock of the one open run say something else."""
    (mark,) = (project.store / "open").iterdir()
    lock = project.store / "runs" / mark.name / "lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | fields))
    return lock


@pytest.mark.parametrize(
    "place",
    [
        ("unshare", "--uts", "bash", "-c", 'hostname c-1a2b; exec "$@"', "-"),
        ("unshare", "--uts", "--pid", "--fork", "--mount-proc", "bash", "-c", 'hostname c-1a2b; exec "$@"', "-"),
    ],
    ids=["another name", "another name and other numbers"],
)
def test_a_run_that_was_killed_under_another_name_is_settled(project: Project, place: tuple[str, ...]) -> None:
    """While it goes on it is RUNNING from outside as well; killed, it is LOST, and hides nothing of the next run."""
    process = start(project, *place)
    (folder,) = (project.store / "runs").iterdir()
    assert states(project) == ["RUNNING"]
    for pid in supervisors(folder):
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=10)
    assert states(project) == ["LOST"]
    project.write("w.py", LEAVES)
    found = project.run("--", "python", "w.py")
    assert states(project) == ["LOST", "COMPLETED"]
    outputs = project.repro("show", found["run_id"], "--json", check=0).json["outcome"]["outputs"]
    assert "shell_out.txt" in [item["path"] for item in outputs]


def test_another_machines_run_has_its_lease(project: Project) -> None:
    """Under another boot a run is UNKNOWN until its lease is over, then LOST; nobody needs to be asked."""
    kill(start(project))
    lock = change(project, host="elsewhere", boot="another")
    assert states(project) == ["UNKNOWN"]
    os.utime(lock, (time.time(), time.time() - holders.LEASE + 60))
    assert states(project) == ["UNKNOWN"]
    os.utime(lock, (time.time(), time.time() - holders.LEASE - 60))
    assert states(project) == ["LOST"]
    project.repro("run", "--", "true", check=0)
    assert (project.store / "runs" / lock.parent.name / "outcome.json").exists()
    project.repro("verify", check=0)


def test_this_machine_was_started_anew(project: Project) -> None:
    """Under our own host's name and another boot, on a disk of our own, it is LOST at once."""
    kill(start(project))
    lock = change(project, boot="another")
    expected = "LOST" if holders.is_local(lock) else "UNKNOWN"
    assert states(project) == [expected]


def test_a_user_may_say_that_a_host_is_gone(project: Project) -> None:
    """`repro recover --host` settles what is UNKNOWN of that host and nothing else; `recover` alone tells of it."""
    kill(start(project))
    run_id = change(project, host="elsewhere", boot="another").parent.name
    found = project.repro("recover", "--json", check=0).json
    assert found == {"settled": [], "unknown": [{"run_id": run_id, "host": "elsewhere"}]}
    assert "repro recover --host elsewhere" in project.repro("recover", check=0).out
    wrong = project.repro("recover", "--host", "elsewhen", check=2).err
    assert "no run of host elsewhen is open" in wrong
    assert "open are runs of elsewhere" in wrong
    assert states(project) == ["UNKNOWN"]
    assert project.repro("recover", "--host", "elsewhere", "--json", check=0).json == {
        "settled": [run_id],
        "unknown": [],
    }
    assert states(project) == ["LOST"]
    assert project.repro("recover", check=0).out == "nothing to recover\n"
    project.repro("verify", check=0)


def test_nobody_can_give_up_a_run_that_goes_on(project: Project) -> None:
    """A lock that is held is worth more than what a user says of its host."""
    process = start(project)
    change(project, host="elsewhere", boot="another")
    assert project.repro("recover", "--host", "elsewhere", "--json", check=0).json["settled"] == []
    assert states(project) == ["RUNNING"]
    process.terminate()
    process.wait(timeout=30)
    assert states(project) == ["CANCELLED"]


def test_recover_settles_what_is_lost(project: Project) -> None:
    """Without any further run: what a killed supervisor left is LOST, with its processes ended."""
    process = start(project)
    process.kill()
    process.wait()
    (run_id,) = project.repro("recover", "--json", check=0).json["settled"]
    assert (project.store / "runs" / run_id / "outcome.json").exists()
    assert not list((project.store / "open").iterdir())


HERE = {"host": os.uname().nodename, "boot": clock.boot_id(), "lease": holders.LEASE}


@pytest.mark.parametrize(
    ("found", "age", "is_local", "expected"),
    [
        ({}, 0, True, "LOST"),
        (HERE, 0, True, "LOST"),
        (HERE, 0, False, "LOST"),
        (HERE | {"host": "c-1a2b"}, 0, False, "LOST"),
        (HERE | {"boot": "another"}, 0, True, "LOST"),
        (HERE | {"boot": "another"}, 0, False, "UNKNOWN"),
        (HERE | {"boot": "another"}, 901, False, "LOST"),
        (HERE | {"boot": "another", "host": "other"}, 899, True, "UNKNOWN"),
        (HERE | {"boot": "another", "host": "other"}, 901, True, "LOST"),
        ({"boot": "another", "host": "other"}, 10**6, True, "UNKNOWN"),
        ({"boot": "", "host": "other", "lease": 900}, 0, True, "UNKNOWN"),
    ],
)
def test_what_became_of_a_holder(found: dict, age: float, is_local: bool, expected: str) -> None:
    """Each rule: our kernel's word, our machine started anew, a lease, and a lock that promises none."""
    assert holders.state(found, age, is_local=is_local) == expected


def test_a_lease_is_renewed_while_its_holder_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the lock's file moves on from `begin` to `end`, and no further; its words stay."""
    monkeypatch.setattr(holders, "BEAT", 0.05)
    path = tmp_path / "lock"
    path.write_bytes(b"words")
    os.utime(path, (0, 0))
    with path.open("r+b") as handle:
        lease = holders.Lease(handle.fileno())
        lease.begin()
        time.sleep(0.3)
        lease.end()
    assert holders.age(path) < 5
    assert path.read_bytes() == b"words"
    before = path.stat().st_mtime_ns
    time.sleep(0.15)
    assert path.stat().st_mtime_ns == before
    assert not any(thread.name == "lease" for thread in threading.enumerate())


def test_a_run_renews_its_lease(project: Project) -> None:
    """A supervisor does so while its script runs."""
    code = "from repro.base import holders; holders.BEAT = 0.1\nfrom repro.cli import main\n"
    code += "main.main(['run', '--', 'python', 's.py'])\n"
    project.write("s.py", SLEEPS)
    command = [str(REPRO.with_name("python")), "-c", code]
    process = subprocess.Popen(command, cwd=project.root, env=clean_environment(), stdout=-3, stderr=-3)
    while not (project.root / "ready").exists():
        time.sleep(0.02)
    (lock,) = project.store.glob("runs/*/lock")
    before = lock.stat().st_mtime_ns
    time.sleep(1)
    assert lock.stat().st_mtime_ns > before
    process.terminate()
    process.wait(timeout=30)


def test_local_and_shared_file_systems() -> None:
    """A process's own folder of the kernel is no disk; names with blanks are read."""
    assert not holders.is_local(Path("/proc/self"))
    assert holders.is_local(Path("/dev/shm")) or not Path("/dev/shm").is_mount()
