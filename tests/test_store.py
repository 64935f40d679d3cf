"""The store on a real disk: several runs at once, a full disk, a read-only one, and what lies in it damaged."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPRO, Done, Project, clean_environment

from repro.errors import StoreDamagedError, StoreError, UsageError
from repro.store.code import CodeRepository
from repro.store.objects import Objects
from repro.store.store import Store

# --- several at once -------------------------------------------------------------------------------------------------

#: Logs points that are its own, in the midst of others, and leaves a file and a result of its own.
OWN = """\
import pathlib, sys, time
import repro
me = int(sys.argv[1])
for step in range(30):
    repro.current().log(step=step, me=me)
    time.sleep(0.001)
pathlib.Path(f"out-{me}.txt").write_text(str(me))
repro.current().artifact(f"out-{me}.txt")
print("I am", me)
"""


def test_two_runs_at_once_twenty_times(project: Project) -> None:
    """Nothing is lost and nothing mixed: each run has its own metrics, outputs, results and words, and all verify."""
    project.write("own.py", OWN)
    for pair in range(20):
        numbers = [2 * pair, 2 * pair + 1]
        command = [[str(REPRO), "run", "--", "python", "own.py", str(number)] for number in numbers]
        both = [
            subprocess.Popen(words, cwd=project.root, env=clean_environment(), stdout=-1, stderr=-1)
            for words in command
        ]
        said = [process.communicate() for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        assert [out for out, _ in said] == [b"I am %d\n" % number for number in numbers]
    runs = project.repro("ls", "--all", "--json", check=0).json
    assert sorted(run["metrics"]["me"] for run in runs) == list(map(float, range(40)))
    assert {run["state"] for run in runs} == {"COMPLETED"}
    for run in runs:
        folder = project.store / "runs" / run["run_id"]
        record, outcome = (json.loads((folder / name).read_bytes()) for name in ("record.json", "outcome.json"))
        me = record["recipe"]["command"][-1]
        assert run["metrics"] == {"me": float(me)}
        assert (folder / "stdout.log").read_text() == f"I am {me}\n"
        assert [item["path"] for item in outcome["outputs"]] == [f"out-{me}.txt"]
        assert [item["path"] for item in outcome["artifacts"]] == [f"out-{me}.txt"]
        points = project.store.glob(f"runs/{run['run_id']}/metrics/*.jsonl")
        values = [json.loads(line)["m"] for path in points for line in path.read_text().splitlines()]
        assert values == [{"me": float(me)}] * 30
    assert project.repro("verify", "--json", check=0).json["entries"] == 80
    assert not list((project.store / "open").iterdir())


def test_the_same_bytes_kept_by_several_at_once_are_one_object(tmp_path: Path) -> None:
    """Whoever keeps bytes that another keeps at that moment finds them kept, and takes nothing away from it."""
    objects = Objects(tmp_path / "objects")
    contents = [b"bytes %d" % number for number in range(100)]
    barrier = threading.Barrier(4, timeout=20)

    def keep_all() -> list[str]:
        names = []
        for data in contents:
            barrier.wait()
            names.append(objects.add(data))
        return names

    with ThreadPoolExecutor(4) as pool:
        kept = [future.result() for future in [pool.submit(keep_all) for _ in range(4)]]
    assert all(names == kept[0] for names in kept)
    assert objects.check(kept[0]) == []


def test_the_first_two_runs_make_one_store(project: Project) -> None:
    """Several runs that all find no store yet make one between them, with one key."""
    command = [str(REPRO), "run", "--", "true"]
    several = [subprocess.Popen(command, cwd=project.root, env=clean_environment(), stderr=-1) for _ in range(4)]
    said = [process.communicate()[1] for process in several]
    assert [process.returncode for process in several] == [0] * 4, said
    assert len(project.repro("ls", "--json", check=0).json) == 4
    project.repro("verify", check=0)


# --- a full disk, a read-only one ------------------------------------------------------------------------------------


class Disk:
    """A small disk of its own, with a store on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.filling = folder / "filling"

    def fill(self, *, leave: int = 0) -> None:
        """Leave so many bytes free."""
        free = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        with self.filling.open("ab") as handle:
            handle.write(bytes(max(0, free - leave)))

    def empty(self) -> None:
        """Take what fills the disk away."""
        self.filling.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """Make it read-only (ro), or writable again (rw)."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 3 MB in memory; its files are gone with the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small(project: Project, disk: Disk) -> Project:
    """A project whose store lies on the small disk."""
    project.write("train.py", "import repro\nfor i in range(5): repro.current().log(step=i, loss=i)\n")
    small = Small(project.root)
    small.disk = disk
    return small


class Small(Project):
    """A project whose store lies on a small disk."""

    disk: Disk

    def repro(self, *words: str, **rest: object) -> Done:
        """Run ``repro`` with that store."""
        return super().repro(*words, REPRO_STORE=str(self.disk.store), **rest)  # type: ignore[arg-type]


def assert_clear(done: Done, words: str) -> None:
    """Assert that a command ended with 5 and two lines that say what, where, and what helps."""
    assert done.code == 5, done
    assert done.out == ""
    assert "Traceback" not in done.err
    error, hint = done.err.splitlines()[-2:]
    assert re.match(rf"error: .*/disk/.*{words}", error)
    assert hint.startswith("hint: ")


FULL = "No space left on device"


def test_a_disk_that_is_full_before_the_run(small: Small) -> None:
    """However little room is left, the error is clear (5), user code does not run, and nothing half is there."""
    small.write("train.py", "open('ran', 'w')\n")
    codes = []
    for room in [*range(0, 60, 4), 200]:
        small.disk.fill(leave=room * 1024)
        done = small.repro("run", "--", "python", "train.py")
        codes.append(done.code)
        if done.code:
            assert_clear(done, FULL)
        small.disk.empty()
        small.repro("ls", "--json", check=0)
        assert small.repro("verify").code == 0 or not (small.disk.store / "store.json").exists()
    assert codes[0] == 5
    assert codes[-1] == 0
    states = [run["state"] for run in small.repro("ls", "--json", check=0).json]
    assert states.count("COMPLETED") == codes.count(0) >= 1
    assert set(states) <= {"COMPLETED", "LOST"}
    assert not list((small.disk.store / "open").iterdir())


def test_nothing_runs_where_the_record_has_no_room(small: Small) -> None:
    """Without room for the record the script's first line is not reached."""
    small.write("train.py", "open('ran', 'w')\n")
    small.repro("run", "--", "true", check=0)
    small.disk.fill()
    assert_clear(small.repro("run", "--", "python", "train.py"), FULL)
    assert not (small.root / "ran").exists()


