"""pip, run for an interpreter under its own configuration; what it complains of is told in words that help."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from repro.base import scratch
from repro.base.process import die_with_parent
from repro.errors import EnvironmentMismatchError

_SHOWN = 400
_NOT_OURS = ("REPRO_JOB", "PYTHONPATH", "PYTHONHOME", "PIP_REQUIRE_VIRTUALENV", "PIP_USER", "PIP_TARGET")
_HASH = re.compile(r"(?:^|\n)\s+([A-Za-z0-9._-]+==\S+) from (\S+)")
_MISSING = re.compile(r"No matching distribution found for ([^\s;]+)")
_OTHERS = re.compile(r"none of the wheel's tags \(([^)]*)\) are compatible.*/([^/\s#]+\.whl)")
_VERSIONS = re.compile(r"from versions: ([^)]*)\)")


def run(
    arguments: Sequence[str],
    *,
    python: str | None = None,
    pass_fds: Sequence[int] = (),
    marks: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run pip for ``python`` (this interpreter unless given) and return what it prints; it dies with this process.

    What it starts itself, to build a source distribution, may not: it has the variables ``marks``.

    Raises:
        EnvironmentMismatchError: when pip fails: what it could not find, or what was not what its hash says.
    """
    command = [*_command(python), "--disable-pip-version-check", "--no-input", *arguments]
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    variables |= {**marks} | ({"_PIP_RUNNING_IN_SUBPROCESS": "1"} if python else {})
    with scratch.folder("pip") as place:  # what pip leaves there when it is killed is found with it
        log = place / "log"  # there alone pip says which files do not fit
        done = subprocess.run(
            [*command, "--log", str(log)],
            env=variables | {"TMPDIR": str(place)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=pass_fds,
            preexec_fn=die_with_parent,
        )
        if done.returncode:
            raise complaint(
                done.stderr or done.stdout, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            )
    return done.stdout


def _command(python: str | None) -> list[str]:
    """Return the words that start pip, isolated from the folder we stand in: no module of the user's is imported.

    For another interpreter that is what ``pip --python`` starts in its turn: as our own child it ends with us.
    """
    if python is None:
        return [sys.executable, "-P", "-m", "pip"]
    found = importlib.util.find_spec("pip")
    runner = Path(found.origin if found is not None and found.origin else "").resolve().with_name("__pip-runner__.py")
    if not runner.is_file():
        raise EnvironmentMismatchError(
            "the pip beside repro is missing, or cannot install for another Python", hint="pip install --upgrade pip"
        )
    return [python, str(runner)]


def complaint(words: str, log: str = "") -> EnvironmentMismatchError:
    """Return the error that pip's words mean; its log says more."""
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
        return _missing(missing[1], words, log)
    if "Could not find a version" in words or "Temporary failure in name resolution" in words:
        return EnvironmentMismatchError(f"pip found no index: {_end(words)}", hint="pip config list; pip download NAME")
    return EnvironmentMismatchError(f"pip failed: {_end(words)}", hint="pip config list shows the index it asked")


def _missing(name: str, words: str, log: str) -> EnvironmentMismatchError:
    versions = _VERSIONS.search(words)
    known = versions[1] if versions is not None else "none"
    others = [tags for tags, file in _OTHERS.findall(log) if _is_of(name, unquote(file))]
    if others or "Ignored the following versions that require a different python" in words:
        there = f" ({', '.join(dict.fromkeys(others))[:_SHOWN]})" if others else ""
        return EnvironmentMismatchError(
            f"{name} is there only for another Python or platform{there}",
            hint="PIP_FIND_LINKS=/a/folder names the place of a wheel that fits; or --env container --base IMAGE",
        )
    few = known if len(known) < _SHOWN else "..." + known[-_SHOWN:]
    return EnvironmentMismatchError(
        f"pip finds no {name} (versions there: {few})",
        hint="name the place of its wheel: PIP_FIND_LINKS=/a/folder, or PIP_EXTRA_INDEX_URL=https://...",
    )


def _is_of(requirement: str, file: str) -> bool:
    """Say whether a wheel is one that a requirement asks for."""
    try:
        wanted, (name, version, *_) = Requirement(requirement), parse_wheel_filename(file)
    except (InvalidRequirement, InvalidWheelFilename):
        return False
    return canonicalize_name(wanted.name) == name and wanted.specifier.contains(version, prereleases=True)


def _end(words: str) -> str:
    lines = [line for line in words.strip().splitlines() if line.strip() and not line.startswith("[notice]")]
    return " ".join(lines[-3:])[-_SHOWN:]


def find_links(folders: Sequence[Path | str]) -> list[str]:
    """Return the options that let pip look for wheels in those of the folders that are there."""
    there = (folder for folder in dict.fromkeys(map(str, folders)) if os.path.isdir(folder))
    return [word for folder in there for word in ("--find-links", folder)]
