"""What lies in the folder of a killed run and was not written by repro: set apart, so that the rest is concluded."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from repro.run import metrics, observed

#: Where they go, in the run's folder.
FOLDER = "strays"
_LINES = re.compile(r"[0-9][-0-9a-z]*\.jsonl")
_ROWS = re.compile(r"\.?[0-9]+-[-0-9a-z]*\.(rows|details|tables)")
#: The folders whose files are read to conclude a run, with the names that they have.
_NAMES = {"observed": _LINES, "metrics": _LINES, "trail": _ROWS, "loader": _ROWS}
#: What the folders of one kind have beside those.
_FURTHER = {"observed": {"places"}}
_RESULTS = ("artifacts", "predictions", "averages", "checkpoints", "inputs")
_LOGS = ("stdout.log", "stderr.log", "job.json")


def set_apart(folder: Path) -> list[str]:
    """Move what is not repro's out of the folders of a run that is over; return the names, relative to the run.

    Raises:
        OSError: when the disk refuses.
    """
    names = [path.relative_to(folder).as_posix() for path in _strays(folder)]
    for name in names:
        target = folder / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / name, target)
    return names


def _strays(folder: Path) -> Iterator[Path]:
    for part, pattern in _NAMES.items():
        for path in _children(folder / part):
            if path.name in _FURTHER.get(part, ()):
                continue
            if not (pattern.fullmatch(path.name) and _is_regular(path) and _is_sound(path)):
                yield path
    for part in _RESULTS:
        for path in _below(folder / part):
            if not _is_regular(path):
                yield path
    yield from (folder / name for name in _LOGS if os.path.lexists(folder / name) and not _is_regular(folder / name))


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _below(folder: Path) -> Iterator[Path]:
    for path in _children(folder):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path


def _is_regular(path: Path) -> bool:
    """Say whether a path is a file that can be read: no link, no pipe, no device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


def _is_sound(path: Path) -> bool:
    """Say whether a file can be read as what its folder is for; torn lines are passed over by the readers."""
    reader = _READERS.get(path.parent.name)
    try:
        return reader is None or reader(path) is not None
    except Exception:  # noqa: BLE001  (whatever is wrong with it: it was not written by repro)
        return False


def _read_points(path: Path) -> list[metrics.Point]:
    points = list(metrics.read_file(path))
    return sorted(points, key=lambda point: -1 if point.step is None else point.step)


_READERS: Mapping[str, Callable[[Path], object]] = {
    "observed": lambda path: observed.read_files([path]).document(),
    "metrics": _read_points,
}
