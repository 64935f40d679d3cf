"""The determinism profiles, seeds and threads of a run: what is set, what is taken, what is said of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

#: Prints what it finds, changes what FLAGS asks for, trains one step.
STATE = """\
import json, os, sys
import torch

names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_DYNAMIC", "OMP_DYNAMIC", "PYTHONHASHSEED",
         "CUBLAS_WORKSPACE_CONFIG", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OPENBLAS_CORETYPE"]
print(json.dumps({
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
    "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
    "mkldnn": torch.backends.mkldnn.deterministic,
    "threads": torch.get_num_threads(),
    "capability": torch.backends.cpu.get_cpu_capability(),
    "environment": {name: os.environ[name] for name in names if name in os.environ},
}))
if len(sys.argv) > 1:
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("high")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        model(torch.rand(3, 2)).sum().backward()
        optimizer.step()
        torch.backends.mkldnn.deterministic = False
"""
FOUR_OF_THREADS = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
STEADY = {"MKL_DYNAMIC": "FALSE", "OMP_DYNAMIC": "FALSE", "PYTHONHASHSEED": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def state_of(project: Project, profile: str, *words: str, **env: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the script under a profile; return what it saw, and the run's document."""
    project.write("a.py", STATE)
    done = project.repro("run", "--determinism", profile, "--", "python", "a.py", *words, check=0, **env)
    return json.loads(done.out), project.repro("show", "last", "--json").json


def test_strict_and_warn_set_what_they_promise(project: Project) -> None:
    """All deterministic flags, fixed threads and variables set before the start; warn differs in one flag alone."""
    seen, document = state_of(project, "strict", OMP_NUM_THREADS="2")
    assert seen["environment"] == FOUR_OF_THREADS | STEADY
    assert (seen["deterministic"], seen["warn_only"]) == (True, False)
    assert (seen["cudnn"], seen["mkldnn"], seen["threads"]) == ([True, False], True, 2)
    warned, other = state_of(project, "warn", OMP_NUM_THREADS="2")
    assert warned == seen | {"warn_only": True}
    observed = document["observed"]["numerics"]["import"]
    assert (observed["deterministic"], observed["deterministic_warn_only"], observed["threads"]) == (True, False, 2)
    assert (observed["cpu_capability"], observed["hash_seed"]) == (seen["capability"], "0")
    assert document["record"]["recipe"]["threads"] == 2
    assert [item["record"]["recipe"]["settings"]["warn_only"] for item in (document, other)] == [False, True]


def test_pools_of_one_name_are_told_apart_by_version_not_by_who_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and SciPy each bring an OpenBLAS: which one is loaded first is no difference between two runs."""
    from repro.worker import determinism

    pools = [
        {"prefix": "openblas", "version": version, "num_threads": 1, "filepath": "x"} for version in ("0.3", "0.4")
    ]
    seen = []
    for order in (pools, pools[::-1]):
        monkeypatch.setattr("threadpoolctl.threadpool_info", lambda order=order: order)
        seen.append(determinism.threadpools())
    assert seen[0] == seen[1]
    assert [pool["version"] for pool in seen[0].values()] == ["0.3", "0.4"]
    assert [*seen[0]] == ["openblas", "openblas#2"]


def test_off_sets_nothing_and_observes_all_the_same(project: Project) -> None:
    """Under off the script finds torch and its environment as under plain python; the state is observed."""
    seen, document = state_of(project, "off")
    assert (seen["deterministic"], seen["cudnn"], seen["mkldnn"]) == (False, [False, False], False)
    assert seen["environment"] == {}
    observed = document["observed"]["numerics"]["import"]
    assert (observed["deterministic"], observed["threads"]) == (False, seen["threads"])
    assert observed["hash_seed"] == "random"


def test_portable_is_one_thread_of_the_common_instruction_set(project: Project) -> None:
    """Portable: 1 thread, the instruction set that all have; a variable of the user's that it replaces is named."""
    project.write("a.py", STATE)
    words = ("run", "--determinism", "portable", "--", "python", "a.py")
    done = project.repro(*words, check=0, ATEN_CPU_CAPABILITY="avx2", OMP_NUM_THREADS="2")
    seen = json.loads(done.out)
    assert (seen["threads"], seen["capability"]) == (1, "DEFAULT")
    assert seen["environment"]["MKL_CBWR"] == "COMPATIBLE"
    assert seen["environment"]["ONEDNN_MAX_CPU_ISA"] == "SSE41"
    assert "portable sets ATEN_CPU_CAPABILITY=default (it was avx2)" in done.err
    assert project.repro("run", "--determinism", "portable", "--threads", "2", "--", "python", "a.py").code == 2


def test_flags_that_the_script_changes_are_named(project: Project) -> None:
    """A flag that the script sets otherwise, before its first step or after, is in the outcome's notes."""
    _, document = state_of(project, "warn", "change")
    notes = document["outcome"]["notes"]
    assert "the script changed deterministic: True -> False" in notes
    assert "the script changed float32_matmul_precision: highest -> high" in notes
    assert "the script changed mkldnn_deterministic: True -> False" in notes
    assert len(notes) == len(set(notes))


NO_KERNEL = """\
import warnings
import torch

if __import__("os").environ.get("ERRORS"):
    warnings.simplefilter("error")
x = torch.zeros(4)
for _ in range(3):
    x.put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]), accumulate=False)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    x.put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]), accumulate=False)
print("done")
"""


