"""The user's own repository, read only: commit, branch, whether it is dirty, remotes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from repro.base import process
from repro.capture.variables import redact_url

_TIMEOUT = 3.0


def describe(root: Path) -> dict[str, Any]:
    """Return what git knows of ``root``; an empty mapping where there is no repository.

    Raises:
        OSError, subprocess.SubprocessError: when git does not answer.
    """
    if not (root / ".git").exists():
        return {}
    lines = ask(root, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "-z").split(b"\0")
    heads = dict(line[2:].decode().split(" ", 1) for line in lines if line.startswith(b"# "))
    commit = heads.get("branch.oid")
    branch = heads.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(line and not line.startswith(b"# ") for line in lines),
        "remotes": _remotes(root),
    }


def environment() -> dict[str, str]:
    """Return an environment for the user's own git: with the user's settings, and told to write nothing."""
    names = (name for name in os.environ if not name.startswith("GIT_") or name.startswith("GIT_CONFIG_"))
    kept = {name: os.environ[name] for name in names}
    return kept | {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


def _remotes(root: Path) -> dict[str, str]:
    try:
        found = ask(root, "config", "-z", "--get-regexp", r"^remote\..*\.url$")
    except subprocess.CalledProcessError:  # there is none
        return {}
    pairs = (item.decode(errors="replace").split("\n", 1) for item in found.split(b"\0")[:-1])
    return {name.split(".", 1)[1].rpartition(".")[0]: redact_url(url) for name, url in pairs}


def ask(root: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Return what the user's git answers, told to write nothing.

    Raises:
        OSError, subprocess.SubprocessError: when it does not.
    """
    settings = (
        "-c",
        "safe.directory=*",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "color.ui=false",
        "-c",
        "status.relativePaths=false",
    )
    return process.output(["git", *settings, *arguments], cwd=root, env=environment(), stdin=stdin, timeout=_TIMEOUT)