FILLING = """\
import repro
run = repro.current()
run.log(step=0, loss=1.0)
try:
    with open({path!r}, "ab", buffering=0) as handle:
        while handle.write(bytes(512)): pass
except OSError as error:
    print(error.strerror, flush=True)
for step in range(1, 3000):
    run.log(step=step, loss=1.0)
print("to the end")
"""


def test_a_disk_that_the_run_fills(small: Small) -> None:
    """The script goes on and is told what it loses; with room again the run is LOST, with its points."""
    small.write("fill.py", FILLING.format(path=str(small.disk.filling)))
    small.repro("run", "--", "true", check=0)
    done = small.repro("run", "--", "python", "fill.py")
    assert done.code == 5
    assert done.out.splitlines() == [FULL, "to the end"]
    assert done.err.count("repro: cannot write metrics") == 1
    assert re.search(rf"error: cannot write .*/outcome.json: {FULL}\nhint: free some space", done.err)
    assert "Traceback" not in done.err
    assert [run["state"] for run in small.repro("ls", "--json", check=0).json] == ["COMPLETED", "LOST"]
    small.repro("show", "last", check=0)
    small.repro("verify", check=0)
    assert_clear(small.repro("run", "--", "true"), FULL)
    small.disk.empty()
    small.repro("run", "--", "true", check=0)
    assert [run["state"] for run in small.repro("ls", "--json", check=0).json] == ["COMPLETED", "LOST", "COMPLETED"]
    points = small.repro("log", "last~1", "--json", check=0).json["metrics"]["loss"]
    assert points[0] == points[0] | {"step": 0, "value": 1.0}
    assert [point["step"] for point in points] == list(range(len(points)))
    small.repro("verify", check=0)


