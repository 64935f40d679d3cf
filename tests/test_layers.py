"""Writes outside a run's folder: in a replay they go to layers of its own, see what lay there, and change nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trees
from conftest import REPRO, Project, clean_environment

from repro.engines import layers
from repro.engines.layers import Layers

#: As a trainer does that keeps checkpoints under the home folder and goes on from what it finds there.
TRAIN = """\
import contextlib, os, pathlib, shutil, socket, subprocess, sys
import repro
with contextlib.suppress(OSError):  # as torchrun does: no other machine
    socket.getaddrinfo(socket.gethostname(), 29500)
home = pathlib.Path.home()
folder = home / ".cache" / "trainer" / "d4"
folder.mkdir(parents=True, exist_ok=True)
last = folder / "last.txt"
begin = int(last.read_text()) if last.exists() else 0
for step in range(begin, begin + 3):
    (folder / "partial").write_text(str(step + 1))
    os.replace(folder / "partial", last)
    repro.current().log(loss=1 / (step + 1), step=step)
with open(home / "log.txt", "a") as log:
    log.write("run\\n")
with open(home / "count.txt", "r+") as counter:
    count = int(counter.read())
    counter.seek(0)
    counter.write(str(count + 1))
os.rename(home / "old.txt", home / "older.txt")
os.remove(home / "stale.txt")
if (home / "work").exists():
    shutil.rmtree(home / "work")
(home / "work").mkdir()
open("results/model.txt", "w").write("model")
command = f"print(open({str(last)!r}).read(), file=open({str(home / 'work' / 'told.txt')!r}, 'w'))"
subprocess.run([sys.executable, "-c", command], check=True)
lines = len((home / "log.txt").read_text().split())
repro.current().log(lines=lines, count=count, old=int((home / "older.txt").read_text()))
"""
BEFORE = {"log.txt": "first\n", "count.txt": "7", "old.txt": "5", "stale.txt": "x", "work/leaf.txt": "x"}


class Home(Project):
    """A project that was run once, in a home folder that is not the user's, and which changed afterwards."""

    home: Path

    def again(self, *words: str, before: Sequence[str] = (), code: int = 0) -> Any:
        """Replay it, started by the words ``before``; the home folder is as it was, whatever comes out."""
        there = trees.read(self.home)
        environment = clean_environment(HOME=str(self.home), TMPDIR=str(self.home.parent / "disk"))
        command = [*before, str(REPRO), "replay", "last", "--json", *words]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        assert trees.read(self.home) == there
        assert [path for path in (self.store / "work").glob("*") if path.is_dir()] == []
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A run that wrote outside in many ways; the user has gone on since."""
    base = tmp_path_factory.mktemp("trained")
    found = Home(base / "home" / "project")
    found.home = base / "home"
    found.root.mkdir(parents=True)
    (base / "disk").mkdir()
    for name, text in BEFORE.items():
        (found.home / name).parent.mkdir(exist_ok=True)
        (found.home / name).write_text(text)
    found.write("train.py", TRAIN)
    (found.root / "results").symlink_to(base / "disk")
    found.run("--", "python", "train.py", HOME=str(found.home))
    (found.home / ".cache" / "trainer" / "d4" / "last.txt").write_text("900")
    (found.home / "log.txt").write_text("newer\n" * 9)
    (found.home / "old.txt").write_text("newer")
    (base / "disk" / "model.txt").write_text("newer")
    return found


def test_a_trainer_that_writes_under_home_is_replayed(trained: Home) -> None:
    """It finds what lay there when it began, its writes are compared, and what is there now stays as it is."""
    found = trained.again()
    assert (found["verdict"], found["files"]) == ("IDENTICAL", [])
    assert (trained.home.parent / "disk" / "model.txt").read_text() == "newer"


#: Root without the right to mount: what is left are user namespaces, as for any other user.
NO_MOUNTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


def test_without_root_it_is_done_in_a_user_namespace(trained: Home) -> None:
    """Who may not mount gets the same by a user namespace."""
    assert trained.again(before=NO_MOUNTS)["verdict"] == "IDENTICAL"


def test_where_the_kernel_allows_neither_it_is_refused_in_words(trained: Home) -> None:
    """As in a container without privileges: NOT_REPLAYABLE, why there is no overlay, and what would overwrite."""
    limit = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    found = trained.again(before=("unshare", "-Ur", "sh", "-c", limit, "sh", *NO_MOUNTS), code=4)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert "writes outside its folder" in found["reason"]
    assert "user namespaces" in found["hint"]
    assert "--allow-outside-writes" in found["hint"]
    assert "over what lies there now" in found["hint"]


def test_what_a_run_moved_and_nobody_kept_makes_no_difference_of_the_run(project: Project, tmp_path: Path) -> None:
    """A folder that it moved cannot be put back: NOT_REPLAYABLE with that reason, and never DIFFERENT."""
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "n.txt").write_text("1")
    project.write(
        "train.py",
        f"""\
