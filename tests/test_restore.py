"""A replay finds what the run found, even though the working tree was thrown away, and leaves the user's tree alone."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from conftest import REPRO, Project, clean_environment

from repro.replay import restore
from repro.store.store import Store

Make = Callable[[str], Project]


def live(project: Project) -> trees.Tree:
    """Return everything of the user's tree but the store, the repository included."""
    return trees.read(project.root, without=(b".repro", b"__pycache__"))


@pytest.fixture
def dirty(project: Project) -> Project:
    """A repository with a stash and a branch, whose tree is changed in every way that git tells apart."""
    project.write("all.py", trees.READS_ALL)
    project.write("text.txt", "".join(f"line {n}\n" for n in range(10)))
    project.write("changed.bin", bytes(range(256)))
    project.write("gone.txt", "to be deleted\n")
    project.write("tool.sh", "#!/bin/sh\n")
    project.write("staged-gone.txt", "to be deleted\n")
    project.commit()
    project.git("branch", "other")
    project.write("text.txt", "stashed\n")
    project.git("stash", "-q")
    lines = [f"line {n}\n" for n in range(10)]
    lines[4] = "staged\n"
    project.write("text.txt", "".join(lines))
    project.git("add", "text.txt")
    lines[5] = "not staged\n"
    project.write("text.txt", "".join(lines))
    project.write("changed.bin", bytes(range(255, -1, -1)))
    project.write("new/untracked.txt", "new\n")
    project.write("staged-new.txt", "staged\n")
    project.git("add", "staged-new.txt")
    project.git("rm", "-q", "staged-gone.txt")
    (project.root / "gone.txt").unlink()
    (project.root / "tool.sh").chmod(0o755)
    return project


@pytest.mark.parametrize("repository", ["thrown away", "deleted"])
def test_a_dirty_tree_is_earned_again_after_it_was_thrown_away(dirty: Project, repository: str) -> None:
    """Every kind of change is in the record; with the tree or even ``.git`` gone the replay is IDENTICAL.

    Neither the run nor the replay changes a byte of the repository: index, HEAD, branches, stash, objects, settings.
    """
    before, expected = trees.git(dirty.root), trees.read(dirty.root)
    dirty.run("--", "python", "all.py")
    assert trees.git(dirty.root) == before
    assert trees.read(dirty.root) == expected
    assert trees.record(dirty)["circumstances"]["git"]["value"]["dirty"] is True
    dirty.git("reset", "-q", "--hard")
    dirty.git("clean", "-qfd")
    dirty.git("checkout", "-q", "other")
    dirty.write("text.txt", "something else\n")
    if repository == "deleted":
        shutil.rmtree(dirty.root / ".git")
    before = live(dirty)
    found = trees.identical(dirty, "--keep")
    assert trees.read(trees.place(dirty, found)) == expected
    assert live(dirty) == before


def test_git_can_collect_its_garbage(dirty: Project) -> None:
    """A ``git gc`` of the user's takes nothing away from what was recorded."""
    dirty.run("--", "python", "all.py")
    dirty.git("stash", "drop", "-q")
    dirty.git("reset", "-q", "--hard")
    dirty.git("clean", "-qfd")
    dirty.git("gc", "-q", "--prune=now")
    trees.identical(dirty)


def test_a_project_that_was_moved_with_its_store(project: Project) -> None:
    """A project folder that was renamed since replays from where it lies now, its ignored data too."""
    project.write("train.py", 'import repro\nrepro.current().log(x=float(open("data/x.txt").read()))\n')
    project.write("data/x.txt", "3\n")
    project.write(".gitignore", "data/\n")
    project.commit()
    project.run("--", "python", "train.py")
    moved = Project(project.root.with_name("moved"))
    project.root.rename(moved.root)
    assert trees.identical(moved)["differences"] == []


