"""Caches: what can be made again is neither input nor output; what can be fetched again is an input, even if gone."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trees
from conftest import Project

from repro.base import caches
from repro.capture import beside

HOME = {"HOME": "/home/ada"}
Use = Callable[..., Any]


@pytest.mark.parametrize(
    ("variables", "path", "kind"),
    [
        ({}, "/tmp/torchinductor_ada/7s/kernel.so", "made"),
        ({"TMPDIR": "/scratch"}, "/scratch/torchinductor_ada/7s/kernel.so", "made"),
        ({"TMPDIR": "/scratch"}, "/tmp/torchinductor_ada/7s/kernel.so", None),
        ({}, "/tmp/data.csv", None),
        ({}, "/home/ada/.triton/cache/a/b.cubin", "made"),
        ({"TRITON_CACHE_DIR": "/fast/triton"}, "/fast/triton/a.ptx", "made"),
        ({"TRITON_CACHE_DIR": "/fast/triton"}, "/fast/triton-data/a.csv", None),
        ({"NUMBA_CACHE_DIR": "~/nb/"}, "/home/ada/nb/x", "made"),
        ({}, "/home/ada/.jupyter/migrated", "made"),
        ({}, "/home/ada/.ipython/profile_default/history.sqlite", "made"),
        ({}, "/home/ada/.ipython/profile_default/startup/00.py", None),
        ({}, "/home/ada/.config/matplotlib/matplotlibrc", None),
        ({}, "/home/ada/.cache/matplotlib/fontlist-v390.json", "made"),
        ({}, "/home/ada/.cache/torch_extensions/py311_cpu/f/f.so", "made"),
        ({}, "/home/ada/.cache/torch/kernels/k", "made"),
        ({}, "/home/ada/.cache/torch/hub/checkpoints/resnet.pth", "fetched"),
        ({}, "/home/ada/.cache/huggingface/hub/models--x/blobs/1", "fetched"),
        ({"HF_HOME": "/data/hf"}, "/data/hf/hub/models--x/blobs/1", "fetched"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/whisper/small.pt", "fetched"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/torch_extensions/f.so", "made"),
        ({}, "/home/ada/data/train.csv", None),
    ],
)
def test_a_cache_is_known_by_variable_and_by_place(variables: dict[str, str], path: str, kind: str | None) -> None:
    """Each program's variable names its cache; without it, the place is the program's own default."""
    place = caches.named(HOME | variables).of(path)
    assert (place and place.kind) == kind


@pytest.mark.parametrize("folder", ["/", "/tmp", "/tmp/", "/home/ada", "/home", "/work/project", "/work", "/work/x/.."])
@pytest.mark.parametrize("variable", ["TRITON_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_cache_that_shares_its_folder_is_none(variable: str, folder: str) -> None:
    """A variable that names the project, the home, the temporary folder, or a parent of them, hides no data."""
    found = caches.named(HOME | {variable: folder}, ["/work/project/"])
    assert not any(found.of(path) for path in ("/tmp/d.csv", "/home/ada/d.csv", "/work/project/d.csv", "/work/d.csv"))


def test_a_cache_behind_a_link_is_known_by_both_names(tmp_path: Path) -> None:
    """``~/.cache`` is often a link to a larger disk; programs tell one name or the other."""
    (tmp_path / "disk").mkdir()
    (tmp_path / ".cache").symlink_to("disk")
    found = caches.named({"HOME": str(tmp_path)})
    assert all(found.of(f"{tmp_path}/{name}/huggingface/x") for name in (".cache", "disk"))


@pytest.fixture
def use(project: Project) -> Use:
    """A command of the project whose home and temporary folder are its own."""
    home = project.root.parent / "home"
    (home / "tmp").mkdir(parents=True)
    own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": ""}

    def call(what: Callable[..., Any], *words: str, **env: str) -> Any:
        return what(*words, **own, **env)

    return call


MADE = """\
import os, tempfile, repro
os.environ["TRITON_CACHE_DIR"] = os.path.expanduser("~/by-script")
home = os.path.expanduser("~")
for place in (
    tempfile.gettempdir() + "/torchinductor_ada/7s", os.environ["TORCH_EXTENSIONS_DIR"], home + "/by-script",
    home + "/.jupyter", home + "/.ipython/profile_default/db", home + "/.cache/matplotlib", home + "/.nv/ComputeCache",
):
    os.makedirs(place, exist_ok=True)
    name = place + "/kernel.py"
    if not os.path.exists(name):
        with open(name, "w") as file:
            file.write(f"pid = {os.getpid()}")
    open(name).read()
