"""A GPU for each worker: what is visible, who gets what, and what the runs then have. No GPU: the driver is a fake."""

import json
import os
import subprocess
import sys
import types

import pytest
from conftest import Done, Project, clean_environment

from repro.capture import hardware, providers, variables
from repro.errors import UsageError
from repro.record import devices
from repro.record.devices import Device
from repro.trials.devices import share

A100, H100 = "NVIDIA A100", "NVIDIA H100"
#: What NVML answers, by the index of a GPU: its model, UUID, and its instances in MIG mode.
FAKE = '''
import types


class NVMLError(Exception):
    """As NVML's own."""


class Driver(types.ModuleType):
    """The calls of NVML that are made, answered for GPUs that are not there; ``fault``: what each call raises."""

    NVMLError = NVMLError

    def __init__(self, gpus, fault=None):
        super().__init__("pynvml")
        self.gpus, self.fault = gpus, fault

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *args: self.answer(name.removeprefix("nvml"), *args)

    def answer(self, call, handle=None, at=None):
        if self.fault is not None:
            raise NVMLError(self.fault)
        if call == "DeviceGetHandleByIndex":
            return self.gpus[handle]
        if call == "DeviceGetMigMode" and "mig" not in handle:
            raise NVMLError("Not Supported")
        if call == "DeviceGetMigDeviceHandleByIndex":
            if at >= len(handle["mig"]):
                raise NVMLError("Not Found")
            return handle["mig"][at]
        answers = {
            "Init": lambda: None,
            "Shutdown": lambda: None,
            "DeviceGetCount": lambda: len(self.gpus),
            "SystemGetDriverVersion": lambda: "570.86.15",
            "SystemGetCudaDriverVersion_v2": lambda: 12080,
            "DeviceGetName": lambda: handle["name"],
            "DeviceGetUUID": lambda: handle["uuid"],
            "DeviceGetMemoryInfo": lambda: types.SimpleNamespace(total=85_000_000_000),
            "DeviceGetCudaComputeCapability": lambda: (9, 0),
            "DeviceGetVbiosVersion": lambda: "96.00",
            "DeviceGetMigMode": lambda: [1, 1],
            "DeviceGetMaxMigDeviceCount": lambda: 7,
        }
        return answers[call]()
'''
#: The command line of repro, on a machine with such a driver.
FAKED = """
import json, sys
from repro.capture import hardware
from repro.cli.main import main
sys.modules["pynvml"] = Driver(json.loads(sys.argv.pop(1)))
hardware.has_driver = lambda: True
main()
"""
_made: dict = {}
exec(FAKE, _made)  # noqa: S102  (the same fake here and in the processes below)


