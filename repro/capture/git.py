"""The user's own repository, read only: commit, branch, whether it is dirty, remotes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from repro.base import process
from repro.capture.variables import redact_remote

_TIMEOUT = 3.0


def describe(root: Path) -> dict[str, Any]:
    """Return what git knows of ``root``; an empty mapping where there is no repository.

    Raises:
        OSError, subprocess.SubprocessError: when git does not answer.
    """
    if not (root / ".git").exists():
        return {}
    words = ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty", "-z")
    lines = ask(root, *_without_filters(root), *words).split(b"\0")
    heads = dict(line[2:].decode().split(" ", 1) for line in lines if line.startswith(b"# "))
    commit = heads.get("branch.oid")
    branch = heads.get("branch.head")
    return {
        "commit": None if commit == "(initial)" else commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(line and not line.startswith(b"# ") for line in lines),
        "remotes": _remotes(root),
    }


def _without_filters(root: Path) -> list[str]:
    """Return the options that take the programs out of git's filters (git-lfs, smudge and clean).

    To compare a file, git would have it filtered: a program that the project names would run, and git-lfs writes into
    `.git`. Without, a filtered file that was touched counts as changed.
    """
    try:
        found = ask(root, "config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$")
    except subprocess.CalledProcessError:  # there is none
        return []
    drivers = sorted({name.rpartition(".")[0] for name in found.decode(errors="surrogateescape").split("\0")[:-1]})
    off = {"clean": "", "smudge": "", "process": "", "required": "false"}
    return [part for driver in drivers for key, value in off.items() for part in ("-c", f"{driver}.{key}={value}")]


def environment() -> dict[str, str]:
    """Return an environment for the user's own git: with the user's settings, and told to write nothing."""
    names = (name for name in os.environ if not name.startswith("GIT_") or name.startswith("GIT_CONFIG_"))
    kept = {name: os.environ[name] for name in names}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "", "GIT_TERMINAL_PROMPT": "0"}
    return kept | quiet | {"LC_ALL": "C"}


def _remotes(root: Path) -> dict[str, str]:
    try:
        found = ask(root, "config", "-z", "--get-regexp", r"^remote\..*\.url$")
    except subprocess.CalledProcessError:  # there is none
        return {}
    pairs = (item.decode(errors="replace").split("\n", 1) for item in found.split(b"\0")[:-1])
    return {name.split(".", 1)[1].rpartition(".")[0]: redact_remote(url) for name, url in pairs}


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