def test_a_damaged_tree_is_told_before_anything_runs(project: Project) -> None:
    """Code that does not come out as it was recorded is a clear error with exit code 5, and nothing is run."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    project.write("lib.py", "x = 1\n")
    project.run("--", "python", "train.py")
    objects = [path for path in (project.store / "code.git" / "objects").rglob("*") if path.is_file()]
    for path in objects:
        data = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        done = project.repro("replay", "last")
        assert done.code == 5, (path, done.err)
        assert "Traceback" not in done.err
        assert "code.git" in done.err or "cannot be restored" in done.err
        path.unlink()
        assert project.repro("replay", "last").code == 5
        path.write_bytes(data)
    trees.identical(project)


def test_objects_that_say_another_tree(project: Project) -> None:
    """An object replaced by a sound one of other content is found out: the restored tree is compared by its id."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    project.run("--", "python", "train.py")
    project.write("train.py", "import repro\nrepro.current().log(x=2)\n")
    project.run("--", "python", "train.py")
    code = Project(project.store / "code.git")
    trees_ids = [trees.record(project, run)["recipe"]["code"].removeprefix("git:") for run in ("last~1", "last")]
    blobs = [code.git("rev-parse", f"{tree}:train.py").strip() for tree in trees_ids]
    paths = [code.root / "objects" / blob[:2] / blob[2:] for blob in blobs]
    paths[0].chmod(0o644)
    paths[0].write_bytes(paths[1].read_bytes())
    done = project.repro("replay", "last~1")
    assert (done.code, "Traceback" in done.err) == (5, False)


def test_folders_that_are_ignored_or_empty_are_there(project: Project) -> None:
    """A script that saves into an ignored, an empty or a deeply nested folder finds it in the replay."""
    project.write(".gitignore", "checkpoints/\n")
    script = """\
import repro
for name in ("checkpoints/m.pt", "empty/x", "deep/er/still/x"):
    open(name, "w").write("x")
repro.current().log(x=1)
"""
    project.write("train.py", script)
    for name in ("checkpoints", "empty", "deep/er/still"):
        (project.root / name).mkdir(parents=True)
    project.commit()
    project.run("--", "python", "train.py")
    shutil.rmtree(project.root / "deep")
    shutil.rmtree(project.root / "empty")
    trees.identical(project)
    assert not (project.root / "empty").exists()


LEAVES = """\
import os
import sys

import repro

os.makedirs("out/deep", exist_ok=True)
for name in ("model.pt", "out/deep/table.csv"):
    with open(name, "wb") as handle:
        handle.write(b"weights")
with open("log.txt", "a") as handle:
    handle.write("a line\\n")
if not os.path.islink("latest"):
    os.symlink("model.pt", "latest")
repro.current().log(x=1)
"""


@pytest.mark.parametrize("repository", [True, False])
def test_what_a_run_left_is_no_code(project: Project, repository: bool) -> None:
    """The same command three times, though it leaves files and a link beside itself: one recipe digest."""
    project.write("train.py", LEAVES)
    if repository:
        project.commit()
    found = [project.run("--", "python", "train.py") for _ in range(3)]
    assert len({item["recipe_digest"] for item in found}) == 1
    left = {item["path"]: item["digest"] for item in trees.outcome(project)["outputs"]}
    assert left.keys() == {"model.pt", "log.txt", "out/deep/table.csv"} | ({"latest"} if found[0] else set()) - {
        "latest"
    }
    first = {item["path"] for item in trees.outcome(project, "last~2")["outputs"]}
    assert first == {"model.pt", "log.txt", "out/deep/table.csv", "latest"}
    for back in ("last~2", "last"):
        trees.identical(project, run=back)


def test_what_torch_saves_is_no_code(project: Project) -> None:
    """``torch.save`` writes past Python's own files, and its file is an output all the same; a replay has its like."""
    script = """\
import torch

model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 3)).sum().backward()
optimizer.step()
torch.save(model.state_dict(), "model.pt")
open("log.txt", "w").write("done\\n")
"""
    project.write("train.py", script)
    project.commit()
    found = [project.run("--", "python", "train.py") for _ in range(2)]
    assert found[0]["recipe_digest"] == found[1]["recipe_digest"]
    assert sorted(item["path"] for item in trees.outcome(project)["outputs"]) == ["log.txt", "model.pt"]
    assert trees.identical(project)["files"] == []


