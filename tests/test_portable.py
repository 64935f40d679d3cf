"""The golden digests of the profile `portable`: the same bits on whatever machine this runs.

``python tests/test_portable.py`` writes them anew; ``docs/reference/determinism.md`` says when.
"""

import importlib.metadata
import json
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project

GOLDEN = Path(__file__).with_name("golden") / "portable.json"
LIBRARIES = ("torch", "numpy", "scikit-learn")
READER = """\
name: digests
entry: digests.py:main
params: {checkpoint: CHECKPOINT, width: WIDTH, dropout: DROPOUT}
"""


def installed() -> dict[str, str]:
    """Return the versions of the libraries that make the bits."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def digests_of(project: Project, *words: str, epochs: int | None = None, **env: str) -> dict[str, str]:
    """Train the digits under `portable`, and return the digests of its start, its end and its logits."""
    folder = project.root / "experiments" / "digits"
    if not folder.exists():
        shutil.copytree(ROOT / "experiments" / "digits", folder)
        shutil.copy(Path(__file__).with_name("portable_digests.py"), folder / "digests.py")
        project.commit()
    profile = ("--determinism", "portable", *words)
    shorter = () if epochs is None else ("--set", f"epochs={epochs}")
    done = project.run("experiments/digits/experiment.yaml", *profile, *shorter, **env)
    params = project.repro("show", done["run_id"], "--json", check=0).json["record"]["recipe"]["params"]
    last = max(Path(done["path"], "checkpoints").iterdir())
    text = READER.replace("CHECKPOINT", json.dumps(str(last)))
    text = text.replace("WIDTH", str(params["width"])).replace("DROPOUT", str(params["dropout"]))
    project.write("experiments/digits/digests.yaml", text)
    project.run("experiments/digits/digests.yaml", *profile, **env)
    found: dict[str, str] = json.loads((folder / "digests.json").read_bytes())
    return found


def golden() -> dict[str, Any]:
    """Return what is kept: ``libraries`` and ``digests``."""
    found: dict[str, Any] = json.loads(GOLDEN.read_bytes())
    return found


def test_portable_gives_the_golden_bits(project: Project) -> None:
    """Initial weights, trained model and logits of the digits are those kept, whatever the x86-64 processor.

    Thread and instruction-set variables of the machine that runs this make no difference.
    """
    if platform.machine() != "x86_64":
        pytest.skip(f"portable promises nothing on {platform.machine()}")
    kept = golden()
    if installed() != kept["libraries"]:
        pytest.skip(f"the digests are of {kept['libraries']}, installed is {installed()}")
    found = digests_of(project, OMP_NUM_THREADS="2", ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")
    assert found == kept["digests"]


def test_the_digests_tell_a_difference(project: Project) -> None:
    """Another seed gives other digests, of the initial weights too: they are not blind."""
    found = digests_of(project, "--seed", "1", epochs=1)
    assert not set(found.values()) & set(golden()["digests"].values())


def test_the_digests_are_of_the_libraries_that_are_locked() -> None:
    """A lock that moves on takes the digests with it: they are renewed in the same commit."""
    lock = (ROOT / "lockfiles" / "cpu.txt").read_text(encoding="utf-8")
    locked = {name: re.search(rf"^{name}==(\S+)", lock, re.MULTILINE) for name in LIBRARIES}
    assert {name: item and item[1] for name, item in locked.items()} == golden()["libraries"]


def renew() -> None:
    """Write the digests of here and now."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"digests": digests_of(Project(Path(folder))), "libraries": installed()}
    GOLDEN.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")


if __name__ == "__main__":
    renew()
