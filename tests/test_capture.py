"""The code is captured as it lies on the disk, whatever git thinks of it, and the user's repository is only read."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from conftest import Project

Make = Callable[[str], Project]


def captured(project: Project, cwd: Path | None = None, **env: str) -> trees.Tree:
    """Run a script that reads every file, replay it IDENTICAL, and return the tree that the replay ran in.

    Neither the run nor the replay may change a byte of the user's ``.git``.
    """
    before = trees.git(project.root)
    script = os.path.relpath(project.root / "all.py", cwd or project.root)
    done = project.repro("run", "--json", "--", "python", script, cwd=cwd, **env)
    assert done.code == 0, done.err
    found = trees.identical(project, "--keep", **env)
    assert trees.git(project.root) == before
    return trees.read(trees.place(project, found))


def code(place: Path) -> set[bytes]:
    """Return the names of the files in a replay's folder that came out of the store, not by a link."""
    return {name for name, (kind, _) in trees.read(place).items() if kind != "link"}


@pytest.fixture
def files(project: Project) -> Project:
    """A project, not yet a repository, with the script that reads every file and a few files to read."""
    project.write("all.py", trees.READS_ALL)
    project.write("text.txt", "one\n")
    project.write("lib/deep/code.py", "x = 1\n")
    project.write("lib/bytes.bin", bytes(range(256)))
    return project


def test_without_git(files: Project) -> None:
    """A project that never heard of git is captured whole."""
    assert captured(files) == trees.read(files.root)
    assert trees.record(files)["circumstances"]["git"]["value"] == {}
    assert not (files.root / ".git").exists()


def test_without_a_commit(files: Project) -> None:
    """A repository without a commit yet is captured whole, staged and unstaged files alike; its branch is recorded."""
    files.git("init", "-q", ".")
    files.git("add", "text.txt")
    assert captured(files) == trees.read(files.root)
    found = trees.record(files)["circumstances"]["git"]["value"]
    assert (found["commit"], found["branch"], found["dirty"]) == (None, "main", True)


def test_with_a_detached_head(files: Project) -> None:
    """A detached HEAD is recorded as a commit without a branch; a clean tree is not called dirty."""
    files.commit()
    files.git("checkout", "-q", "--detach")
    assert captured(files) == trees.read(files.root)
    found = trees.record(files)["circumstances"]["git"]["value"]
    assert found["commit"] == files.git("rev-parse", "HEAD").strip()
    assert (found["branch"], found["dirty"], found["remotes"]) == (None, False, {})


@pytest.mark.parametrize("repository", [True, False])
def test_from_a_sub_directory(files: Project, repository: bool) -> None:
    """Standing in a folder of the project, the whole project is captured, and the replay stands in the same folder."""
    files.write("pyproject.toml", "")
    files.write("lib/deep/here.py", 'import repro\nrepro.current().log(size=len(open("../../text.txt").read()))\n')
    if repository:
        files.commit()
    deep = files.root / "lib" / "deep"
    done = files.repro("run", "--json", "--", "python", "here.py", cwd=deep, check=0)
    assert done.json["metrics"] == {"size": 4}
    assert trees.record(files)["recipe"]["cwd"] == "lib/deep"
    found = files.repro("replay", "last", "--json", "--keep", cwd=deep, check=0).json
    assert trees.read(trees.place(files, found)) == trees.read(files.root)


def test_a_linked_worktree(files: Project) -> None:
    """A worktree whose ``.git`` is a file that points elsewhere is a project like any other."""
    files.commit()
    files.git("worktree", "add", "-q", "-b", "side", str(files.root.parent / "side"))
    side = Project(files.root.parent / "side")
    side.write("new.txt", "untracked\n")
    before = trees.git(files.root)
    side.run("--", "python", "all.py")
    found = trees.identical(side, "--keep")
    assert trees.read(trees.place(side, found)) == trees.read(side.root)
    assert trees.git(files.root) == before
    assert trees.record(side)["circumstances"]["git"]["value"]["branch"] == "side"


