"""A disk that is full for a moment: what is lost is told without the disk, and such a run is no result."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project

from repro.worker.job import Lines
from repro.worker.losses import make, read

#: Fills the disk, logs, and gives the room back.
FULL = """\
import os, repro
def fill():
    with open({ballast!r}, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(words, check=False, capture_output=True).returncode:
        pytest.skip("no disk of its own can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_points_that_a_full_disk_refused_make_no_result(project: Project, small: Path) -> None:
    """LOST with its reason and exit code 5, a gap, and the points after it are whole; a replay is one of a cut run."""
    text = FULL.format(ballast=str(small / "ballast"))
    text += (
        "run = repro.current()\nrun.log(step=0, acc=0.1)\nfill()\nfor i in range(1, 400): run.log(step=i, acc=0.2)\n"
    )
    text += f"os.remove({str(small / 'ballast')!r})\nrun.log(step=400, acc=0.9)\nrun.log(step=401, acc=0.95)\n"
    project.write("n.py", text)
    env = {"REPRO_STORE": str(small / "store")}
    done = project.run("--", "python", "n.py", check=5, **env)
    assert (done["state"], done["metrics"]) == ("LOST", {"acc": 0.95})
    assert "metrics" in [gap["what"] for gap in done["gaps"]]
    shown = project.repro("show", "last", "--json", check=0, **env).json["outcome"]
    assert shown["reason"] == "the disk refused points that it logged"
    points = project.repro("log", "last", "--json", check=0, **env).json["metrics"]["acc"]
    assert [point["value"] for point in points[-2:]] == [0.9, 0.95]
    project.repro("verify", check=0, **env)
    assert not list((small / "store" / "runs").glob("*/losses"))


def test_numbers_of_the_output_that_a_full_disk_refused(project: Project, small: Path) -> None:
    """Those that a pattern takes out of what is printed are points as any others, and the log is a gap."""
    text = FULL.format(ballast=str(small / "ballast")) + "import time\nfill()\n"
    text += "for i in range(3000): print(f'acc={i}', flush=True)\ntime.sleep(0.5)\n"
    text += f"os.remove({str(small / 'ballast')!r})\nprint('acc=7', flush=True)\n"
    project.write("n.py", text)
    env = {"REPRO_STORE": str(small / "store")}
    done = project.run("--metric", "acc", "--", "python", "n.py", check=5, **env)
    assert (done["state"], done["metrics"]) == ("LOST", {"acc": 7.0})
    assert {"metrics", "output"} <= {gap["what"] for gap in done["gaps"]}


def test_a_torn_line_swallows_none(small: Path) -> None:
    """What comes after a line of which a part was written is a line of its own, and what was lost is known."""
    (small / "metrics").mkdir()
    make(str(small))
    lines = Lines(str(small), "metrics")
    lines.write('{"first": 1}\n')
    with (small / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    for number in range(500):
        lines.write(f'{{"number": {number}}}\n')
    assert read(str(small)) == ["metrics"]
    (small / "ballast").unlink()
    lines.write('{"last": 1}\n')
    (path,) = (small / "metrics").iterdir()
    assert path.read_text().splitlines()[-1] == '{"last": 1}'
