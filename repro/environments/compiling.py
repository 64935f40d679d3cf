"""What a project asks for, compiled by pip-tools into a lock with hashes; and whether the lock is still that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement

from repro.base import digest, files, scratch
from repro.capture.packages import normalise
from repro.environments import locks, pip
from repro.errors import StaleLockError, UsageError

FOLDER = "lockfiles"
_INCLUDE = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)")
_OPTIONS = (
    "--generate-hashes",
    "--allow-unsafe",
    "--strip-extras",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-header",
    "--quiet",
)


class Inputs(NamedTuple):
    """What a lock is compiled from: files relative to the project, and the extras of its ``pyproject.toml``."""

    root: Path
    files: list[str]
    extras: tuple[str, ...]


def inputs(root: Path, extras: Sequence[str] = ()) -> Inputs:
    """Return what the project asks for: ``lockfiles/*.in``, else its ``pyproject.toml``.

    Raises:
        UsageError: when it has neither, or an extra that is asked for is not there.
    """
    found = sorted(path.relative_to(root).as_posix() for path in root.glob(f"{FOLDER}/*.in"))
    if found and extras:
        raise UsageError(f"--extra is of pyproject.toml, and {found[0]} is compiled", hint=f"name it in {found[0]}")
    if found:
        return Inputs(root, found, ())
    table = _project(root)
    if table is None:
        hint = f"name them in {FOLDER}/requirements.in, a line each"
        raise UsageError(f"{root} has neither {FOLDER}/*.in nor a pyproject.toml with [project]", hint=hint)
    known = table.get("optional-dependencies", {})
    unknown = [name for name in extras if name not in known]
    if unknown:
        raise UsageError(f"pyproject.toml has no extra {unknown[0]!r}", hint=f"it has: {', '.join(known) or 'none'}")
    return Inputs(root, ["pyproject.toml"], tuple(sorted(extras)))


def _project(root: Path) -> dict[str, Any] | None:
    path = root / "pyproject.toml"
    if not path.is_file():
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("project")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else None


def requirements(asked: Inputs) -> list[str]:
    """Return the lines that count: requirements and options, without comments; of files that they include as well."""
    if asked.files == ["pyproject.toml"]:
        table = _project(asked.root) or {}
        extras = table.get("optional-dependencies", {})
        named = [f"{name}: {line}" for name in asked.extras for line in extras.get(name, [])]
        python = table.get("requires-python", "")
        lines = [*table.get("dependencies", []), *named, f"python {python}", *map(str, table.get("dynamic", []))]
    else:
        lines = [line for name in asked.files for line in _lines(asked.root / name)]
    constraints = asked.root / FOLDER / "constraints.txt"
    return sorted({*lines, *(f"-c {line}" for line in (_lines(constraints) if constraints.is_file() else ()))})


def _lines(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        include = _INCLUDE.match(line)
        if include is not None:
            mark = "-c " if line.startswith(("-c", "--c")) else ""
            yield from (mark + inner for inner in _lines(path.parent / include[1]))
        elif line:
            yield line


def inputs_digest(asked: Inputs) -> str:
    """Return the digest of what a lock is compiled from."""
    return digest.of_value("lock-inputs/1", [requirements(asked), list(asked.extras)])


def compile_lock(asked: Inputs, *, upgrade: bool = False) -> tuple[str, str]:
    """Return name and text of the lock of a project's inputs, for this interpreter and the index pip is set up for.

    What an earlier lock of this kind pins is kept while it fits, unless ``upgrade``.

    Raises:
        EnvironmentMismatchError: when nothing satisfies the inputs here.
    """
    with scratch.folder("lock") as place:
        target = place / "lock.txt"
        earlier = _earlier(asked.root)
        if earlier is not None and not upgrade:
            target.write_bytes(earlier.read_bytes())
        _pip_compile(asked, target, upgrade)
        body = target.read_text(encoding="utf-8")
    pins = locks.parse(body)
    body = "".join(f"{line}\n" for line in body.splitlines() if not line.startswith(("-", ".", "/", "file:")))
    options = "".join(f" --extra {name}" for name in asked.extras)
    head = [
        f"# Made by repro lock{options} from {', '.join(asked.files)}, for {locks.tag()}.",
        f"# inputs: {inputs_digest(asked)}",
        f"# pins: {locks.pins_digest(pins)}",
    ]
    return locks.name_of(pins), "\n".join(head) + "\n" + body


def _earlier(root: Path) -> Path | None:
    """Return the latest lock for this interpreter and platform."""
    found = sorted(root.glob(f"{FOLDER}/{locks.tag()}*.txt"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _pip_compile(asked: Inputs, target: Path, upgrade: bool) -> None:
    constraints = f"{FOLDER}/constraints.txt"
    command = [sys.executable, "-m", "piptools", "compile", *_OPTIONS, "--output-file", str(target)]
    command += [*(["--upgrade"] if upgrade else []), *(f"--extra={name}" for name in asked.extras)]
    command += ["--constraint", constraints] if (asked.root / constraints).is_file() else []
    command += asked.files
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "REPRO_JOB")}
    done = subprocess.run(
        command, cwd=asked.root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise pip.complaint(done.stderr or done.stdout)


def write(root: Path, name: str, text: str) -> Path:
    """Write a lock into the project's folder of locks, whole."""
    (root / FOLDER).mkdir(exist_ok=True)
    path = root / FOLDER / name
    files.replace(path, text.encode())
    return path


def check(asked: Inputs) -> Path:
    """Return the lock of the project that is for this interpreter, when it is what the inputs ask for.

    Raises:
        StaleLockError: when there is none, or it is not: what has changed since.
    """
    found = sorted(asked.root.glob(f"{FOLDER}/{locks.tag()}*.txt"))
    if not found:
        raise StaleLockError(f"there is no lock for {locks.tag()} in {asked.root / FOLDER}", hint="repro lock")
    faults = {path: _fault(path, asked) for path in found}
    sound = [path for path, fault in faults.items() if fault is None]
    if sound:
        return sound[-1]
    path, fault = next(iter(faults.items()))
    raise StaleLockError(f"{path.relative_to(asked.root)} is stale: {fault}", hint="repro lock")


def _fault(path: Path, asked: Inputs) -> str | None:
    text = path.read_text(encoding="utf-8", errors="replace")
    marks, pins = locks.marks(text), locks.parse(text)
    unhashed = [pin.name for pin in pins if not pin.hashes]
    if unhashed:
        return f"{unhashed[0]} has no hash"
    unmet = _unmet(requirements(asked), pins)
    if unmet is not None:
        return unmet
    if marks.get("pins") != locks.pins_digest(pins):
        return "its pins were changed by hand, or it was not made by repro lock"
    if marks.get("inputs") != inputs_digest(asked):
        return f"{', '.join(asked.files)} changed since it was made"
    return None


def _unmet(lines: Sequence[str], pins: Sequence[locks.Pin]) -> str | None:
    """Return what a line asks for that the lock does not hold, as far as a line is a plain requirement."""
    versions = {pin.name: pin.version for pin in pins}
    for line in lines:
        try:
            wanted = Requirement(re.sub(r"^[\w.-]+: ", "", line))
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        name = normalise(wanted.name)
        if name == "python":
            continue
        if name not in versions:
            return f"{line} is not in it"
        if not wanted.specifier.contains(versions[name], prereleases=True):
            return f"it has {name} {versions[name]}, and {line} is asked for"
    return None
