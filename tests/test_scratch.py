"""Folders for a moment: gone afterwards, also where their maker was killed, and never somebody else's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.base import scratch

MAKER = """\
import pathlib, sys, time
from repro.base import scratch
with scratch.folder("index", pathlib.Path(sys.argv[1])) as place:
    (place / "file").write_text("x")
    print(place, flush=True)
    time.sleep(60)
"""


def make(place: Path) -> tuple["subprocess.Popen[bytes]", Path]:
    """Start a process that has a folder in ``place``; return it and the folder."""
    process = subprocess.Popen([sys.executable, "-c", MAKER, str(place)], stdout=-1)
    assert process.stdout is not None
    return process, Path(os.fsdecode(process.stdout.readline().strip()))


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """While its maker lives a folder stays; once it is killed the next sweep takes it, and nothing else."""
    process, left = make(tmp_path)
    others = [tmp_path / name for name in ("repro-index-k", "repro-thesis-abcdefgh", "index", "repro-index-abcdefg_.d")]
    for other in others:
        other.mkdir()
    outside = tmp_path / "outside"
    (outside / "mine").mkdir(parents=True)
    (tmp_path / "repro-index-aaaaaaaa").symlink_to(outside)
    time.sleep(0.6)
    assert scratch.sweep(tmp_path) == []
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert scratch.sweep(tmp_path) == [left]
    assert not left.exists()
    assert all(path.exists() for path in (*others, outside / "mine"))


def test_a_folder_is_gone_afterwards(tmp_path: Path) -> None:
    """However what was done in it ends."""

    def fail() -> None:
        with scratch.folder("lock", tmp_path) as place:
            (place / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
