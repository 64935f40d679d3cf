"""What is never captured, what is taken for data, and what is said of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from conftest import Project

from repro.base import digest
from repro.capture import code
from repro.run import yaml12
from repro.store.code import CodeRepository

Make = Callable[[str], Project]


def names(project: Project, run: str = "last") -> set[str]:
    """Return the names of all files of a run's captured tree."""
    tree = trees.record(project, run)["recipe"]["code"].removeprefix("git:")
    listed = Project(project.store / "code.git").git("ls-tree", "-r", "-z", "--name-only", tree)
    return set(listed.split("\0")[:-1])


def remedy(gap: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Return the data that the line a gap recommends declares, read as `repro` reads it."""
    line = gap["reason"].split("`")[1]
    (tmp_path / "line.yaml").write_text(line.replace("NAME", "images") + "\n")
    found: dict[str, str] = yaml12.read(tmp_path / "line.yaml").value["data"]
    return found


READS_SOME = """\
import os
import repro

names = sorted(name for name in os.listdir(FOLDER) if name.endswith(".png"))
total = sum(int(open(os.path.join(FOLDER, name)).read()) for name in names[::1000])
repro.current().log(total=total, names=len(names))
"""


def many(folder: Path, count: int) -> None:
    """Make that many small images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:05}.png").write_text(str(number))


def test_a_folder_of_very_many_untracked_files(project: Project, tmp_path: Path) -> None:
    """More than 5,000 untracked files in a folder are data: left out, named with the remedy, digested, linked."""
    project.write("train.py", READS_SOME.replace("FOLDER", '"sub/images"'))
    project.write("sub/code.py", "x = 1\n")
    project.commit()
    many(project.root / "sub" / "images" / "deep", 10)
    many(project.root / "sub" / "images", 5001)
    done = project.run("--", "python", "train.py")
    (gap,) = done["gaps"]
    assert gap["what"] == "sub/images/"
    assert "5,011 untracked files, more than 5,000" in gap["reason"]
    assert remedy(gap, tmp_path) == {"images": "sub/images/"}
    assert names(project) == {"train.py", "sub/code.py"}
    read = [item["path"] for item in trees.outcome(project)["inputs"]]
    assert read == [f"sub/images/{number:05}.png" for number in range(0, 5001, 1000)]
    found = trees.identical(project)
    assert any("sub/images/" in gap for gap in found["gaps"])
    project.write("sub/images/01000.png", "7")
    found = project.replay("last", "--inputs", "current", check=3)
    assert [(item["kind"], item["path"]) for item in found["differences"]] == [("data", "inputs.sub/images/01000.png")]


@pytest.fixture
def captured(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[set[str], list[str]]]:
    """A capture of the project with a limit of 20 files: its names without the images, and what the gaps name."""
    monkeypatch.setattr(code, "MOST_FILES", 20)
    repository = CodeRepository(project.root.parent / "code.git")

    def capture() -> tuple[set[str], list[str]]:
        found = code.capture(project.root, project.root.parent / "store", repository, outputs={})
        listed = Project(repository.folder).git("ls-tree", "-r", "-z", "--name-only", found.tree.removeprefix("git:"))
        return set(listed.split("\0")[:-1]), [gap.what for gap in found.gaps]

    return capture


Captured = Callable[[], tuple[set[str], list[str]]]


@pytest.mark.parametrize("repository", [True, False])
def test_the_limit_itself(project: Project, captured: Captured, repository: bool) -> None:
    """As many files as the limit are captured; with one more the folder is left out, and nothing else."""
    if repository:
        project.git("init", "-q", ".")
    many(project.root / "images", 19)
    project.write("train.py", "")
    assert (len(captured()[0]), captured()[1]) == (20, [])
    many(project.root / "images", 21)
    assert captured() == ({"train.py"}, ["images/"])


