"""A walk over the project's folders: which there are, and which are never code (environments, caches, results)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from repro.base import caches
from repro.capture.variables import is_secret_name

#: Never captured unless tracked.
CACHES = frozenset(
    "__pycache__ .mypy_cache .pytest_cache .ruff_cache .ipynb_checkpoints .hypothesis .tox .nox .cache .eggs"
    " .import_linter_cache .DS_Store".split()
)
RESULTS = frozenset("wandb mlruns lightning_logs".split())
_KEYS = (".pem", ".key", ".p12", ".pfx", ".keystore", ".jks", ".ppk", ".kdbx", ".env")
_KEY_NAMES = frozenset(
    "id_rsa id_dsa id_ecdsa id_ed25519 .netrc _netrc .git-credentials .pypirc .pgpass .htpasswd .npmrc .yarnrc"
    " .vault_pass .my.cnf .s3cfg .boto .dockercfg .dockerconfigjson kaggle.json service_account.json".split()
)
#: Folders of keys and passwords; names that begin with ``.env`` count as well.
_KEY_FOLDERS = frozenset(".ssh .aws .gnupg .kube .docker .azure .huggingface .kaggle .secrets .password-store".split())
#: Ends of files that are code or documents, whatever they are called: `token_utils.py`, `passwords.md`.
_CODE = (".py", ".pyi", ".pyx", ".ipynb", ".md", ".rst", ".c", ".cc", ".cpp", ".h", ".cu", ".js", ".ts", ".sh", ".lock")
_BARE = frozenset("password passwords passwd passphrase pass".split())
#: Beyond so many folders we stop looking.
_MOST_FOLDERS = 200_000
_ENVIRONMENT = "a virtual environment"
#: Why a folder of a name is passed over.
_KINDS: dict[str, Callable[[str], bool]] = {
    "a cache": CACHES.__contains__,
    "results of another tool": RESULTS.__contains__,
    "may hold secrets": lambda name: name.startswith(".env") or name in _KEY_FOLDERS,
    "a store of repro": ".repro".__eq__,
}


class Layout(NamedTuple):
    """Folders relative to the root: all that were walked, those passed over with the reason, and if that is all."""

    folders: list[str]
    skipped: dict[str, str]
    complete: bool


def is_secret(name: str) -> bool:
    """Say whether a file of this name may hold a password, a token or a private key (`api_token.txt`)."""
    if name.startswith(".env") or name.endswith(_KEYS) or name in _KEY_NAMES:
        return True
    stem = name.lstrip(".").partition(".")[0]
    return not name.endswith(_CODE) and (is_secret_name(stem) or stem in _BARE)


def is_secret_folder(name: str) -> bool:
    """Say whether a folder of this name may hold passwords or private keys."""
    return _KINDS["may hold secrets"](name)


def walk(root: Path, store: Path) -> Layout:
    """Walk ``root`` level by level, without entering git's own folders, the store, environments, caches and results.

    A cache is known by its name, or by the variable that names its place.
    """
    stores = {str(store), os.path.realpath(store)}
    made = {item.prefix.rstrip(os.sep) for item in caches.named(os.environ, [str(root)]).places if item.kind == "made"}
    folders: list[str] = []
    skipped: dict[str, str] = {}
    pending = deque([""])
    while pending and len(folders) < _MOST_FOLDERS:
        here = pending.popleft()
        for entry in sorted(_children(root / here), key=lambda entry: entry.name):
            name = f"{here}/{entry.name}" if here else entry.name
            reason = "a cache" if entry.path in made else _reason(entry, stores)
            if reason is None:
                folders.append(name)
                pending.append(name)
            elif reason:
                skipped[name] = reason
    return Layout(folders, skipped, not pending)


def environments(root: Path, store: Path) -> list[str]:
    """Return the virtual environments in ``root``."""
    return [name for name, reason in walk(root, store).skipped.items() if reason == _ENVIRONMENT]


def folders_of(files: Iterable[str]) -> set[str]:
    """Return all folders that hold one of the files, at any depth; the root as an empty text."""
    found = {""}
    for path in files:
        folder = os.path.dirname(path)
        while folder not in found:
            found.add(folder)
            folder = os.path.dirname(folder)
    return found


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _reason(entry: os.DirEntry[str], stores: set[str]) -> str | None:
    """Return why a folder is passed over; an empty text says that it goes without saying."""
    if entry.name == ".git" or entry.path in stores:
        return ""
    if entry.name == "__pycache__":
        return ""
    if os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
        return _ENVIRONMENT
    return next((reason for reason, is_one in _KINDS.items() if is_one(entry.name)), None)
