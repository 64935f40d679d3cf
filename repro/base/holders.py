"""Who holds a lock, as its file says, and whether that process can still be there, on this machine or another.

A host's name decides nothing by itself: a container has one of its own, and a machine may get another. What decides is
the kernel, which drops a lock when its holder dies, however that happens; under another kernel it is a lease that the
holder renews while it lives.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

from repro.base import clock

#: A holder renews its lease so often, in seconds; one that has not for so long is gone.
BEAT, LEASE = 60.0, 900.0
#: File systems that one kernel alone has mounted: whoever wrote there under another one is gone.
_LOCAL = frozenset("ext2 ext3 ext4 xfs btrfs f2fs zfs bcachefs reiserfs jfs tmpfs ramfs overlay".split())

State = Literal["RUNNING", "LOST", "UNKNOWN"]


def note() -> bytes:
    """Return what a lock's file says of this process when it holds it."""
    pid = os.getpid()
    found = {"host": os.uname().nodename, "boot": clock.boot_id(), "pid": pid, "start": clock.process_start(pid)}
    return json.dumps(found | {"pids": _pids(), "lease": LEASE}).encode()


def _pids() -> str:
    """Return what tells our numbers of processes from those of another container, or an empty text."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_of_this_boot(found: dict[str, Any]) -> bool:
    """Say whether a holder runs, or ran, under our kernel, whatever its host was called."""
    return bool(found.get("boot")) and found.get("boot") == clock.boot_id()


def lives(found: dict[str, Any]) -> bool:
    """Say whether the holder of a lock that is held is there; one that cannot be looked at from here is taken to be."""
    if not is_of_this_boot(found) or found.get("pids") != _pids():
        return "host" in found
    return bool(found["start"] == clock.process_start(found["pid"]))


def state(found: dict[str, Any], age: float, *, is_local: bool) -> State:
    """Return what became of the holder of a lock that nobody holds as far as we can see.

    ``age`` is how long ago it renewed its lease, in seconds; ``is_local`` whether no other machine has its file system.
    """
    if "host" not in found or is_of_this_boot(found):
        return "LOST"  # the kernel that dropped the lock is ours
    if is_local and found["host"] == os.uname().nodename:
        return "LOST"  # this machine was started anew
    return "LOST" if age > found.get("lease", float("inf")) else "UNKNOWN"


def age(path: Path) -> float:
    """Return how long ago, in seconds, the lease on a lock's file was renewed. Raises OSError."""
    return time.time() - path.stat().st_mtime


def is_local(path: Path) -> bool:
    """Say whether a path lies on a file system that no other kernel can have mounted."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    here, best, kind = os.path.realpath(path), -1, ""
    for words in map(str.split, lines):
        place = words[4].encode("utf-8", "surrogateescape").decode("unicode_escape")  # a blank is \\040
        if (here + os.sep).startswith(place.rstrip(os.sep) + os.sep) and len(place) >= best:
            best, kind = len(place), words[words.index("-") + 1]
    return kind in _LOCAL


class Lease:
    """Renews the lease on a lock's file from `begin` to `end`, in a thread of its own."""

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def begin(self) -> None:
        """Renew it from here on."""
        self._thread.start()

    def end(self) -> None:
        """Renew it no more."""
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _renew(self) -> None:
        while not self._done.wait(BEAT):
            try:
                os.utime(self._lock)
            except OSError:  # a server that is away for a while
                continue
