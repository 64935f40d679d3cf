"""A run brought back in a container and in a sandbox: really run, without network."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import base_image
import pytest
from conftest import REPRO, Project
from wheelhouse import TORCH, Home, flips

from repro.engines import container
from repro.environments import wheels
from repro.errors import EnvironmentMismatchError

podman = pytest.mark.skipif(
    shutil.which("podman") is None or not Path("/bin/busybox").exists(),
    reason="Podman or busybox is not installed (.ci/run installs them)",
)
bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed (.ci/run installs it)")
SCRIPT = "import reproflip\nprint('acc=%r' % (reproflip.DEFAULT * 3))\n"
METRIC = ("--metric", r"acc=(\S+)")
DIGITS = """\
import torch
from own import scale

generator = torch.Generator().manual_seed(1)
x = torch.randn(256, 64, generator=generator)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=scale.LR)
for step in range(20):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), torch.arange(256) % 10)
    loss.backward()
    optimizer.step()
    print(f"loss={loss.item():.8f}")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image, with the Python that runs the tests."""
    return base_image.make(tmp_path_factory.mktemp("base"))


@pytest.fixture
def small(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A run of a project in an environment of two tiny packages."""
    links = flips(tmp_path / "wheels")
    home = Home(tmp_path / "home")
    home.install(links, "reproflip==1.0", "reproidle")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    project.write("train.py", SCRIPT)
    project.commit()
    project.run(*METRIC, "--", home.python, "train.py")
    home.install(links, "reproflip==2.0")
    return project


def remove(tag: str) -> None:
    """Remove an image."""
    subprocess.run(["podman", "rmi", "--force", tag], check=False, capture_output=True)


@podman
def test_an_image_has_one_id_and_its_run_is_identical(small: Project, base: str) -> None:
    """Built twice from nothing it is the same to the bit, with its labels; in it the old package counts."""
    found: list[Any] = [
        small.repro("docker", "build", "last", "--base", base, "--anew", "--json", check=0).json for _ in range(2)
    ]
    try:
        assert found[0]["id"] == found[1]["id"]
        assert found[0]["layers"] == found[1]["layers"]
        assert found[0]["reproducible"] is True
        labels = found[0]["labels"]
        assert labels["org.opencontainers.image.title"] == "train.py"
        assert labels["org.opencontainers.image.base.digest"] == found[0]["base"]
        document = small.repro("docker", "run", "last", "--base", base, "--json", check=0).json
        assert document["verdict"] == "IDENTICAL"
        assert document["environment"]["kind"] == "container"
        assert document["environment"]["image"] == found[0]["id"]
        assert small.replay("last", check=3)["verdict"] == "DIFFERENT"
        attached = list((small.store / "runs" / document["replay_of"] / "attachments").glob("*-image.json"))
        assert len(attached) == 1
        alone = subprocess.run(
            [
                *"podman run --rm --network none --ulimit nofile=1024:1024 --ulimit nproc=999:999".split(),
                found[0]["tag"],
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        assert alone.stdout == "acc=0.30000000000000004\n"
    finally:
        remove(found[0]["tag"])


@podman
def test_a_training_with_an_editable_package_of_its_own_in_a_container(
    project: Project, base: str, tmp_path: Path
) -> None:
    """IDENTICAL, with its trail, though the live source has changed; no network, and the project is not written to."""
    home = Home(tmp_path / "home", TORCH, hooked=True)
    project.write("src/own/__init__.py", "")
    project.write("src/own/scale.py", "LR = 0.1\n")
    project.write("train.py", DIGITS)
    project.commit()
    editable(home, project)
    done = project.run("--metric", r"loss=(\S+)", "--", home.python, "train.py")
    assert done["frames"] == 20
    project.write("src/own/scale.py", "LR = 9.9\n")
    document = project.replay("last", "--env", "container", "--base", base, check=0)
    tags = subprocess.run(
        ["podman", "images", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}", "--no-trunc"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for line in tags:
        if line.endswith(document["environment"]["image"]):
            remove(line.split()[0])
    assert document["verdict"] == "IDENTICAL"
    assert (document["compared"]["frames"], document["compared"]["points"]) == (20, 20)
    assert [item for item in document["differences"] if item["kind"] in ("package", "code")] == []


def editable(home: Home, project: Project) -> None:
    """Lay out an editable install of the project's ``src/own``, as a build backend does."""
    info = home.site / "own-3.dist-info"
    info.mkdir()
    texts = {
        "own.pth": f"{project.root}/src\n",
        "own-3.dist-info/METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 3\n",
        "own-3.dist-info/direct_url.json": json.dumps({"url": project.root.as_uri(), "dir_info": {"editable": True}}),
    }
    for name, text in texts.items():
        (home.site / name).write_text(text)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*texts, "own-3.dist-info/RECORD"]))


