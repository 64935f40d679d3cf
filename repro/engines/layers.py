"""Throw-away layers: a job's writes to folders of the user's go to an overlay of its own, by the kernel's overlayfs.

Each folder is seen as it is, and what is written, removed or renamed in it lies in the layer alone. It takes root, or
user namespaces; whether it can be had is found out by trying.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.engines import layered, local

#: Nothing that an experiment writes to: the operating system and what is no disk.
SYSTEM = ("/proc", "/sys", "/dev", "/run", "/etc", "/usr", "/boot", "/lib", "/lib64", "/bin", "/sbin")
_PATIENCE = 60.0
_MOST_LINKS = 40


@dataclass(frozen=True)
class Layers:
    """Folders with the layers over them, in ``base``; ``own`` are folders below them that stay as they are."""

    base: Path
    folders: tuple[str, ...]
    own: tuple[str, ...]

    def prepare(self, absent: Sequence[str], folders: Sequence[str], back: Sequence[tuple[str, str]]) -> str | None:
        """Try them; take away what is named, make folders, put back (copy, path). Return why they cannot be had."""
        for number, place in enumerate(self.folders):
            for part in ("upper", "work"):
                (self.base / f"{number}" / part).mkdir(parents=True)
            shutil.copymode(place, self.base / f"{number}" / "upper")  # the layer's top is the folder itself
        words = self._words([], {"absent": absent, "folders": folders, "back": back})
        try:
            tried = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        return None if tried.returncode == 0 else tried.stderr.strip().rpartition("\n")[2] or "it did not start"

    def launch(self, command: local.Command) -> local.LocalProcess:
        """Start a command under them; stands in for `local.launch`."""
        words = self._words(command.words, {"cwd": str(command.cwd)}, str(command.folder))
        return local.launch(command._replace(words=words))

    def _words(self, words: Sequence[str], more: Mapping[str, Any], *own: str) -> list[str]:
        layers = [
            (place, str(self.base / f"{number}" / "upper"), str(self.base / f"{number}" / "work"))
            for number, place in enumerate(self.folders)
        ]
        kept = [path for path in (*self.own, *map(os.path.realpath, own)) if self._number(path, ()) is not None]
        plan = {"layers": layers, "kept": kept, **more}
        return [sys.executable, "-I", "-S", os.path.abspath(layered.__file__), json.dumps(plan), *words]

    def covers(self, path: str) -> bool:
        """Say whether a path lies in a layer."""
        return self._number(path, self.own) is not None

    def at(self, path: str) -> str:
        """Return where what was written to a path is to be read: in the layer; elsewhere at the path itself."""
        for _ in range(_MOST_LINKS):
            number = self._number(path, self.own)
            if number is None:
                return path
            place = f"{self.base}/{number}/upper{path[len(self.folders[number]) :]}"
            link = place if os.path.lexists(place) else path
            if not os.path.islink(link):
                return place
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(link)))
        return path

    def _number(self, path: str, own: Iterable[str]) -> int | None:
        if any(_is_in(path, folder) for folder in own):
            return None
        return next((number for number, place in enumerate(self.folders) if _is_in(path, place)), None)


def loosen(base: Path) -> None:
    """Let layers in ``base`` be removed by anyone who may remove the folder: the kernel leaves one without rights."""
    for inner in base.glob("*/work/work"):
        inner.chmod(0o700)


def over(paths: Iterable[str], mounts: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that layers are to lie over so that all paths can be written: as high up as can be.

    A script may remove or rename the folders that it writes to, so they are no good. The topmost folder is taken that
    no other disk is mounted below: one overlay does not reach into another disk.
    """
    mounts = [*mounts]
    found = (_over(os.path.realpath(os.path.dirname(path)), mounts) for path in paths)
    return tuple(sorted({place for place in found if place is not None}))


def _over(folder: str, mounts: Sequence[str]) -> str | None:
    if any(_is_in(folder, system) for system in SYSTEM):
        return None
    mount = max((place for place in mounts if _is_in(folder, place)), key=len, default="/")
    for place in _from_top(folder):
        is_below = place != mount and _is_in(mount, place)
        if not is_below and not any(other != place and _is_in(other, place) for other in mounts):
            return place if os.path.isdir(place) else None
    return None


def _from_top(folder: str) -> Iterator[str]:
    parts = folder.strip("/").split("/")
    yield from ("/" + "/".join(parts[: count + 1]) for count in range(len(parts)) if parts[0])


def mounts() -> list[str]:
    """Return where something is mounted, as this process sees it."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [line.split(" ")[4].replace("\\040", " ").replace("\\134", "\\") for line in text.splitlines()]


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
