"""A walk over the project's folders: which there are, and which are never code (environments, caches, results)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

#: Never captured unless tracked.
CACHES = frozenset(
    "__pycache__ .mypy_cache .pytest_cache .ruff_cache .ipynb_checkpoints .hypothesis .tox .nox .cache .eggs"
    " .import_linter_cache .DS_Store".split()
)
RESULTS = frozenset("wandb mlruns lightning_logs".split())
_KEYS = (".pem", ".key", ".p12", ".pfx", ".keystore")
_KEY_NAMES = frozenset("id_rsa id_dsa id_ecdsa id_ed25519 .netrc .git-credentials".split())
#: At most so many folders are remembered, to be made again on a replay.
_MOST_FOLDERS = 5_000


class Layout(NamedTuple):
    """Folders relative to the root: all that were walked, those passed over with the reason, and if that is all."""

    folders: list[str]
    skipped: dict[str, str]
    complete: bool


def is_secret(name: str) -> bool:
    """Say whether a file of this name may hold a password or a private key."""
    return name.startswith(".env") or name.endswith(_KEYS) or name in _KEY_NAMES


def walk(root: Path, store: Path) -> Layout:
    """Walk ``root`` without entering git's own folders, the store, environments, caches and result folders."""
    folders: list[str] = []
    skipped: dict[str, str] = {}
    pending = [""]
    while pending and len(folders) < _MOST_FOLDERS:
        here = pending.pop()
        for entry in sorted(_children(root / here), key=lambda entry: entry.name, reverse=True):
            name = f"{here}/{entry.name}" if here else entry.name
            reason = _reason(entry, store)
            if reason is None:
                folders.append(name)
                pending.append(name)
            elif reason:
                skipped[name] = reason
    return Layout(folders, skipped, not pending)


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _reason(entry: os.DirEntry[str], store: Path) -> str | None:
    """Return why a folder is passed over; an empty text says that it goes without saying."""
    if entry.name == ".git" or entry.path == str(store):
        return ""
    if entry.name in CACHES:
        return "" if entry.name == "__pycache__" else "a cache"
    if entry.name in RESULTS:
        return "results of another tool"
    if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
        return "a virtual environment"
    if entry.name == ".repro":
        return "a store of repro"
    return None