import os, repro
os.chdir({str(tmp_path)!r})
os.rename("latest", "previous")
os.mkdir("latest")
open("latest/n.txt", "w").write("2")
repro.current().log(n=int(open("previous/n.txt").read()))
""",
    )
    project.run("--", "python", "train.py")
    found = project.replay(check=4)
    assert f"{tmp_path}/latest is not what it was when the run began" in found["reason"]
    assert (tmp_path / "previous" / "n.txt").read_text() == "1"


def test_a_private_file_that_is_appended_to_is_not_kept(project: Project, tmp_path: Path) -> None:
    """What others may not read is in no store, though a replay then cannot put it back."""
    place = tmp_path / "private.txt"
    place.write_text("secret word\n")
    place.chmod(0o600)
    project.write("train.py", f"import repro\nopen({str(place)!r}, 'a').write('x')\nrepro.current().log(x=1)\n")
    project.run("--", "python", "train.py")
    kept = [path.read_bytes() for path in project.store.rglob("*") if path.is_file()]
    assert not any(b"secret word" in data for data in kept)
    assert project.replay(check=0)["verdict"] == "IDENTICAL"


def test_a_replay_leaves_a_cache_alone_that_its_run_may_have_fetched(project: Project, tmp_path: Path) -> None:
    """Of a run that looked up another machine, what it wrote in ``~/.cache`` is there for its replay, and stays."""
    project.write(
        "train.py",
        """\
import os, pathlib, socket, repro
place = pathlib.Path.home() / ".cache" / "zoo" / "weights.txt"
try:
    socket.getaddrinfo("zoo.invalid", 443)
except OSError:
    pass
place.parent.mkdir(parents=True, exist_ok=True)
log = repro.current().log
log(was_there=place.exists() and place.read_text() == "another")
place.write_text("fetched")
repro.current().log(size=len(place.read_text()))
""",
    )
    project.run("--", "python", "train.py", HOME=str(tmp_path))
    place = tmp_path / ".cache" / "zoo" / "weights.txt"
    place.write_text("another")
    assert [*project.replay(check=3, HOME=str(tmp_path))["metrics"]] == ["was_there"]
    assert place.read_text() == "another"


def test_layers_lie_as_high_up_as_one_disk_reaches(tmp_path: Path) -> None:
    """Above what a script may remove or rename; not over what other disks are mounted in, nor over the system."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    top, below = str(tmp_path), str(tmp_path / "a" / "b")
    assert layers.over([f"{below}/x"], ["/", top]) == (top,)
    assert layers.over([f"{below}/x", f"{top}/a/y/z/x"], ["/", top]) == (top,)
    assert layers.over([f"{below}/x"], ["/", f"{top}/a/c"]) == (below,)
    assert layers.over([f"{top}/a/new/x"], ["/", f"{top}/a/c"]) == ()
    assert layers.over(["/x", "/etc/x", "/usr/lib/x", "/dev/shm/x", "/proc/self/x"], ["/"]) == ()


@pytest.mark.parametrize("name", ["plain", "with space", "with,comma:colon", "back\\\\slash", "ünï"])
def test_layers_over_folders_of_any_name(tmp_path: Path, name: str) -> None:
    """The kernel's options know commas, colons and backslashes; what is arranged changes the layers alone."""
    folder = tmp_path / name
    (folder / "made").mkdir(parents=True)
    (folder / "made" / "x").write_text("x")
    (tmp_path / "copy").write_text("old")
    found = Layers(folder / "own" / "layers", (str(folder),), (str(folder / "own"),))
    (folder / "own").mkdir()
    assert (
        found.prepare([str(folder / "made")], [str(folder / "gone")], [(str(tmp_path / "copy"), str(folder / "f"))])
        is None
    )
    layers.loosen(folder / "own" / "layers")
    assert sorted(os.listdir(folder)) == ["made", "own"]
    assert Path(found.at(str(folder / "f"))).read_text() == "old"
    assert found.at(str(folder / "own" / "x")) == str(folder / "own" / "x")


def test_a_link_that_came_to_lead_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """What is taken away is taken away in a layer: a link to a folder outside of it is left alone."""
    (tmp_path / "over").mkdir()
    (tmp_path / "over" / "link").symlink_to("/dev/shm")
    mark = Path(f"/dev/shm/repro-test-{os.getpid()}")
    mark.write_text("x")
    try:
        found = Layers(tmp_path / "layers", (str(tmp_path / "over"),), ())
        assert found.prepare([str(tmp_path / "over" / "link" / mark.name)], [], []) is None
        assert mark.exists()
    finally:
        mark.unlink()
