"""A folder that stands for the whole disk: what a run found by a relative path, its replay finds by the same one.

The project lies in it where it lies on the disk, ``../data`` and a sibling package beside it. What is not code is a
link to its live place; a link is made only where nothing else is, and nothing is ever made or removed through one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Container
from pathlib import Path


class Mirror:
    """The folder ``base`` of one replay; nothing outside it is ever touched."""

    def __init__(self, base: Path) -> None:
        self.base = Path(os.path.realpath(base))

    def at(self, path: str | Path) -> Path:
        """Return where an absolute path of the disk lies here."""
        return Path(f"{self.base}{path}")

    def clear(self, path: str | Path) -> None:
        """Remove a folder."""
        target = self.at(path)
        if target.is_dir() and self.owns(target):
            shutil.rmtree(target)

    def folder(self, path: str | Path) -> Path:
        """Make a folder, unless it lies behind a link; return where it lies here."""
        target = self.at(path)
        if self.owns(target):
            target.mkdir(parents=True, exist_ok=True)
        return target

    def link(self, source: Path, path: str | Path | None = None) -> None:
        """Let ``path`` (else the source's own) be a link to ``source``, unless a file or a link is there already.

        A folder that is there and has files is given those that it lacks.
        """
        path = source if path is None else path
        target = self.at(path)
        if not source.exists() or not self.owns(target.parent) or target.is_symlink() or target.is_file():
            return
        if source.is_dir() and (_has_files(target) or self.base.is_relative_to(source)):
            self.folder(path)
            for child in sorted(source.iterdir()):
                if not self.base.is_relative_to(child):
                    self.link(child, f"{path}{os.sep}{child.name}")
            return
        self.clear(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)

    def link_files(self, source: Path, path: str | Path, without: Container[Path] = ()) -> None:
        """Link every file below the folder ``source`` by itself, so that a replay can write beside them."""
        for here, _, names in os.walk(source):
            place = Path(f"{path}{here[len(str(source)) :]}")
            for name in names:
                if place / name not in without:
                    self.link(Path(here, name), place / name)

    def copy(self, source: Path, path: str | Path) -> None:
        """Copy a file, unless something is there already."""
        target = self.at(path)
        if self.owns(target.parent) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)

    def owns(self, target: Path) -> bool:
        """Say whether a place lies here, and not behind a link that leads out."""
        found = os.path.realpath(target)
        return found == str(self.base) or found.startswith(f"{self.base}{os.sep}")


def _has_files(folder: Path) -> bool:
    """Say whether there is anything but folders in a folder."""
    walked = os.walk(folder)
    return any(
        files or any(os.path.islink(os.path.join(here, name)) for name in names) for here, names, files in walked
    )
