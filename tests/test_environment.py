"""Interpreter, distributions, lock, hardware: what is captured of the machine that a run will use."""

import base64
import hashlib
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from repro.capture import hardware, lock, packages, providers
from repro.record.values import Package


def _install(site: Path, name: str, version: str, *, installer: str, body: str = "x = 1\n", direct: str = "") -> None:
    """Lay out one installed distribution as an installer would."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(body)
    digest = f"sha256={hash(body) & 0xFFFF:x}"
    lines = [f"{name}.py,{digest},{len(body)}", f"{info.name}/METADATA,sha256=aa,10", f"{info.name}/RECORD,,"]
    lines += [f"{info.name}/INSTALLER,sha256={installer},4", f"../../../bin/{name},sha256={installer},100"]
    lines += [f"__pycache__/{name}.cpython-311.pyc,,"] if installer == "pip" else []
    (info / "RECORD").write_text("\n".join(lines if installer == "pip" else reversed(lines)) + "\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nBuild: 7cpu\nTag: py3-none-any\n")
    if direct:
        (info / "direct_url.json").write_text(direct)


def test_two_installs_of_one_wheel_have_one_digest_and_another_wheel_another(tmp_path: Path) -> None:
    """The digest is of what was installed, not of how: scripts, byte code and bookkeeping are left out."""
    for name, installer in (("a", "pip"), ("b", "uv")):
        _install(tmp_path / name, "thing", "1.0", installer=installer)
    _install(tmp_path / "c", "thing", "1.0", installer="pip", body="x = 2\n")
    found = [packages.scan([str(tmp_path / name)], tmp_path / "cache.json").distributions[0] for name in "abc"]
    assert found[0].digest == found[1].digest != found[2].digest
    assert found[0].build == "7cpu py3-none-any"


@pytest.mark.parametrize("last", ["one", "two"])
def test_a_file_that_two_distributions_claim_is_no_edit(tmp_path: Path, last: str) -> None:
    """Two wheels that bring a file of one path: whichever was installed last, neither is edited; a true edit is."""
    found = {}
    for order, folder in ((("one", "two"), "a"), (("two", "one"), "b")):
        site = tmp_path / folder
        for name in order:
            info = site / f"{name}-1.0.dist-info"
            (site / "tests").mkdir(parents=True, exist_ok=True)
            info.mkdir()
            body = f"whose = {name!r}\n"
            (site / "tests" / "conftest.py").write_text(body)
            digest = base64.urlsafe_b64encode(hashlib.sha256(body.encode()).digest()).rstrip(b"=").decode()
            (info / "RECORD").write_text(f"tests/conftest.py,sha256={digest},{len(body)}\n{info.name}/RECORD,,\n")
        os.utime(site / "tests" / "conftest.py", (2e9, 2e9))
        found[folder] = packages.scan([str(site)])
    assert [scanned.gaps for scanned in found.values()] == [[], []]
    assert found["a"].distributions[0].digest == found["b"].distributions[0].digest
    path = tmp_path / ("a" if last == "two" else "b") / "tests" / "conftest.py"
    path.write_text("edited by hand\n")
    os.utime(path, (2e9, 2e9))
    assert {gap.what for gap in packages.scan([str(path.parent.parent)]).gaps} == {"package one", "package two"}


def test_the_first_of_a_name_on_the_path_counts_and_the_cache_notices_a_change(tmp_path: Path) -> None:
    """As the import system does; a RECORD that changed is read again, though its name is the same."""
    _install(tmp_path / "a", "Some_Thing", "1.0", installer="pip")
    _install(tmp_path / "b", "some.thing", "2.0", installer="pip")
    cache = tmp_path / "cache.json"
    path = [str(tmp_path / "a"), str(tmp_path / "b")]
    first = packages.scan(path, cache).distributions
    assert [(item.name, item.version) for item in first] == [("some-thing", "1.0")]
    assert packages.scan(path, cache).distributions == first
    (tmp_path / "a" / "Some_Thing-1.0.dist-info" / "RECORD").write_text("Some_Thing.py,sha256=other,6\n")
    assert packages.scan(path, cache).distributions[0].digest != first[0].digest


def test_an_editable_install_is_named_by_its_captured_code(tmp_path: Path) -> None:
    """Inside the project: by its place in it; outside: by the further tree; this tool itself is left out."""
    root, sibling = tmp_path / "project", tmp_path / "sibling"
    for path in (root, sibling):
        path.mkdir()
    site = tmp_path / "site"
    for name, place in (("inner", root), ("outer", sibling), ("repro_runner", root)):
        direct = f'{{"url": "file://{place}", "dir_info": {{"editable": true}}}}'
        _install(site, name, "1.0", installer="pip", direct=direct)
    found = packages.scan([str(site)], tmp_path / "cache.json").packages(root, {"outer": sibling})
    assert found == [
        Package(name="inner", version="1.0", digest="editable:."),
        Package(name="outer", version="1.0", digest="editable:source/outer"),
    ]


def test_the_lock_in_force_and_its_differences(tmp_path: Path) -> None:
    """The lock with hashes that fits best is named, with each distribution that is not as locked."""
    (tmp_path / "lockfiles").mkdir()
    (tmp_path / "lockfiles" / "cpu.txt").write_text(
        "numpy==1.0 \\\n    --hash=sha256:aa\nNot.There==2.0 --hash=sha256:bb\n"
    )
    (tmp_path / "requirements.txt").write_text("numpy==9.9\n")
    here = [packages.Distribution("numpy", "1.0", "sha256:x", None, None, None)]
    found = lock.describe(tmp_path, here)
    assert (found["lock"], found["matches"], found["differ"]) == ("lockfiles/cpu.txt", False, 1)
    assert found["differences"] == ["not-there: locked 2.0, here none"]


@pytest.mark.parametrize("name", ["uv.lock", "poetry.lock", "pylock.toml"])
def test_locks_in_toml_are_read(tmp_path: Path, name: str) -> None:
    """Locks of uv, poetry and PEP 751 pin packages in tables."""
    table = "packages" if name == "pylock.toml" else "package"
    (tmp_path / name).write_text(f'[[{table}]]\nname = "numpy"\nversion = "1.0"\n')
    found = lock.describe(tmp_path, [packages.Distribution("numpy", "1.0", "sha256:x", None, None, None)])
    assert (found["lock"], found["matches"]) == (name, True)


def test_a_slow_or_failing_provider_does_not_stop_a_run() -> None:
    """Each provider has a line of its own: its value and its time, or why there is none."""

    def broken() -> None:
        raise OSError("no such driver")

    start = time.monotonic()
    found = providers.collect({"good": lambda: 1, "bad": broken, "slow": lambda: time.sleep(3)}, limit=0.3)
    assert time.monotonic() - start < 2
    assert found["good"]["value"] == 1
    assert found["bad"]["error"] == "OSError: no such driver"
    assert found["slow"] == {"ms": 300, "error": "no answer within 0.3 s"}


class _Driver(types.ModuleType):
    """What a driver answers through NVML; some calls give bytes, as older bindings do."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("pynvml")
        self.broken = broken
        self.down = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise RuntimeError("Driver/library version mismatch")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.down = True

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlSystemGetDriverVersion": lambda: b"570.86.15",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda _handle: "NVIDIA H100",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
            "nvmlDeviceGetMemoryInfo": lambda _handle: types.SimpleNamespace(total=85_000_000_000),
            "nvmlDeviceGetCudaComputeCapability": lambda _handle: (9, 0),
            "nvmlDeviceGetVbiosVersion": lambda _handle: "96.00",
            "nvmlDeviceGetMigMode": lambda _handle: [0, 0],
        }
        if name not in answers:
            raise AttributeError(name)
        return answers[name]


