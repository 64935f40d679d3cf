"""Declared data: files, globs and folders by SHA-256, read again only when their stat has changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from glob import has_magic
from pathlib import Path
from typing import Any

from repro.base import digest, files
from repro.errors import ConfigError

_RECENT_NS = 2_000_000_000


class StatCache:
    """Digests of files by path, size, times and inode; a file changed within the last two seconds is not remembered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] | None = None
        self._fresh: dict[str, Any] = {}

    def digest(self, path: str) -> str:
        """Return a file's digest, from the cache if its stat is as it was. Raises OSError."""
        stat = os.stat(path)
        known = self._load().get(path)
        if isinstance(known, list) and known[:-1] == _key(stat):
            return str(known[-1])
        found = digest.of_file(path)
        if _key(os.stat(path)) == _key(stat) and time.time_ns() - stat.st_ctime_ns > _RECENT_NS:
            self._fresh[path] = [*_key(stat), found]
        return found

    def _load(self) -> dict[str, Any]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self) -> None:
        """Write what was learnt, beside what others have learnt meanwhile."""
        if self._fresh:
            files.replace(self._path, json.dumps(self._read() | self._fresh).encode())
            self._fresh = {}


def _key(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def declared(data: Mapping[str, str], base: Path, cache: StatCache) -> dict[str, str]:
    """Return the digest of each declared item: a file's own, or one over the names within it and digests of many.

    Raises:
        ConfigError: when an item names nothing, or a file cannot be read.
    """
    return {name: _item(name, where, base, cache) for name, where in sorted(data.items())}


def split(where: str, base: Path) -> tuple[Path, str | None]:
    """Return the place of a declared item and None, or the folder that a glob begins at and the glob."""
    place = Path(os.path.normpath(base / where))
    if place.exists() or not has_magic(where):
        return place, None
    parts = Path(where).parts
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    return Path(os.path.normpath(base.joinpath(*parts[:first]))), os.sep.join(parts[first:])


def expand(where: str, base: Path) -> list[Path]:
    """Return the files of one declared item, sorted: a file, a folder (whole), or a glob of files and folders."""
    place, pattern = split(where, base)
    if pattern is not None:
        return sorted({path for found in place.glob(pattern) for path in _files(found)})
    return sorted(_files(place))


def _files(place: Path) -> Iterator[Path]:
    """Yield a file, or every file of a folder; links to folders are followed, each folder once."""
    if place.is_file():
        yield place
    seen = {os.path.realpath(place)}
    for here, folders, names in os.walk(place, followlinks=True):
        real = [(name, os.path.realpath(os.path.join(here, name))) for name in sorted(folders)]
        folders[:] = [name for name, path in real if path not in seen]
        seen.update(path for _, path in real)
        yield from (path for name in names if (path := Path(here, name)).is_file())


def _item(name: str, where: str, base: Path, cache: StatCache) -> str:
    place, pattern = split(where, base)
    try:
        found = expand(where, base)
        if not found:
            hint = "a file, a folder or a glob is expected"
            is_special = place.exists() and not place.is_dir()
            what = f"{where} is a pipe or a device" if is_special else f"nothing is at {where} (from {base})"
            raise ConfigError(f"data.{name}: {what}", hint=hint)
        if pattern is None and found == [place]:
            return cache.digest(str(place))
        pairs = [[os.path.relpath(path, place), cache.digest(str(path))] for path in found]
    except OSError as error:
        raise ConfigError(f"data.{name}: cannot read {error.filename or where}: {error.strerror}") from error
    return digest.of_value("data/1", pairs)