def gpus(*models: str, fault: str | None = None, mig: dict[int, int] | None = None) -> dict:
    """Return the circumstance `gpus` of a machine with these models, as it is captured, some divided."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pynvml", _made["Driver"](machine(*models, mig=mig), fault))
        patch.setattr(hardware, "has_driver", lambda: bool(models) or fault is not None)
        return providers.collect({"gpus": hardware.gpus})["gpus"]


def machine(*models: str, mig: dict[int, int] | None = None) -> list[dict]:
    """Return what the fake answers for GPUs of these models; ``mig`` says into how many instances one is divided."""
    found: list[dict] = [{"name": model, "uuid": f"GPU-{at}{'0' * 7}-e"} for at, model in enumerate(models)]
    for at, count in (mig or {}).items():
        slices = [{"name": f"{models[at]} MIG 1g.10gb", "uuid": f"MIG-{at}{part}-e"} for part in range(count)]
        found[at]["mig"] = slices
    return found


def choices(value: str | None, told: dict, **more: str) -> list[str] | None:
    """Return what stands for each GPU that can be seen under a value of the variable."""
    found = devices.visible(told, more | ({} if value is None else {devices.VARIABLE: value}))
    return None if found is None else [device.choice for device in found]


def uuid(at: int) -> str:
    """Return the UUID of a GPU of the fake."""
    return f"GPU-{at}0000000-e"


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_unset_means_all(count):
    """Without the variable all GPUs of the machine can be seen, in the driver's order; without a driver none."""
    assert choices(None, gpus(*[H100] * count)) == [uuid(at) for at in range(count)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", [1]),
        ("2,0", [2, 0]),
        (" 1, 2", [1, 2]),
        ("0,9,1", [0]),
        ("0,-1,1", [0]),
        ("0,GPU-2", [0]),
        ("1,1", []),
        ("9", []),
        ("", []),
        ("-1", []),
        ("none", []),
        ("GPU-2,GPU-0", [2, 0]),
        (uuid(1), [1]),
        ("GPU-", []),
        ("GPU-7,GPU-0", []),
        ("GPU-1,GPU-7,GPU-0", [1]),
        ("GPU-1,0", [1]),
        ("GPU-1,GPU-10", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(value, expected):
    """Places, beginnings of UUIDs, an order; the list ends at what is none, and is empty where one comes twice."""
    assert choices(value, gpus(H100, H100, H100)) == [uuid(at) for at in expected]


def test_places_in_a_mixed_machine():
    """Where models differ a place says which GPU only by the order of the bus; else it is left as the user wrote it."""
    told = gpus(A100, H100)
    assert choices("1,0", told) == ["1", "0"]
    assert choices("1,0", told, CUDA_DEVICE_ORDER="PCI_BUS_ID") == [uuid(1), uuid(0)]
    assert devices.visible(told, {devices.VARIABLE: "GPU-1"}) == [Device(uuid(1), H100)]


def test_instances_of_a_gpu():
    """Instances of a GPU in MIG mode count, and not the GPU, each under its own UUID; a place is the first of them."""
    told = gpus(H100, H100, mig={1: 2})
    assert told["value"]["devices"][1]["mig"][0] == {"name": f"{H100} MIG 1g.10gb", "uuid": "MIG-10-e"}
    assert choices(None, told) == [uuid(0), "MIG-10-e", "MIG-11-e"]
    assert choices("MIG-11,MIG-10", told) == ["MIG-11-e", "MIG-10-e"]
    assert choices("1", gpus(H100, mig={0: 2})) == []
    assert choices("0", gpus(H100, mig={0: 2})) == ["MIG-00-e"]
    assert choices(None, gpus(H100, mig={0: 0})) == []


def test_a_driver_that_fails():
    """Without an answer nobody knows what there is; what the user names is taken at its word."""
    told = gpus(fault="Driver/library version mismatch")
    assert choices(None, told) is None
    assert choices("1,0", told) == ["1", "0"]
    assert choices("GPU-a,GPU-b", told) == ["GPU-a", "GPU-b"]
    assert choices("", told) == []
    unknown = share(2, 4, told, {})
    assert (unknown.workers, unknown.choices) == (2, ())
    assert "version mismatch" in unknown.said[0]
    assert share(2, 4, told, {devices.VARIABLE: "1,0"}).choices == ("1", "0")


@pytest.mark.parametrize(
    ("count", "asked", "most", "workers", "given"),
    [
        (0, None, 4, 4, 0),
        (0, 6, 4, 6, 0),
        (1, None, 4, 1, 0),
        (1, 1, 4, 1, 0),
        (2, None, 4, 2, 2),
        (2, 2, 1, 2, 2),
        (8, None, 4, 4, 4),
        (8, None, 16, 8, 8),
        (8, 3, 16, 3, 3),
        (8, None, 1, 1, 0),
    ],
)
def test_one_for_each_worker(count, asked, most, workers, given):
    """As many workers as GPUs unless the cores or the user say fewer, each with its own; one alone keeps them all."""
    found = share(asked, most, gpus(*[H100] * count), {})
    assert (found.workers, found.choices) == (workers, tuple(uuid(at) for at in range(given)))
    told = {"sees all": workers == 1 and count > 1, f"cores for {most}": asked is None and 0 < count < most}
    assert {words: any(words in line for line in found.said) for words in told} == told


def test_more_workers_than_gpus():
    """Two workers on one GPU would run out of its memory by luck: refused, with what helps; without a GPU it is not."""
    with pytest.raises(UsageError, match="--workers 3: there are 2 GPUs, and each worker has its own") as refused:
        share(3, 8, gpus(H100, H100), {})
    assert refused.value.hint is not None
    assert "--workers 2" in refused.value.hint
    with pytest.raises(UsageError, match="there is 1 GPU,"):
        share(2, 8, gpus(H100, H100), {devices.VARIABLE: "1"})
    assert share(3, 8, gpus(H100, H100), {devices.VARIABLE: ""}).choices == ()


def test_a_mixed_machine():
    """Workers have GPUs of the model that most are of; the others are named; places that say not which are refused."""
    found = share(None, 8, gpus(A100, H100, H100), {})
    assert (found.workers, found.choices) == (2, (uuid(1), uuid(2)))
    assert "1 NVIDIA A100" in found.said[0]
    with pytest.raises(UsageError, match=r"2 GPUs of one model \(1 NVIDIA A100, 2 NVIDIA H100\)"):
        share(3, 8, gpus(A100, H100, H100), {})
    with pytest.raises(UsageError, match="the fastest first") as refused:
        share(2, 8, gpus(A100, H100, H100), {devices.VARIABLE: "0,1"})
    assert "PCI_BUS_ID" in (refused.value.hint or "")
    parts = share(None, 8, gpus(H100, H100, mig={1: 2}), {})
    assert parts.choices == ("MIG-10-e", "MIG-11-e")


def test_which_gpu_is_no_part_of_the_recipe():
    """That none is to be used is a part of the recipe, which one is not; and it is not kept as a hash either."""
    for value in ("0", "1,0", uuid(1), "MIG-10-e"):
        assert variables.recipe({devices.VARIABLE: value}) == {}
    for value in ("", "-1"):
        assert variables.recipe({devices.VARIABLE: value}) == {devices.VARIABLE: value}
    assert variables.others({devices.VARIABLE: "0", "DATA": "x"}, b"key").keys() == {"DATA"}


def test_whether_recorded_gpus_are_here():
    """UUIDs are looked for, places counted; without an answer of the driver nothing is here."""
    here = gpus(A100, H100)
    assert devices.is_there(f"{uuid(1)},{uuid(0)}", here)
    assert devices.is_there("1", here)
    assert not devices.is_there("2", here)
    assert not devices.is_there(f"{uuid(0)},GPU-9", here)
    assert not devices.is_there(uuid(0), gpus())
    assert not devices.is_there("0", gpus(fault="no answer"))


def test_a_process_tells_the_gpus_that_it_uses(monkeypatch):
    """Once it uses one the numerics state has model and UUID of each it can use, in its order; before that none."""
    import torch

    from repro.worker.determinism import numerics

    assert "GPUS" not in numerics(torch)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    properties = [types.SimpleNamespace(name=H100, uuid="1-e"), types.SimpleNamespace(name=A100, uuid="0-e")]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert numerics(torch)["GPUS"] == [f"{H100} (GPU-1-e)", f"{A100} (GPU-0-e)"]


SCRIPT = """\
import os
import time

import torch

import repro

NAME = "CUDA_VISIBLE_DEVICES"
began = dict(item.partition("=")[::2] for item in open("/proc/self/environ").read().split("\\0"))


def train(run):
    print("had", os.environ.get(NAME), "began with", began.get(NAME))
    run.log(loss=torch.rand((), generator=run.rng("init")).item() * run.params.lr)
"""
#: Kills the supervisor of the run of seed 1, once.
KILLED = """\
def train(run):
    if run.seed == 1 and not os.path.exists(os.environ["KILL_ONCE"]):
        open(os.environ["KILL_ONCE"], "x").close()
        template = open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()
        os.kill(int(template[1]), 9)
        time.sleep(60)
"""
EXPERIMENT = "name: toy\nentry: train.py:train\nparams: {lr: 1.0}\nthreads: 1\n"
STUDY = """\
experiment: experiment.yaml
space: {lr: {choice: [1.0, 2.0]}}
method: grid
objective: {loss: min}
"""


def faked(project: Project, *words: str, models: tuple[str, ...] = (H100, H100), check: int = 0, **env: str) -> Done:
    """Run ``repro`` on a machine with GPUs, as far as the driver goes."""
    done = subprocess.run(
        [sys.executable, "-c", FAKE + FAKED, json.dumps(machine(*models)), *words],
        cwd=project.root,
        env={name: value for name, value in clean_environment().items() if name != devices.VARIABLE} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def had(project: Project, run_id: str) -> str:
    """Return what a run found in the variable, if the process that it was forked from had that from its start."""
    words = (project.store / "runs" / run_id / "stdout.log").read_text().split()
    assert words[1] == words[4]
    return words[1]


def record(project: Project, run_id: str) -> types.SimpleNamespace:
    """Return the record of a run."""
    found = json.loads((project.store / "runs" / run_id / "record.json").read_bytes())
    return types.SimpleNamespace(**found)


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> tuple[Project, dict]:
    """A project with a study of two seeds, made by two workers on a machine with two GPUs."""
    project = Project(tmp_path_factory.mktemp("studied")).with_experiment(SCRIPT, EXPERIMENT)
    project.write("study.yaml", STUDY)
    return project, faked(project, "seeds", "--json", "--n", "2", "--workers", "2", "experiment.yaml").json


def test_each_worker_has_its_own_gpu(studied):
    """Both runs saw one GPU each, from before torch was imported, and the record says which; no recipe has it."""
    project, found = studied
    runs = [run["run_id"] for run in found["runs"]]
    assert {had(project, run_id) for run_id in runs} == {uuid(0), uuid(1)}
    for run_id in runs:
        made = record(project, run_id)
        assert devices.VARIABLE not in made.recipe["environment"]
        assert made.circumstances["launch"]["visible_devices"] == had(project, run_id)
        assert made.circumstances["launch"]["warm"]
        assert f"{H100} ({had(project, run_id)})" in project.repro("show", run_id, check=0).out
    different = json.loads(project.repro("diff", *runs, "--json").out)["differences"]
    assert "visible_devices" in [item["path"] for item in different]


def test_a_worker_that_is_started_again_keeps_its_gpu(tmp_path):
    """Where a supervisor is killed, the one in its place has the same GPU: still no two workers share one."""
    project = Project(tmp_path / "killed")
    script = SCRIPT.replace("def train(run):\n", KILLED)
    project.root.mkdir()
    project.with_experiment(script, EXPERIMENT)
    mark = tmp_path / "mark"
    found = faked(project, "seeds", "--json", "--n", "2", "--workers", "2", "experiment.yaml", KILL_ONCE=str(mark))
    assert mark.exists()
    assert [run["state"] for run in found.json["runs"]] == ["COMPLETED", "COMPLETED"]
    assert {had(project, run["run_id"]) for run in found.json["runs"]} == {uuid(0), uuid(1)}


def test_one_worker_reads_what_two_have_made(studied):
    """A trial has one recipe whichever worker makes it; one worker leaves what is visible as it is, and says so."""
    project, _ = studied
    again = faked(project, "seeds", "--json", "--n", "3", "experiment.yaml", CUDA_VISIBLE_DEVICES="1,0")
    assert again.json["run_now"] == 1
    assert had(project, again.json["runs"][2]["run_id"]) == "1,0"
    assert "each run sees all 2 GPUs (2 NVIDIA H100)" in again.err


def test_more_workers_than_gpus_are_refused(studied):
    """Exit code 2 with the number that goes, before anything is run."""
    project, _ = studied
    before = sorted(os.listdir(project.store / "runs"))
    refused = faked(project, "seeds", "--n", "4", "--workers", "3", "experiment.yaml", check=2)
    assert "there are 2 GPUs, and each worker has its own" in refused.err
    refused = faked(project, "tune", "study.yaml", "--workers", "3", check=2)
    assert "hint: --workers 2" in refused.err
    assert sorted(os.listdir(project.store / "runs")) == before


def test_trials_of_a_search(studied):
    """The trials of a search see one GPU each as well, and one worker afterwards reads them."""
    project, _ = studied
    found = faked(project, "tune", "study.yaml", "--json", "--workers", "2").json
    runs = [trial["run_id"] for trial in found["trials"]]
    assert found["workers"] == 2
    made = [run_id for run_id in runs if record(project, run_id).circumstances["launch"]["study"] == found["study_id"]]
    assert {had(project, run_id) for run_id in made} <= {uuid(0), uuid(1)}
    again = faked(project, "tune", "study.yaml", "--json", "--workers", "1").json
    assert (again["run_now"], again["decisions_digest"]) == (0, found["decisions_digest"])


def test_a_replay_where_the_gpu_is_and_where_it_is_not(studied):
    """A replay has the GPU of the run; where that is not in the machine it is left out and said: torch sees what is."""
    project, found = studied
    run_id = found["runs"][1]["run_id"]
    here = faked(project, "replay", run_id, "--json")
    assert here.json["verdict"] == "IDENTICAL"
    assert had(project, here.json["run_id"]) == had(project, run_id)
    models = (A100,) if had(project, run_id) == uuid(1) else ()
    there = faked(project, "replay", run_id, "--json", models=models, check=3)
    assert there.json["reason"] == "standard output differs at line 1"  # the script prints the variable
    assert there.json["metrics"] == {}
    assert had(project, there.json["run_id"]) == "None"
    assert f"not as recorded: {devices.VARIABLE}={had(project, run_id)}" in there.err
    assert "visible_devices" in [item["path"] for item in there.json["differences"]]
