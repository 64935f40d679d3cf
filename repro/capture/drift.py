"""Installed distributions that are not what their wheels were: each file against its line in RECORD."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_CHUNK = 1 << 20
#: What no run reads: passed over unless all is to be hashed.
_UNREAD = (".pyc", ".h", ".hpp", ".cuh", ".pyi", ".c", ".pyx", ".pxd", ".cmake")


class Line(NamedTuple):
    """One line of RECORD: a path relative to site-packages, ``sha256=…`` (or empty), and the size in bytes or empty."""

    path: str
    hash: str
    size: str


def read(record: str) -> list[Line]:
    """Return the lines of a RECORD file. Raises OSError."""
    return parse(_text(record))


def parse(text: str) -> list[Line]:
    """Return the lines of a RECORD file's text."""
    return [Line(*row) for row in _rows(text)]


def _text(record: str) -> str:
    with open(record, encoding="utf-8", newline="") as handle:
        return handle.read()


def _rows(text: str) -> Iterator[list[str]]:
    """Yield path, hash and size of each line; an environment has tens of thousands of them."""
    lines = text.splitlines()
    rows = csv.reader(lines) if '"' in text else (line.split(",") for line in lines)
    return (row for row in rows if len(row) == 3)  # noqa: PLR2004


def edited(record: str, *, thorough: bool = False) -> dict[str, str | None]:
    """Return the files of a distribution that differ from its RECORD, with their hashes now; None for a missing one.

    Every file is hashed when ``thorough``; else only those of another size, or changed after RECORD was written (an
    installer writes it last), and no headers.
    Scripts and byte code are left out: an installer makes them anew on each machine.
    """
    site = os.path.dirname(os.path.dirname(record)) + os.sep
    try:
        rows, since = _rows(_text(record)), os.stat(record).st_mtime_ns
    except OSError:
        return {}
    found: dict[str, str | None] = {}
    for path, wanted, size in rows:  # without the cost of a `Line` each: most are passed over
        if not wanted or path.endswith(".pyc" if thorough else _UNREAD) or path.startswith(("..", "/")):
            continue
        try:
            stat = os.stat(site + path)
            if not thorough and stat.st_mtime_ns <= since and size == str(stat.st_size):
                continue
            now = hash_of(site + path, wanted.partition("=")[0])
        except OSError:
            now = None
        if now != wanted:
            found[path] = now
    return found


class Claims:
    """Which distributions of one folder claim a file: two wheels may bring files of one path, and the last one wins."""

    def __init__(self, infos: Iterable[str]) -> None:
        self._infos = list(infos)
        self._hashes: dict[str, list[tuple[str, str]]] | None = None

    def edited(self, info: str, *, thorough: bool = False) -> dict[str, str | None]:
        """Return what `edited` says of a distribution, by its dist-info, less what is as another one has it."""
        found = edited(f"{info}/RECORD", thorough=thorough)
        return {path: now for path, now in found.items() if now is None or not self._is_of_another(info, path, now)}

    def _is_of_another(self, info: str, path: str, now: str) -> bool:
        if self._hashes is None:
            self._hashes = {}
            for other in self._infos:
                with contextlib.suppress(OSError):
                    for row in _rows(_text(f"{other}/RECORD")):
                        self._hashes.setdefault(row[0], []).append((other, row[1]))
        return any(other != info and wanted == now for other, wanted in self._hashes.get(path, ()))


def hash_of(path: str, kind: str) -> str:
    """Return a file's hash as RECORD writes it: URL-safe base 64 without padding."""
    state = hashlib.new(kind)
    with open(path, "rb", buffering=0) as handle:
        while chunk := handle.read(_CHUNK):
            state.update(chunk)
    return f"{kind}={base64.urlsafe_b64encode(state.digest()).rstrip(b'=').decode()}"
