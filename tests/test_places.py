"""Every process of a run draws from a place of its own, whatever started it, and from the same one in a replay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project

from repro.record import seeds
from repro.worker import places

DRAW = 'import random, sys; sys.stdout.write(f"{random.getrandbits(32)}\\n")\n'

CHILDREN = """\
import concurrent.futures, multiprocessing, os, random, subprocess, sys, time

def draw(_=None):
    time.sleep(0.05)
    return os.getpid(), random.getrandbits(32)

def programs():
    command = [sys.executable, "draw.py"]
    yield "run", [int(subprocess.run(command, capture_output=True).stdout) for _ in range(2)]
    yield "given", [int(subprocess.run(command, capture_output=True, env={**os.environ, "A": "1"}).stdout)]
    open_two = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    yield "popen", [int(child.communicate()[0]) for child in open_two]
    loop = "for i in 1 2; do python draw.py; done"
    yield "shell", [int(n) for n in subprocess.check_output(loop, shell=True).split()]
    read, write = os.pipe()
    os.set_inheritable(write, True)
    files = [(os.POSIX_SPAWN_DUP2, write, 1)]
    os.waitpid(os.posix_spawn(sys.executable, command, os.environ, file_actions=files), 0)
    if os.fork() == 0:
        os.dup2(write, 1)
        os.execv(sys.executable, command)
    os.wait()
    if os.fork() == 0:
        os.write(write, b"%d\\n" % random.getrandbits(32))
        os._exit(0)
    os.wait()
    yield "spawn, exec, fork", [int(n) for n in os.read(read, 100).split()]

def pools():
    for method in ("spawn", "fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            yield method, [pool.apply(draw)[1]]
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield "executor", [pool.submit(draw).result()[1]]

if __name__ == "__main__":
    found = {"own": [random.getrandbits(32)]}
    found.update(programs())
    found.update(pools())
    import json
    print(json.dumps(found))
"""

JOBLIB = """\
import os, random, time
from joblib import Parallel, delayed

def draw(_):
    time.sleep(0.3)
    return os.getpid(), random.getrandbits(32)

if __name__ == "__main__":
    first = dict(reversed(Parallel(n_jobs=2)(delayed(draw)(i) for i in range(4))))
    print(sorted(first.values()))
"""


def _number(place: str, rank: int = 0) -> int:
    """Return the first 32 bits of Python's generator at a place, of the plan alone."""
    seed = seeds.integer(0, f"global.python{place}", 64, rank=rank)
    code = f"import random; random.seed({seed}); print(random.getrandbits(32))"
    return int(subprocess.check_output([sys.executable, "-c", code], text=True))


def _seeds_gaps(project: Project) -> list[str]:
    outcome = project.repro("show", "last", "--json").json["outcome"]
    return [gap["reason"] for gap in outcome["gaps"] if gap["what"] == "seeds"]


def test_children_started_in_each_way_have_the_place_that_the_plan_says(project: Project) -> None:
    """Golden: which place each way to start a child gives it; the first process and pools keep what they had."""
    project.write("draw.py", DRAW)
    project.write("a.py", CHILDREN)
    found = json.loads(project.repro("run", "--", "python", "a.py", check=0).out)
    expected = {
        "own": [""],
        "run": ["/x1", "/x2"],
        "given": ["/x3"],
        "popen": ["/x4", "/x5"],
        "shell": ["/x6", "/x6/~2"],
        "spawn, exec, fork": ["/x7", "/1/s", "/2"],
        "spawn": ["/3"],
        "fork": ["/4"],
        "forkserver": ["/x9/1"],
        "executor": ["/5"],
    }
    assert {name: found[name] for name in expected} == {
        name: [_number(place) for place in of] for name, of in expected.items()
    }
    assert not _seeds_gaps(project)
    assert json.loads(project.repro("run", "--", "python", "a.py", check=0).out) == found


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("for i in 1 2 3; do python draw.py; done", ["", "/~2", "/~3"]),
        ("python draw.py; bash -c 'python draw.py; python draw.py'", ["", "/~2", "/~3"]),
        ("python draw.py | (cat; sleep 0.1; python draw.py)", ["", "/~2"]),
        ("python -c 'import os; os.system(\"python draw.py\")'; python draw.py", ["/s", "/~2"]),
    ],
)
def test_programs_of_a_shell_draw_in_the_order_of_their_start(
    project: Project, command: str, expected: list[str]
) -> None:
    """A loop of unseeded trainings gives different numbers, and a replay gives the same again."""
    project.write("draw.py", DRAW)
    done = project.repro("run", "--", "bash", "-c", command, check=0)
    assert [int(line) for line in done.out.split()] == [_number(place) for place in expected]
    assert "IDENTICAL" in project.repro("replay", "last", check=0).out


