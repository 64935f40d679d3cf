"""The project root: git's top level, else the nearest folder with a store or ``pyproject.toml``, else the script's."""

from __future__ import annotations

import os
from pathlib import Path

from repro.errors import ProjectRootError

_MARKS = (".repro", "pyproject.toml")


def find(start: Path, script: Path | None = None) -> Path:
    """Return the root of the project that ``start`` (a folder) lies in.

    Where that project does not hold the script, it is the script's own, unless the script is a program on PATH.

    Raises:
        ProjectRootError: when it would be the home folder or ``/``.
    """
    start = start.resolve()
    found = _marked(start)
    if script is not None and not _is_tool(script):
        place = script.resolve().parent
        if found is None or found in _forbidden() or not place.is_relative_to(found):
            found = _marked(place) or found or place
    found = found or start
    if found in _forbidden():
        _refuse(found)
    return found


def _marked(start: Path) -> Path | None:
    """Return git's top level, else the nearest folder with a mark that is neither the home folder nor ``/``."""
    folders = (start, *start.parents)
    top = next((folder for folder in folders if (folder / ".git").exists()), None)
    if top is not None:
        return top
    allowed = (folder for folder in folders if folder not in _forbidden())
    return next((folder for folder in allowed if any((folder / mark).exists() for mark in _MARKS)), None)


def _forbidden() -> tuple[Path, Path]:
    return Path.home().resolve(), Path("/")


def _is_tool(script: Path) -> bool:
    """Say whether a script lies among programs: on PATH, or an environment's, as ``/opt/env/bin/torchrun train.py``."""
    environment = script.parent.parent
    return str(script.parent) in os.environ.get("PATH", os.defpath).split(os.pathsep) or any(
        (environment / mark).exists() for mark in ("pyvenv.cfg", "conda-meta")
    )


def _refuse(folder: Path) -> None:
    what = "the home folder" if folder != Path("/") else "the whole disk"
    raise ProjectRootError(
        f"the project would be {folder}, {what}",
        hint="move the script into a folder of its own (mkdir project), or run `git init` in the project's folder",
    )
