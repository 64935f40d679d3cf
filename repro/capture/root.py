"""The project root: git's top level, else the nearest folder with a store or ``pyproject.toml``, else the script's."""

from __future__ import annotations

from pathlib import Path

from repro.errors import ProjectRootError

_MARKS = (".repro", "pyproject.toml")


def find(start: Path, script: Path | None = None) -> Path:
    """Return the root of the project that ``start`` (a folder) lies in.

    Raises:
        ProjectRootError: when it would be the home folder or ``/``.
    """
    start = start.resolve()
    home = Path.home().resolve()
    for marks in ((".git",), _MARKS):
        for folder in (start, *start.parents):
            if any((folder / mark).exists() for mark in marks):
                if folder in (home, Path("/")):
                    if marks == (".git",):
                        _refuse(folder)
                    continue
                return folder
    folder = start if script is None else script.resolve().parent
    if folder in (home, Path("/")):
        _refuse(folder)
    return folder


def _refuse(folder: Path) -> None:
    what = "the home folder" if folder != Path("/") else "the whole disk"
    raise ProjectRootError(
        f"the project would be {folder}, {what}",
        hint="move the script into a folder of its own (mkdir project), or run `git init` in the project's folder",
    )
