"""How the files of two runs differ: of their code by lines, of what they read by bytes and rows."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from repro.base import digest
from repro.record.values import FileDigest, Outcome, Record
from repro.store.store import Store

Status = Literal["A", "D", "M", "T"]
#: A file of more bytes is not read for this.
_LARGEST = 1_000_000_000
_CHUNK = 1 << 20


class CodeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the code that differs; ``source`` names the editable install it is of, None for the project.

    Of a binary file the numbers of lines that were added and removed are None.
    """

    path: str
    status: str
    added: int | None
    removed: int | None
    source: str | None = None


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """How two files differ: bytes at the same place (and those that one has more), rows of text by what they say.

    ``rows`` are the numbers before and after; equal rows in another order are neither added nor removed.
    """

    bytes: int
    rows: tuple[int, int] | None = None
    rows_added: int | None = None
    rows_removed: int | None = None


class DataFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the runs read and that is not the same: sizes before and after, None where it was not read.

    ``contents`` is None unless both are still to be had, in the store or where they lay.
    """

    path: str
    status: Status
    sizes: tuple[int | None, int | None]
    contents: Contents | None = None


def of_code(store: Store, before: Record, after: Record) -> list[CodeFile]:
    """Return the files that differ of the project, then of each editable source that both captured."""
    one, other = before.recipe, after.recipe
    found = _files(store, one.code, other.code, None)
    for name in sorted(one.sources.keys() & other.sources.keys()):
        found += _files(store, one.sources[name], other.sources[name], name)
    return found


def _files(store: Store, before: str, after: str, source: str | None) -> list[CodeFile]:
    changes = store.code.changes(before, after)
    counts = store.code.line_counts(before, after) if changes else {}
    return [
        CodeFile(path=path, status=status, added=added, removed=removed, source=source)
        for status, path in changes
        for added, removed in [counts.get(path, (None, None))]
    ]


def patch(store: Store, before: Record, after: Record) -> str:
    """Return the difference of the code line by line: of the project, then of each editable source."""
    one, other = before.recipe, after.recipe
    pairs = [(one.code, other.code)]
    pairs += [(one.sources[name], other.sources[name]) for name in sorted(one.sources.keys() & other.sources.keys())]
    return "".join(store.code.patch(*pair) for pair in pairs if pair[0] != pair[1])


def of_data(store: Store, before: tuple[Record, Outcome], after: tuple[Record, Outcome]) -> list[DataFile]:
    """Return the files that two runs read and that differ, by path."""
    old, new = ({item.path: item for item in outcome.inputs} for _, outcome in (before, after))
    paths = (path for path in sorted({*old, *new}) if _digest(old.get(path)) != _digest(new.get(path)))
    return [_data(store, path, (before[0], old.get(path)), (after[0], new.get(path))) for path in paths]


def _digest(item: FileDigest | None) -> str | None:
    return None if item is None else item.digest or item.note


def _data(
    store: Store, path: str, old: tuple[Record, FileDigest | None], new: tuple[Record, FileDigest | None]
) -> DataFile:
    if old[1] is None or new[1] is None:
        status: Status = "A" if old[1] is None else "D"
        return DataFile(path=path, status=status, sizes=(_size(old[1]), _size(new[1])))
    places = (_place(store, *old), _place(store, *new))
    contents = None if places[0] is None or places[1] is None else compare(places[0], places[1])
    return DataFile(path=path, status="M", sizes=(old[1].size, new[1].size), contents=contents)


def _size(item: FileDigest | None) -> int | None:
    return None if item is None else item.size


def _place(store: Store, record: Record, item: FileDigest | None) -> Path | None:
    """Return where the bytes that a run read are still to be had, or None."""
    if item is None or item.digest is None or not item.digest.startswith("sha256:") or item.size > _LARGEST:
        return None
    project: Mapping[str, Any] = record.circumstances.get("project", {})
    for path in (store.objects.path(item.digest), Path(project.get("root", "/"), item.path)):
        try:
            if path.stat().st_size == item.size and digest.of_file(path) == item.digest:
                return path
        except OSError:
            continue
    return None


def compare(before: Path, after: Path) -> Contents:
    """Return how the contents of two files differ. Raises OSError."""
    with before.open("rb") as one, after.open("rb") as other:
        number = _bytes(one, other)
    if not (_is_text(before) and _is_text(after)):
        return Contents(bytes=number)
    old, new = _rows(before), _rows(after)
    return Contents(
        bytes=number,
        rows=(old.total(), new.total()),
        rows_added=(new - old).total(),
        rows_removed=(old - new).total(),
    )


def _bytes(one: io.BufferedReader, other: io.BufferedReader) -> int:
    """Return how many bytes differ at their place, and how many one has more than the other."""
    import numpy as np

    found = 0
    while True:
        old, new = one.read(_CHUNK), other.read(_CHUNK)
        if not (old or new):
            return found
        common = min(len(old), len(new))
        if old != new:
            a, b = (np.frombuffer(part, np.uint8, common) for part in (old, new))
            found += int(np.count_nonzero(a != b)) + abs(len(old) - len(new))


def _is_text(path: Path) -> bool:
    """Say whether a file is text, as git tells it: by a null byte in its beginning."""
    with path.open("rb") as file:
        return b"\0" not in file.read(8000)


def _rows(path: Path) -> Counter[bytes]:
    """Return how often each row is there, by a digest of it; the end of a line does not count."""
    with path.open("rb") as file:
        return Counter(hashlib.blake2b(row.rstrip(b"\r\n"), digest_size=12).digest() for row in file)
