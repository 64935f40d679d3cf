"""What brings a record's environment back: its lock, the wheels that the store kept, and a Python of its version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from repro.base import digest, files, process
from repro.environments import locks, resolve
from repro.errors import CaptureError, EnvironmentMismatchError
from repro.record.values import Package, Record
from repro.store.store import Store

_ASK = "import sys, platform; print(platform.python_implementation(), platform.python_version(), sys.base_prefix)"


class Source(NamedTuple):
    """All that an environment is built from; two of one digest are the same environment.

    ``wheels`` has file name and digest of each wheel that the store keeps, by the name of its distribution; ``folders``
    are further places to look for wheels. ``editables`` has the files of editable installs by their names.
    """

    interpreter: str
    pins: list[locks.Pin]
    wheels: dict[str, dict[str, str]]
    editables: dict[str, dict[str, str]]
    folders: list[str]

    @property
    def lock_digest(self) -> str:
        """The digest of what is locked."""
        return locks.pins_digest(self.pins)

    def digest(self, interpreter: str) -> str:
        """Return what names the environment that is built of this with an interpreter."""
        return digest.of_value("locked/1", [interpreter, locks.tag(), self.lock_digest, self.editables])


def original(store: Store, record: Record) -> Record:
    """Return the record whose environment a replay is to have: that of the run that it replays."""
    first = record.replay_of
    return store.record(first) if first is not None and store.run_folder(first).exists() else record


def source(store: Store, record: Record, say: Callable[[str], None] = lambda _text: None) -> Source:
    """Return what a record's environment is built from: pins of the lock in force, and of the index for the rest.

    Raises:
        EnvironmentMismatchError: when a distribution cannot be had any more; all of them are named.
    """
    record = original(store, record)
    facts = record.circumstances.get("environment", {})
    if record.recipe.interpreter == "none":
        raise EnvironmentMismatchError(f"{record.run_id} had no Python of which the packages are known")
    kept = {name: item for name, item in facts.get("wheels", {}).items() if store.objects.path(item["digest"]).exists()}
    editables = facts.get("editables", {})
    missing = [
        item.name
        for item in record.recipe.packages
        if item.digest.startswith("editable:") and item.name not in editables
    ]
    if missing:
        raise EnvironmentMismatchError(f"how {', '.join(missing)} was installed editable is not in the record")
    pins = [locks.Pin(item.name, item.version, (kept[item.name]["digest"],)) for item in _kept(record, kept)]
    open_ones = [item for item in resolve.wanted(record) if item.name not in kept]
    pins += _pins(store, record, open_ones, say)
    return Source(record.recipe.interpreter, sorted(pins), kept, editables, resolve.folders(record))


def _kept(record: Record, kept: dict[str, Any]) -> list[Package]:
    return [item for item in resolve.wanted(record) if item.name in kept]


def _pins(store: Store, record: Record, asked: list[Package], say: Callable[[str], None]) -> list[locks.Pin]:
    """Return a pin for each distribution: as it is locked, as it was found before, or as it is found now."""
    known = {(pin.name, pin.version): pin for pin in [*_found_before(store, record), *_in_force(store, record)]}
    open_ones = [item for item in asked if (item.name, item.version) not in known]
    if open_ones:
        say(f"repro: looking for the wheels of {len(open_ones)} packages that no lock has")
        found = resolve.resolve(record, open_ones, target(record))
        if found.unresolved:
            reasons = "; ".join(f"{name} ({why})" for name, why in found.unresolved.items())
            hint = f"repro lock --from {record.run_id} says what there is; PIP_FIND_LINKS=/a/folder names wheels"
            raise EnvironmentMismatchError(f"the index does not have {reasons}", hint=hint)
        _remember(store, record, found.pins)
        known |= {(pin.name, pin.version): pin for pin in found.pins}
    return [known[item.name, item.version] for item in asked]


def _in_force(store: Store, record: Record) -> list[locks.Pin]:
    """Return the pins with hashes of the lock that was in force, from the captured code or from where it lies."""
    said = record.circumstances.get("lock", {}).get("value") or {}
    name = said.get("lock")
    if not name or not name.endswith(".txt"):
        return []
    try:
        data = store.code.read(record.recipe.code, name)
    except CaptureError:
        data = None
    if data is None:
        path = Path(record.circumstances["project"]["root"], name)
        data = path.read_bytes() if path.is_file() else b""
    if digest.of_bytes(data) != said.get("digest"):
        return []
    return [pin for pin in locks.parse(data.decode(errors="replace")) if pin.hashes]


def _memory(store: Store, record: Record) -> Path:
    environment = str(record.circumstances.get("environment", {}).get("digest", "unknown"))
    return store.cache / "locks" / f"{environment.removeprefix('sha256:')[:32]}.txt"


def _found_before(store: Store, record: Record) -> list[locks.Pin]:
    path = _memory(store, record)
    return locks.parse(path.read_text(encoding="utf-8")) if path.is_file() else []


def _remember(store: Store, record: Record, pins: list[locks.Pin]) -> None:
    path = _memory(store, record)
    with files.disk_errors("make", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, locks.render({*_found_before(store, record), *pins}).encode())


class Python(NamedTuple):
    """An interpreter that environments can be made with: its program and its version, ``CPython 3.11.7``."""

    program: str
    version: str


def find_python(record: Record, *, allow_other: bool) -> Python:
    """Return a Python of the recorded version: the recorded one, this one, one on PATH, or one of pyenv's.

    With ``allow_other`` the nearest is taken where there is none.

    Raises:
        EnvironmentMismatchError: when there is none.
    """
    wanted = record.recipe.interpreter
    series = wanted.rpartition(".")[0]
    others = []
    for program in dict.fromkeys(_pythons(record)):
        version = _version(program)
        if version == wanted:
            return Python(program, version)
        if version is not None:
            others.append(Python(program, version))
    if allow_other:
        near = [found for found in others if found.version.rpartition(".")[0] == series]
        return (near or others)[0]
    seen = ", ".join(dict.fromkeys(found.version for found in others)) or "none"
    number = wanted.rpartition(" ")[2]
    hint = f"put it on PATH (pyenv install {number}), repro replay --env container, or go on with --allow-python"
    raise EnvironmentMismatchError(f"the run had {wanted}, and here there is {seen}", hint=hint)


def target(record: Record) -> resolve.Target:
    """Return what the files of a record's packages are fetched for; without such a Python here, only wheels can be."""
    found = find_python(record, allow_other=True)
    series = record.recipe.interpreter.rpartition(".")[0]
    if found.version.rpartition(".")[0] == series:
        return resolve.Target(found.program)
    number = series.rpartition(" ")[2]
    return resolve.Target(None, ("--only-binary=:all:", "--implementation=cp", f"--python-version={number}"))


def _pythons(record: Record) -> Iterator[str]:
    """Yield the interpreters that the user has: a record may name any program, and that one is not started."""
    number = record.recipe.interpreter.rpartition(" ")[2]
    yield sys.executable
    series = ".".join(number.split(".")[:2])
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        found = shutil.which(f"python{series}", path=folder) or shutil.which("python3", path=folder)
        if found is not None:
            yield found
    yield str(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions" / number / "bin" / "python3")


def _version(program: str) -> str | None:
    """Return name and version of a Python, None where it does not run."""
    if not os.access(program, os.X_OK):
        return None
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "REPRO_JOB")}
    try:
        words = process.output([program, "-I", "-c", _ASK], env=env, timeout=30).decode().split()
    except (OSError, subprocess.SubprocessError):
        return None
    return re.sub(r"\+$", "", " ".join(words[:2])) if len(words) > 1 else None