def test_a_read_only_store_can_be_read(small: Small) -> None:
    """Everything that looks works, with an index or without; whatever writes says that it cannot, exit 5."""
    for _ in range(2):
        small.repro("run", "--", "python", "train.py", check=0)
    reading = [("ls",), ("show", "last"), ("log", "last"), ("diff", "last", "last~1"), ("verify",), ("verify", "last")]
    index = small.disk.store / "index.sqlite"
    for indexed in (True, False):
        small.disk.remount("rw")
        small.repro("ls", check=0) if indexed else index.unlink()
        small.disk.remount("ro")
        for words in reading:
            done = small.repro(*words, check=0)
            assert "Traceback" not in done.err
        assert len(small.repro("ls", "--json", check=0).json) == 2
        assert_clear(small.repro("run", "--", "true"), "Read-only file system")
        assert_clear(small.repro("replay", "last"), "Read-only file system")
    small.disk.remount("rw")
    small.repro("run", "--", "true", check=0)


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_store_is_not_made_among_other_things(project: Project) -> None:
    """REPRO_STORE may not name a folder that holds something else: exit 2, and nothing is written there."""
    folder = project.root.parent / "papers"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    done = project.repro("run", "--", "true", REPRO_STORE=str(folder), check=2)
    assert "thesis.tex" in done.err
    assert "hint: REPRO_STORE=" in done.err
    assert os.listdir(folder) == ["thesis.tex"]
    done = project.repro("ls", REPRO_STORE=str(folder), check=0)
    assert "no runs" in done.err
    assert os.listdir(folder) == ["thesis.tex"]


@pytest.mark.parametrize("words", [["ls"], ["run", "--", "true"], ["verify"]], ids=["ls", "run", "verify"])
@pytest.mark.parametrize(
    ("marker", "said"),
    [
        (b'{"format": 99}\n', "has format 99"),
        (b"garbage", "cannot be read"),
        (b"[]", "cannot be read"),
        (None, "is missing"),
    ],
)
def test_a_store_of_another_format_is_refused(
    project: Project, marker: bytes | None, said: str, words: list[str]
) -> None:
    """A marker of another version, a damaged or a missing one is exit 5, and the store is left as it is."""
    project.repro("run", "--", "true", check=0)
    (project.store / "store.json").unlink()
    if marker is not None:
        (project.store / "store.json").write_bytes(marker)
    journal = (project.store / "journal.jsonl").read_bytes()
    done = project.repro(*words, check=5)
    assert said in done.err
    assert "Traceback" not in done.err
    assert (project.store / "journal.jsonl").read_bytes() == journal


def test_a_copy_without_empty_folders_is_a_store(project: Project) -> None:
    """Folders that were empty (a copy by git or rsync leaves them out) are made again."""
    project.repro("run", "--", "true", check=0)
    for name in ("open", "work", "objects"):
        (project.store / name).rmdir()
    project.repro("ls", check=0)
    project.repro("verify", check=0)
    project.repro("run", "--", "true", check=0)
    assert len(project.repro("ls", "--json", check=0).json) == 2


def test_the_store_ignores_itself(project: Project) -> None:
    """The user's git does not see the store, and the next capture does not take it in."""
    project.write("a.py", "1\n")
    project.commit()
    project.repro("run", "--", "true", check=0)
    assert project.git("status", "--porcelain") == ""
    first = project.repro("show", "last", "--json", check=0).json["record"]["recipe"]["code"]
    project.repro("run", "--", "true", check=0)
    assert project.repro("show", "last", "--json", check=0).json["record"]["recipe"]["code"] == first