def test_the_topmost_folder_without_code_is_named(project: Project, captured: Captured) -> None:
    """Many small folders are named by the one that holds them all; a folder with code in it is never left out."""
    for number in range(10):
        many(project.root / "data" / f"class {number}", 5)
    many(project.root / "src" / "assets", 30)
    project.write("src/model.py", "")
    project.write("src/lib/util.py", "")
    assert captured() == ({"src/model.py", "src/lib/util.py"}, ["data/", "src/assets/"])


def test_many_loose_files_beside_code_are_named_by_kind(project: Project, captured: Captured) -> None:
    """In a folder with code, the files of the kind that there is most of are left out; the others are captured."""
    many(project.root / "src", 30)
    for name in ("src/a.py", "src/b.py", "src/notes.txt", "src/README"):
        project.write(name, "")
    assert captured() == ({"src/a.py", "src/b.py", "src/notes.txt", "src/README"}, ["src/*.png"])


def test_a_tracked_folder_may_be_as_large_as_it_is(project: Project, captured: Captured) -> None:
    """The limits are for untracked files: what the user's git tracks is captured, however much it is."""
    many(project.root / "images", 30)
    project.commit()
    assert (len(captured()[0]), captured()[1]) == (30, [])


def test_a_cloned_repository_that_is_no_submodule_is_measured_like_any_folder(
    project: Project, captured: Captured
) -> None:
    """A data set that comes as a repository of its own does not fill the store, though it tracks its files."""
    project.write("train.py", "")
    project.commit()
    clone = Project(project.root / "clone")
    many(clone.root, 30)
    clone.commit()
    assert captured() == ({"train.py"}, ["clone/"])


@pytest.mark.parametrize("repository", [True, False])
def test_ten_thousand_loose_images_beside_the_script(project: Project, repository: bool, tmp_path: Path) -> None:
    """Images that lie directly in the project folder are taken for data; the script and other files are captured."""
    project.write("train.py", READS_SOME.replace("FOLDER", '"."'))
    if repository:
        project.commit()
    project.write("notes.md", "untracked\n")
    many(project.root, 10_000)
    done = project.run("--", "python", "train.py")
    (gap,) = done["gaps"]
    assert gap["what"] == "*.png"
    assert remedy(gap, tmp_path) == {"images": "*.png"}
    assert names(project) == {"train.py", "notes.md"}
    assert len(trees.outcome(project)["inputs"]) == 10
    assert trees.identical(project)["differences"] == []


def sparse(path: Path, size: int, text: bytes = b"") -> None:
    """Make a large file that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.write(text)
        handle.truncate(size)


def test_files_that_are_too_large_in_all(project: Project) -> None:
    """Beyond 200 MB of untracked files the largest are left out, no more than need be; the run goes on."""
    script = """\
import repro
repro.current().log(x=int(open("large.bin", "rb").read(3)), y=len(open("medium.bin", "rb").read(9)))
"""
    project.write("train.py", script)
    project.commit()
    sparse(project.root / "large.bin", 120_000_000, b"123")
    sparse(project.root / "other" / "large too.bin", 110_000_000)
    sparse(project.root / "medium.bin", 90_000_000)
    done = project.run("--", "python", "train.py")
    assert {gap["what"] for gap in done["gaps"]} == {"large.bin"}
    assert "120,000,000 bytes; untracked files exceed 200,000,000 in all" in done["gaps"][0]["reason"]
    assert names(project) == {"train.py", "medium.bin", "other/large too.bin"}
    (read,) = trees.outcome(project)["inputs"]
    assert (read["path"], read["digest"]) == ("large.bin", digest.of_file(project.root / "large.bin"))
    assert trees.identical(project)["differences"] == []
    with (project.root / "large.bin").open("r+b") as handle:
        handle.write(b"124")
    assert project.replay(check=3)["differences"][0]["path"] == "inputs.large.bin"


def test_a_large_tracked_file_is_code(project: Project) -> None:
    """A tracked file is captured whatever its size."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    sparse(project.root / "large.bin", 210_000_000)
    project.commit()
    assert project.run("--", "python", "train.py")["gaps"] == []
    assert names(project) == {"train.py", "large.bin"}


