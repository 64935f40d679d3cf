"""Builds of environments that are killed: nothing goes on behind the next one, and what is marked whole is whole."""

import os
import platform
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from conftest import REPRO, Project, clean_environment
from wheelhouse import Home, wheel

from repro.base import digest
from repro.environments import cache, whole
from repro.environments.locks import Pin
from repro.environments.recorded import Python, Source
from repro.store.store import Store

#: So many files take pip about a second.
MANY = 1500
PINS = [Pin("reprobig", "1.0", ())]
SCRIPT = "import reprobig\nprint('acc=%r' % reprobig.m7.VALUE)\n"


def files(count: int = MANY) -> dict[str, str]:
    """Return the modules of a package."""
    found = {f"reprobig/m{i}.py": f"VALUE = {i}\n" + f"TEXT = {'x' * 500!r}\n" for i in range(count)}
    return found | {"reprobig/__init__.py": "from reprobig import m7\n"}


@pytest.fixture
def big(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of which a run was recorded with a package of many files, which pip finds in a folder alone."""
    links = tmp_path / "links"
    wheel(links, "reprobig", "1.0", files())
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    home = Home(tmp_path / "home")
    home.install(links, "reprobig==1.0")
    project.write("train.py", SCRIPT)
    project.commit()
    project.run("--metric", r"acc=(\S+)", "--", home.python, "train.py")
    return project


def begin(project: Project) -> subprocess.Popen[str]:
    """Start a replay that builds the environment, as an unlucky moment finds it: in a group of its own."""
    command = [str(REPRO), "replay", "last", "--env", "locked"]
    environment = clean_environment()
    return subprocess.Popen(
        command, cwd=project.root, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True
    )


def folder(project: Project) -> Path:
    """Return the folder of the one environment."""
    (found,) = (path for path in (project.store / "environments").iterdir() if path.is_dir())
    return found


def builders(project: Project) -> list[int]:
    """Return the processes that have the mark of a build in this project's store."""
    mark = f"REPRO_BUILD={project.store}/environments/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(
                pair.startswith(mark) for pair in (entry / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def assert_whole(project: Project) -> None:
    """Every file of the environment is what its wheel has, and nobody builds."""
    place = folder(project)
    assert cache._is_whole(place)
    for path, text in files().items():
        assert (cache.site_of(place) / path).read_text() == text
    assert builders(project) == []


def test_a_build_that_is_killed_and_built_again_at_once_is_whole(big: Project) -> None:
    """SIGKILL at any moment, and again, and then a build at once: IDENTICAL, each file as its wheel has it."""
    for moments in ((0.1,), (0.5, 0.9), (1.2,), (1.6, 0.3)):
        for moment in moments:
            process = begin(big)
            site = big.store / "environments"
            while process.poll() is None and not list(site.glob("*/bin/python")):
                time.sleep(0.005)
            time.sleep(moment)
            process.kill()
            process.communicate()
        out, err = begin(big).communicate(timeout=120)
        assert out.splitlines()[-1] == "IDENTICAL", err
        assert_whole(big)
        big.repro("gc", "--all", check=0)


def test_the_processes_of_a_killed_build_end_with_it(big: Project) -> None:
    """The pip that writes is a child of the build itself, and the workers that compile end too."""
    for wait in (0.3, 0.6, 0.9, 1.2, 1.5, 1.8):
        process = begin(big)
        while not builders(big):
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.communicate()
        deadline = time.monotonic() + 0.4
        while builders(big):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_a_killed_build_left_going_on_is_ended(big: Project) -> None:
    """A process of it that outlived it and holds its lock (what pip starts to build a source) is waited for in vain."""
    process = begin(big)
    while not list((big.store / "environments").glob("*/bin/python")):
        time.sleep(0.005)
    place = folder(big)
    environment = os.environ | {"REPRO_BUILD": str(place)}
    lock = os.open(place.with_suffix(".lock"), os.O_RDWR)
    code = "import fcntl, sys, time; fcntl.flock(int(sys.argv[1]), fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
    command = ["python3", "-c", code, str(lock)]
    left = subprocess.Popen(command, env=environment, pass_fds=[lock], stdout=-1, start_new_session=True)
    os.close(lock)
    process.kill()
    process.communicate()
    assert left.stdout is not None
    left.stdout.readline()
    out, err = begin(big).communicate(timeout=60)
    assert out.splitlines()[-1] == "IDENTICAL", err
    assert left.wait(5) == -signal.SIGKILL
    left.stdout.close()
    assert_whole(big)


def test_what_is_no_part_of_a_build_is_spared(big: Project) -> None:
    """A process with another build's mark is nobody's to end."""
    environment = os.environ | {"REPRO_BUILD": f"{big.store}/environments/another"}
    other = subprocess.Popen(["sleep", "600"], env=environment)
    out, err = begin(big).communicate(timeout=60)
    assert out.splitlines()[-1] == "IDENTICAL", err
    assert other.poll() is None
    other.kill()
    other.wait()


def test_an_environment_that_was_marked_without_a_check_is_built_anew(big: Project) -> None:
    """The mark says what was compared: that of an older version does not."""
    begin(big).communicate(timeout=60)
    marker = folder(big) / "repro-environment.json"
    marker.write_text(marker.read_text().replace(', "checked": "RECORD"', ""))
    (cache.site_of(folder(big)) / "reprobig/m9.py").write_text("broken")
    out, _ = begin(big).communicate(timeout=60)
    assert out.splitlines()[-1] == "IDENTICAL"
    assert_whole(big)


def test_a_file_that_is_not_as_its_wheel_has_it_is_no_environment(big: Project) -> None:
    """Where something else writes to it at each try nothing is marked whole: exit 4, and nothing is left of it."""
    process = begin(big)
    count = 0
    while process.poll() is None:
        for path in (big.store / "environments").glob("*/lib/python*/site-packages/reprobig/m3.py"):
            try:
                path.write_text(f"VALUE = {count}\n")
                count += 1
            except OSError:
                continue
        time.sleep(0.002)
    out, err = process.communicate()
    assert process.returncode == 4, err
    assert "was not built as its wheels are: reprobig/m3.py is not what its wheel has" in out
    assert not [path for path in (big.store / "environments").iterdir() if path.is_dir()]


def test_a_wheel_that_contradicts_itself_is_said_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong hash in a wheel's own RECORD is the same at each installation: no fault of the build."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    path = wheel(tmp_path / "links", "reprobig", "1.0", files(9))
    with zipfile.ZipFile(path) as archive:
        names = {name: archive.read(name) for name in archive.namelist()}
    names["reprobig/m3.py"] = b"VALUE = 33\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    version = f"CPython {platform.python_version()}"
    pins = [Pin("reprobig", "1.0", (digest.of_file(path),))]
    source = Source(version, pins, wheels={}, editables={}, folders=[str(path.parent)])
    said: list[str] = []
    built = cache.get(Store.create(tmp_path / "store"), source, Python(sys.executable, version), said.append)
    built.release()
    assert cache._is_whole(built.folder)
    assert any("reprobig/m3.py is not what its wheel has" in line and "says otherwise" in line for line in said)


def wheel_of_another(site: Path) -> None:
    """Put a distribution there that nobody asked for."""
    (site / "stranger-1.dist-info").mkdir()
    (site / "stranger-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda site: (site / "reprobig/m3.py").write_text("other"), "reprobig/m3.py is not what its wheel has"),
        (lambda site: (site / "reprobig/m3.py").unlink(), "reprobig/m3.py cannot be read"),
        (lambda site: (site / "reprobig/m3.py").write_bytes(b""), "reprobig/m3.py is not what its wheel has"),
        (lambda site: (site / "reprobig-1.0.dist-info/RECORD").unlink(), "reprobig-1.0.dist-info/RECORD: No such"),
        (lambda site: (site / "reprobig-1.0.dist-info").rename(site / "gone"), "reprobig is missing"),
        (wheel_of_another, "stranger is there, and in no lock"),
    ],
    ids=["changed", "gone", "cut", "no list", "not there", "too many"],
)
def test_each_fault_of_an_environment_is_found(tmp_path: Path, change: object, fault: str) -> None:
    """A file that changed, is gone or was cut; a list that is missing; a distribution too few and one too many."""
    wheel(tmp_path / "links", "reprobig", "1.0", files(9))
    home = Home(tmp_path / "home")
    home.install(tmp_path / "links", "reprobig==1.0")
    assert whole.faults(home.site, PINS) == []
    change(home.site)  # type: ignore[operator]
    (found,) = whole.faults(home.site, PINS)
    assert found.startswith(fault)
