"""Folders as values: what lies on the disk, byte for byte, so that two of them can be compared with ``==``."""

import os
import zlib
from pathlib import Path
from typing import Any

from conftest import Project

Tree = dict[bytes, tuple[str, bytes]]

#: Reads every file below the folder it stands in and logs one number that depends on all names, bits and bytes.
READS_ALL = """\
import os
import zlib

import repro

count, total = 0, 0
for folder, folders, files in os.walk(b"."):
    folders[:] = sorted(name for name in folders if name not in (b".git", b".repro", b"__pycache__"))
    for name in sorted(files):
        path = os.path.join(folder, name)
        if name == b".git":
            continue
        is_link = os.path.islink(path) and not os.readlink(path).startswith(b"/")  # not one that a replay made
        data = os.readlink(path) if is_link else open(path, "rb").read()
        mode = b"x" if os.stat(path, follow_symlinks=not is_link).st_mode & 0o100 else b"-"
        total = zlib.crc32(path + mode + data, total)
        count += 1
repro.current().log(count=count, total=total)
"""


def read(root: Path, *, without: tuple[bytes, ...] = (b".git", b".repro", b"__pycache__")) -> Tree:
    """Return every file and link below ``root``: kind (file, script, link) and content; folders are left out."""
    found: Tree = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            path = os.path.join(folder, name)
            if name not in without:
                found[os.path.relpath(path, base)] = _entry(path)
        folders[:] = [name for name in folders if name not in without]
    return found


def _entry(path: bytes) -> tuple[str, bytes]:
    if os.path.islink(path):
        return "link", os.readlink(path)
    with open(path, "rb") as handle:
        return "script" if os.stat(path).st_mode & 0o100 else "file", handle.read()


def git(root: Path) -> dict[bytes, tuple[int, bytes]]:
    """Return every file below ``.git`` with its mode and bytes: index, HEAD, refs, stash, objects, configuration."""
    base = os.fsencode(root / ".git")
    found = {}
    for folder, _, files in os.walk(base):
        for name in files:
            path = os.path.join(folder, name)
            with open(path, "rb") as handle:
                found[os.path.relpath(path, base)] = (os.stat(path).st_mode, handle.read())
    return found


def record(project: Project, run: str = "last") -> dict[str, Any]:
    """Return a run's record."""
    found: dict[str, Any] = project.repro("show", run, "--json", check=0).json["record"]
    return found


def outcome(project: Project, run: str = "last") -> dict[str, Any]:
    """Return a run's outcome."""
    found: dict[str, Any] = project.repro("show", run, "--json", check=0).json["outcome"]
    return found


def place(project: Project, replay: dict[str, Any]) -> Path:
    """Return the folder that stands for the project in a kept replay."""
    return Path(record(project, replay["run_id"])["circumstances"]["project"]["place"])


def identical(project: Project, *words: str, run: str = "last", **env: str) -> dict[str, Any]:
    """Replay a run and return the document; anything but IDENTICAL fails, with all that `replay` had to say."""
    done = project.repro("replay", run, "--json", *words, **env)
    assert done.code == 0, f"{done.out}\n{done.err}"
    assert done.json["verdict"] == "IDENTICAL"
    found: dict[str, Any] = done.json
    return found


def everything(store: Path) -> bytes:
    """Return all bytes of a store, with git's objects decompressed."""
    parts = []
    for path in sorted(store.rglob("*")):
        if path.is_symlink():
            parts.append(os.fsencode(path.readlink()))
        elif path.is_file():
            data = path.read_bytes()
            parts.append(zlib.decompress(data) if _is_object(path) else data)
    return b"\0".join(parts)


def _is_object(path: Path) -> bool:
    return "code.git/objects/" in str(path) and len(path.parent.name) == 2