def test_a_rebuilt_cache_knows_the_outputs_as_well(project: Project) -> None:
    """The list of known outputs is a cache: deleted, it comes back from the records."""
    project.write("train.py", LEAVES)
    first = project.run("--", "python", "train.py")
    shutil.rmtree(project.store / "cache")
    (project.store / "cache").mkdir()
    assert project.run("--", "python", "train.py")["recipe_digest"] == first["recipe_digest"]


@pytest.mark.parametrize("since", ["as it was", "overwritten", "deleted"])
def test_an_output_that_a_later_run_reads_is_its_input(project: Project, since: str) -> None:
    """What one run left and the next reads before it writes it is named as an input, kept, and put back on a replay."""
    script = """\
import os
import repro

count = int(open("state/count.txt").read()) if os.path.exists("state/count.txt") else 0
os.makedirs("state", exist_ok=True)
with open("state/count.txt", "w") as handle:
    handle.write(str(count + 1))
repro.current().log(count=count)
"""
    project.write("train.py", script)
    project.commit()
    runs = [project.run("--", "python", "train.py") for _ in range(3)]
    assert [run["metrics"]["count"] for run in runs] == [0, 1, 2]
    assert len({run["recipe_digest"] for run in runs}) == 1
    assert trees.outcome(project, "last~2")["inputs"] == []
    (read,) = trees.outcome(project, "last")["inputs"]
    assert (read["path"], "left by an earlier run" in read["note"]) == ("state/count.txt", True)
    if since == "overwritten":
        project.write("state/count.txt", "99")
    if since == "deleted":
        shutil.rmtree(project.root / "state")
    before = live(project)
    for run, count in (("last", 2), ("last~1", 1), ("last~2", 0)):
        found = trees.identical(project, run=run)
        assert trees.outcome(project, found["run_id"])["metrics"] == {"count": count}
    assert live(project) == before
    again = trees.identical(project, run=found["run_id"])
    assert (again["replay_of"], again["differences"]) == (found["run_id"], [])


def test_an_edit_while_the_run_goes_on_is_no_output(project: Project) -> None:
    """Code, of a project without git too, that the user edits or adds during a run is code at the next run."""
    script = """\
import os, subprocess, repro
# the user's editor, as another program than the run's own
subprocess.run(["sh", "-c", "echo '# edited' >> train.py; echo 'x = 1' > added.py; echo 'lr: 2' > config.yaml"])
repro.current().log(x=os.path.getsize("config.yaml"))
"""
    project.write("train.py", script)
    project.write("config.yaml", "lr: 1\n")
    project.run("--", "python", "train.py")
    assert trees.outcome(project)["outputs"] == []
    project.run("--", "python", "train.py")
    found = trees.identical(project, "--keep")
    names = {name for name, (kind, _) in trees.read(trees.place(project, found)).items() if kind == "file"}
    assert names == {b"train.py", b"added.py", b"config.yaml"}


def test_a_log_that_the_shell_writes_is_neither_code_nor_output(project: Project) -> None:
    """``repro run -- ... >> log.txt`` in the project folder: one recipe digest, and no output of that name."""
    project.write("train.py", 'import repro\nprint("hello")\nrepro.current().log(x=1)\n')
    for _ in range(3):
        with (project.root / "log.txt").open("ab") as log:
            command = [REPRO, "run", "--", "python", "train.py"]
            subprocess.run(
                command,
                cwd=project.root,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                check=True,
                env=clean_environment(),
            )
    listed = project.repro("ls", "--json", check=0).json
    assert len({run["recipe_digest"] for run in listed}) == 1
    assert trees.outcome(project)["outputs"] == []


READS_DATA = """\
import os
import repro

names = sorted(os.path.join(folder, name) for folder, _, names in os.walk("data") for name in names)
with open("data/a.txt", "rb") as handle:
    repro.current().log(size=len(handle.read()), names=len(names))
"""


