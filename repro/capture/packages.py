"""Installed distributions: name, version, a digest of their files as RECORD lists them, and where they came from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from repro.base import digest, files
from repro.capture import drift
from repro.capture.variables import redact_url
from repro.record.values import Gap, Package

#: Files of a dist-info folder that say how it was installed, not what.
_BOOKKEEPING = frozenset("RECORD INSTALLER REQUESTED direct_url.json uv_cache.json RECORD.jws RECORD.p7s".split())
#: This tool itself, whose version is a circumstance.
SELF = "repro-runner"
_SHOWN = 3
#: The files of an editable install that are kept in the record are small: a path, a finder, metadata.
_MOST_BYTES = 1 << 16


class Distribution(NamedTuple):
    """One installed distribution, and how it came here; ``edited`` names files that are not as RECORD has them."""

    name: str
    version: str
    digest: str
    build: str | None
    origin: dict[str, Any] | None
    editable: str | None
    place: str = ""
    edited: tuple[str, ...] = ()


class Environment(NamedTuple):
    """All distributions that an interpreter can import, the first of each name; and what is not known of them."""

    distributions: list[Distribution]
    gaps: list[Gap]

    def packages(self, root: Path, sources: dict[str, Path]) -> list[Package]:
        """Return them as the recipe lists them: this tool left out, editable ones by where their code was captured."""
        named = {str(path): f"editable:source/{name}" for name, path in sources.items()}
        found = []
        for item in self.distributions:
            digest = item.digest
            if item.editable is not None:
                place = Path(item.editable)
                inside = place.is_relative_to(root)
                digest = (
                    f"editable:{place.relative_to(root).as_posix()}" if inside else named.get(item.editable, digest)
                )
            found.append(Package(name=item.name, version=item.version, digest=digest))
        return [package for package in found if package.name != SELF]

    def editables(self) -> dict[str, dict[str, str]]:
        """Return the files of each editable install, by its name: with them its source can be found anywhere."""
        found = {}
        for item in self.distributions:
            if item.editable is not None and item.name != SELF:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    found[item.name] = _texts(item.place)
        return found


def _texts(place: str) -> dict[str, str]:
    """Return the small files of an editable install by their paths in site-packages: what finds its source."""
    site = Path(place).parent
    found = {}
    for line in drift.read(f"{place}/RECORD"):
        path = site / line.path
        if not line.path.startswith(("..", "/")) and path.suffix != ".pyc" and path.stat().st_size <= _MOST_BYTES:
            found[line.path] = path.read_text(encoding="utf-8")
    return found


def environment_digest(interpreter: str, packages: Iterable[Package]) -> str:
    """Return what names an environment: the digest of its interpreter's version and of all its distributions."""
    listed = sorted([item.name, item.version, item.digest] for item in packages)
    return digest.of_value("environment/1", {"interpreter": interpreter, "packages": listed})


def normalise(name: str) -> str:
    """Return a distribution's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def scan(path: Sequence[str], cache: Path | None = None, *, check: bool = True) -> Environment:
    """Look at all distributions in the folders of ``path``, in their order.

    ``cache`` is a file that remembers what was read, by the stat of each RECORD. With ``check`` false
    their files need not be there.
    """
    known = {} if cache is None else _load(cache)
    fresh: dict[str, Any] = {}
    found: dict[str, Distribution] = {}
    gaps: list[Gap] = []
    for folder in dict.fromkeys(path):
        infos = _infos(folder)
        claims = drift.Claims(infos) if check else None
        for place in infos:
            item = _one(place, known, fresh, claims)
            if item.name not in found:
                found[item.name] = item
                gaps += _gaps(item)
    if cache is not None and not fresh.keys() <= known.keys():
        _save(cache, known | fresh)
    return Environment([found[name] for name in sorted(found)], gaps)


def _infos(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:
        return []


def _one(place: str, known: dict[str, Any], fresh: dict[str, Any], claims: drift.Claims | None) -> Distribution:
    record = os.path.join(place, "RECORD")
    try:
        stat = os.stat(record if os.path.exists(record) else place)
        key = f"{place}|{stat.st_mtime_ns}|{stat.st_size}|{stat.st_ino}"
    except OSError:
        key = place
    fresh[key] = known[key] if key in known else list(_read(place, record)[:6])
    item = Distribution(*fresh[key])._replace(place=place)
    edited = claims.edited(place) if claims is not None and item.editable is None else {}
    return item._replace(digest=digest_of(drift.read(record), edited), edited=tuple(sorted(edited))) if edited else item


def _gaps(item: Distribution) -> list[Gap]:
    """Say what is not known of a distribution, or not as its wheel has it."""
    if item.digest == "none":
        return [Gap(what=f"package {item.name}", reason=f"{item.place} has no list of files")]
    if item.edited:
        more = f" and {len(item.edited) - _SHOWN} more" if len(item.edited) > _SHOWN else ""
        reason = f"edited after it was installed: {', '.join(item.edited[:_SHOWN])}{more}"
        return [Gap(what=f"package {item.name}", reason=reason)]
    return []


def _read(place: str, record: str) -> Distribution:
    name, _, version = os.path.basename(place).rpartition(".")[0].partition("-")
    version = re.sub(r"-py\d.*$", "", version)
    direct = _json(os.path.join(place, "direct_url.json"))
    editable = _editable(direct)
    return Distribution(
        name=normalise(name),
        version=version,
        digest=_digest(record),
        build=_build(os.path.join(place, "WHEEL")),
        origin=None if direct is None else {**direct, "url": redact_url(str(direct.get("url", "")))},
        editable=editable,
    )


def _digest(record: str) -> str:
    try:
        return digest_of(drift.read(record))
    except OSError:
        return "none"


def digest_of(lines: Iterable[drift.Line], edited: Mapping[str, str | None] | None = None) -> str:
    """Return the digest of RECORD's lines less scripts, byte code and bookkeeping: equal for equal wheels.

    Where files were ``edited``, their hashes of now count, and a missing file not at all.
    """
    now = {line.path: line.hash for line in lines if counts(line.path)} | dict(edited or {})
    rows = (f"{path},{value}" for path, value in now.items() if value is not None)
    return "sha256:" + hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def counts(path: str) -> bool:
    """Say whether a file of RECORD is of the distribution itself, and not of how it was installed."""
    if path.startswith(("..", "/")) or path.endswith(".pyc"):
        return False
    folder, _, name = path.rpartition("/")
    return not (folder.endswith(".dist-info") and name in _BOOKKEEPING)


def _build(wheel: str) -> str | None:
    try:
        text = Path(wheel).read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.findall(r"^(?:Build|Tag): (.*)$", text, re.MULTILINE)
    return " ".join(found) or None


def _json(path: str) -> dict[str, Any] | None:
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _editable(direct: dict[str, Any] | None) -> str | None:
    """Return the folder of an editable install (PEP 610), or None."""
    if direct is None or not direct.get("dir_info", {}).get("editable"):
        return None
    return os.path.realpath(unquote(urlsplit(str(direct.get("url"))).path))


def _load(cache: Path) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(cache: Path, known: dict[str, Any]) -> None:
    files.replace(cache, json.dumps(known).encode())
