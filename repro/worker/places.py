"""The place of each process in the seed plan: whose child it is, and which one of its parent's.

A parent numbers the programs that it starts and hands each its key in a variable. What starts programs and has no hook
(a shell) passes its own key on to all of them: they take numbers at it, in the order in which they begin. The first
process of a run has the empty place. See docs/adr/0031-places.md.
"""

from __future__ import annotations

import fcntl
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from repro.worker.job import Lines

VARIABLE = "REPRO_PLACE"
_FILE = ("observed", "places")
#: For how long an older child of the same shell is waited for, in seconds.
_PATIENCE = 0.5
#: Where `_posixsubprocess.fork_exec` has the child's variables among its arguments.
_VARIABLES = 5
_SPAWNED = "--multiprocessing-fork"


class Inherited(NamedTuple):
    """What a process is handed: the key at which it takes a number, and its parent's rank and place."""

    key: str = ""
    rank: str = "-"
    parent: str = ""

    @classmethod
    def read(cls, folder: str) -> Inherited | None:
        """Return what the variable says for the job in ``folder``; None in the first processes of a run."""
        job, *fields = os.environ.get(VARIABLE, "").rsplit("|", 3)
        return cls(*fields) if job == folder and len(fields) == len(cls._fields) else None

    def write(self, folder: str) -> str:
        """Return the variable's text."""
        return "|".join((folder, *self))


class Claim(NamedTuple):
    """A number that a process took at its key, and whether no other ran there that it cannot be ordered with."""

    number: int
    alone: bool


def take(folder: str, key: str) -> Claim:
    """Take the next number at ``key``, from 1 on, after the older children of the same shell. Raises OSError."""
    path, parent = os.path.join(folder, *_FILE), os.getppid()
    _wait_for(_older(parent), path)
    with open(path, "a+b") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        others = [claim[1:] for claim in _claims(path) if claim[0] == key]
        handle.write(f"{key}\t{os.getpid()}\t{_began(os.getpid())}\t{parent}\n".encode())
    running = [of for pid, began, of in others if pid != str(os.getpid()) and _began(int(pid)) == began != "-"]
    return Claim(len(others) + 1, alone=all(of == str(parent) for of in running))


def _claims(path: str) -> list[list[str]]:
    """Return key, process, its beginning and its parent for each claim."""
    try:
        with open(path, encoding="utf-8") as handle:
            return [line.split("\t") for line in handle.read().splitlines()]
    except FileNotFoundError:
        return []


def _older(parent: int) -> list[int]:
    """Return the older children of the shell that started this process; [] where no shell did, or none can be seen."""
    try:
        if os.path.basename(os.readlink(f"/proc/{parent}/exe")).startswith("python"):
            return []
        with open(f"/proc/{parent}/task/{parent}/children", encoding="utf-8") as handle:
            children = [int(pid) for pid in handle.read().split()]
    except OSError:
        return []
    return children[: children.index(os.getpid())] if os.getpid() in children else []


def _wait_for(pids: list[int], path: str) -> None:
    """Wait until each has taken its number, is gone, or is no Python: a pipe's ends start within the same moment."""
    until = time.monotonic() + _PATIENCE
    for pid in pids:
        while _may_claim(pid) and not any(claim[1] == str(pid) for claim in _claims(path)):
            if time.monotonic() > until:
                return
            time.sleep(0.005)


def _may_claim(pid: int) -> bool:
    """Say whether a process is a Python, or one that its shell has just forked."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return program in (os.readlink("/proc/self/exe"), _program(os.getppid()))


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _began(pid: int) -> str:
    """Return when a process began, in ticks since the machine's start; "-" where it runs no longer."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return "-"
    return "-" if fields[0] in "ZX" else fields[19]


class Place:
    """Where this process stands, and the numbers that it gives to the programs that it starts."""

    def __init__(self, folder: str, observed: Lines) -> None:
        self._folder = folder
        self._observed = observed
        self._lock = threading.Lock()
        self._starters: set[int] = set()
        self.started = 0
        inherited = Inherited.read(folder)
        self.own = self._find(inherited)
        self._hand_on()

    def _find(self, inherited: Inherited | None) -> str:
        rank = os.environ.get("RANK", "-")
        if inherited is not None and _SPAWNED in sys.orig_argv:
            return inherited.key
        if inherited is not None and rank not in ("-", inherited.rank):
            return inherited.parent  # its launcher's: the rank tells it from the others
        key = "" if inherited is None else inherited.key
        number, alone = take(self._folder, f"{key}@{rank}")
        if not alone:
            self._observed.event("unplaced", why="processes that a shell started side by side", place=key)
        return key if number == 1 else f"{key}/~{number}"

    def _variable(self, child: str) -> str:
        """Return the variable for a child, by what its key has beyond this place."""
        return Inherited(f"{self.own}/{child}", os.environ.get("RANK", "-"), self.own).write(self._folder)

    def forked(self, number: int) -> None:
        """Take the place of the parent's n-th child, in a fork."""
        self._lock = threading.Lock()
        self.own, self.started, self._starters = f"{self.own}/{number}", 0, set()
        self._hand_on()

    def _hand_on(self) -> None:
        os.environ[VARIABLE] = self._variable("s")  # for what is started where nobody counts: os.system, exec

    def count(self) -> str:
        """Return the variable for one more program that this process starts."""
        with self._lock:
            self.started += 1
            self._starters.add(threading.get_ident())
            number, is_first = self.started, len(self._starters) == 2  # noqa: PLR2004
            if is_first:
                self._starters.add(0)
        if is_first:
            self._observed.event("unplaced", why="programs started from several threads", place=self.own)
        return self._variable(f"x{number}")

    def watch(self, spawned: Callable[[], int]) -> None:
        """Number the programs that `subprocess`, `multiprocessing`, joblib and `os.posix_spawn` start.

        ``spawned`` returns the number of a child that `multiprocessing` spawns: one more than the last of these and
        of the forks.
        """
        import _posixsubprocess

        setattr(_posixsubprocess, "fork_exec", self._fork_exec(_posixsubprocess.fork_exec, spawned))  # noqa: B010
        if "subprocess" in sys.modules:
            setattr(sys.modules["subprocess"], "_fork_exec", _posixsubprocess.fork_exec)  # noqa: B010
        for name in ("posix_spawn", "posix_spawnp"):
            setattr(os, name, self._spawn(getattr(os, name)))

    def _fork_exec(self, original: Callable[..., int], spawned: Callable[[], int]) -> Callable[..., int]:
        @functools.wraps(original)
        def fork_exec(*args: Any) -> int:
            given = args[_VARIABLES]
            pairs = [b"%b=%b" % pair for pair in os.environb.items()] if given is None else list(given)
            if any(pair.startswith(b"REPRO_JOB=") for pair in pairs):  # else it runs undisturbed
                is_spawned = os.fsencode(_SPAWNED) in map(os.fsencode, args[0])
                variable = self._variable(str(spawned())) if is_spawned else self.count()
                mark = os.fsencode(f"{VARIABLE}=")
                pairs = [pair for pair in pairs if not pair.startswith(mark)] + [mark + os.fsencode(variable)]
            return original(*args[:_VARIABLES], pairs, *args[_VARIABLES + 1 :])

        return fork_exec

    def _spawn(self, original: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(original)
        def spawn(path: Any, argv: Any, env: Any, **kwargs: Any) -> int:
            name: Any = VARIABLE if not any(isinstance(key, bytes) for key in env) else os.fsencode(VARIABLE)
            value: Any = self.count()
            return original(path, argv, {**env, name: value}, **kwargs)

        return spawn