def test_the_ends_of_a_pipe_draw_in_the_order_in_which_the_shell_started_them(project: Project) -> None:
    """Children of one shell that run side by side wait for the older ones: no gap, the same numbers five times."""
    project.write("draw.py", DRAW)
    project.write("late.py", "import random, sys; print(sys.stdin.read().strip(), random.getrandbits(32))\n")
    runs = [project.repro("run", "--", "bash", "-c", "python draw.py | python late.py", check=0).out for _ in range(5)]
    assert {tuple(map(int, out.split())) for out in runs} == {(_number(""), _number("/~2"))}
    assert not _seeds_gaps(project)


def test_an_order_that_is_a_matter_of_time_is_said(project: Project) -> None:
    """Programs of several shells side by side: each draws its own numbers, and the record has a gap."""
    project.write("draw.py", DRAW + "import time; time.sleep(1)\n")
    command = "bash -c 'python draw.py; true' & bash -c 'python draw.py; true' & wait"
    done = project.repro("run", "--", "bash", "-c", command, check=0)
    assert {int(line) for line in done.out.split()} == {_number(""), _number("/~2")}
    assert _seeds_gaps(project) == [
        "processes that a shell started side by side: which of them draws which numbers is a matter of time"
    ]


def test_workers_of_joblib_draw_apart(project: Project) -> None:
    """Two workers of loky draw different numbers, the same two in each run."""
    pytest.importorskip("joblib")
    project.write("a.py", JOBLIB)
    one, other = (project.repro("run", "--", "python", "a.py", check=0).out for _ in range(2))
    assert one == other
    assert len(set(json.loads(one))) == 2


def test_ranks_keep_the_place_of_their_launcher(project: Project) -> None:
    """Processes that a launcher gives a rank differ in the rank alone; what a rank starts is numbered as elsewhere."""
    project.write("draw.py", DRAW)
    project.write(
        "a.py",
        "import os, subprocess, sys\nfor rank in '01': subprocess.run([sys.executable, *sys.argv[1:]],"
        " env={**os.environ, 'RANK': rank})\n",
    )
    project.write("rank.py", DRAW + "import subprocess, sys; subprocess.run([sys.executable, '-u', 'draw.py'])\n")
    done = project.repro("run", "--", "python", "a.py", "draw.py", check=0)
    assert [int(line) for line in done.out.split()] == [_number("", 0), _number("", 1)]
    done = project.repro("run", "--", "python", "a.py", "-u", "rank.py", check=0)
    places_of = [("", 0), ("/x1", 0), ("", 1), ("/x1", 1)]
    assert [int(line) for line in done.out.split()] == [_number(place, rank) for place, rank in places_of]


def test_a_child_without_the_variables_of_the_job_runs_undisturbed(project: Project) -> None:
    """With a cleaned environment there is no hook: the number is of the operating system's entropy."""
    project.write("draw.py", DRAW)
    project.write(
        "a.py", "import subprocess, sys\nfor _ in 'ab': subprocess.run([sys.executable, 'draw.py'], env={})\n"
    )
    one, other = (project.repro("run", "--", "python", "a.py", check=0).out for _ in range(2))
    assert not {*one.split()} & {*other.split()}


def test_a_number_is_taken_once(tmp_path: Path) -> None:
    """Numbers at one key go up, those at another begin at 1; a process does not stand in its own way."""
    (tmp_path / "observed").mkdir()
    assert [places.take(str(tmp_path), key) for key in ("@-", "@-", "/x1@-")] == [(1, True), (2, True), (1, True)]


def test_what_is_of_another_job_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a run starts begins at the empty place of its own."""
    monkeypatch.setitem(os.environ, places.VARIABLE, places.Inherited("/x1", "-", "/1").write("/a|b"))
    assert places.Inherited.read("/a|b") == places.Inherited("/x1", "-", "/1")
    assert places.Inherited.read("/other") is None
