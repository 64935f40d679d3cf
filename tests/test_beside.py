"""What lay beside the code when a run began is there in its replay, whatever became of the times of files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project

from repro.capture import beside

LIST = """
import os, random
names = sorted(os.listdir("data"))
print(len(names), "files", [open("data/" + name).read() for name in random.sample(names, 3)])
"""


def _chmod(data: Path) -> None:
    for path in data.iterdir():
        path.chmod(0o664)


def _copy(data: Path) -> None:
    shutil.copytree(data, data.with_name("copy"))
    shutil.rmtree(data)
    data.with_name("copy").rename(data)


def _hard_link(data: Path) -> None:
    for path in data.iterdir():
        os.link(path, data.parent.parent / path.name)


def _touch(data: Path) -> None:
    for path in data.iterdir():
        os.utime(path)


def _link(data: Path) -> None:
    place = data.parent.parent / "elsewhere"
    shutil.move(data, place)
    data.symlink_to(place)


def _add(data: Path) -> None:
    (data / "later.txt").write_text("later")


@pytest.mark.parametrize("change", [_chmod, _copy, _hard_link, _touch, _link, _add])
def test_times_of_files_decide_nothing(project: Project, change: Callable[[Path], None]) -> None:
    """The same bytes under the same names, or a file more, and the run lists and draws what it drew."""
    _with_data(project)
    change(project.root / "data")
    assert project.replay(check=0)["verdict"] == "IDENTICAL"


def test_what_is_missing_is_named(project: Project) -> None:
    """A file that nobody read and that is gone, or came later, is named where the verdict is not IDENTICAL."""
    _with_data(project)
    read = "\n".join(path.read_text() for path in (project.store / "runs").glob("*/observed/*.jsonl"))
    unread = next(path for path in sorted((project.root / "data").iterdir()) if str(path) not in read)
    unread.unlink()
    (project.root / "data" / "later.txt").write_text("later")
    done = project.repro("replay", "last", check=3)
    assert f"data/{unread.name}: lay there when the run began, and is gone" in done.out
    assert "data/later.txt: came after the run began, and is left out" in done.out


def _with_data(project: Project) -> None:
    project.write("list.py", LIST)
    project.write(".gitignore", "data/\n")
    for number in range(10):
        project.write(f"data/{number}.txt", str(number))
    project.run("--", "python", "list.py")


def test_a_listing_comes_back_as_it_was_made(tmp_path: Path) -> None:
    """Names and sizes, without code and secrets; too many files make none."""
    (tmp_path / "data").mkdir()
    for name in ("a.py", "data/x", "data/id_rsa"):
        (tmp_path / name).write_text("12345")
    data = beside.listing(tmp_path, ["data", "gone"], {"a.py"})
    assert data is not None
    assert beside.read(data) == {"data/x": 5}


def test_no_listing_of_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit there is none, and the run goes on."""
    monkeypatch.setattr(beside, "MOST_FILES", 1)
    for name in ("x", "y"):
        (tmp_path / name).write_text("")
    assert beside.listing(tmp_path, [], ()) is None