def test_submodules_and_nested_repositories(files: Project, make_project: Make) -> None:
    """Content of submodules, of submodules in them, and of plain nested repositories is captured as it is on the disk.

    That includes what was changed there; each one's own ignore rules hold, and so does what is never captured.
    """
    inner = make_project("inner")
    inner.write("inner.txt", "committed\n")
    inner.commit()
    other = make_project("other")
    other.write("code.py", "x = 1\n")
    other.write(".gitignore", "*.log\n")
    other.commit()
    allow = ("-c", "protocol.file.allow=always")
    other.git(*allow, "submodule", "--quiet", "add", str(inner.root), "within")
    other.git("commit", "-q", "-m", "with a submodule")
    files.commit()
    files.git(*allow, "submodule", "--quiet", "add", str(other.root), "vendor/other")
    files.git(*allow, "submodule", "--quiet", "update", "--init", "--recursive")
    files.git("commit", "-q", "-m", "with a submodule")
    nested = Project(files.root / "nested")
    nested.write("plain.txt", "a repository of its own\n")
    nested.commit()
    nested.write("plain.txt", "and changed\n")
    nested.write(".env", "SECRET=1\n")
    files.write("vendor/other/code.py", "x = 2\n")
    files.write("vendor/other/new.txt", "untracked\n")
    files.write("vendor/other/noise.log", "ignored there\n")
    files.write("vendor/other/within/inner.txt", "changed deep inside\n")
    files.write("vendor/other/.venv/pyvenv.cfg", "home = /usr\n")
    files.write("vendor/other/.venv/big.txt", "an environment\n")
    files.write("all.py", trees.READS_ALL.replace('(b".git",', '(b".git", b".venv",'))
    found = captured(files)
    for name in (b"vendor/other/noise.log", b"nested/.env", b"vendor/other/.venv"):
        assert found.pop(name)[0] == "link"  # not captured: the script read it, or may run it
    assert found.items() < trees.read(files.root).items()
    assert len(found) == len(trees.read(files.root)) - 4
    named = [gap["what"] for gap in trees.record(files)["gaps"]]
    assert {"nested/.env", "vendor/other/.venv/"} <= set(named)


def test_a_submodule_that_is_not_checked_out(files: Project, make_project: Make) -> None:
    """A submodule whose folder is empty is an empty folder in the replay."""
    other = make_project("other")
    other.write("code.py", "x = 1\n")
    other.commit()
    files.commit()
    files.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.root), "sub")
    files.git("commit", "-q", "-m", "with a submodule")
    files.git("submodule", "--quiet", "deinit", "-f", "sub")
    assert captured(files) == trees.read(files.root)


HOSTILE = {
    "diff.noprefix": "true",
    "color.ui": "always",
    "color.status": "always",
    "diff.external": "false",
    "core.autocrlf": "true",
    "core.safecrlf": "true",
    "core.eol": "crlf",
    "core.quotePath": "true",
    "core.fileMode": "false",
    "core.symlinks": "false",
    "core.ignoreCase": "true",
    "core.fsmonitor": "true",
    "core.untrackedCache": "true",
    "core.splitIndex": "true",
    "status.showUntrackedFiles": "no",
    "status.relativePaths": "true",
    "status.branch": "true",
    "submodule.recurse": "true",
    "core.hooksPath": "/nonexistent",
    "filter.shout.clean": "tr a-z A-Z",
    "filter.shout.smudge": "tr A-Z a-z",
    "filter.shout.required": "true",
}