@podman
def test_a_base_that_is_not_there_or_has_another_python(small: Project, tmp_path: Path) -> None:
    """Each is NOT_REPLAYABLE with exit code 4 and the option that helps."""
    document = small.replay("last", "--env", "container", "--base", "localhost/no-such-image:1", check=4)
    assert "the base image localhost/no-such-image:1 is neither here nor to be had" in document["reason"]
    assert "--base" in document["hint"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\necho CPython 3.8.1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    shutil.copy("/bin/busybox", tmp_path / "bin" / "sh")
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "old.tar", "bin"], check=True)
    tag = "localhost/repro-tests-old:1"
    subprocess.run(["podman", "import", "--quiet", tmp_path / "old.tar", tag], check=True, capture_output=True)
    try:
        document = small.replay("last", "--env", "container", "--base", tag, check=4)
        assert "CPython 3.8.1" in document["reason"]
        assert "--allow-python" in document["hint"]
    finally:
        remove(tag)


def test_an_engine_that_is_not_there_or_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any: the package to install; with a Docker whose daemon is not running: how to start it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMismatchError) as found:
        container.choose()
    assert "apt-get install podman" in str(found.value.hint)
    docker = tmp_path / "docker"
    docker.write_text(
        "#!/bin/sh\necho 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2\nexit 1\n"
    )
    docker.chmod(0o755)
    with pytest.raises(EnvironmentMismatchError) as found:
        container.choose("docker")
    assert "does not answer" in str(found.value)
    assert "systemctl start docker" in str(found.value.hint)


def test_export_writes_a_context_for_people_without_repro(small: Project) -> None:
    """Dockerfile, lock, wheels and code; the same bytes each time, for the same record."""
    for name in ("one", "two"):
        small.repro("docker", "export", "last", "--base", "python:3.11", "--output", name, check=0)
    listed = [
        {
            path.relative_to(small.root / name): path.read_bytes()
            for path in (small.root / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    ]
    assert listed[0] == listed[1]
    names = {str(path) for path in listed[0]}
    assert {"Dockerfile", "wheels/lock.txt", "code/train.py", "wheels/reproflip-1.0-py3-none-any.whl"} <= names
    assert f"own/{wheels.of_self()[0]}" in names
    assert "reproflip==1.0" in (small.root / "one/wheels/lock.txt").read_text()


NEEDY = """\
import subprocess
import urllib.request

try:
    urllib.request.urlopen("http://192.0.2.1/", timeout=1)
except OSError as error:
    print(type(error).__name__)
open("inside.txt", "w").close()
print("acc=1.5")
"""


@bwrap
def test_a_hermetic_replay_says_what_it_missed(project: Project) -> None:
    """One connection, counted once; its own folder is writable, the disk is not, and the result is compared."""
    project.write("needy.py", NEEDY + "subprocess.run(['sh', '-c', 'echo x > /usr/denied 2>/dev/null'])\n")
    project.run(*METRIC, "--", "python", "needy.py")
    if os.path.exists("/usr/denied"):
        os.unlink("/usr/denied")
    document = project.replay("last", "--hermetic", check=0)
    assert document["denied"] == ["wanted the network: 1 connection (192.0.2.1:80)"]
    assert document["verdict"] == "IDENTICAL"
    assert not os.path.exists("/usr/denied")


@bwrap
def test_a_hermetic_replay_sees_what_no_python_did(project: Project) -> None:
    """A child that is no Python has its packets counted by the kernel; a quiet run wanted nothing."""
    project.write("train.py", "print('acc=1')\n")
    project.write(
        "run.sh",
        "python train.py\npython -S -E -c "
        "\"import socket; socket.socket().connect(('192.0.2.1', 9))\" 2>/dev/null\ntrue\n",
    )
    project.run(*METRIC, "--", "python", "train.py")
    assert project.replay("last", "--hermetic", check=0)["denied"] == []
    project.run(*METRIC, "--", "sh", "run.sh")
    assert project.replay("last", "--hermetic", check=0)["denied"] == ["wanted the network: 1 connection"]


def test_hermetic_without_bubblewrap(project: Project, tmp_path: Path) -> None:
    """It is NOT_REPLAYABLE, with the package to install."""
    project.write("train.py", "print('acc=1')\n")
    project.run(*METRIC, "--", "python", "train.py")
    (tmp_path / "bin").mkdir()
    for name in ("git", "sh"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    document = project.replay("last", "--hermetic", check=4, PATH=f"{tmp_path}/bin:{REPRO.parent}")
    assert "apt-get install bubblewrap" in document["hint"]