NEVER = {
    ".venv/": ("a virtual environment", [".venv/pyvenv.cfg", ".venv/lib/x.py"]),
    "env/": ("a virtual environment", ["env/pyvenv.cfg", "env/lib/x.py"]),
    ".mypy_cache/": ("a cache", [".mypy_cache/3.11/x.json"]),
    ".pytest_cache/": ("a cache", [".pytest_cache/README.md"]),
    ".ipynb_checkpoints/": ("a cache", [".ipynb_checkpoints/x.ipynb"]),
    "sub/wandb/": ("results of another tool", ["sub/wandb/run-1/x.txt"]),
    "mlruns/": ("results of another tool", ["mlruns/0/meta.yaml"]),
    "lightning_logs/": ("results of another tool", ["lightning_logs/version_0/x.ckpt"]),
    ".env": ("may hold secrets", [".env"]),
    ".env.local": ("may hold secrets", [".env.local"]),
    ".envs/": ("may hold secrets", [".envs/production/django"]),
    "sub/id_ed25519": ("may hold secrets", ["sub/id_ed25519"]),
    "server.pem": ("may hold secrets", ["server.pem"]),
    "deploy": ("may hold secrets", ["deploy"]),
    ".ssh/": ("may hold secrets", [".ssh/config"]),
}


@pytest.mark.parametrize("repository", [True, False])
def test_what_is_never_captured_is_named(project: Project, repository: bool) -> None:
    """Environments, caches, results of other tools, ``.env`` files and private keys stay out; each is named, once."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    if repository:
        project.commit()
    for _, files in NEVER.values():
        for name in files:
            project.write(name, "-----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n" if name == "deploy" else "x")
    project.write("__pycache__/train.cpython-311.pyc", b"byte code")
    project.write("sub/public.txt", "-----BEGIN PUBLIC KEY-----\n")
    done = project.run("--", "python", "train.py")
    named = {gap["what"]: gap["reason"] for gap in done["gaps"]}
    assert named.keys() == NEVER.keys()
    assert len(named) == len(done["gaps"])
    for what, (reason, _) in NEVER.items():
        assert named[what] == f"{reason}; never captured unless tracked"
    assert names(project) == {"train.py", "sub/public.txt"}
    assert trees.identical(project)["gaps"] == [f"{what}: {reason}" for what, reason in named.items()]


def test_what_the_user_ignores_is_not_spoken_of(project: Project) -> None:
    """A ``.venv``, a ``.env`` or a cache that the user's own rules ignore is no gap."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    project.write(".gitignore", ".venv/\n.env\nsub/*_cache\n")
    for name in (".venv/pyvenv.cfg", ".env", "sub/.mypy_cache/x", ".git-credentials"):
        project.write(name, "x")
    assert [gap["what"] for gap in project.run("--", "python", "train.py")["gaps"]] == [".git-credentials"]


def test_very_many_folders(project: Project, captured: Captured) -> None:
    """A project with very many folders is captured; an environment in it is found wherever it lies."""
    project.write("train.py", "")
    for number in range(50):
        os.makedirs(project.root / "a" / f"{number:04}")
    project.write("z/deep/.venv/pyvenv.cfg", "")
    assert captured() == ({"train.py"}, ["z/deep/.venv/"])


def test_the_store_is_never_captured(project: Project, tmp_path: Path) -> None:
    """The store ignores itself, under any name and in any place, and is invisible to the user's git."""
    project.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    project.commit()
    for store in (
        "",
        str(project.root / "runs of mine"),
        str(project.root / "sub" / "deep" / "store"),
        str(tmp_path / "s"),
    ):
        env = {"REPRO_STORE": store} if store else {}
        for _ in range(2):
            done = project.run("--", "python", "train.py", **env)
            assert done["gaps"] == []
        assert project.git("status", "--porcelain") == ""
        found = project.repro("replay", "last", "--json", check=0, **env).json
        assert found["verdict"] == "IDENTICAL"
    assert names(project) == {"train.py"}
