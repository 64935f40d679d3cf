"""What tests share: small real projects, and the real command line in a process of its own."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, settings

REPRO = Path(sys.executable).with_name("repro")
ROOT = Path(__file__).parent.parent

#: Variables of the machine that would leak into a test.
_LEAKS = ("REPRO_", "OMP_", "MKL_", "OPENBLAS_", "GIT_", "ATEN_", "ONEDNN_", "TORCHINDUCTOR_", "TRITON_")


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what would leak into a run, and with ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LEAKS)}
    kept["PATH"] = f"{REPRO.parent}{os.pathsep}{kept['PATH']}"
    return kept | {"GIT_CONFIG_NOSYSTEM": "1"} | extra


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


class Project:
    """A project in a folder of its own, and the commands that a user types there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def git(self, *words: str) -> str:
        """Run git in the project."""
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")
        command = ["git", *identity, *words]
        done = subprocess.run(
            command, cwd=self.root, check=True, capture_output=True, text=True, env=clean_environment()
        )
        return done.stdout

    def commit(self) -> None:
        """Make the project a repository with everything in one commit."""
        self.git("init", "-q", ".")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "begin")

    def repro(
        self, *words: str, cwd: Path | None = None, stdin: str | None = None, check: int | None = None, **env: str
    ) -> Done:
        """Run ``repro`` with ``words``; with ``check``, that exit code is expected."""
        done = subprocess.run(
            [str(REPRO), *words],
            cwd=cwd or self.root,
            env=clean_environment(**env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str, check: int | None = 0, **env: str) -> Any:
        """Run ``repro run --json``; return its document."""
        return self.repro("run", "--json", *words, check=check, **env).json

    def replay(self, name: str = "last", *words: str, check: int | None = None, **env: str) -> Any:
        """Run ``repro replay --json``; return its document."""
        return self.repro("replay", name, "--json", *words, check=check, **env).json

    def seeds(self, *words: str, check: int = 0, **env: str) -> Any:
        """Run ``repro seeds --json``; return its document."""
        return self.repro("seeds", "--json", *words, check=check, **env).json

    def with_experiment(self, script: str, experiment: str) -> Self:
        """Write an experiment and its script, ``train.py``."""
        self.write("train.py", script)
        self.write("experiment.yaml", experiment)
        return self

    @property
    def store(self) -> Path:
        """The project's store."""
        return self.root / ".repro"


#: Properties are looked at for the same examples each time, however slow the machine is.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws in this process is the same each time: no test hangs on luck."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project, not yet a repository."""
    root = tmp_path / "project"
    root.mkdir()
    return Project(root)


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[str], Project]:
    """A maker of further empty projects beside the first."""

    def make(name: str) -> Project:
        root = tmp_path / name
        root.mkdir(parents=True)
        return Project(root)

    return make


#: A few real steps of a small network, with the fault that the variable FAULT asks for, at step 7 or as it says.
TRAIN = """\
import os

import torch
from torch import nn

fault, _, at = os.environ.get("FAULT", "").partition("@")
if fault == "seed":
    torch.manual_seed(5)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
for step in range(12 if not at else int(at) + 5):
    now = fault if step == int(at or 7) else ""
    x = torch.randn(64, 10)
    y = x.sum(1, keepdim=True)
    if now == "weight":
        model[2].bias.data += 0.001
    if now == "draw":
        torch.rand(1)
    if now == "batch":
        x[0, 0] = torch.nextafter(x[0, 0], torch.tensor(9.0))
    if now == "lr":
        optimizer.param_groups[0]["lr"] = 1.0001e-3
    if now == "target":
        y[5] += 0.001
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    if now == "gradient":
        gradient = model[2].weight.grad
        gradient[0, 3] = torch.nextafter(gradient[0, 3], torch.tensor(9.0))
    if now == "momentum":
        optimizer.state[model[0].bias]["momentum_buffer"][4] += 0.001
    optimizer.step()
    print(f"loss={loss.item():.6f}", flush=True)
"""


@pytest.fixture
def trained(project: Project) -> Project:
    """A committed project with a training script ``train.py`` that can be made to go wrong."""
    project.write("train.py", TRAIN)
    project.commit()
    return project
