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
    lines = _git(root, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "-z").split(b"\0")
    heads = dict(line[2:].decode().split(" ", 1) for line in lines if line.startswith(b"# "))
    commit = heads.get("branch.oid")
    branch = heads.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(line and not line.startswith(b"# ") for line in lines),
        "remotes": _remotes(root),
    }


def _remotes(root: Path) -> dict[str, str]:
    try:
        found = _git(root, "config", "-z", "--get-regexp", r"^remote\..*\.url$")
    except subprocess.CalledProcessError:  # there is none
        return {}
    pairs = (item.decode(errors="replace").split("\n", 1) for item in found.split(b"\0")[:-1])
    return {name.split(".", 1)[1].rpartition(".")[0]: redact_url(url) for name, url in pairs}


def _git(root: Path, *arguments: str) -> bytes:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
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
    return process.output(["git", *settings, *arguments], cwd=root, env=env, timeout=_TIMEOUT)
