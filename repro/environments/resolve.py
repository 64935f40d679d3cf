"""A recorded environment as a lock: the file that each distribution came from, found again, compared with RECORD."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from repro.base import digest, scratch
from repro.capture import drift, packages
from repro.environments import locks, pip
from repro.errors import EnvironmentMismatchError
from repro.record.values import Package, Record


class Target(NamedTuple):
    """What pip fetches files for: a Python, or by its options the version of one that is not here."""

    python: str | None
    options: tuple[str, ...] = ()


class Resolved(NamedTuple):
    """The pins that were found, what could not be, and what was found but cannot be compared; with reasons."""

    pins: list[locks.Pin]
    unresolved: dict[str, str]
    unproved: dict[str, str]


def wanted(record: Record) -> list[Package]:
    """Return the distributions of a record that come from an index: not those whose source was captured."""
    return [item for item in record.recipe.packages if not item.digest.startswith("editable:")]


def origins(record: Record) -> dict[str, dict[str, Any]]:
    """Return where distributions of a record came from, as PEP 610 has it, of those that say so."""
    found = record.circumstances.get("origins", {}).get("value", {})
    return {name: item["origin"] for name, item in found.items() if item.get("origin")}


def folders(record: Record) -> list[str]:
    """Return the local folders that wheels of a record were installed from."""
    urls = (str(item.get("url", "")) for item in origins(record).values() if "archive_info" in item)
    return sorted({str(Path(unquote(urlsplit(url).path)).parent) for url in urls if url.startswith("file:")})


def resolve(record: Record, asked: Iterable[Package], target: Target) -> Resolved:
    """Find the wheels of distributions of a record on the index, and compare each with what was installed."""
    asked = list(asked)
    kinds, edited = origins(record), {gap.what for gap in record.gaps if gap.reason.startswith("edited after")}
    with scratch.folder("wheels") as place:
        failures: dict[str, str] = {}
        _download(asked, place, [*pip.find_links(folders(record)), *target.options], target.python, failures)
        found = {_key(path): path for path in place.iterdir()}
        pins, unresolved, unproved = [], {}, {}
        for item in asked:
            path = found.get((item.name, item.version))
            reason = failures.get(item.name, "pip found no file of it") if path is None else None
            if path is None:
                unresolved[item.name] = _local(kinds.get(item.name)) or str(reason)
                continue
            doubt = _doubt(path, item, f"package {item.name}" in edited)
            if doubt is not None and doubt.startswith("another"):
                unresolved[item.name] = doubt
                continue
            if doubt is not None:
                unproved[item.name] = doubt
            pins.append(locks.Pin(item.name, item.version, (digest.of_file(path),)))
    return Resolved(sorted(pins), unresolved, unproved)


def _download(
    asked: Sequence[Package], folder: Path, options: Sequence[str], python: str | None, failures: dict[str, str]
) -> None:
    """Let pip fetch all; where it fails, halves of them, until those that it cannot find are known."""
    if not asked:
        return
    words = [f"{item.name}=={item.version}" for item in asked]
    try:
        pip.run(["download", "--quiet", "--no-deps", "--dest", str(folder), *options, *words], python=python)
    except EnvironmentMismatchError as error:
        if len(asked) == 1:
            failures[asked[0].name] = str(error)
            return
        half = len(asked) // 2
        for part in (asked[:half], asked[half:]):
            _download(part, folder, options, python, failures)


def _key(path: Path) -> tuple[str, str]:
    """Return name and version that a wheel's, or a source distribution's, file name tells."""
    stem = re.sub(r"\.(whl|tar\.gz|zip|tar\.bz2)$", "", path.name)
    if path.suffix == ".whl":
        name, version = stem.split("-")[:2]
    else:
        name, _, version = stem.rpartition("-")
    return packages.normalise(name), version


def _local(origin: Mapping[str, Any] | None) -> str | None:
    """Say that a distribution was installed from a folder or a repository, of which there is no file."""
    if origin is None or "archive_info" in origin:
        return None
    return f"it was installed from {origin.get('url')}, of which no wheel is kept"


def _doubt(path: Path, item: Package, is_edited: bool) -> str | None:
    """Say why a file may not be what was installed, or None when its RECORD proves that it is."""
    if path.suffix != ".whl":
        return "there is only its source: what is built from it may differ"
    if digest_of_wheel(path) == item.digest:
        return None
    if is_edited:
        return "it was edited after it was installed; this is the wheel of that version"
    if item.digest == "none":
        return "the installed one has no list of files"
    return f"another file than {path.name} was installed: their contents differ"


def digest_of_wheel(path: Path) -> str:
    """Return the digest that a wheel's distribution has once it is installed (`packages.digest_of`)."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1)
        lines = drift.parse(archive.read(name).decode())
    placed = (line._replace(path=re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", line.path)) for line in lines)
    return packages.digest_of(line for line in placed if not re.match(r"[^/]+\.data/", line.path))
