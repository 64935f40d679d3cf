"""A replay's folder is a repository of its own, at the recorded commit and in the recorded state."""

import shutil
from collections.abc import Callable

import pytest
from conftest import Project

ASK = """
import pathlib, subprocess
def ask(*words):
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    print(words, done.returncode, repr(done.stdout))
ask("rev-parse", "HEAD")
ask("rev-parse", "--abbrev-ref", "HEAD")
ask("describe", "--always", "--dirty", "--tags")
ask("status", "--porcelain")
ask("diff")
ask("diff", "--cached", "--name-status")
ask("log", "-1", "--format=%H %an %s %ct")
ask("remote", "-v")
ask("ls-files")
root = next(folder for folder in pathlib.Path(__file__).resolve().parents if (folder / ".git").exists())
(root / "found.txt").write_text("by its .git")
"""


def _nothing(_project: Project) -> None:
    """Change nothing."""


def _dirty(project: Project) -> None:
    project.write("a.txt", "changed")
    (project.root / "b.txt").unlink()
    project.write("new.txt", "new")


def _staged(project: Project) -> None:
    _dirty(project)
    project.git("add", "-A")
    project.write("a.txt", "changed again")


def _detached(project: Project) -> None:
    project.git("tag", "v1")
    project.git("remote", "add", "origin", "https://example.org/x.git")
    project.git("checkout", "-q", "--detach")


def _gone(project: Project) -> None:
    shutil.rmtree(project.root / ".git")


def _rewritten(project: Project) -> None:
    project.git("commit", "-q", "--amend", "-m", "otherwise")
    project.git("reflog", "expire", "--expire=now", "--all")
    project.git("gc", "-q", "--prune=now")


@pytest.mark.parametrize(
    ("before", "after"),
    [(_nothing, _gone), (_dirty, _rewritten), (_staged, _gone), (_detached, _nothing)],
    ids=["clean, .git gone", "dirty, rewritten", "staged, .git gone", "detached"],
)
def test_git_says_what_it_said(
    project: Project, before: Callable[[Project], None], after: Callable[[Project], None]
) -> None:
    """Commit, branch, tags, status, diff and remotes are those of the record, whatever became of the user's `.git`."""
    project.write("ask.py", ASK)
    project.write("a.txt", "a")
    project.write("b.txt", "b")
    project.write(".gitignore", "found.txt\n")
    project.commit()
    before(project)
    project.run("--", "python", "ask.py")
    project.write("found.txt", "newer than the run")
    after(project)
    found = project.repro("replay", "last", "--json", check=0)
    assert (found.json["verdict"], found.json["compared"]["lines"]) == ("IDENTICAL", 9)
    assert (project.root / "found.txt").read_text() == "newer than the run"
    assert project.repro("verify", check=0).code == 0


def test_a_repository_without_a_commit(project: Project) -> None:
    """There is one in the replay as well, and git says the same of it."""
    project.write("ask.py", ASK)
    project.git("init", "-q", ".")
    project.run("--", "python", "ask.py")
    assert project.replay(check=0)["verdict"] == "IDENTICAL"


def test_a_project_without_git_stays_without(project: Project) -> None:
    """No repository is made where there was none."""
    project.write("ask.py", "import os\nprint('has .git 1' if os.path.exists('.git') else 'has none 0')\n")
    project.run("--", "python", "ask.py")
    assert project.replay(check=0)["compared"]["lines"] == 1


def test_the_users_repository_is_only_read(project: Project) -> None:
    """Keeping the commit adds no object, ref or index entry to the user's `.git`."""
    project.write("a.py", "print(1)\n")
    project.commit()
    project.write("a.py", "print(2)\n")
    project.git("status")
    before = {path: path.stat().st_mtime_ns for path in (project.root / ".git").rglob("*")}
    project.run("--", "python", "a.py")
    assert {path: path.stat().st_mtime_ns for path in (project.root / ".git").rglob("*")} == before


def test_trials_have_a_repository_too(project: Project) -> None:
    """A replicate of a study of seeds asks git for its commit."""
    project.write("ask.py", ASK + "print('loss=0.5')\n")
    project.write(".gitignore", "found.txt\n")
    project.commit()
    found = project.seeds("--n", "2", "--metric", "loss", "--", "python", "ask.py", "--seed={seed}")
    commit = project.git("rev-parse", "HEAD").strip()
    for run in found["runs"]:
        assert commit in (project.store / "runs" / run["run_id"] / "stdout.log").read_text()