def test_hostile_settings_and_attributes(files: Project, tmp_path: Path) -> None:
    """No setting, attribute or filter of the user's changes a byte: what is restored is what was on the disk."""
    settings = tmp_path / "gitconfig"
    for name, value in HOSTILE.items():
        subprocess.run(["git", "config", "--file", settings, name, value], check=True)
    rules = "*.txt text eol=crlf\n*.shout filter=shout\n*.id ident\n*.wide working-tree-encoding=UTF-16LE\n"
    files.write(".gitattributes", rules)
    files.write("unix.txt", "one\ntwo\n")
    files.write("windows.txt", "one\r\ntwo\r\n")
    files.write("mixed.txt", "one\r\ntwo\nthree\r")
    files.write("quiet.shout", "MiXeD\n")
    files.write("version.id", "$Id$ and $Id: 1234 $\n")
    files.write("utf.wide", "a\n".encode("utf-16-le"))
    files.write("run.sh", "#!/bin/sh\n")
    (files.root / "run.sh").chmod(0o755)
    files.git("init", "-q", ".")
    files.git("add", "all.py", ".gitattributes", "unix.txt", "text.txt")
    files.git("commit", "-q", "-m", "begin")
    env = {"GIT_CONFIG_GLOBAL": str(settings)}
    assert captured(files, **env) == trees.read(files.root)
    for name in ("unix.txt", "windows.txt", "mixed.txt", "quiet.shout", "version.id"):
        files.write(name, (files.root / name).read_bytes() + b"more\n")
    assert captured(files, **env) == trees.read(files.root)


def test_a_required_filter_that_fails_is_never_asked(files: Project) -> None:
    """A filter that cannot run (git-lfs on a machine without it) neither stops the capture nor changes a byte."""
    files.commit()
    files.git("config", "filter.lfs.clean", "false")
    files.git("config", "filter.lfs.process", "false")
    files.git("config", "filter.lfs.required", "true")
    files.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    files.write("lib/bytes.bin", b"other bytes\r\n")
    assert captured(files) == trees.read(files.root)


@pytest.mark.parametrize("repository", [True, False])
def test_names_that_break_scripts(files: Project, repository: bool) -> None:
    """Spaces, quotes, newlines, backslashes, patterns and bytes that are no UTF-8 in names are kept as they are."""
    names = [
        b"with space", b"'single'", b'"double"', b"new\nline", b"tab\there", b"back\\slash", b"*", b"[x]", b"?",
        b"-n", b"--all", b" lead", b"trail ", b"#hash", b"!bang", b":(top)x", b"latin-\xe9", b"\xff\xfe",
        "é".encode(), "e\u0301".encode(), b"COM1", b"a:b", b"~", b"$HOME", b"x" * 255,
    ]  # fmt: skip
    base = os.fsencode(files.root)
    for index, name in enumerate(names):
        for path in (name, b"in " + name[:240] + b"/" + name):
            full = os.path.join(base, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "wb") as handle:
                handle.write(b"%d" % index)
    if repository:
        files.git("init", "-q", ".")
        files.git("add", "-A", "--", ":(literal)all.py", ":(literal)new\nline", ":(glob)in */*")
    assert captured(files) == trees.read(files.root)


def test_a_folder_whose_name_is_no_utf8(files: Project) -> None:
    """Empty folders, skipped ones and files left out may have any name: the record is written and read all the same."""
    base = os.fsencode(files.root)
    for name in (b"empty-\xff", b"env-\xfe"):
        os.mkdir(os.path.join(base, name))
    with open(os.path.join(base, b"env-\xfe", b"pyvenv.cfg"), "wb"):
        pass
    with open(os.path.join(base, b".env\xfd"), "wb") as handle:
        handle.write(b"x")
    done = files.repro("run", "--json", "--", "python", "-c", "import repro; repro.current().log(x=1)", check=0)
    named = [gap["what"].encode("utf-8", "surrogateescape") for gap in done.json["gaps"]]
    assert b"env-\xfe/" in named
    assert b".env\xfd" in named
    found = trees.identical(files, "--keep")
    assert os.path.isdir(os.fsencode(trees.place(files, found)) + b"/empty-\xff")


