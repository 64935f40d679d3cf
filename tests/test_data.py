"""Declared data: files, folders and globs by digest, read again only when they changed, and linked for a replay."""

import os
import shutil
import time
from pathlib import Path

import pytest
import trees
from conftest import Project

from repro.capture import data
from repro.capture.data import StatCache
from repro.errors import ConfigError

TRAIN = """\
import glob
import os
import repro

total = 0
for place in os.environ["PLACES"].split(":"):
    deep = [name for pattern in (place, place + "/**") for name in glob.glob(pattern, recursive=True)]
    files = [place] if os.path.isfile(place) else sorted(deep)
    for name in files:
        if os.path.isfile(name):
            total = total * 31 + sum(open(name, "rb").read())
repro.current().log(total=total % 1_000_003)
"""


@pytest.fixture
def declares(project: Project) -> Project:
    """A committed project with ignored data of every kind, inside and outside; ``EXP`` in a sub-folder declares it."""
    beside = project.root.parent / "beside"
    (beside / "deep").mkdir(parents=True)
    (beside / "b.txt").write_text("beside\n")
    (beside / "deep" / "c.txt").write_text("deep\n")
    project.write("exp/train.py", TRAIN)
    project.write(".gitignore", "data/\n*.csv\n*.npz\n")
    project.write("exp/data/x/1.txt", "one\n")
    project.write("exp/data/x/2.txt", "two\n")
    project.write("exp/data/top.txt", "top\n")
    project.write("exp/single.npz", "single\n")
    project.write("exp/a.csv", "a\n")
    project.write("exp/b.csv", "b\n")
    return project


def declare(project: Project, **items: str) -> dict[str, str]:
    """Write an experiment that declares ``items``, and reads them all; return the environment for it."""
    lines = "".join(f'  {name}: "{where}"\n' for name, where in items.items())
    project.write("exp/experiment.yaml", f"name: declared\ncommand: python train.py\ndeterminism: warn\ndata:\n{lines}")
    return {"PLACES": ":".join(items.values())}


KINDS = {
    "file": "single.npz",
    "folder": "data",
    "folder with a slash": "data/x/",
    "glob": "*.csv",
    "glob of folders": "data/*",
    "recursive glob": "data/**/*.txt",
    "file beside": "../../beside/b.txt",
    "folder beside": "../../beside",
    "glob beside": "../../beside/*.txt",
    "absolute file": "ABS/b.txt",
    "absolute folder": "ABS",
    "absolute glob": "ABS/**/*.txt",
    "absolute inside": "ROOT/exp/data",
}


@pytest.mark.parametrize("kind", KINDS)
def test_declared_data_of_every_kind_is_earned_again(declares: Project, kind: str) -> None:
    """Whatever was declared is in the recipe by its digest, and there for the replay; a changed byte is named."""
    beside = str(declares.root.parent / "beside")
    where = KINDS[kind].replace("ABS", beside).replace("ROOT", str(declares.root))
    env = declare(declares, set=where)
    declares.commit()
    done = declares.run("exp/experiment.yaml", **env)
    assert done["metrics"]["total"] > 0
    assert trees.record(declares)["recipe"]["data"].keys() == {"set"}
    found = trees.identical(declares, **env)
    assert found["differences"] == []
    changed = next(path for path in data.expand(where, declares.root / "exp") if path.is_file())
    changed.write_bytes(b"X" + changed.read_bytes()[1:])
    found = declares.replay("last", "--inputs", "current", check=3, **env)
    named = {item["path"] for item in found["differences"] if item["kind"] == "data"}
    assert "data.set" in named
    if not Path(where).is_absolute():
        assert declares.replay(**env)["verdict"] == "IDENTICAL"
    again = declares.run("exp/experiment.yaml", **env)
    assert again["recipe_digest"] != done["recipe_digest"]


