"""Watches a job that runs: beyond a limit its processes are asked to end, and after a short grace made to."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from repro.engines.limits import Over, RunLimits
from repro.engines.signals import has_ended, open_process

_GRACE = 5.0
#: Seconds between two looks; so much longer than it wanted a pause may take where it is not that we were stopped.
_TICK = 0.1
_DELAY = 0.1
#: A look that takes long is taken the less often: watching may cost this share of the time.
_SHARE = 0.05
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Watchdog:
    """Watches from `start` to `end`, in a thread of its own.

    ``members`` are the processes of the job now, ``send`` sends them a signal. Time in which this process was stopped
    (Ctrl-Z, a machine that sleeps) does not count, and a job whose ``first`` process has ended is beyond no limit.
    ``enough`` says, after so many seconds, that the job has gone far enough: it is ended at once.
    """

    def __init__(
        self,
        limits: RunLimits,
        members: Callable[[], Iterable[int]],
        send: Callable[[int], object],
        enough: Callable[[float], bool] | None = None,
        first: int | None = None,
    ) -> None:
        self._enough = enough
        self._first = None if first is None else open_process(first)
        self._limits = limits
        self._members = members
        self._send = send
        self._over: Over | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to count."""
        self._thread.start()

    def end(self) -> Over | None:
        """Send nothing any more, the job's first process being gone; return the limit that was broken."""
        self._done.set()
        self._thread.join()
        if self._first is not None:
            os.close(self._first)
            self._first = None
        return self._over

    def _watch(self) -> None:
        spent, before, used = 0.0, time.monotonic(), time.thread_time()
        while (over := self._look(spent)) is None:
            worked = time.thread_time() - used  # a look takes no time to speak of beyond that, unless we are stopped
            pause = self._pause(spent, worked)
            if self._done.wait(pause):
                return
            now = time.monotonic()
            spent += min(now - before, pause + worked + _DELAY)
            before, used = now, time.thread_time()
        if self._done.is_set() or has_ended(self._first):  # it ended by itself while we looked, or were stopped
            return
        self._over = over
        if over.what == "enough":
            self._send(signal.SIGKILL)
            return
        self._send(signal.SIGTERM)
        if not self._done.wait(_GRACE):
            self._send(signal.SIGKILL)

    def _look(self, spent: float) -> Over | None:
        """Return the limit that is broken now."""
        if self._enough is not None and self._enough(spent):
            return Over("enough", spent, spent)
        most, memory = self._limits
        if most is not None and spent >= most:
            return Over("time", most, spent)
        used = 0 if memory is None else in_use(self._members(), memory)
        return Over("memory", memory, used) if memory is not None and used > memory else None

    def _pause(self, spent: float, looked: float) -> float:
        """Return how long to wait for the next look, after one that took so long."""
        tick = max(_TICK, looked / _SHARE) if self._limits.memory or self._enough else _TICK
        return tick if self._limits.time is None else max(0.001, min(tick, self._limits.time - spent))


def in_use(members: Iterable[int], limit: int) -> int:
    """Return how many bytes processes have in use together, those that several share counted once.

    What each has by itself (RSS) is quick to read and no less than that: it is enough while it is within the limit.
    """
    pids = list(members)
    found = sum(map(_resident, pids))
    return found if found <= limit else sum(map(_proportional, pids))


def family(first: Iterable[int]) -> set[int]:
    """Return processes and all their descendants."""
    found: set[int] = set()
    waiting = list(first)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children(pid)
    return found


def children(pid: int) -> set[int]:
    """Return the children of a process, of any of its threads."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found |= {int(child) for child in (task / "children").read_text(encoding="ascii").split()}
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Return the memory of a process, a page that n processes share as its n-th part; all where none may look."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)
