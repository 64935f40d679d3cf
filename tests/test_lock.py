"""`repro lock`: what a project asks for, pinned with hashes; whether that is fresh; and the lock of a recorded run."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from conftest import Project
from packaging.pylock import Pylock
from wheelhouse import Home, flips, wheel

from repro.environments import compiling, locks, resolve


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only ones in reach of pip."""
    folder = flips(tmp_path / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def asking(project: Project, links: Path) -> Project:
    """A project that asks for a package below 2."""
    del links
    project.write("lockfiles/base.in", "reproflip<2  # not yet\n")
    project.write("lockfiles/dev.in", "-r base.in\nreproidle\n")
    project.git("init", "-q")
    return project


def sha(path: Path) -> str:
    """Return a file's SHA-256 as a lock has it."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_lock_is_named_after_interpreter_and_platform_with_hashes_and_as_pep_751(
    asking: Project, links: Path
) -> None:
    """All inputs make one lock; each pin has its wheel's hash, no path of the disk; the pylock has the same."""
    document = asking.repro("lock", "--json", check=0).json
    path = Path(document["path"])
    assert path.name == f"{locks.tag()}.txt"
    assert re.fullmatch(r"py3\d+-linux-\w+", locks.tag())
    text = path.read_text()
    assert str(asking.root) not in text
    assert locks.parse(text) == [
        locks.Pin("reproflip", "1.0", (sha(links / "reproflip-1.0-py3-none-any.whl"),)),
        locks.Pin("reproidle", "1.0", (sha(links / "reproidle-1.0-py3-none-any.whl"),)),
    ]
    tables = tomllib.loads(Path(document["pylock"]).read_text())
    Pylock.from_dict(tables).validate()
    assert [(item["name"], item["version"]) for item in tables["packages"]] == [
        ("reproflip", "1.0"),
        ("reproidle", "1.0"),
    ]
    assert f"sha256:{tables['packages'][0]['wheels'][0]['hashes']['sha256']}" == locks.parse(text)[0].hashes[0]


def test_check_tells_a_stale_lock_from_a_fresh_one(asking: Project, links: Path) -> None:
    """None, an input that changed, a pin that was edited, a hash that is gone: exit 3 with the reason; else 0."""
    assert "there is no lock" in asking.repro("lock", "--check", check=3).err
    path = Path(asking.repro("lock", "--json", check=0).json["path"])
    assert asking.repro("lock", "--check", "--json", check=0).json["fresh"] is True
    asking.write("lockfiles/base.in", "# a comment\nreproflip < 2\n")
    assert "changed since" in asking.repro("lock", "--check", check=3).err
    asking.write("lockfiles/base.in", "reproflip<2\n")
    asking.repro("lock", "--check", check=0)
    asking.write("lockfiles/base.in", "reproflip>1\n")
    assert "reproflip>1 is asked for" in asking.repro("lock", "--check", check=3).err
    asking.write("lockfiles/base.in", "reproflip<2\n")
    text = path.read_text()
    path.write_text(text.replace("reproidle==1.0", "reproidle==1.1"))
    assert "changed by hand" in asking.repro("lock", "--check", check=3).err
    path.write_text(re.sub(r" \\\n\s+--hash=\S+", "", text))
    found = asking.repro("lock", "--check", "--json", check=3).json
    assert found["reason"].endswith("reproflip has no hash")
    assert found["hint"] == "repro lock"
    del links


def test_what_is_locked_is_kept_until_an_upgrade(asking: Project, links: Path) -> None:
    """A newer version that fits is not taken by itself."""
    asking.write("lockfiles/base.in", "reproflip\n")
    asking.write("lockfiles/constraints.txt", "reproflip<2\n")
    path = Path(asking.repro("lock", "--json", check=0).json["path"])
    (asking.root / "lockfiles/constraints.txt").unlink()
    asking.repro("lock", check=0)
    assert locks.parse(path.read_text())[0].version == "1.0"
    asking.repro("lock", "--upgrade", check=0)
    assert locks.parse(path.read_text())[0].version == "2.0"
    del links


def test_a_pyproject_with_its_extras(project: Project, links: Path) -> None:
    """The dependencies of `[project]`, and those of the extras that are named; an unknown extra is an error."""
    del links
    project.write(
        "pyproject.toml",
        '[build-system]\nrequires = []\nbuild-backend = "none"\nbackend-path = ["."]\n'
        '[project]\nname = "thing"\nversion = "1"\ndependencies = ["reproflip<2"]\n'
        '[project.optional-dependencies]\nmore = ["reproidle"]\n',
    )
    project.git("init", "-q")
    assert project.repro("lock", "--json", check=0).json["packages"] == 1
    assert project.repro("lock", "--extra", "more", "--json", check=0).json["packages"] == 2
    project.repro("lock", "--extra", "more", "--check", check=0)
    project.repro("lock", "--check", check=3)
    assert "it has: more" in project.repro("lock", "--extra", "moar", check=2).err


def test_the_name_says_which_build_of_torch_the_index_has() -> None:
    """That of its local version; without one it is the build of the public index; without torch there is no word."""
    pins = [locks.Pin("torch", version, ()) for version in ("2.13.0+cpu", "2.13.0+cu126", "2.13.0")]
    assert [locks.name_of([pin]).removeprefix(locks.tag()) for pin in pins] == ["-cpu", "-cu126", "-pypi"]
    assert locks.name_of([]) == locks.tag()


def test_nothing_that_could_be_locked(project: Project) -> None:
    """Neither inputs nor a pyproject: exit 2 with what to write."""
    project.git("init", "-q")
    assert "lockfiles/requirements.in" in project.repro("lock", check=2).err


def test_what_the_index_does_not_have(asking: Project) -> None:
    """Exit 4, with the versions that are there and the way to name another place."""
    asking.write("lockfiles/base.in", "reproflip>=7\n")
    done = asking.repro("lock", check=4)
    assert "reproflip>=7" in done.err
    assert "hint:" in done.err


def test_the_lock_of_a_run_is_proved_by_record(project: Project, links: Path, tmp_path: Path) -> None:
    """Each wheel's RECORD is compared with what was installed: another file of the same version is not taken for it."""
    home = Home(tmp_path / "home")
    home.install(links, "reproflip==1.0", "reproidle")
    project.write("train.py", "print('acc=1')\n")
    project.git("init", "-q")
    project.run("--metric", r"acc=(\S+)", "--", home.python, "train.py")
    document = project.repro("lock", "--from", "last", "--json", check=0).json
    assert document["unresolved"] == {}
    assert [pin[:2] for pin in document["pins"]] == [["reproflip", "1.0"], ["reproidle", "1.0"]]
    assert locks.parse(Path(document["path"]).read_text())[0].hashes == (sha(links / "reproflip-1.0-py3-none-any.whl"),)
    wheel(links, "reproflip", "1.0", {"reproflip/__init__.py": "DEFAULT = 0.5\n"})
    (links / "reproidle-1.0-py3-none-any.whl").unlink()
    document = project.repro("lock", "--from", "last", "--json", "--output", "other.txt", check=4).json
    assert "another file than reproflip-1.0" in document["unresolved"]["reproflip"]
    assert "reproidle" in document["unresolved"]
    assert document["pins"] == []
    assert "# not resolved: reproflip" in (project.root / "other.txt").read_text()


def test_a_wheels_digest_is_that_of_what_is_installed_from_it(tmp_path: Path) -> None:
    """Files that a wheel keeps for other places count where an installer puts them, or not at all."""
    plain = wheel(tmp_path / "a", "thing", "1.0", {"thing.py": "x = 1\n"})
    moved = wheel(tmp_path / "b", "thing", "1.0", {"thing-1.0.data/purelib/thing.py": "x = 1\n"})
    script = wheel(tmp_path / "c", "thing", "1.0", {"thing.py": "x = 1\n", "thing-1.0.data/scripts/go": "#!python\n"})
    assert len({resolve.digest_of_wheel(path) for path in (plain, moved, script)}) == 1
    other = wheel(tmp_path / "d", "thing", "1.0", {"thing.py": "x = 2\n"})
    assert resolve.digest_of_wheel(other) != resolve.digest_of_wheel(plain)


def test_inputs_that_include_others_count(project: Project) -> None:
    """A line of an included file is one of the inputs; a constraint is told from a requirement."""
    project.write("lockfiles/a.in", "-r sub/b.in\n-c c.txt\none\n")
    project.write("lockfiles/sub/b.in", "two==2\n")
    project.write("lockfiles/c.txt", "three<3\n")
    asked = compiling.inputs(project.root)
    assert compiling.requirements(asked) == ["-c three<3", "one", "two==2"]
