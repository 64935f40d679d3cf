"""The standard streams of a command, whatever it was started with: closed, full, or with nobody who reads."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import select
import sys
from typing import Any

from repro.errors import UsageError

#: So many files more than a command was started with does it open at once, with its threads, pipes and programs.
_NEEDED = 32


def settle() -> None:
    """See to it that the standard streams are open, can show any name, and that what is said for people never fails."""
    for number in range(3):  # in ascending order: each takes the lowest number that is free
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    said: Any = _Said(2)  # a raw stream will do: there is nothing to buffer
    sys.stderr = io.TextIOWrapper(said, encoding, errors="backslashreplace", write_through=True)


class _Said(io.RawIOBase):
    """A stream of words for people: what cannot be written is lost, and nothing else."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Say that it is one to write to."""
        return True

    def write(self, data: Any) -> int:
        """Write all of ``data`` if somebody takes it."""
        view = memoryview(data).cast("B")
        with contextlib.suppress(OSError):
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:  # whoever started us does not wait on it
                    select.select([], [self._descriptor], [])
        return memoryview(data).nbytes


def check_room() -> None:
    """Raise UsageError where so few files may be open that a command would stop half-way."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with contextlib.suppress(OSError):
        most -= len(os.listdir("/proc/self/fd"))
        if most >= _NEEDED:
            return
    raise too_many_files()


def too_many_files() -> UsageError:
    """Return the error of a command that may not open another file."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    hint = "raise the limit (ulimit -n 1024), or start it with fewer open files"
    return UsageError(f"too few files may be open at once: the limit is {most}", hint=hint)