# --- git's index, lock and objects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["lock", "garbage", "object"])
def test_the_captures_index_is_only_a_cache(project: Project, damage: str) -> None:
    """A lock that a killed git left, a damaged index, an object that is gone: the next capture makes it right."""
    project.write("a.py", "print(1)\n")
    project.repro("run", "--", "true", check=0)
    before = project.repro("show", "last", "--json", check=0).json["record"]["recipe"]["code"]
    (index,) = (project.store / "code.git").glob("index-*")
    if damage == "lock":
        index.with_name(index.name + ".lock").touch()
    elif damage == "garbage":
        index.write_bytes(b"garbage" * 10)
    else:
        for path in (project.store / "code.git" / "objects").glob("??/*"):
            path.unlink()
    project.repro("run", "--", "true", check=0)
    assert project.repro("show", "last", "--json", check=0).json["record"]["recipe"]["code"] == before
    project.repro("verify", check=0)


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """A folder of objects."""
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


def test_an_object_is_kept_once_and_restored(objects: Objects, tmp_path: Path) -> None:
    """Equal files are one object, read-only; restoring gives the bytes."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"data")
    assert objects.take(tmp_path / "a") == objects.take(tmp_path / "b")
    name = objects.take(tmp_path / "a")
    (path,) = objects.folder.glob("??/*")
    assert path == objects.path(name)
    assert path.stat().st_mode & 0o777 == 0o444
    objects.restore(name, tmp_path / "x" / "copy")
    assert (tmp_path / "x" / "copy").read_bytes() == b"data"
    assert objects.check([name]) == []


def test_a_damaged_object_is_never_handed_out(objects: Objects, tmp_path: Path) -> None:
    """Bytes that do not fit the name are an error that names the object; taking the file in again heals it."""
    (tmp_path / "a").write_bytes(b"data")
    name = objects.take(tmp_path / "a")
    path = objects.path(name)
    path.unlink()
    with pytest.raises(StoreDamagedError, match=name):
        objects.restore(name, tmp_path / "copy")
    path.write_bytes(b"other")
    with pytest.raises(StoreDamagedError, match="not what its name says"):
        objects.restore(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert "not what its name says" in objects.check([])[0]
    assert objects.take(tmp_path / "a") == name
    objects.restore(name, tmp_path / "copy")


def test_making_a_store_where_a_file_is(tmp_path: Path) -> None:
    """A file in the store's place, or in the place of a folder above it, is an error that names it."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match="file"):
            Store.create(place)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="not empty"):
        Store.create(tmp_path / "full")


def test_names_that_are_not_utf8_are_kept(project: Project) -> None:
    """A file and an argument whose bytes are no UTF-8 are recorded, shown and verified like any other."""
    project.write("train.py", "import os; open(os.fsencode('out-') + b'\\xff', 'w').close()\n")
    command = [os.fsencode(REPRO), b"run", b"--", b"python", b"train.py", b"arg-\xff"]
    environment = clean_environment(LC_ALL="C.UTF-8")
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = project.repro("show", "last", "--json", check=0).json
    assert shown["record"]["recipe"]["command"][-1] == "arg-\udcff"
    assert [item["path"] for item in shown["outcome"]["outputs"]] == ["out-\udcff"]
    assert "out-\\udcff" in project.repro("show", "last", check=0).out
    for words in (["ls"], ["verify"], ["diff", "last", "last"]):
        project.repro(*words, check=0)


def test_a_flipped_bit_in_the_index_of_the_code_changes_no_tree(tmp_path: Path) -> None:
    """Whatever bit of git's index flips, the tree that is captured is that of the disk, and can be materialised."""
    root = tmp_path / "project"
    root.mkdir()
    names = [f"f{number}.py" for number in range(4)]
    for name in names:
        (root / name).write_text(f"print({name!r})\n")
        os.utime(root / name, (1e9, 1e9))
    code = CodeRepository(tmp_path / "code.git")
    paths = [os.fsencode(name) for name in names]
    tree = code.snapshot(root, paths)
    assert code.snapshot(root, paths) == tree
    (index,) = (tmp_path / "code.git").glob("index-*")
    data = index.read_bytes()
    for place in range(0, len(data), 5):
        index.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        assert code.snapshot(root, paths) == tree, place
    code.materialise(tree, tmp_path / "again")