@pytest.mark.parametrize("kind", ["file", "folder", "glob", "folder beside", "absolute folder"])
def test_declared_data_that_is_gone(declares: Project, kind: str) -> None:
    """A run does not start without its declared data; a replay has what the store kept of it, or names it."""
    beside = declares.root.parent / "beside"
    where = KINDS[kind].replace("ABS", str(beside))
    env = declare(declares, set=where)
    declares.commit()
    declares.run("exp/experiment.yaml", **env)
    for path in (declares.root / "exp" / "single.npz", *(declares.root / "exp").glob("*.csv")):
        path.unlink()
    shutil.rmtree(declares.root / "exp" / "data")
    shutil.rmtree(beside)
    if not Path(where).is_absolute():
        trees.identical(declares, **env)
    shutil.rmtree(declares.store / "objects")
    found = declares.replay(check=4, **env)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert where.strip("*./").split("/")[-1] in found["reason"]
    done = declares.repro("run", "exp/experiment.yaml", **env)
    assert done.code == 2
    assert "data.set" in done.err


def test_untracked_declared_data_is_no_code(declares: Project) -> None:
    """Declared data that is not ignored is data all the same: it is not in the tree, and no gap."""
    declares.git("init", "-q", ".")
    declares.write(".gitignore", "")
    env = declare(declares, one="data/x", two="*.csv", three="single.npz")
    done = declares.run("exp/experiment.yaml", **env)
    assert done["gaps"] == []
    found = trees.identical(declares, "--keep", **env)
    code = {name for name, (kind, _) in trees.read(trees.place(declares, found)).items() if kind != "link"}
    assert code == {b".gitignore", b"exp/train.py", b"exp/experiment.yaml", b"exp/data/top.txt"}


def test_a_declared_folder_of_which_a_part_is_tracked(declares: Project) -> None:
    """A folder with tracked and ignored files is there whole: the tracked ones as recorded, the others linked."""
    env = declare(declares, set="data")
    declares.write("exp/data/README.md", "tracked\n")
    declares.commit()
    declares.git("add", "-f", "exp/data/README.md")
    declares.run("exp/experiment.yaml", **env)
    assert trees.identical(declares, **env)["differences"] == []


UNREAD = """\
import os
import repro
repro.current().log(x=len(os.listdir("../../beside")), y=len(os.listdir("data")), z=os.path.exists("single.npz"))
"""


def test_declared_data_that_is_only_listed(declares: Project) -> None:
    """Data that no watched reader opened is there all the same; changed it is named, gone it is NOT_REPLAYABLE."""
    declares.write("exp/train.py", UNREAD)
    env = declare(declares, one="../../beside", two="data", three="single.npz")
    declares.commit()
    declares.run("exp/experiment.yaml", **env)
    assert trees.outcome(declares)["inputs"] == []
    assert trees.identical(declares, **env)["differences"] == []
    declares.write("exp/single.npz", "changed\n")
    (declares.root.parent / "beside" / "b.txt").write_text("changed\n")
    found = declares.replay(**env)
    assert (found["verdict"], [item["path"] for item in found["differences"]]) == (
        "IDENTICAL",
        ["data.one", "data.three"],
    )
    (declares.root / "exp" / "single.npz").unlink()
    found = declares.replay(check=4, **env)
    assert found["reason"].startswith("data.three: nothing is at single.npz")


CACHES = """\
import os
import repro
repro.current().log(cached=os.path.exists("data/cache.bin"), size=len(open("data/top.txt", "rb").read()))
open("data/cache.bin", "wb").write(b"x")
os.makedirs("data/new/deep")
open("data/new/deep/file", "wb").write(b"x")
open("data/top.txt", "ab").write(b"y")
"""


def test_a_run_that_writes_into_its_declared_folder(declares: Project) -> None:
    """A cache that a run writes beside its data is written in the replay's own folder; the user's is as it was."""
    declares.write("exp/train.py", CACHES)
    env = declare(declares, set="data")
    declares.commit()
    declares.run("exp/experiment.yaml", **env)
    declares.write("exp/data/top.txt", "top\n")
    before = trees.read(declares.root)
    assert trees.identical(declares, **env)["differences"] == []
    assert trees.read(declares.root) == before