def test_gpus_as_the_driver_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Driver, CUDA of the driver and each device are kept apart; text and bytes come out alike; NVML is shut down."""
    driver = _Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(hardware, "has_driver", lambda: True)
    found = hardware.gpus()
    assert (found["driver"], found["cuda_of_driver"]) == ("570.86.15", 12080)
    assert [gpu["uuid"] for gpu in found["devices"]] == ["GPU-0", "GPU-1"]
    assert found["devices"][0]["compute_capability"] == "9.0"
    assert driver.down


def test_a_driver_that_does_not_answer_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What NVML raises becomes the provider's reason."""
    monkeypatch.setitem(sys.modules, "pynvml", _Driver(broken=True))
    monkeypatch.setattr(hardware, "has_driver", lambda: True)
    found = providers.collect({"gpus": hardware.gpus})
    assert "version mismatch" in found["gpus"]["error"]


def test_no_driver_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a driver NVML is not even imported."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(hardware, "has_driver", lambda: False)
    assert hardware.gpus() == {}


def test_a_record_tells_the_environment_of_the_run(trained: Project) -> None:
    """Versions, threads as a number, circumstances with their times, and the software that the process saw."""
    run = trained.run("--", "python", "train.py")
    shown = trained.repro("show", run["run_id"], "--json", check=0).json
    recipe, facts = shown["record"]["recipe"], shown["record"]["circumstances"]
    names = {item["name"]: item for item in recipe["packages"]}
    assert names["torch"]["version"].startswith("2.")
    assert names["torch"]["digest"].startswith("sha256:")
    assert "repro-runner" not in names
    assert recipe["threads"] == hardware.physical_cores()
    assert recipe["environment"]["OMP_NUM_THREADS"] == str(recipe["threads"])
    for name in ("host", "processor", "memory", "gpus", "git", "lock", "origins"):
        assert facts[name]["ms"] >= 0, name
        assert "value" in facts[name], facts[name]
    assert facts["processor"]["value"]["flags"]
    assert facts["host"]["value"]["libc"].startswith("glibc")
    observed = shown["observed"]
    assert observed["software"]["torch"] == names["torch"]["version"]
    assert set(observed["numerics"]) == {"import", "first step", "exit"}
    assert observed["numerics"]["first step"]["threads"] == recipe["threads"]