import helper
open("result.txt", "w").write("1")
repro.current().log(x=1)
"""


def test_caches_that_can_be_made_again_are_neither_inputs_nor_outputs(project: Project, use: Use) -> None:
    """Kernels, fonts, byte code and a notebook's own files: cleared between run and replay, the replay is IDENTICAL.

    They are named in the record; what they hold is not kept. By variable, also one that the script sets, and by place.
    A cache in the project makes no other code of it, and a replay leaves it as it is.
    """
    project.write("train.py", MADE)
    project.write("helper.py", "")
    cache = project.root / "kernels"
    env = {"TORCH_EXTENSIONS_DIR": str(cache), "PYTHONPYCACHEPREFIX": str(project.root.parent / "bytecode")}
    runs = [use(project.run, "--", "python", "train.py", **env)["run_id"] for _ in range(3)]
    home = project.root.parent / "home"
    for run in runs:
        outcome = trees.outcome(project, run)
        assert outcome["inputs"] == []
        assert [item["path"] for item in outcome["outputs"]] == ["result.txt"]
    shown = [project.repro("show", run, "--json").json for run in runs]
    assert len({item["record"]["recipe_digest"] for item in shown}) == 1
    assert shown[0]["observed"]["caches"] == {
        str(path): "made" for path in (cache, *(home / name for name in ("by-script", ".jupyter", ".ipython", ".nv")))
    } | {f"{home}/.cache/matplotlib": "made", f"{home}/tmp/torchinductor_ada": "made"}
    listings = {trees.record(project, run)["circumstances"]["project"]["beside"] for run in runs}
    names = {f"sha256:{path.parent.name}{path.name}" for path in (project.store / "objects").glob("??/*")}
    assert names == listings - {beside.EMPTY}
    shutil.rmtree(home / "tmp" / "torchinductor_ada")
    shutil.rmtree(home / ".jupyter")
    shutil.rmtree(cache)
    for run in (runs[0], runs[-1]):
        assert use(project.replay, run, **env)["verdict"] == "IDENTICAL"
    assert not cache.exists()


def test_a_home_in_the_project(project: Project) -> None:
    """Its caches are caches all the same: a replay may write to them, and what a program compiled is no live code."""
    script = """\
import os, sys, repro
place = os.path.expanduser("~/.triton/made")
os.makedirs(place, exist_ok=True)
open(place + "/kernel.py", "w").write("x = 1")
os.makedirs(os.path.expanduser("~/.config/matplotlib"), exist_ok=True)
sys.path.append(place)
import kernel
repro.current().log(x=kernel.x)
"""
    project.write("train.py", script)
    env = {"HOME": str(project.root / "home"), "XDG_CACHE_HOME": "", "TMPDIR": str(project.root.parent)}
    project.run("--", "python", "train.py", **env)
    shutil.rmtree(project.root / "home" / ".triton")
    found = project.replay(**env)
    assert found["verdict"] == "IDENTICAL", found


FETCHED = """\
import os, sys, repro
path = os.path.expanduser("~/.cache/torch/hub/checkpoints/weights.txt")
if not os.path.exists(path):
    if not os.path.exists(os.path.expanduser("~/online")):
        sys.exit("no network")
    assert "HF_HUB_OFFLINE" not in os.environ, "a hub that is offline fetches nothing"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "w") as file:
        file.write(open(os.path.expanduser("~/online")).read())
    os.rename(path + ".part", path)
repro.current().log(x=float(open(path).read()))
"""


def test_what_is_fetched_is_an_input_that_may_be_gone(project: Project, use: Use) -> None:
    """Weights of a hub: the run that fetched them and the one that found them read the same input.

    Cleared, a replay fetches them; where it cannot, it is NOT_REPLAYABLE and names the file; changed, it is DIFFERENT
    and names it as well.
    """
    home = project.root.parent / "home"
    weights = home / ".cache" / "torch" / "hub" / "checkpoints" / "weights.txt"
    (home / "online").write_text("1.5")
    project.write("train.py", FETCHED)
    runs = [use(project.run, "--", "python", "train.py")["run_id"] for _ in range(2)]
    inputs = [trees.outcome(project, run)["inputs"] for run in runs]
    assert [item for item in inputs[0] if item["path"] != str(home / "online")] == inputs[1]
    assert inputs[1][0]["path"] == str(weights)
    assert [trees.outcome(project, run)["outputs"] for run in runs] == [[], []]
    shutil.rmtree(home / ".cache")
    found = use(project.replay, runs[1])
    assert found["verdict"] == "IDENTICAL", found
    weights.write_text("2.5")
    found = use(project.replay, runs[1])
    assert found["verdict"] == "DIFFERENT"
    assert [item["path"] for item in found["differences"]] == [f"inputs.{weights}"]
    weights.unlink()
    (home / "online").unlink()
    found = use(project.replay, runs[1])
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert str(weights) in found["reason"]


COMPILED = """\
import torch, repro
step = torch.compile(lambda x: x * 2 + 1)
repro.current().log(x=step(torch.arange(64.0)).sum().item())
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_the_cache_of_a_compiler_may_be_cleared(project: Project, use: Use) -> None:
    """`torch.compile` twice: the second run reads the kernels of the first. Once they are cleared, it is replayed.

    The replay does not compile, which saves ten seconds of C++.
    """
    project.write("train.py", COMPILED)
    env = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    runs = [use(project.run, "--", "python", "train.py", **env)["run_id"] for _ in range(2)]
    assert [trees.outcome(project, run)[kind] for run in runs for kind in ("inputs", "outputs")] == [[]] * 4
    (kernels,) = (project.root.parent / "home" / "tmp").glob("torchinductor_*")
    shutil.rmtree(kernels)
    found = use(project.replay, runs[1], TORCHDYNAMO_DISABLE="1")
    assert found["verdict"] == "IDENTICAL", found