def test_the_name_of_a_folder_is_no_part_of_its_data(tmp_path: Path) -> None:
    """A folder's digest depends on the names and bytes within, not on where it lies nor on its own name."""
    cache = StatCache(tmp_path / "cache.json")
    for name in ("a", "b/c"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_text("x")
    found = [data.declared({"d": name}, tmp_path, cache)["d"] for name in ("a", "b/c", str(tmp_path / "a"), "a/")]
    assert len(set(found)) == 1
    (tmp_path / "a" / "sub" / "x").rename(tmp_path / "a" / "sub" / "y")
    assert data.declared({"d": "a"}, tmp_path, cache)["d"] != found[0]


def test_data_that_is_nothing(tmp_path: Path) -> None:
    """A declared item that is not there is a clear error that names it, and an empty folder as well."""
    (tmp_path / "empty").mkdir()
    for where in ("nothing", "*.none", "empty", str(tmp_path / "nowhere" / "*.txt")):
        with pytest.raises(ConfigError, match=r"data\.d: nothing is at"):
            data.declared({"d": where}, tmp_path, StatCache(tmp_path / "cache.json"))


def test_links_in_data(tmp_path: Path) -> None:
    """A link to a file counts with that file's bytes; one to nothing is no data; a loop of folders ends."""
    (tmp_path / "d").mkdir()
    (tmp_path / "x").write_text("x")
    os.symlink("../x", tmp_path / "d" / "link")
    os.symlink("nowhere", tmp_path / "d" / "dangling")
    os.symlink(".", tmp_path / "d" / "loop")
    os.symlink("../beside", tmp_path / "d" / "folder")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "y").write_text("y")
    cache = StatCache(tmp_path / "cache.json")
    found = [data.declared({"d": "d"}, tmp_path, cache)["d"]]
    for name in ("x", "beside/y"):
        (tmp_path / name).write_text("z")
        found.append(data.declared({"d": "d"}, tmp_path, cache)["d"])
    assert len(set(found)) == 3


def old(path: Path, text: str) -> Path:
    """Write a file and wait until the cache may remember it."""
    path.write_text(text)
    time.sleep(2.1)
    return path


def test_the_cache_notices_an_edit_of_the_same_size(tmp_path: Path) -> None:
    """A file is read again when it was edited in place with its size and modification time kept, or was replaced."""
    path = old(tmp_path / "x", "aaaa")

    def look() -> str:
        cache = StatCache(tmp_path / "cache.json")
        found = cache.digest(str(path))
        cache.save()
        return found

    before, stat = look(), path.stat()
    assert before in (tmp_path / "cache.json").read_text()
    with path.open("r+") as handle:
        handle.write("b")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (stat.st_mtime_ns, stat.st_size)
    edited = look()
    (tmp_path / "y").write_text("cccc")
    os.utime(tmp_path / "y", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(tmp_path / "y", path)
    assert len({before, edited, look()}) == 3


def test_the_cache_reads_a_file_once(tmp_path: Path) -> None:
    """A settled file is read once, by this process and by the next; a damaged cache is as good as none."""
    path = old(tmp_path / "x", "aaaa")
    first = StatCache(tmp_path / "cache.json")
    found = first.digest(str(path))
    first.save()
    told = (tmp_path / "cache.json").read_text().replace(found, "sha256:told")
    (tmp_path / "cache.json").write_text(told)
    assert StatCache(tmp_path / "cache.json").digest(str(path)) == "sha256:told"
    (tmp_path / "cache.json").write_text("{torn")
    assert StatCache(tmp_path / "cache.json").digest(str(path)) == found
    for damage in ("[]", '{"' + str(path) + '": 3}', "null", '"x"'):
        (tmp_path / "cache.json").write_text(damage)
        assert StatCache(tmp_path / "cache.json").digest(str(path)) == found


def test_a_file_that_just_changed_is_not_remembered(tmp_path: Path) -> None:
    """A file younger than two seconds may change again within one tick of the clock: it is read each time."""
    path = tmp_path / "x"
    path.write_text("aaaa")
    cache = StatCache(tmp_path / "cache.json")
    cache.digest(str(path))
    cache.save()
    assert not (tmp_path / "cache.json").exists()


def test_two_caches_that_save_lose_nothing(tmp_path: Path) -> None:
    """What another process learnt meanwhile stays in the file."""
    paths = [tmp_path / name for name in "xy"]
    for path in paths:
        path.write_text(path.name)
    time.sleep(2.1)
    caches = [StatCache(tmp_path / "cache.json") for _ in paths]
    for cache, path in zip(caches, paths, strict=True):
        cache.digest(str(path))
    for cache in caches:
        cache.save()
    text = (tmp_path / "cache.json").read_text()
    assert all(str(path) in text for path in paths)