@pytest.fixture
def reads(project: Project) -> Project:
    """A committed project whose script lists an ignored folder and reads one file of it."""
    project.write("train.py", READS_DATA)
    project.write(".gitignore", "data/\n*.pt\n")
    project.write("data/a.txt", "aaaa\n")
    project.write("data/b/unread.txt", "bbbb\n")
    project.write("data/b/c/unread.txt", "cccc\n")
    project.commit()
    return project


def test_ignored_data_is_linked(reads: Project) -> None:
    """An ignored folder that the run reads is there in the replay, with the files that were listed but not read too."""
    reads.run("--", "python", "train.py")
    (read,) = trees.outcome(reads)["inputs"]
    assert (read["path"], read["size"], read["digest"][:7]) == ("data/a.txt", 5, "sha256:")
    assert trees.identical(reads)["differences"] == []


def test_very_many_files_are_linked_by_folders(reads: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many files lie beside the code, folders that hold nothing else are linked whole, the topmost ones."""
    reads.write("data/mixed/before.txt", "x")
    reads.write("lib/ignored.pt", "x")
    reads.write("lib/code.py", "x = 1\n")
    done = reads.run("--", "python", "train.py")
    reads.write("data/mixed/later.txt", "x")
    store = Store(reads.store)
    monkeypatch.setattr(restore, "MOST_FILES", 2)
    record, outcome = store.record(done["run_id"]), store.outcome(done["run_id"])
    place = restore.restore(store, record, outcome, tmp_path / "again").place
    links = {os.path.relpath(path, place) for path in place.rglob("*") if path.is_symlink()}
    assert links == {"data/a.txt", "data/b"}
    assert (place / "data" / "b" / "c" / "unread.txt").read_text() == "cccc\n"


def test_what_came_later_is_not_there(reads: Project) -> None:
    """A file that was added beside the data after the run, with however old a date, is not there in its replay."""
    reads.run("--", "python", "train.py")
    os.utime(reads.write("data/new.txt", "n"), (0, 0))
    reads.write("later.pt", "weights")
    found = trees.identical(reads, "--keep")
    assert not os.path.lexists(trees.place(reads, found) / "later.pt")


def test_one_changed_byte_is_named(reads: Project) -> None:
    """With one byte of an ignored file changed, size and time as before, the replay names the file."""
    reads.run("--", "python", "train.py")
    path = reads.root / "data" / "a.txt"
    stat = path.stat()
    path.write_bytes(b"aaab\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = reads.replay("last", "--inputs", "current")
    named = [(item["kind"], item["path"]) for item in found["differences"]]
    assert named == [("data", "inputs.data/a.txt")]
    assert found["differences"][0]["before"] != found["differences"][0]["after"]


def test_a_missing_file_is_named(reads: Project) -> None:
    """Without a file that the run read, and that nobody kept, the verdict is NOT_REPLAYABLE; nothing is run."""
    reads.run("--", "python", "train.py")
    kept = hashlib.sha256((reads.root / "data" / "a.txt").read_bytes()).hexdigest()
    (reads.store / "objects" / kept[:2] / kept[2:]).unlink()
    (reads.root / "data" / "a.txt").unlink()
    found = reads.replay(check=4)
    assert (found["verdict"], found["run_id"]) == ("NOT_REPLAYABLE", None)
    assert str(reads.root / "data" / "a.txt") in found["reason"]
    assert found["hint"]
    assert not any((reads.store / "work").iterdir())


@pytest.mark.parametrize("way", ["open", "append", "truncate", "chmod", "utime", "replace", "remove", "memmap"])
@pytest.mark.parametrize("before", ["as now", "not"])
def test_a_linked_file_is_copied_before_it_is_written(project: Project, way: str, before: str) -> None:
    """Whatever a script does to a file that it first read, its replay does to a copy, even if the run did not do it."""
    script = """\
import os, sys, repro
path = "data/a.bin"
size = len(open(path, "rb").read())
{
    "open": lambda: open(path, "r+b").write(b"zz"),
    "append": lambda: open(path, "ab").write(b"zz"),
    "truncate": lambda: os.truncate(path, 1),
    "chmod": lambda: os.chmod(path, 0o600),
    "utime": lambda: os.utime(path, (1, 1)),
    "replace": lambda: (open("data/n", "wb").write(b"n"), os.replace("data/n", path)),
    "remove": lambda: os.remove(path),
    "memmap": lambda: __import__("numpy").memmap(path, mode="r+")[:].fill(7),
    "not": lambda: None,
}[os.environ["WAY"]]()
repro.current().log(x=size)
"""
    project.write("train.py", script)
    project.write(".gitignore", "data/\n")
    project.write("data/a.bin", b"abcd")
    project.commit()
    stat = (project.root / "data" / "a.bin").stat()
    project.run("--", "python", "train.py", WAY=way if before == "as now" else before)
    if before == "as now":
        (project.root / "data" / "a.bin").unlink(missing_ok=True)
        project.write("data/a.bin", b"abcd")
        os.utime(project.root / "data" / "a.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    tree, mode = live(project), (project.root / "data" / "a.bin").stat()
    found = project.replay(WAY=way, check=0)
    assert found["verdict"] == "IDENTICAL"
    after = (project.root / "data" / "a.bin").stat()
    assert live(project) == tree
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (mode.st_mode, mode.st_mtime_ns, mode.st_size)


def test_a_file_that_the_run_itself_changed_is_lost(project: Project) -> None:
    """A hand-made file that a run reads and then overwrites cannot be had back: said in the gaps and by the verdict."""
    script = (
        'import repro\nn = int(open("n.txt").read())\nopen("n.txt", "w").write(str(n + 1))\nrepro.current().log(n=n)\n'
    )
    project.write("train.py", script)
    project.write(".gitignore", "n.txt\n")
    project.write("n.txt", "5")
    project.commit()
    done = project.run("--", "python", "train.py")
    assert [gap["what"] for gap in done["gaps"]] == ["n.txt"]
    found = project.replay(check=4)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert "n.txt" in found["reason"]
    assert (project.root / "n.txt").read_text() == "6"


def test_a_source_edited_before_its_import_is_named(project: Project) -> None:
    """A module edited between the seal and its import is named in the outcome's notes: the record has the old one."""
    script = """\
import os, time, repro
open(".started", "w").close()
while not os.path.exists(".edited"):
    time.sleep(0.01)
import late
repro.current().log(x=late.x)
"""
    project.write("train.py", script)
    project.write("late.py", "x = 1\n")
    project.write("early.py", "x = 1\n")
    project.commit()
    command = [REPRO, "run", "--", "python", "train.py"]
    with subprocess.Popen(command, cwd=project.root, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
        while not (project.root / ".started").exists():
            time.sleep(0.01)
        project.write("late.py", "x = 2\n")
        project.write(".edited", "")
        assert process.wait(20) == 0
    named = [note for note in trees.outcome(project)["notes"] if "edited" in note]
    assert len(named) == 1
    assert "late.py" in named[0]


def test_links_that_lead_out_of_the_project(project: Project) -> None:
    """Links to a folder beside the project, by relative and by absolute path, lead there in the replay as well.

    A link into the project by an absolute path leads into the replay's own copy, not to the live file.
    """
    beside = project.root.parent / "beside"
    beside.mkdir()
    (beside / "x.txt").write_text("12345")
    project.write("inside.txt", "123")
    os.symlink("../beside", project.root / "relative")
    os.symlink(beside, project.root / "absolute")
    os.symlink(project.root / "inside.txt", project.root / "back")
    script = """\
import repro
repro.current().log(a=len(open("relative/x.txt").read()), b=len(open("absolute/x.txt").read()),
                    c=len(open("back").read()), d=len(open("../beside/x.txt").read()))
"""
    project.write("train.py", script)
    project.commit()
    project.run("--", "python", "train.py")
    project.write("inside.txt", "changed since")
    assert trees.identical(project)["differences"] == []


def test_data_in_memory_backed_folders(project: Project) -> None:
    """A data set in ``/dev/shm`` is an input like any other."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="repro-test-") as handle:
        handle.write(b"abc")
        handle.flush()
        project.write("train.py", f"import repro\nrepro.current().log(x=len(open({handle.name!r}).read()))\n")
        project.run("--", "python", "train.py")
        assert [item["path"] for item in trees.outcome(project)["inputs"]] == [handle.name]
        assert trees.identical(project)["differences"] == []


def test_data_beside_the_project_by_a_relative_path(project: Project) -> None:
    """``../shared/data.txt`` is there for the replay; one changed byte of it is named."""
    shared = project.root.parent / "shared" / "data.txt"
    shared.parent.mkdir()
    shared.write_text("abc")
    project.write("train.py", 'import repro\nrepro.current().log(x=open("../shared/data.txt").read().count("b"))\n')
    project.commit()
    project.run("--", "python", "train.py")
    assert [item["path"] for item in trees.outcome(project)["inputs"]] == [str(shared)]
    assert trees.identical(project)["differences"] == []
    shared.write_text("bbb")
    found = project.replay("last", "--inputs", "current", check=3)
    assert [(item["kind"], item["path"]) for item in found["differences"]] == [("data", f"inputs.{shared}")]


@pytest.mark.parametrize("changed", [True, False])
def test_code_that_is_read_by_its_absolute_path(project: Project, changed: bool) -> None:
    """A replay that reads a live file for recorded code is told from a true one: NOT_REPLAYABLE where they differ."""
    config = project.write("config.txt", "3")
    project.write("train.py", f"import repro\nrepro.current().log(x=float(open({str(config)!r}).read()))\n")
    project.commit()
    project.run("--", "python", "train.py")
    if changed:
        config.write_text("4")
        found = project.replay(check=4)
        assert found["verdict"] == "NOT_REPLAYABLE"
        assert str(config) in found["reason"]
    else:
        assert trees.identical(project)["differences"] == []


@pytest.fixture
def elsewhere(project: Project) -> Path:
    """A folder outside the project that is no place for temporary files."""
    folder = project.root.parent / "elsewhere"
    folder.mkdir()
    return folder


def temporary(project: Project) -> str:
    """Return a folder for temporary files of the replay's own: pytest's own folders lie in ``/tmp``."""
    folder = project.root.parent / "temporary"
    folder.mkdir(exist_ok=True)
    return str(folder)


@pytest.mark.parametrize("by", ["absolute", "relative"])
def test_writes_outside_are_listed_and_kept_apart(project: Project, elsewhere: Path, by: str) -> None:
    """A run may write anywhere, and what it wrote outside is listed; its replay's go nowhere, unless it is let."""
    name = str(elsewhere / "new" / "result.txt") if by == "absolute" else "../elsewhere/new/result.txt"
    script = f"""\
import os, tempfile, repro
with tempfile.TemporaryFile() as handle:
    handle.write(b"x")
os.makedirs(os.path.dirname({name!r}), exist_ok=True)
open({name!r}, "w").write("result")
repro.current().log(x=1)
"""
    project.write("train.py", script)
    project.commit()
    project.run("--", "python", "train.py", TMPDIR=temporary(project))
    written = [item["path"] for item in trees.outcome(project)["outputs"]]
    assert written == [str(elsewhere / "new" / "result.txt")]
    (elsewhere / "new" / "result.txt").write_text("of the user")
    assert trees.identical(project, TMPDIR=temporary(project))["files"] == []
    assert (elsewhere / "new" / "result.txt").read_text() == "of the user"
    found = trees.identical(project, "--allow-outside-writes", TMPDIR=temporary(project))
    assert found["files"] == []
    assert (elsewhere / "new" / "result.txt").read_text() == ("result" if by == "absolute" else "of the user")


WAYS = {
    "open": 'open(live + "/text.txt", "w").write("x")',
    "append": 'open(live + "/text.txt", "a").write("x")',
    "new": 'open(live + "/new.txt", "w").write("x")',
    "remove": 'os.remove(live + "/text.txt")',
    "rename": 'os.rename(live + "/text.txt", live + "/other.txt")',
    "rename into": 'open("here", "w").close(); os.rename("here", live + "/other.txt")',
    "mkdir": 'os.mkdir(live + "/folder")',
    "rmtree": 'shutil.rmtree(live + "/lib")',
    "chmod": 'os.chmod(live + "/text.txt", 0o600)',
    "symlink": 'os.symlink("x", live + "/link")',
    "truncate": 'os.truncate(live + "/text.txt", 0)',
    "utime": 'os.utime(live + "/text.txt", (1, 1))',
    "through a link": 'open("to-live/text.txt", "w").write("x")',
    "torch.save": 'import torch; torch.save([1], live + "/m.pt")',
    "sqlite3": 'import sqlite3; sqlite3.connect(live + "/data.db").execute("create table t (x)")',
}


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_never_changes_the_live_tree(project: Project, way: str) -> None:
    """A script that writes into the project by its absolute path is refused in a replay; not a byte changes."""
    script = f"""\
import os, shutil, repro
live = {str(project.root)!r}
if os.path.lexists("to-live"):
    os.unlink("to-live")
os.symlink(live, "to-live")
repro.current().log(x=1)
{WAYS[way]}
"""
    project.write("train.py", script)
    project.write("text.txt", "text\n")
    project.write("lib/code.py", "x = 1\n")
    project.commit()
    project.run("--", "python", "train.py")
    for name in ("new.txt", "other.txt", "link", "m.pt", "here", "to-live", "data.db"):
        (project.root / name).unlink(missing_ok=True)
    project.git("reset", "-q", "--hard")
    shutil.rmtree(project.root / "folder", ignore_errors=True)
    before = live(project)
    stat = (project.root / "text.txt").stat()
    found = project.replay(check=4)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert "writes outside" in found["reason"]
    assert live(project) == before
    assert (project.root / "text.txt").stat().st_mtime_ns == stat.st_mtime_ns


def test_declared_folders_that_nest_leave_the_users_folders_alone(project: Project) -> None:
    """Data declared twice, a folder and an empty one in it, is linked without a folder of the user's being touched."""
    project.write(
        "experiment.yaml", "name: nested\ncommand: python train.py\ndata: {all: data, part: data/part, each: data/*}\n"
    )
    project.write(
        "train.py",
        'import os, repro\nrepro.current().log(x=len(os.listdir("data")), y=len(os.listdir("data/part")))\n',
    )
    project.write(".gitignore", "data/\n")
    project.write("data/x.txt", "x")
    project.write("data/part/y.txt", "x")
    (project.root / "data" / "empty").mkdir()
    project.commit()
    project.run("experiment.yaml")
    before = sorted(os.walk(project.root / "data"))
    trees.identical(project)
    assert sorted(os.walk(project.root / "data")) == before
    assert not (project.root / "data" / "part").is_symlink()


def test_outputs_with_names_that_break_scripts(project: Project) -> None:
    """Outputs whose names hold newlines, quotes and bytes that are no UTF-8 are known again, kept, and compared."""
    script = """\
import os, repro
names = [b"new\\nline", b'"quoted"', b"no utf-8 \\xff", b"folder \\xfe/x"]
os.makedirs(b"folder \\xfe", exist_ok=True)
total = sum(len(open(name, "rb").read()) for name in names if os.path.exists(name))
for name in names:
    open(name, "ab").write(b"x")
repro.current().log(total=total)
"""
    project.write("train.py", script)
    found = [project.run("--", "python", "train.py") for _ in range(2)]
    assert [run["metrics"]["total"] for run in found] == [0, 4]
    assert found[0]["recipe_digest"] == found[1]["recipe_digest"]
    assert len(trees.outcome(project)["inputs"]) == len(trees.outcome(project)["outputs"]) == 4
    for run in ("last", "last~1"):
        assert trees.identical(project, run=run)["files"] == []


def test_a_replay_leaves_nothing_behind(project: Project) -> None:
    """The replay's folder is gone afterwards, and no process, file or link of it is left in the project."""
    project.write("train.py", "import repro\nopen('out.txt', 'w').write('x')\nrepro.current().log(x=1)\n")
    project.run("--", "python", "train.py")
    before = live(project)
    trees.identical(project)
    assert live(project) == before
    assert list((project.store / "work").iterdir()) == []
