"""A run in a folder of links to the user's files: whoever writes through one writes to a copy."""

import json
import multiprocessing
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project

from repro.worker.links import own_copy

#: Writers, each of a file of its own that an earlier run left; ``p`` is its path.
WRITERS = {
    "w": 'open(p, "w").write(seed)',
    "wb": 'open(p, "wb").write(seed.encode())',
    "a": 'open(p, "a").write(seed)',
    "r+": 'open(p, "r+").write(seed)',
    "path": "pathlib.Path(p).write_text(seed)",
    "os.open": "os.write(os.open(p, os.O_WRONLY | os.O_TRUNC), seed.encode())",
    "truncate": "os.truncate(p, 1)",
    "numpy": 'numpy.save(open(p, "wb"), numpy.ones(2))',
    "memmap": 'numpy.memmap(p, mode="r+", dtype="u1", shape=(1,))[0] = 7',
    "copy": 'shutil.copy("s.py", p)',
    "rename": 'open(p + "~", "w").write(seed); os.replace(p + "~", p)',
    "remove": 'os.remove(p); open(p, "x").write(seed)',
    "chmod": "os.chmod(p, 0o600)",
}
SCRIPT = """\
import os, pathlib, shutil, sqlite3, subprocess, sys, threading
import numpy
seed = sys.argv[1]
{writes}
database = sqlite3.connect("out/data.db")
database.execute("insert into t values (?)", (seed,))
database.commit()
many = [threading.Thread(target=lambda: open("out/threads", "a").write("x")) for _ in range(8)]
[one.start() for one in many]
[one.join() for one in many]
add = [sys.executable, "-c", "open('out/processes', 'a').write('x')"]
[one.wait() for one in [subprocess.Popen(add) for _ in range(3)]]
counts = [len(open("out/" + name).read()) for name in ("threads", "processes")]
counts.append(database.execute("select count(*) from t").fetchone()[0])
assert counts == [12, 7, 2], counts
assert not [name for name in os.listdir("out") if "repro" in name], os.listdir("out")
print("loss=" + seed)
"""


def test_a_replicate_writes_over_what_an_earlier_run_left_by_any_writer(project: Project) -> None:
    """Each way to write to a file that lay there works in a replicate, and not a byte of the user's changes."""
    places = {f"out/{number}": code for number, code in enumerate(WRITERS.values())}
    project.write("s.py", SCRIPT.format(writes="\n".join(f"p = {p!r}; {code}" for p, code in places.items())))
    project.write(".gitignore", "out/\n")
    for name in [*places, "out/threads", "out/processes"]:
        project.write(name, "left")
    with sqlite3.connect(project.root / "out/data.db") as database:
        database.execute("create table t as select 'left'")
    database.close()
    project.commit()
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in (project.root / "out").iterdir()}
    found = project.seeds("--n", "2", "--metric", "loss=loss=(.*)", "--", "python", "s.py", "{seed}")
    assert [run["state"] for run in found["runs"]] == ["COMPLETED", "COMPLETED"]
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in (project.root / "out").iterdir()} == before


def test_torch_save_over_what_an_earlier_run_left(project: Project) -> None:
    """torch.save, which opens its file in C++, writes to a replicate's own file, and again in its next epoch."""
    script = 'import sys, torch\nfor _ in range(2):\n    torch.save(sys.argv[1], "out/m.pt")\n'
    project.write("s.py", script + 'print("loss=%d" % (torch.load("out/m.pt") == sys.argv[1]))\n')
    project.write(".gitignore", "out/\n")
    project.write("out/m.pt", "left")
    project.commit()
    found = project.seeds("--n", "2", "--metric", "loss=loss=(.*)", "--", "python", "s.py", "{seed}")
    assert [run["metrics"]["loss"] for run in found["runs"]] == [1, 1]
    assert (project.root / "out/m.pt").read_text() == "left"


