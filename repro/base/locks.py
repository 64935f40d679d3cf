"""Advisory locks on files: released by the kernel when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.base import holders
from repro.base.files import disk_errors

_A_MOMENT = 0.02  # seconds


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """Hold the lock on ``path`` (made when missing), waiting for it as long as it takes.

    Yields its descriptor: a child that it is passed on to holds the lock too, until it ends.
    """
    with disk_errors("lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with disk_errors("lock", path):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold the lock on ``path`` (made when missing) unless a living process does, as it says in the file.

    The children of a holder that was killed have the lock until they are gone: that is waited for.

    Raises:
        BlockingIOError: when another process holds it; the error's text says which.
    """
    with disk_errors("lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _taken(fd):
            found = _read(fd)
            if holders.lives(found):
                raise BlockingIOError(f"process {found['pid']} on {found['host']}")
            time.sleep(_A_MOMENT)
        with disk_errors("lock", path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, holders.note(), 0)
        yield
    finally:
        os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(fd: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(fd, 1 << 12, 0)))
    except ValueError:  # it is being written
        return {}


@contextlib.contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold the lock on ``path`` beside other readers, while no writer has it; nothing is made or written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        with disk_errors("lock", path):
            fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def acquire(path: Path, note: bytes) -> int:
    """Take the lock on ``path`` for the life of this process, write ``note`` in it, and return its descriptor."""
    with disk_errors("lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.pwrite(fd, note, 0)
    return fd


def is_held(path: Path) -> bool:
    """Say whether some process holds the lock on ``path``; a missing file is held by nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)
