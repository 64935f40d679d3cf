"""Declared data: files, globs and folders by SHA-256, read again only when their stat has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repro.base import digest, files
from repro.errors import ConfigError

_RECENT_NS = 2_000_000_000


class StatCache:
    """Digests of files by path, size, times and inode; a file changed within the last two seconds is not remembered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[Any]] | None = None
        self._fresh: dict[str, list[Any]] = {}

    def digest(self, path: str) -> str:
        """Return a file's digest, from the cache if its stat is as it was. Raises OSError."""
        stat = os.stat(path)
        key = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = self._load().get(path)
        if known is not None and known[:4] == key:
            return str(known[4])
        found = digest.of_file(path)
        again = os.stat(path)
        settled = [again.st_size, again.st_mtime_ns, again.st_ctime_ns, again.st_ino] == key
        import time

        if settled and time.time_ns() - stat.st_ctime_ns > _RECENT_NS:
            self._fresh[path] = [*key, found]
        return found

    def _load(self) -> dict[str, list[Any]]:
        if self._known is None:
            try:
                self._known = json.loads(self._path.read_bytes())
            except (OSError, ValueError):
                self._known = {}
        assert self._known is not None  # noqa: S101
        return self._known

    def save(self) -> None:
        """Write what was learnt."""
        if self._fresh:
            files.replace(self._path, json.dumps(self._load() | self._fresh).encode())
            self._fresh = {}


def declared(data: Mapping[str, str], base: Path, cache: StatCache) -> dict[str, str]:
    """Return the digest of each declared item: a file's own, or one over the paths and digests of many.

    Raises:
        ConfigError: when an item names nothing, or a file cannot be read.
    """
    return {name: _item(name, where, base, cache) for name, where in sorted(data.items())}


def expand(where: str, base: Path) -> list[Path]:
    """Return the files of one declared item, sorted: a file, a folder (whole), or a glob."""
    place = base / where
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.is_file())
    if place.is_file():
        return [place]
    pattern = os.path.relpath(place, base) if not os.path.isabs(where) else where
    if os.path.isabs(pattern):
        return sorted(path for path in Path("/").glob(pattern.lstrip("/")) if path.is_file())
    return sorted(path for path in base.glob(pattern) if path.is_file())


def _item(name: str, where: str, base: Path, cache: StatCache) -> str:
    try:
        found = expand(where, base)
        if not found:
            raise ConfigError(
                f"data.{name}: nothing is at {where} (from {base})", hint="a file, a folder or a glob is expected"
            )
        if len(found) == 1 and not (base / where).is_dir():
            return cache.digest(str(found[0]))
        pairs = [[os.path.relpath(path, base), cache.digest(str(path))] for path in found]
    except OSError as error:
        raise ConfigError(f"data.{name}: cannot read {error.filename or where}: {error.strerror}") from error
    return digest.of_value("data/1", pairs)


def pairs(where: str, base: Path, cache: StatCache) -> Iterable[tuple[str, str]]:
    """Yield path and digest of each file of a declared item."""
    for path in expand(where, base):
        yield str(path), cache.digest(str(path))