def test_an_operator_without_a_deterministic_kernel(project: Project) -> None:
    """It raises under strict. Under warn it works, is listed once with its line, and disturbs no output or filter."""
    project.write("a.py", NO_KERNEL)
    done = project.repro("run", "--determinism", "strict", "--", "python", "a.py", check=1)
    assert "put_ does not have a deterministic implementation" in done.err
    for words, env in ((["python", "a.py"], {}), (["python", "-W", "error", "a.py"], {"ERRORS": "1"})):
        done = project.repro("run", "--", *words, check=0, **env)
        assert done.out == "done\n"
        assert "Warning" not in done.err
        notes = project.repro("show", "last", "--json").json["outcome"]["notes"]
        assert len([note for note in notes if "no deterministic kernel" in note]) == 1
        assert "a.py:8" in notes[0]


ASK = "import os; print(hash('a'), *(os.environ.get(n) for n in ('OMP_NUM_THREADS', 'CUBLAS_WORKSPACE_CONFIG')))"


def test_what_the_user_has_set_is_taken(project: Project) -> None:
    """Thread counts and hash seeds of the user's are taken and recorded; ``--threads`` goes before them."""

    def ask(*words: str, **env: str) -> tuple[list[str], int]:
        done = project.repro("run", *words, "--", "python", "-c", ASK, check=0, **env)
        return done.out.split(), project.repro("show", "last", "--json").json["record"]["recipe"]["threads"]

    plain, threads = ask()
    assert plain[1] == str(threads)
    assert ask()[0] == plain
    assert ask(PYTHONHASHSEED="7")[0][0] == ask(PYTHONHASHSEED="7")[0][0] != plain[0]
    assert ask(OMP_NUM_THREADS="1") == ([plain[0], "1", ":4096:8"], 1)
    assert ask(MKL_NUM_THREADS="3") == ([plain[0], "3", ":4096:8"], 3)
    assert ask("--threads", "5", OMP_NUM_THREADS="1") == ([plain[0], "5", ":4096:8"], 5)
    assert ask(CUBLAS_WORKSPACE_CONFIG=":16:8")[0][2] == ":16:8"


@pytest.mark.parametrize(("name", "value"), [("CUBLAS_WORKSPACE_CONFIG", ":1:1"), ("PYTHONHASHSEED", "random")])
def test_a_variable_that_makes_the_promise_void(project: Project, name: str, value: str) -> None:
    """An error with a hint under strict, and a gap under warn, where the run goes on with what the user wants."""
    command = ("--", "python", "-c", f"import os; print(os.environ[{name!r}])")
    done = project.repro("run", "--determinism", "strict", *command, check=2, **{name: value})
    assert f"{name}={value}" in done.err
    assert "hint:" in done.err
    assert done.out == ""
    found = project.run(*command, **{name: value})
    assert name in [gap["what"] for gap in found["gaps"]]
    assert project.repro("run", *command, check=0, **{name: value}).out == f"{value}\n"


SEEDS = """\
import random

import numpy as np
import torch

import helper
torch.manual_seed(3407)
random.seed("text")
np.random.seed(seed=12)
helper.set_all(5)
np.random.default_rng()
np.random.default_rng(3)
random.seed()
torch.utils.data.DataLoader([1, 2], num_workers=1)
for _ in torch.utils.data.DataLoader([1, 2], num_workers=1):
    pass
"""


def test_the_users_seeding_is_left_alone_and_noted_with_its_line(project: Project) -> None:
    """Each call that seeds is noted with value, file and line; what takes entropy from the system says so.

    A DataLoader's workers seed themselves: that is no seeding of the user's.
    """
    project.write(
        "torch/numpy/train.py", SEEDS.replace("import helper", "import sys; sys.path[0] = '.'; import helper")
    )
    project.write("helper.py", "import torch\ndef set_all(seed):\n    torch.manual_seed(seed)\n")
    project.write("run.py", "import os, runpy\nrunpy.run_path(os.path.abspath('torch/numpy/train.py'))\n")
    project.run("--", "python", "run.py")
    notes = project.repro("show", "last", "--json").json["outcome"]["notes"]
    script = "torch/numpy/train.py"
    assert [note.replace(str(project.root) + "/", "") for note in notes] == [
        f"torch.manual_seed(3407) at {script}:7",
        f"random.seed('text') at {script}:8",
        f"numpy.random.seed(12) at {script}:9",
        "torch.manual_seed(5) at helper.py:3",
        f"numpy.random.default_rng(from the operating system) at {script}:11",
        f"random.seed(from the operating system) at {script}:13",
    ]


def test_a_script_that_seeds_nothing_repeats(trained: Project) -> None:
    """Twice the same command: equal trails and recipes, without any seed of the script's; another seed is another."""
    runs = [trained.run("--", "python", "train.py") for _ in range(2)]
    assert runs[0]["trail_digest"] == runs[1]["trail_digest"]
    assert runs[0]["recipe_digest"] == runs[1]["recipe_digest"]
    other = trained.run("--seed", "1", "--", "python", "train.py")
    assert other["trail_digest"] != runs[0]["trail_digest"]
    assert other["recipe_digest"] != runs[0]["recipe_digest"]


def test_an_interpreter_that_ignores_the_environment_is_seen_through(project: Project) -> None:
    """``python -E`` and ``-I`` do not take PYTHONHASHSEED: the hash seed that was observed says so."""
    project.write("a.py", "import torch\n")
    project.run("--", "python", "-I", "a.py")
    found = project.repro("show", "last", "--json").json["observed"]["numerics"]["import"]
    assert found["hash_seed"] == "random"
    assert Path(project.root, "a.py").exists()
