"""An environment that a record names: found changed, built again from its lock, and blamed where it is the cause."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, Project, clean_environment
from wheelhouse import TORCH, Home, flips, wheel

from repro.base import digest
from repro.capture import interpreter
from repro.environments import cache, locks, overlay, wheels
from repro.store.store import Store

#: Prints a number that the version of a package decides.
SCRIPT = "import reproflip\nprint('acc=%r' % (reproflip.DEFAULT * 3))\n"
METRIC = ("--metric", r"acc=(\S+)")


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of the tiny packages."""
    return flips(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(autouse=True)
def _offline(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but those wheels is in reach of pip."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def home(tmp_path: Path, links: Path) -> Home:
    """A small environment with version 1.0 of the package, and another that does not matter."""
    found = Home(tmp_path / "home")
    found.install(links, "reproflip==1.0", "reproidle")
    return found


@pytest.fixture
def flipped(project: Project, home: Home) -> Project:
    """A project of which a run was recorded with version 1.0."""
    project.write("train.py", SCRIPT)
    project.commit()
    project.run(*METRIC, "--", home.python, "train.py")
    return project


def record_of(project: Project) -> dict[str, Any]:
    """Return the record of the project's last run."""
    return json.loads(project.repro("show", "last", "--json", check=0).out)["record"]


def test_an_upgrade_is_different_named_and_undone_by_the_locked_environment(
    flipped: Project, home: Home, links: Path
) -> None:
    """`current` says what differs first and is DIFFERENT, `--why` proves that package, `locked` is IDENTICAL."""
    home.install(links, "reproflip==2.0")
    done = flipped.repro("replay", "last", "--why", "--json", check=3)
    assert "not as recorded: reproflip; --env locked has the recorded ones" in done.err
    assert done.json["cause"]["proved"]
    assert [(item["kind"], item["path"]) for item in done.json["cause"]["differences"]] == [
        ("package", "packages.reproflip")
    ]
    document = flipped.replay("last", "--env", "locked", check=0)
    assert document["verdict"] == "IDENTICAL"
    assert document["differences"] == []
    environment = json.loads(flipped.repro("show", document["run_id"], "--json").out)["record"]["circumstances"][
        "environment"
    ]
    assert environment["kind"] == "locked"
    assert environment["repro"] == digest.of_bytes(wheels.of_self()[1])


def test_a_package_that_is_new_is_undone_with_the_environment_as_a_whole(
    flipped: Project, home: Home, links: Path
) -> None:
    """What is installed beside the recorded packages cannot be covered by one: the whole environment undoes it."""
    wheel(links, "reprozz", "1.0", {"reprozz.pth": "import reproflip; reproflip.DEFAULT = 5.0\n"})
    home.install(links, "reprozz")
    document = json.loads(flipped.repro("replay", "last", "--why", "--json", check=3).out)
    assert [item["path"] for item in document["cause"]["differences"]] == ["packages"]
    assert document["cause"]["differences"][0]["after"] == "reprozz"


def test_packages_that_share_a_file_are_laid_over_the_current_ones(tmp_path: Path) -> None:
    """A file that two of them list is linked once, and the recorded environment keeps what it has."""
    for name in ("reproone", "reprotwo"):
        wheel(tmp_path / "wheels", name, "1.0", {"reprotests/__init__.py": "", f"{name}.py": "x = 1\n"})
    home = Home(tmp_path / "home")
    home.install(tmp_path / "wheels", "reproone", "reprotwo")
    made = overlay.make(tmp_path / "overlay", interpreter.own(), home.folder, {"reproone", "reprotwo"})
    site = cache.site_of(made)
    assert sorted(path.name for path in site.glob("repro*.py")) == ["reproone.py", "reprotwo.py"]
    assert (site / "reprotests/__init__.py").samefile(home.site / "reprotests/__init__.py")


def test_what_was_installed_from_a_folder_comes_back_from_the_store(project: Project, tmp_path: Path) -> None:
    """No index has it: the record keeps a wheel of it, so that it is IDENTICAL when the folder is gone."""
    home = Home(tmp_path / "home")
    source = Project(tmp_path / "source")
    source.write("pyproject.toml", '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n')
    source.write("back.py", BACKEND.replace("TESTS", str(Path(__file__).parent)))
    home.pip("install", "--quiet", "--no-deps", "--no-build-isolation", str(source.root))
    project.write("train.py", SCRIPT)
    project.run(*METRIC, "--", home.python, "train.py")
    shutil.rmtree(source.root)
    home.pip("uninstall", "--quiet", "--yes", "reproflip")
    assert project.replay("last", check=3)["verdict"] == "DIFFERENT"
    assert project.replay("last", "--env", "locked", check=0)["verdict"] == "IDENTICAL"
    assert project.repro("verify", check=0).code == 0


#: A build backend of a few lines, so that no other one has to be installed.
BACKEND = """\
import sys
sys.path.insert(0, "TESTS")
from pathlib import Path
from wheelhouse import wheel
def build_wheel(folder, settings=None, metadata=None):
    return wheel(Path(folder), "reproflip", "1.0", {"reproflip/__init__.py": "DEFAULT = 0.1\\n"}).name
"""


def test_an_edited_file_is_found_named_and_recovered(flipped: Project, home: Home) -> None:
    """By `verify --environment`, in the record and as a difference of the replay; the locked one has the wheel's."""
    place = home.site / "reproflip" / "__init__.py"
    place.write_text("DEFAULT = 0.75\n")
    document = flipped.repro("replay", "last", "--json", check=3).json
    assert [item["path"] for item in document["differences"]] == ["packages.reproflip"]
    flipped.run(*METRIC, "--", home.python, "train.py")
    gaps = [gap for gap in record_of(flipped)["gaps"] if gap["what"] == "package reproflip"]
    assert gaps[0]["reason"] == "edited after it was installed: reproflip/__init__.py"
    place.write_text("DEFAULT = 0.9\n")
    assert flipped.replay("last~1", "--env", "locked", check=0)["verdict"] == "IDENTICAL"
    assert flipped.replay("last", "--env", "locked", check=0)["verdict"] == "IDENTICAL"  # the edited file was kept


def test_verify_environment_reads_every_file(flipped: Project, home: Home, links: Path) -> None:
    """Also one of the same size and an old date, a missing one, and a distribution that is gone."""
    place = home.site / "reproflip" / "__init__.py"
    stat = place.stat()
    place.write_text("DEFAULT = 0.3\n")
    os.utime(place, (stat.st_atime, stat.st_mtime))
    (home.site / "reproidle.py").unlink()
    found = verify_in(flipped, home)
    assert found["ok"] is False
    assert {item["name"]: (item["changed"], item["missing"]) for item in found["edited"]} == {
        "reproflip": (["reproflip/__init__.py"], []),
        "reproidle": ([], ["reproidle.py"]),
    }
    home.install(links, "reproflip==1.0", "reproidle")
    assert verify_in(flipped, home, "last")["ok"] is True
    home.pip("uninstall", "--quiet", "--yes", "reproidle")
    found = verify_in(flipped, home, "last")
    assert (found["ok"], found["differs"]) == (False, ["reproidle: recorded 1.0, here none"])


def verify_in(project: Project, home: Home, *words: str) -> Any:
    """Look at an environment from within it; it borrows repro and its needs from this one."""
    code = (
        f"import sys; sys.path += {[entry for entry in sys.path if entry]!r}\n"
        "from repro.capture import interpreter; found = interpreter.own()\n"
        "site = [entry for entry in found.path if entry.startswith(sys.prefix)]\n"
        "interpreter.own = lambda: found._replace(path=site)\n"
        f"from repro.cli.main import main; main(['verify', '--environment', '--json', *{list(words)!r}])\n"
    )
    done = subprocess.run(
        [home.python, "-c", code],
        cwd=project.root,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_locked_hash_that_no_file_has(flipped: Project) -> None:
    """It is NOT_REPLAYABLE with exit code 4, names the package and the command that resolves it, and leaves nothing."""
    (memory,) = [*(flipped.store / "cache" / "locks").glob("*.txt")] or [seed_memory(flipped)]
    pins = locks.parse(memory.read_text())
    memory.write_text(locks.render(pin._replace(hashes=("sha256:" + "0" * 64,)) for pin in pins))
    document = flipped.replay("last", "--env", "locked", check=4)
    assert document["verdict"] == "NOT_REPLAYABLE"
    assert "the index has no file with a locked hash" in document["reason"]
    assert "reproflip==1.0" in document["reason"]
    assert "repro lock --from" in document["hint"]
    assert [path.suffix for path in (flipped.store / "environments").iterdir()] == [".lock"]


def seed_memory(project: Project) -> Path:
    """Have the hashes of the last run resolved and remembered."""
    project.replay("last", "--env", "locked", check=0)
    shutil.rmtree(project.store / "environments")
    return next((project.store / "cache" / "locks").glob("*.txt"))


def test_a_package_that_the_index_no_longer_has(flipped: Project, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that cannot be had is named, with the way to say where it is."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(links / "nowhere"))
    document = flipped.replay("last", "--env", "locked", check=4)
    assert "reproflip" in document["reason"]
    assert "reproidle" in document["reason"]
    assert "PIP_FIND_LINKS" in document["hint"]


def test_a_wheel_for_another_python(
    flipped: Project, links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told from one that is gone, with its tags and exit code 4; a run of that Python gets its hash."""
    tag = f"cp3{sys.version_info[1] + 1}"
    name = f"reproflip-1.0-{tag}-{tag}-manylinux_2_17_x86_64.whl"
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(links / "reproflip-1.0-py3-none-any.whl", folder / name)
    shutil.copy(links / "reproidle-1.0-py3-none-any.whl", folder)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    document = flipped.replay("last", "--env", "locked", check=4)
    assert f"reproflip==1.0 is there only for another Python or platform ({tag}-{tag}-" in document["reason"]
    assert "reproidle" not in document["reason"]
    assert "PIP_FIND_LINKS" in document["hint"]
    flipped.write("lockfiles/base.in", "reproflip==1.0\n")
    refused = flipped.repro("lock", check=4).err
    assert "reproflip==1.0" in refused
    assert "hint:" in refused
    record_with_python(flipped, f"3.{sys.version_info[1] + 1}.0")
    pins = flipped.repro("lock", "--from", "last", "--trust", "--json", check=0).json["pins"]
    assert pins[0] == ["reproflip", "1.0", [digest.of_file(folder / name)]]


def record_with_python(project: Project, version: str) -> None:
    """Write another version of Python into the record of the project's one run."""
    (path,) = project.store.glob("runs/*/record.json")
    path.chmod(0o644)
    path.write_text(re.sub(r"CPython 3\.\d+\.\d+", f"CPython {version}", path.read_text()))


def test_another_python_is_refused_unless_it_is_allowed(flipped: Project) -> None:
    """The recorded version must be there; --allow-python goes on, and the difference is recorded."""
    record_with_python(flipped, "3.11.97")
    document = flipped.replay("last", "--trust", "--env", "locked", check=4)
    assert "the run had CPython 3.11.97" in document["reason"]
    assert "--allow-python" in document["hint"]
    document = flipped.replay("last", "--env", "locked", "--allow-python", check=0)
    assert [item["path"] for item in document["differences"]] == ["python"]


def test_a_killed_build_leaves_nothing_that_is_used(flipped: Project) -> None:
    """After kill -9 the pip of the build is gone too; the next replay says so, builds anew, and gc finds nothing."""
    root = flipped.store / "environments"
    process = subprocess.Popen(
        [str(REPRO), "replay", "last", "--env", "locked"],
        cwd=flipped.root,
        env=clean_environment(PIP_RETRIES="0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(root.glob("*/bin/python")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (path for path in root.iterdir() if path.is_dir())
    assert not (folder / "repro-environment.json").exists()
    done = flipped.repro("replay", "last", "--env", "locked", check=0)
    assert "a build of this environment was killed" in done.err
    assert done.out.splitlines()[-1] == "IDENTICAL"
    (root / "f").mkdir()
    found = flipped.repro("gc", "--json", check=0).json
    assert found["removed"] == {"f": "left by a build that was killed"}
    assert found["kept"] == [folder.name]


def test_two_builds_at_once_make_one_environment(flipped: Project) -> None:
    """One builds, the other waits, both are IDENTICAL; a replay from then on builds nothing."""
    command = [str(REPRO), "replay", "last", "--env", "locked"]
    pair = [
        subprocess.Popen(
            command,
            cwd=flipped.root,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ends = [process.communicate() for process in pair]
    assert [out.splitlines()[-1] for out, _ in ends] == ["IDENTICAL", "IDENTICAL"], ends
    assert sum("building the environment" in err for _, err in ends) == 1
    assert "building" not in flipped.repro("replay", "last", "--env", "locked", check=0).err


def test_the_cache_is_bounded_and_spares_what_is_in_use(tmp_path: Path) -> None:
    """The environments that were used last stay; one whose lock is shared is not removed, whatever its age."""
    store = Store.create(tmp_path / "store")
    root = cache.folder_of(store)
    for number in range(cache.MOST + 3):
        folder = root / f"{number:02d}"
        folder.mkdir(parents=True)
        marker = folder / "repro-environment.json"
        marker.write_text(json.dumps({"folder": str(folder), "checked": "RECORD"}))
        os.utime(marker, (number, number))
    with (root / "01.lock").open("w") as held:
        import fcntl

        fcntl.flock(held, fcntl.LOCK_SH)
        found = cache.sweep(store)
        assert sorted(found.removed) == ["00", "02"]
    assert sorted(cache.sweep(store, everything=True).removed) == ["01", *(f"{n:02d}" for n in range(3, 11))]


def test_the_wheel_of_itself_is_the_same_each_time_and_can_be_installed() -> None:
    """Equal bytes for equal code, whatever the dates; it has the hook and no byte code."""
    first, second = wheels.of_self(), wheels.of_self()
    assert first == second
    assert first[0].startswith("repro_runner-")


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A small environment with torch, by hard links."""
    return Home(tmp_path_factory.mktemp("torch") / "home", TORCH, hooked=True)


EDITABLE = """\
import torch
from own import scale

model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=scale.LR)
for step in range(3):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).pow(2).mean().backward()
    optimizer.step()
"""


def test_an_editable_package_of_the_projects_own_under_locked(
    project: Project, torch_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its source comes from the captured tree, with a trail, and its metadata is there; then its live code changed."""
    monkeypatch.undo()  # torch lies where pip is told to look on this machine
    project.write("src/own/__init__.py", "")
    project.write("src/own/scale.py", "LR = 0.1\n")
    project.write("train.py", EDITABLE + "import importlib.metadata\nassert importlib.metadata.version('own') == '3'\n")
    project.write(
        "pyproject.toml",
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "own"\nversion = "3"\n[tool.hatch.build.targets.wheel]\npackages = ["src/own"]\n',
    )
    project.commit()
    build = project.root.parent / "built"
    build.mkdir()
    command = [sys.executable, "-c", f"import hatchling.build as b; b.build_editable({str(build)!r})"]
    subprocess.run(command, cwd=project.root, check=True, capture_output=True)
    torch_home.pip("install", "--quiet", "--no-deps", str(next(build.glob("*.whl"))))
    (info,) = torch_home.site.glob("own-3.dist-info")
    (info / "direct_url.json").write_text(json.dumps({"url": project.root.as_uri(), "dir_info": {"editable": True}}))
    done = project.run("--", torch_home.python, "train.py")
    assert done["frames"] == 3
    project.write("src/own/scale.py", "LR = 9.9\n")
    document = project.replay("last", "--env", "locked", check=0)
    assert document["verdict"] == "IDENTICAL"
    assert document["compared"]["frames"] == 3
    assert document["differences"] == []