@pytest.mark.parametrize("repository", [True, False])
def test_links_and_executable_bits(files: Project, repository: bool) -> None:
    """Links to files, to folders, to nothing and to themselves are captured as links; executable bits are kept."""
    root = files.root
    os.symlink("text.txt", root / "to-file")
    os.symlink("lib", root / "to-folder")
    os.symlink("nowhere", root / "dangling")
    os.symlink("loop", root / "loop")
    os.symlink("../text.txt", root / "lib" / "up")
    files.write("tool", "#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "lib" / "bytes.bin").chmod(0o700)
    if repository:
        files.commit()
        (root / "tool").chmod(0o644)
        (root / "text.txt").chmod(0o755)
    assert captured(files) == trees.read(root)


def test_ignore_rules_of_every_kind_hold(files: Project, tmp_path: Path) -> None:
    """``.gitignore``, ``.git/info/exclude`` and the user's global excludes hold, in a project without git too."""
    (tmp_path / "ignore").write_text("*.global\n")
    (tmp_path / "gitconfig").write_text(f"[core]\n\texcludesFile = {tmp_path}/ignore\n")
    env = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    files.write(".gitignore", "*.local\nkept-*\n!kept-this\n")
    files.write("lib/.gitignore", "/deep.local2\n")
    for name in ("a.local", "a.global", "lib/a.global", "kept-not", "kept-this", "lib/deep.local2", "a.info"):
        files.write(name, name)
    run = ("run", "--json", "--", "python", "-c", "import repro; repro.current().log(x=1)")
    files.repro(*run, check=0, **env)
    found = trees.identical(files, "--keep", **env)  # what is not captured is linked
    kept = {b"all.py", b"text.txt", b"lib/deep/code.py", b"lib/bytes.bin", b".gitignore", b"lib/.gitignore"}
    kept.add(b"kept-this")
    assert code(trees.place(files, found)) == kept | {b"a.info"}
    files.git("init", "-q", ".")
    files.write(".git/info/exclude", "*.info\n")
    files.repro(*run, check=0, **env)
    found = trees.identical(files, "--keep", **env)
    assert code(trees.place(files, found)) == kept


def test_global_excludes_by_environment(files: Project, tmp_path: Path) -> None:
    """Excludes from ``$XDG_CONFIG_HOME/git/ignore`` hold as well: git itself is asked."""
    (tmp_path / "config" / "git").mkdir(parents=True)
    (tmp_path / "config" / "git" / "ignore").write_text("*.global\n")
    files.write("a.global", "x")
    files.repro("run", "--", "python", "all.py", XDG_CONFIG_HOME=str(tmp_path / "config"), check=0)
    listed = [item["path"] for item in trees.outcome(files)["inputs"]]
    assert listed == ["a.global"]


def test_tracked_files_are_captured_though_ignored(files: Project) -> None:
    """What is tracked is code, whatever its name is: an ignored file, an ``.env``, a file in a cache or in wandb."""
    files.write(".gitignore", "*.dat\n.env\nwandb/\n")
    for name in ("a.dat", ".env", "wandb/settings.txt", ".cache/x", "sub/.venv/pyvenv.cfg", "sub/.venv/lib.py"):
        files.write(name, name)
    files.git("init", "-q", ".")
    files.git("add", "-A", "-f")
    files.git("commit", "-q", "-m", "begin")
    assert captured(files) == trees.read(files.root)
    assert [gap for gap in trees.record(files)["gaps"] if "wandb" in gap["what"]] == []


def test_a_sparse_checkout(files: Project) -> None:
    """Files that a sparse checkout leaves out are not on the disk, hence not in the tree."""
    files.write("big/a.txt", "a")
    files.write("big/deep/b.txt", "b")
    files.commit()
    files.git("sparse-checkout", "set", "--cone", "--sparse-index", "lib")
    assert not (files.root / "big").exists()
    files.write("lib/bytes.bin", b"changed")
    assert captured(files) == trees.read(files.root)


def test_files_that_git_was_told_not_to_look_at(files: Project) -> None:
    """``skip-worktree`` and ``assume-unchanged`` hide changes from git, not from the capture."""
    files.commit()
    files.git("update-index", "--skip-worktree", "text.txt")
    files.git("update-index", "--assume-unchanged", "lib/deep/code.py")
    files.write("text.txt", "changed behind git's back\n")
    files.write("lib/deep/code.py", "x = 2\n")
    assert captured(files) == trees.read(files.root)


def test_an_unmerged_index(files: Project) -> None:
    """In the middle of a merge with conflicts, the files are captured with their conflict marks."""
    files.commit()
    files.git("checkout", "-q", "-b", "side")
    files.write("text.txt", "theirs\n")
    files.git("commit", "-q", "-am", "theirs")
    files.git("checkout", "-q", "main")
    files.write("text.txt", "ours\n")
    files.git("commit", "-q", "-am", "ours")
    with pytest.raises(subprocess.CalledProcessError):
        files.git("merge", "side")
    assert "<<<<<<<" in (files.root / "text.txt").read_text()
    assert captured(files) == trees.read(files.root)
    assert trees.record(files)["circumstances"]["git"]["value"]["dirty"] is True


def test_a_file_that_became_a_folder_and_back(files: Project) -> None:
    """A file replaced by a folder, a folder replaced by a file or by a link are captured as they are now."""
    files.write("thing", "a file\n")
    files.write("folder/x", "in a folder\n")
    files.write("moved/x", "in another\n")
    files.commit()
    files.run("--", "python", "all.py")
    os.unlink(files.root / "thing")
    files.write("thing/inside", "now a folder\n")
    files.write(".gitignore", "*.local\n")
    files.write("thing/noise.local", "ignored\n")
    os.unlink(files.root / "folder" / "x")
    os.rmdir(files.root / "folder")
    files.write("folder", "now a file\n")
    (files.root / "moved").rename(files.root / "place")
    os.symlink("place", files.root / "moved")
    found = captured(files)
    assert found.pop(b"thing/noise.local")[0] == "link"  # read by the script, and ignored
    expected = trees.read(files.root)
    del expected[b"thing/noise.local"]
    assert found == expected


def test_an_edit_that_keeps_size_and_time(files: Project) -> None:
    """A second capture reads a file anew though it has the size and the modification time that it had."""
    files.commit()
    files.run("--", "python", "all.py")
    path = files.root / "text.txt"
    stat = path.stat()
    path.write_text("two\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert captured(files) == trees.read(files.root)


def test_an_empty_project(project: Project) -> None:
    """A project without any file can be run in and replayed."""
    project.run("--", "python", "-c", "import repro; repro.current().log(x=1)")
    trees.identical(project)


def test_a_clean_run_names_no_gap(files: Project) -> None:
    """Where everything was captured, there is nothing to say."""
    files.commit()
    assert files.run("--", "python", "all.py")["gaps"] == []


def test_what_git_knows_is_recorded_beside_the_code(files: Project) -> None:
    """Commit, branch, dirty flag and remotes are recorded; a password or token in a remote's address is not."""
    files.commit()
    files.git("remote", "add", "origin", "https://ada:hunter2-token@example.org/ada/project.git")
    files.git("remote", "add", "second", "git@example.org:ada/project.git")
    files.git("remote", "add", "third.dotted", "https://ghp_abcdefghijklmnopqrstuvwx@example.org/x.git")
    files.write("text.txt", "changed\n")
    files.run("--", "python", "all.py")
    assert trees.record(files)["circumstances"]["git"]["value"] == {
        "commit": files.git("rev-parse", "HEAD").strip(),
        "branch": "main",
        "dirty": True,
        "remotes": {
            "origin": "https://[redacted]@example.org/ada/project.git",
            "second": "git@example.org:ada/project.git",
            "third.dotted": "https://[redacted]@example.org/x.git",
        },
    }
    kept = trees.everything(files.store)
    assert b"hunter2" not in kept
    assert b"ghp_abc" not in kept