def test_unset_threads_are_what_torch_would_take(project: Project) -> None:
    """The number that is recorded is the one that plain python computes with."""
    project.write("count.py", "import torch; print(f'threads={torch.get_num_threads()}')")
    project.commit()
    run = project.run("--determinism", "off", "--metric", "threads=([0-9]+)", "--", "python", "count.py")
    assert run["metrics"]["threads"] == hardware.physical_cores()


def test_the_numerics_state_has_precisions_denormals_pools_and_loaders(project: Project) -> None:
    """What decides the bits beside the flags is observed, each kind of loader once; what the script changes is said."""
    project.write(
        "load.py",
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "data = TensorDataset(torch.randn(64, 4))\n"
        "model = torch.nn.Linear(4, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(3):\n"
        "    for (x,) in DataLoader(data, batch_size=32, shuffle=True, generator=torch.Generator()):\n"
        "        optimizer.zero_grad()\n"
        "        model(x).square().mean().backward()\n"
        "        optimizer.step()\n"
        "torch.set_flush_denormal(True)\n",
    )
    project.commit()
    run = project.run("--", "python", "load.py")
    observed = project.repro("show", run["run_id"], "--json", check=0).json["observed"]
    assert [(item["batch_size"], item["num_workers"], item["generator"]) for item in observed["loaders"]] == [
        (32, 0, True)
    ]
    state = observed["numerics"]["first step"]
    assert state["denormals"] is True
    assert state["fp32_precision"] is not None
    assert {pool["user_api"] for pool in state["threadpools"].values()} >= {"openmp"}
    assert observed["overridden"] == {"denormals": [True, False]}
    assert any("MKL-DNN" in line for line in observed["software"]["libraries"])
    assert not any("Build settings" in line for line in observed["software"]["libraries"])
    assert project.replay(run["run_id"], check=0)["differences"] == []
