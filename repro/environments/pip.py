"""pip, run for an interpreter under its own configuration; what it complains of is told in words that help."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro.errors import EnvironmentMismatchError

_PR_SET_PDEATHSIG = 1
_SHOWN = 400
_HASH = re.compile(r"(?:^|\n)\s+([A-Za-z0-9._-]+==\S+) from (\S+)")
_MISSING = re.compile(r"No matching distribution found for ([^\s;]+)")
_VERSIONS = re.compile(r"from versions: ([^)]*)\)")


def run(
    arguments: Sequence[str],
    *,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> str:
    """Run pip for ``python`` (this interpreter unless given) and return what it prints; it dies with this process.

    Raises:
        EnvironmentMismatchError: when pip fails: what it could not find, or what was not what its hash says.
    """
    # Isolated from the folder we stand in: no module of the user's is imported. Its own configuration counts.
    command = [sys.executable, "-P", "-m", "pip", *(["--python", python] if python else [])]
    command += ["--disable-pip-version-check", "--no-input", *arguments]
    variables = dict(os.environ if env is None else env)
    for name in ("REPRO_JOB", "PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_TARGET"):
        variables.pop(name, None)
    libc = ctypes.CDLL(None)
    done = subprocess.run(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        pass_fds=pass_fds,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    if done.returncode:
        raise complaint(done.stderr or done.stdout)
    return done.stdout


def complaint(words: str) -> EnvironmentMismatchError:
    """Return the error that pip's words mean."""
    if "No space left on device" in words or "Disk quota exceeded" in words:
        return EnvironmentMismatchError(
            "no space left on the disk for the environment", hint="free some space (df -h), or repro gc"
        )
    if "DO NOT MATCH THE HASHES" in words:
        which = ", ".join(found[0] for found in _HASH.finditer(words.partition("DO NOT MATCH")[2]))
        where = which.strip() or "a distribution"
        return EnvironmentMismatchError(
            f"{' '.join(where.split())}: the index has no file with a locked hash",
            hint="the index replaced it, or the lock is wrong: repro lock --from RUN resolves the hashes anew",
        )
    missing = _MISSING.search(words)
    if missing is not None:
        return _missing(missing[1], words)
    if "Could not find a version" in words or "Temporary failure in name resolution" in words:
        return EnvironmentMismatchError(f"pip found no index: {_end(words)}", hint="pip config list; pip download NAME")
    return EnvironmentMismatchError(f"pip failed: {_end(words)}", hint="pip config list shows the index it asked")


def _missing(name: str, words: str) -> EnvironmentMismatchError:
    versions = _VERSIONS.search(words)
    known = versions[1] if versions is not None else "none"
    if "not a supported wheel" in words or "Ignored the following versions that require a different python" in words:
        return EnvironmentMismatchError(
            f"{name} has no wheel for this Python {sys.version.split()[0]}",
            hint="repro docker build with the recorded Python in its base image (--base)",
        )
    few = known if len(known) < _SHOWN else "..." + known[-_SHOWN:]
    return EnvironmentMismatchError(
        f"pip finds no {name} (versions there: {few})",
        hint="name the place of its wheel: PIP_FIND_LINKS=/a/folder, or PIP_EXTRA_INDEX_URL=https://...",
    )


def _end(words: str) -> str:
    lines = [line for line in words.strip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return " ".join(lines[-3:])[-_SHOWN:]


def find_links(folders: Sequence[Path | str]) -> list[str]:
    """Return the options that let pip look for wheels in those of the folders that are there."""
    found = []
    for folder in dict.fromkeys(map(str, folders)):
        with contextlib.suppress(OSError):
            if os.path.isdir(folder):
                found += ["--find-links", folder]
    return found
