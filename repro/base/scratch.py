"""Folders for a moment: each is locked while whoever made it lives, so that what a killed command left is told apart.

A lock on the folder itself: it needs no file in it, and the kernel takes it away with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "repro-"
_NAME = re.compile(r"repro-(doctor|image|index|keep|lock|pip|sign|template|wheels)-[a-z0-9_]{8}")
#: A folder that somebody is just making has no lock yet.
_JUST_MADE = 0.5  # seconds


@contextlib.contextmanager
def folder(what: str, place: Path | None = None) -> Iterator[Path]:
    """Yield a new, empty folder of our own in ``place``, else where temporary files are; it is gone afterwards.

    Raises:
        OSError: when it cannot be made.
    """
    path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{what}-", dir=place))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep(place: Path | None = None) -> list[Path]:
    """Remove the folders that killed commands of this user left in ``place``; return them."""
    root = Path(tempfile.gettempdir()) if place is None else place
    try:
        names = [name for name in os.listdir(root) if _NAME.fullmatch(name)]
    except OSError:
        return []
    return [root / name for name in names if _removed(root / name)]


def _removed(path: Path) -> bool:
    """Remove a folder if nobody has it any more; say whether that was done."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(lock)
        is_ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        if not is_ours or time.time() - found.st_ctime < _JUST_MADE:
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:  # somebody is at work in it
        return False
    finally:
        os.close(lock)
    return not path.exists()
