"""Files that are whole or absent: written under another name, synced, put in place, made read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro.errors import StoreError

#: The end of the names under which files are written before they are put in place; what has it is litter of a crash.
TEMPORARY = ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MANY = (errno.EMFILE, errno.ENFILE)
_HARDLY = 1 << 18  # bytes
_AT_ONCE = 8
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextlib.contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn the disk's own errors into one clear StoreError that names the file."""
    try:
        yield
    except OSError as error:
        raise _refused(f"cannot {what} {path}", error.errno, path) from error


def refusal(words: str, path: Path) -> StoreError | None:
    """Return the error that another program met when it wrote to ``path``, if it is the disk's refusal.

    Either it says so, or (git does not always) there is hardly any room.
    """
    found = next((number for number in (*_FULL, errno.EROFS) if os.strerror(number) in words), None)
    if found is None and _is_full(path.parent):
        found = errno.ENOSPC
    return None if found is None else _refused(f"cannot write {path}", found, path)


def check_room(what: str, folder: Path) -> None:
    """Raise StoreError, ``what`` being the thing that failed, where there is hardly any room on a folder's disk."""
    if _is_full(folder):
        raise _refused(what, errno.ENOSPC, folder)


def _refused(what: str, number: int | None, path: Path) -> StoreError:
    reason = "unknown error" if number is None else os.strerror(number)
    return StoreError(f"{what}: {reason}", hint=_hint(number, path))


def _is_full(folder: Path) -> bool:
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _HARDLY


def _hint(number: int | None, path: Path) -> str:
    if number in _MANY:
        return "raise the number of files that may be open at once (ulimit -n 1024)"
    if number in _FULL:
        return f"free some space (df -h {path.parent}); what was sealed before is whole"
    if number in _CLOSED:
        return "make the store writable, or name another with REPRO_STORE=/a/folder"
    return "check the folder and try again"


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(path: Path, data: bytes) -> None:
    """Write a new, read-only file that is whole or absent at any crash, and never replaces another.

    Raises:
        StoreError: when the disk refuses, or ``path`` is there already.
    """
    temporary = _temporary(path)
    try:
        with disk_errors("write", path):
            _write_synced(temporary, data, 0o444)
            os.link(temporary, path)
            _sync_or_take_back(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write or replace a file of which there is no sealed copy: caches, indexes, the store's own settings."""
    temporary = _temporary(path)
    with disk_errors("write", path):
        try:
            _write_synced(temporary, data, mode)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_or_take_back(path: Path) -> None:
    try:
        sync_folder(path.parent)
    except OSError:
        path.unlink()
        raise


def make_final(paths: Iterable[Path]) -> None:
    """Make files that others wrote durable and read-only. Raises StoreError.

    Syncs that are asked for at once share the disk's commits: one by one, each waits for its own.
    """
    found = list(paths)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="sync") as pool:
        for _ in pool.map(_make_final, found):
            pass
        for _ in pool.map(_sync_sealed, sorted({path.parent for path in found})):
            pass


def _make_final(path: Path) -> None:
    with disk_errors("seal", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o444)
            os.fsync(fd)
        finally:
            os.close(fd)


def _sync_sealed(folder: Path) -> None:
    with disk_errors("seal", folder):
        sync_folder(folder)


def _temporary(path: Path) -> Path:
    """Return a new name beside ``path``: one that a crash left may be a link to a sealed file, never to be opened."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}")


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
