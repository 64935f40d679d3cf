"""The job directory as the child sees it: one JSON file in, append-only files out."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import operator
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from repro.worker.losses import Losses

#: The entry, built in, that makes an averaged model.
AVERAGE = "repro:average"
_OUT_OF_THE_WAY = 4_000


@dataclass(frozen=True)
class Job:
    """What the supervisor tells the processes of a run; written as ``job.json`` before they go on."""

    folder: str
    run_id: str
    seed: int
    profile: str
    threads: int | None
    root: str
    store: str
    started_ns: int
    replicates: dict[str, int] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    entry: str | None = None
    trail: dict[str, Any] = field(default_factory=dict)
    live: list[list[str]] = field(default_factory=list)
    protect: bool = False
    layers: list[str] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    budget: dict[str, int] = field(default_factory=dict)
    horizon: dict[str, int] = field(default_factory=dict)
    until: int | None = None
    against: str = ""
    cut: str = ""
    trace: int | None = None
    values: dict[str, Any] | None = None
    resume: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write ``job.json`` into the job's folder."""
        with open(os.path.join(self.folder, "job.json"), "w", encoding="utf-8") as handle:
            json.dump(self.__dict__, handle)

    @classmethod
    def read(cls, folder: str) -> Job:
        """Return the job of ``folder``. Raises OSError or ValueError."""
        with open(os.path.join(folder, "job.json"), encoding="utf-8") as handle:
            return cls(**json.load(handle))


def rank() -> int:
    """Return this process's rank as torchrun and its like tell it, else 0."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0


def lineage() -> tuple[int, ...]:
    """Return this process's place among the children of `multiprocessing`, () for any other: the same in each run."""
    process = sys.modules.get("multiprocessing.process")
    return () if process is None else tuple(process.current_process()._identity)


def place(number: int | None = None) -> str:
    """Return rank and lineage as a text that sorts as they do: "00001-0000", and "00000-0002.0001" for a child.

    ``number`` is the rank where it is known better than from the environment.
    """
    child = ".".join(f"{place:04d}" for place in lineage())
    return f"{rank() if number is None else number:05d}-{child or '0000'}"


def open_to_append(path: str, *flags: int) -> int:
    """Open a file of the job's to append to, on a descriptor out of the way of the script's own.

    A script may count on the lowest numbers, and one that closes a range of descriptors opens its own files on them.
    """
    mode = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    fd = os.open(path, functools.reduce(operator.or_, flags, mode), 0o644)
    try:
        number = min(_OUT_OF_THE_WAY, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 50)
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
    except OSError:  # there is no such number, or none is left
        return fd
    os.close(fd)
    return high


def close_quietly(fd: int) -> None:
    """Close a descriptor that the script may have closed already."""
    try:
        os.close(fd)
    except OSError:
        pass


class Lines:
    """An append-only file of JSON lines, opened at the first line; after a fork the child opens one of its own.

    A disk that refuses is said once on standard error and never raised into the user's code.
    """

    def __init__(self, folder: str, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self._fd = -1
        self.paths: list[str] = []
        self.lost = 0
        self._losses = Losses(folder)
        self._torn = False
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        # The parent's descriptor must not be closed twice nor written to from here.
        if self._fd >= 0:
            close_quietly(self._fd)
        self._fd = -1
        self.paths = []

    def path(self) -> str:
        """Return this process's file: place and time keep the processes of a run in order."""
        return os.path.join(self._folder, self._kind, f"{place()}-{time.time_ns():019d}-{os.getpid()}.jsonl")

    def write(self, line: str) -> None:
        """Append one line that ends with a newline; it is readable by others at once."""
        data = line.encode()
        if self._torn:  # what is left of the line before must not swallow this one
            data = b"\n" + data
        try:
            if self._fd < 0:
                self._open()
            written = os.write(self._fd, data)
            self._torn = written < len(data) if written else self._torn
        except OSError as error:
            if error.errno != errno.EBADF or not self._again(data):
                self._complain(error)
        else:
            if written < len(data):
                self._complain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _open(self) -> None:
        path = self.path()
        self._fd = open_to_append(path)
        self.paths.append(path)

    def sizes(self) -> dict[str, int]:
        """Return the names of this process's files (another only where the script closed one), and their sizes."""
        return {os.path.basename(path): os.stat(path).st_size for path in self.paths}

    def begin_again(self, data: bytes) -> None:
        """Have ``data`` (whole lines) in place of all that this process has written."""
        if self._fd >= 0:
            close_quietly(self._fd)
        for path in self.paths:
            os.unlink(path)
        self._fd, self.paths = -1, []
        if data:
            self.write(data.decode())

    def _again(self, data: bytes) -> bool:
        """Write to a new file: the script has closed ours."""
        try:
            self._open()
            return os.write(self._fd, data) == len(data)
        except OSError:
            return False

    def _complain(self, error: OSError) -> None:
        self.lost += 1
        self._losses.note(self._kind)
        if self.lost == 1:
            message = (
                f"repro: cannot write {self._kind} to {self._folder}: {error.strerror}; they are lost from here on\n"
            )
            with contextlib.suppress(OSError):
                os.write(2, message.encode())

    def event(self, kind: str, **fields: Any) -> None:
        """Append one event."""
        self.write(json.dumps({"kind": kind, **fields}) + "\n")
