"""Which folder is the project: git's top level, else the nearest marked one, else the script's; never the home."""

import os
from pathlib import Path

import pytest
import trees
from conftest import Project

LOGS = "import repro\nrepro.current().log(x=1)\n"


def root_of(project: Project, *words: str, cwd: Path | None = None, **env: str) -> Path:
    """Run a command and return the root of the project that was captured."""
    done = project.repro("run", "--json", "--", *words, cwd=cwd, **env)
    assert done.code == 0, done.err
    (store,) = (parent for parent in Path(done.json["path"]).parents if parent.name == ".repro")
    return store.parent


def test_gits_top_level_wins_over_nearer_marks(project: Project) -> None:
    """In a repository its top level is the root, though a folder within has a ``pyproject.toml``."""
    project.write("sub/pyproject.toml", "")
    project.write("sub/deep/train.py", LOGS)
    project.commit()
    assert root_of(project, "python", "train.py", cwd=project.root / "sub" / "deep") == project.root


@pytest.mark.parametrize("mark", ["pyproject.toml", ".repro/store.json"])
def test_the_nearest_marked_folder_without_git(project: Project, mark: str) -> None:
    """Without git the nearest folder with a store or a ``pyproject.toml`` is the root."""
    project.write("pyproject.toml", "")
    project.write("sub/deep/train.py", LOGS)
    if mark == "pyproject.toml":
        project.write("sub/pyproject.toml", "")
    else:
        (project.root / "sub" / ".repro").mkdir()
    assert root_of(project, "python", "train.py", cwd=project.root / "sub" / "deep") == project.root / "sub"


def test_the_folder_of_the_script_without_any_mark(project: Project) -> None:
    """Without any mark the script's own folder is the root, wherever the user stands; the replay stands there too."""
    project.write(
        "code/train.py",
        "import repro\nrepro.current().log(x=len(open('code/train.py').read()), y=len(open('beside.txt').read()))\n",
    )
    project.write("beside.txt", "not captured")
    assert root_of(project, "python", "code/train.py") == project.root / "code"
    store = {"REPRO_STORE": str(project.root / "code" / ".repro")}
    found = trees.identical(project, **store)
    assert found["differences"] == []


def test_the_project_of_a_script_elsewhere(project: Project) -> None:
    """A script that lies in another project than the one the user stands in: its own project is captured."""
    other = Project(project.root.parent / "other")
    other.write("src/train.py", LOGS)
    other.write("lib.py", "x = 1\n")
    other.commit()
    assert root_of(project, "python", str(other.root / "src" / "train.py")) == other.root
    project.write("pyproject.toml", "")
    assert root_of(project, "python", "../other/src/train.py") == other.root
    other.write("lib.py", "x = 2\n")
    assert trees.identical(project, REPRO_STORE=str(other.store))["differences"] == []


def test_a_module_is_run_where_the_user_stands(project: Project) -> None:
    """``python -m package`` has no script: the root is found from the folder in which the user stands."""
    project.write("pkg/__init__.py", "")
    project.write("pkg/__main__.py", LOGS)
    assert root_of(project, "python", "-m", "pkg") == project.root
    trees.identical(project)


@pytest.mark.parametrize("mark", [None, ".git/HEAD", "pyproject.toml", ".repro/store.json"])
def test_never_the_home_folder(project: Project, mark: str | None) -> None:
    """A script directly in the home folder is refused with exit code 2 and a hint, whatever marks lie there."""
    project.write("train.py", LOGS)
    if mark:
        project.write(mark, "")
    done = project.repro("run", "--", "python", "train.py", HOME=str(project.root))
    assert done.code == 2
    assert "home folder" in done.err
    assert "hint:" in done.err
    assert not (project.root / ".repro" / "runs").exists()


def test_never_the_whole_disk(project: Project) -> None:
    """Standing in ``/``, a command without a script of its own is refused with exit code 2 and a hint."""
    done = project.repro("run", "--", "python", "-c", "print(1)", cwd=Path("/"))
    assert done.code == 2
    assert "whole disk" in done.err
    assert "hint:" in done.err
    assert not Path("/.repro").exists()


def test_from_the_home_folder_with_a_script_below(project: Project) -> None:
    """From the home folder, a script in a subfolder runs in the home folder, and is captured with its own folder alone.

    That holds beside an environment, a token and much else; the replay finds what the script read by relative paths.
    """
    home = {"HOME": str(project.root)}
    project.write(".bashrc", "export TOKEN=x\n")
    project.write("other/notes.txt", "private\n")
    project.write(
        "exp/train.py", "import helper, repro\nrepro.current().log(x=helper.x, y=len(open('exp/data.csv').read()))\n"
    )
    project.write("exp/helper.py", "x = 7\n")
    project.write("exp/data.csv", "1,2,3\n")
    done = project.repro("run", "--json", "--", "python", "exp/train.py", check=0, **home)
    assert done.json["metrics"] == {"x": 7, "y": 6}
    exp = Project(project.root / "exp")
    project.write("exp/helper.py", "x = 8\n")
    project.write("exp/data.csv", "changed\n")
    found = exp.repro("replay", "last", "--json", "--keep", check=0, **home).json
    assert found["verdict"] == "IDENTICAL"
    assert trees.read(trees.place(exp, found)).keys() == {b"train.py", b"helper.py", b"data.csv"}
    assert trees.record(exp)["recipe"]["cwd"] is None
    done = project.repro("ls", **home)
    assert (done.code, "Traceback" in done.err) == (2, False)


def test_from_the_home_folder_a_script_in_a_repository(project: Project) -> None:
    """From the home folder, a script deep in a repository: the repository's top level is the root."""
    exp = Project(project.root / "exp")
    exp.write("src/train.py", LOGS)
    exp.commit()
    assert root_of(project, "python", "exp/src/train.py", HOME=str(project.root)) == exp.root


def test_a_program_on_path_is_no_project(project: Project) -> None:
    """``python $(which tool) train.py`` captures the folder in which the user stands, not that of the programs."""
    tools = project.root.parent / "tools"
    tools.mkdir()
    (tools / "launch").write_text("import runpy, sys\nrunpy.run_path(sys.argv[1])\n")
    project.write("train.py", LOGS)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    assert root_of(project, "python", str(tools / "launch"), "train.py", PATH=path) == project.root
    trees.identical(project, PATH=path)


def test_through_a_linked_folder(project: Project) -> None:
    """Standing in the project by way of a link, the root is the real folder."""
    project.write("train.py", LOGS)
    link = project.root.parent / "link"
    os.symlink(project.root, link)
    assert root_of(project, "python", "train.py", cwd=link) == project.root
    assert root_of(project, "python", str(link / "train.py"), cwd=Path("/")) == project.root
