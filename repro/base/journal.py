"""An append-only file of lines in a hash chain: an edit, a deletion or a swap breaks it at the line it touches.

Each line is canonical JSON with ``seq`` (from 0), ``prev``, the digest of the line before, and ``sum``, the digest of
the line without it: so a damaged line is found by itself, the last one too. What a chain cannot tell is that its last
lines were cut off, or that all of it was computed anew: that takes a signature, or a head that was kept elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.base import canonical, digest
from repro.base.files import disk_errors, sync_folder
from repro.errors import StoreDamagedError

GENESIS = "sha256:" + "0" * 64
_TAIL = 1 << 16


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add one entry and sync it. The caller holds the journal's lock.

    A torn last line, left by a crash in the middle of a write, was never acknowledged to anybody and is dropped.

    Raises:
        StoreDamagedError: when the last whole line cannot be read.
        StoreError: when the disk refuses; the journal is then as it was.
    """
    with disk_errors("append to", path):
        fresh = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        end, last = _last_line(fd, path)
        head = {"seq": 0, "prev": GENESIS} if last is None else _next(last, path)
        with disk_errors("append to", path):
            _append_at(fd, end, _line(head | entry))
            if fresh:
                sync_folder(path.parent)
    finally:
        os.close(fd)


def _line(entry: dict[str, Any]) -> bytes:
    return canonical.dumps(entry | {"sum": digest.of_bytes(canonical.dumps(entry))}) + b"\n"


def _append_at(fd: int, end: int, line: bytes) -> None:
    os.ftruncate(fd, end)
    try:
        written = 0
        while written < len(line):
            written += os.pwrite(fd, line[written:], end + written)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, end)
        raise


def _last_line(fd: int, path: Path) -> tuple[int, bytes | None]:
    size = os.fstat(fd).st_size
    span = _TAIL
    while True:
        start = max(0, size - span)
        data = os.pread(fd, size - start, start)
        end = data.rfind(b"\n") + 1
        begin = data.rfind(b"\n", 0, max(0, end - 1)) + 1
        if end and (begin or start == 0):
            return start + end, data[begin : end - 1]
        if start == 0:
            if size and end == 0 and size > _TAIL:
                raise StoreDamagedError(f"{path} is not a journal: it has no whole line")
            return 0, None
        span *= 4


def _next(last: bytes, path: Path) -> dict[str, Any]:
    try:
        seq = json.loads(last)["seq"] + 1
    except (ValueError, KeyError, TypeError) as error:
        hint = "repro verify says where the chain breaks; nothing was added to it"
        raise StoreDamagedError(f"the last line of {path} cannot be read", hint=hint) from error
    return {"seq": seq, "prev": digest.of_bytes(last)}


def end(path: Path) -> int:
    """Return where the last whole line ends: what is appended later lies behind it. A missing journal ends at 0."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return _last_line(fd, path)[0]
    finally:
        os.close(fd)


def read(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset after the line, the line without its end) for every whole line from ``offset`` on."""
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        return
    with handle:
        handle.seek(offset)
        for line in handle:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, line[:-1]


def check(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return all entries that can be read, and a sentence for each line that is damaged or out of its place."""
    entries: list[dict[str, Any]] = []
    faults: list[str] = []
    follows: tuple[int, str] | None = (0, GENESIS)
    for number, (_, line) in enumerate(read(path), 1):
        entry = _intact(line)
        if entry is None:
            faults.append(f"{path.name} line {number} was changed: it is not as it was written")
            follows = None  # what should come next is not known
            continue
        if follows not in (None, (entry["seq"], entry["prev"])):
            faults.append(f"{path.name} line {number} does not follow from the line before it")
        entries.append(entry)
        follows = (entry["seq"] + 1, digest.of_bytes(line))
    return entries, faults


def _has_its_sum(line: bytes, entry: dict[str, Any]) -> bool:
    """Say whether ``sum`` is the digest of the rest of a line, as `append` wrote it.

    The rest is the line without that member: no text of an entry can look like one, for its quotes are escaped. It is
    not written anew: that took four times as long, and a line whose bytes are those of its sum is canonical.
    """
    member = b',"sum":"%s"' % str(entry["sum"]).encode()
    if line.count(b',"sum":"') != 1 or line.count(member) != 1:
        bare = {name: value for name, value in entry.items() if name != "sum"}
        return _line(bare) == line + b"\n"
    return digest.of_bytes(line.replace(member, b"")) == str(entry["sum"])


def _intact(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line that is as it was written, else None."""
    try:
        entry = canonical.loads(line)
        whole = _has_its_sum(line, entry) and isinstance(entry["seq"], int) and "prev" in entry
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return entry if whole else None
