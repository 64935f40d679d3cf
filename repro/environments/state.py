"""The environment as it is now: every installed file against RECORD, against the lock in force, and against a run's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from repro.capture import drift, lock, packages
from repro.capture.interpreter import Interpreter
from repro.record.values import Record


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that is not what its wheel was, with its files that changed and those that are missing."""

    name: str
    version: str
    changed: list[str]
    missing: list[str]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``lock`` is the one in force or None, ``differs`` what is not as in it, or as in the record."""

    ok: bool
    python: str
    interpreter: str
    digest: str
    distributions: int
    files: int
    lock: str | None
    matches: bool | None
    edited: list[Edited]
    unlisted: list[str]
    differs: list[str]
    run_id: str | None = None


def look(python: Interpreter, root: Path, record: Record | None) -> State:
    """Hash every file of an interpreter's distributions; with a ``record``, compare them with those of its run."""
    found = packages.scan(python.path)
    edited, files = [], 0
    claims = drift.Claims(item.place for item in found.distributions)
    for item in found.distributions:
        path = f"{item.place}/RECORD"
        if item.editable is None and os.path.exists(path):
            files += len(drift.read(path))
            edited += _edited(item, claims.edited(item.place, thorough=True))
    force = lock.describe(root, found.distributions, python.version)
    listed = found.packages(root, {})
    differs = force.get("differences", []) if record is None else _against(record, python, found)
    is_met = force.get("matches") is not False or not force.get("hashes")
    return State(
        ok=not edited and (is_met if record is None else not differs),
        python=python.executable,
        interpreter=python.version,
        digest=packages.environment_digest(python.version, listed),
        distributions=len(found.distributions),
        files=files,
        lock=force["lock"],
        matches=force.get("matches"),
        edited=edited,
        unlisted=[item.name for item in found.distributions if item.digest == "none"],
        differs=differs,
        run_id=None if record is None else record.run_id,
    )


def _edited(item: packages.Distribution, found: dict[str, str | None]) -> list[Edited]:
    if not found:
        return []
    missing = sorted(path for path, now in found.items() if now is None)
    changed = sorted(set(found).difference(missing))
    return [Edited(name=item.name, version=item.version, changed=changed, missing=missing)]


def _against(record: Record, python: Interpreter, found: packages.Environment) -> list[str]:
    """Say in words what is not as it was when a run was recorded; of editable installs the version alone counts."""
    now: dict[str, Any] = {item.name: item for item in found.distributions if item.name != packages.SELF}
    then = {item.name: item for item in record.recipe.packages}
    lines = []
    if python.version != record.recipe.interpreter:
        lines.append(f"python: recorded {record.recipe.interpreter}, here {python.version}")
    for name in sorted({*now, *then}):
        one, other = then.get(name), now.get(name)
        before, after = ("none" if item is None else item.version for item in (one, other))
        if before != after:
            lines.append(f"{name}: recorded {before}, here {after}")
        elif one and other and other.editable is None and one.digest != other.digest:
            lines.append(f"{name}: {before}, with other files than were recorded")
    return lines