def test_a_study_whose_replicates_all_failed_ends_with_1_and_the_reason(project: Project) -> None:
    """Exit code 1, and the exception of the first one; where one completed, the code is 0."""
    project.write("s.py", "import sys\nraise ValueError('no data')\n")
    project.commit()
    done = project.repro("seeds", "--n", "2", "--", "python", "s.py", "{seed}", check=1)
    assert "none of the 2 replicates completed; seed 0 FAILED: ValueError: no data" in done.err
    assert "hint: repro show 2" in done.err
    assert "2 FAILED" in done.out
    first, second = (project.store / "runs").iterdir()
    one = min(int(json.loads((run / "record.json").read_bytes())["recipe"]["command"][-1]) for run in (first, second))
    project.write("s.py", f"import sys\nif int(sys.argv[1]) > {one}:\n    raise ValueError('no data')\n")
    found = project.seeds("--n", "2", "--", "python", "s.py", "{seed}")
    assert sorted(run["state"] for run in found["runs"]) == ["COMPLETED", "FAILED"]


def test_a_search_whose_trials_all_failed_ends_with_1_and_the_reason(project: Project) -> None:
    """Exit code 1, and the exception of the first trial."""
    project.write("s.py", "raise ValueError('no data')\n")
    project.write("experiment.yaml", "name: e\ncommand: python s.py\nparams: {lr: 0.1}\n")
    space = "space: {lr: {uniform: [0.1, 1]}}\nobjective: {loss: min}\n"
    project.write("study.yaml", f"experiment: experiment.yaml\nmethod: random\ntrials: 2\n{space}")
    project.commit()
    done = project.repro("tune", "study.yaml", check=1)
    assert "none of the 2 trials completed; trial 0 FAILED: ValueError: no data" in done.err


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path, Callable[[Path], None]]:
    """A folder of the user's, one of a run's own, and the guard of the latter."""
    user, own = tmp_path / "user", tmp_path / "own"
    user.mkdir()
    own.mkdir()
    return user, own, lambda path: own_copy(str(path), (f"{own}{os.sep}",))


Place = tuple[Path, Path, Callable[[Path], None]]


def test_a_link_within_the_folder_stays(place: Place) -> None:
    """A project's own link ``latest.pt`` to a link that leads out: the latter becomes a file, the former stays."""
    user, own, guard = place
    (user / "a").write_text("left")
    (own / "a").symlink_to(user / "a")
    (own / "latest").symlink_to("a")
    guard(own / "latest")
    assert ((own / "latest").is_symlink(), (own / "a").is_symlink()) == (True, False)
    assert (own / "latest").read_text() == "left"


def test_a_link_to_nothing_outside_is_no_way_out(place: Place) -> None:
    """A link to a file that is gone is removed: what is written at its name lies in the run's own folder."""
    user, own, guard = place
    (own / "a").symlink_to(user / "gone")
    (own / "b").symlink_to("not-yet")
    guard(own / "a")
    guard(own / "b")
    (own / "a").write_text("x")
    (own / "b").write_text("x")
    assert not list(user.iterdir())
    assert (own / "not-yet").read_text() == "x"


def test_a_loop_of_links_is_left_to_the_writer(place: Place) -> None:
    """A link to itself is the writer's error, not ours."""
    _, own, guard = place
    (own / "a").symlink_to("a")
    guard(own / "a")
    assert (own / "a").is_symlink()


def _add(own: str) -> None:
    for number in range(20):
        path = f"{own}/{number}"
        own_copy(path, (f"{own}{os.sep}",))
        with open(path, "a") as handle:
            handle.write("x")


def test_threads_and_processes_side_by_side_make_one_copy(place: Place) -> None:
    """No write is lost to a copy that another one made a moment later, and no temporary file stays."""
    user, own, _ = place
    for number in range(20):
        (user / str(number)).write_text("left")
        (own / str(number)).symlink_to(user / str(number))
    started = [multiprocessing.get_context("fork").Process(target=_add, args=(str(own),)) for _ in range(2)]
    for process in started:
        process.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(_add, [str(own)] * 4))
    for process in started:
        process.join()
    assert {path.read_text() for path in own.iterdir()} == {"leftxxxxxx"}
    assert {path.read_text() for path in user.iterdir()} == {"left"}
    assert len(list(own.iterdir())) == 20
