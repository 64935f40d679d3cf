"""What a process could not write, told in a way that needs no disk: a byte in a page that is mapped before.

The supervisor makes the file, with its block; a disk that is full for a moment takes nothing away from it. A run that
lost metric points is no result.
"""

from __future__ import annotations

import contextlib
import mmap
import os

FILE = "losses"
#: What can be lost, by the place of its byte.
KINDS = ("metrics", "observed", "trail", "trace", "output")
SIZE = 64


class Losses:
    """The page of one run, as one process has it mapped; without a file it takes nothing in."""

    def __init__(self, folder: str) -> None:
        self._page: mmap.mmap | None = None
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(os.path.join(folder, FILE), os.O_RDWR | os.O_CLOEXEC)
            try:
                self._page = mmap.mmap(fd, SIZE)
            finally:
                os.close(fd)

    def note(self, kind: str) -> None:
        """Take in that something of a kind was lost."""
        if self._page is not None and kind in KINDS:
            self._page[KINDS.index(kind)] = 1


def make(folder: str) -> None:
    """Make the file of a run that is about to begin. Raises OSError."""
    fd = os.open(os.path.join(folder, FILE), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, bytes(SIZE))
    finally:
        os.close(fd)


def read(folder: str) -> list[str]:
    """Return the kinds of which something was lost."""
    try:
        with open(os.path.join(folder, FILE), "rb") as handle:
            found = handle.read(SIZE)
    except OSError:
        return []
    return [kind for kind, is_lost in zip(KINDS, found, strict=False) if is_lost]
