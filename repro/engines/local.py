"""Run a job's processes on this machine: their output kept and passed through, their end seen to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from repro.base.process import die_with_parent, kill_where
from repro.engines import output, watchdog
from repro.engines.limits import Over, RunLimits
from repro.engines.output import Channel, Listener
from repro.engines.signals import ENDING, Relay, send_group

_PR_SET_CHILD_SUBREAPER = 36
_GRACE = 5.0
_POLITE_TURNS = 50


class Command(NamedTuple):
    """What is to be started for the job of ``folder``.

    It reads ``stdin``, else our standard input, or nothing if it is ``silent``. Its output goes to ``stdout.log`` and
    ``stderr.log`` in ``folder`` and on to this process's own (with ``to_stderr`` all of it to standard error, with
    ``quiet`` nothing), through a terminal where ours is one. A ``gated`` interpreter waits for `LocalProcess.release`.
    ``listener`` is called with whole lines of output, by one thread at a time; a carriage return ends one as well.
    ``limits`` count from its release on. ``relay`` passes signals on to it; it is begun and ended by who made it.
    """

    words: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    folder: Path
    gated: bool
    to_stderr: bool = False
    silent: bool = False
    stdin: bytes | None = None
    quiet: bool = False
    listener: Listener | None = None
    limits: RunLimits = RunLimits()
    relay: Relay | None = None

    def channels(self) -> list[Channel]:
        """Open the channels of its output and errors, not yet started."""
        return output.open_channels(self.folder, self.listener, to_stderr=self.to_stderr, quiet=self.quiet)


class End(NamedTuple):
    """How the job's first process ended: its exit code or signal, and the signals that were passed on to it.

    ``lost`` says why it was never forked, or what it was taken along by; ``over`` for which limit it was ended. One
    that has not ``begun`` was told to end before its first line, and never ran any user code.
    """

    code: int | None
    signal: int | None
    forwarded: list[int]
    lost: str | None = None
    over: Over | None = None
    begun: bool = True
    unwritten: Mapping[str, str] = MappingProxyType({})


class First(Protocol):
    """A job's first process, whoever forked it; `wait` returns its exit code, or less than 0 for a signal."""

    @property
    def pid(self) -> int | None:
        """Its id, None where it could not be forked."""
        ...

    def wait(self) -> int:
        """Wait for the end."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...


class LocalProcess:
    """A started job; `release` lets an interpreter go on that waits for the seal.

    ``spared`` are children of ours that are no part of the job.
    """

    #: Whether it was forked from a template.
    warm = False
    #: Says, after so many seconds, that the job has gone as far as it is to: it is ended then.
    enough: Callable[[float], bool] | None = None
    #: So many seconds after it was told to end it is made to; None: it may take its time.
    patience: float | None = None

    def __init__(
        self,
        process: First,
        gate: int | None,
        channels: list[Channel],
        limits: RunLimits,
        spared: Sequence[int] = (),
        relay: Relay | None = None,
    ) -> None:
        self._process = process
        self._gate = gate
        self._channels = channels
        self._spared = frozenset(spared)
        self._own_relay = Relay() if relay is None else None
        self._relay = relay or self._own_relay or Relay()
        self._told: list[int] = []
        self._limits = limits
        self._watchdog: watchdog.Watchdog | None = None

    @property
    def pid(self) -> int | None:
        """The number of its first process; None where it is not started yet."""
        return self._process.pid

    def release(self) -> None:
        """Let the interpreter enter user code; from here on signals are its own.

        One that is gone already (SIGKILL, a broken start) is not an error. One that was told to end meanwhile, and
        waits, is ended here.
        """
        if self._own_relay is not None:
            self._own_relay.begin()
        if self._gate is not None and not ENDING.isdisjoint(self._relay.waiting):
            self._told = list(self._relay.waiting)
            self.abandon()
            return
        pid = self._process.pid
        if pid is not None:
            self._relay.aim(pid, self._channels, self.patience)
            self._watch(pid)
        if self._gate is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._gate, b"!")
            self._close_gate()

    def _watch(self, pid: int) -> None:
        if self._limits != RunLimits() or self.enough is not None:
            self._watchdog = watchdog.Watchdog(
                self._limits, self._members, lambda number: send_group(pid, number), self.enough, pid
            )
            self._watchdog.start()

    def abandon(self) -> None:
        """End a process that waits: it leaves without having run any user code."""
        self._close_gate()
        self._process.kill()
        self._process.wait()
        self._end_watch()
        _end_children(self._spared)
        self._finish()

    def _close_gate(self) -> None:
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def wait(self) -> End:
        """Wait for the end, passing signals on; processes that the job left behind are ended too."""
        if self._told:
            return End(None, self._told[0], self._told, begun=False)
        try:
            self._relay.wait()
            code = self._process.wait()
            self._relay.over()
            over = self._end_watch()
            if self._process.pid is not None:
                _end_group(self._process.pid)
            _end_children(self._spared)
            self._finish()
        finally:
            if self._own_relay is not None:
                self._own_relay.end()
        forwarded, unwritten = list(self._relay.forwarded), self._unwritten()
        return End(code if code >= 0 else None, -code if code < 0 else None, forwarded, over=over, unwritten=unwritten)

    def _members(self) -> set[int]:
        """Return the job's processes, also those in sessions of their own."""
        first = set() if self._process.pid is None else {self._process.pid}
        return watchdog.family(first | (watchdog.children(os.getpid()) - self._spared))

    def _end_watch(self) -> Over | None:
        """Send nothing more for a limit; return the one that was broken."""
        return None if self._watchdog is None else self._watchdog.end()

    def _unwritten(self) -> dict[str, str]:
        named = zip(("standard output", "standard error"), self._channels, strict=True)
        return {name: channel.failure for name, channel in named if channel.failure is not None}

    def _finish(self) -> None:
        for channel in self._channels:
            channel.finish()


def _end_group(group: int) -> None:
    """Ask the rest of a process group to end, then make it."""
    deadline = time.monotonic() + _GRACE
    number = int(signal.SIGTERM)
    while send_group(group, number) and time.monotonic() < deadline + 1:
        _reap()
        number = int(signal.SIGKILL) if time.monotonic() > deadline else 0
        time.sleep(0.01)


def launch(command: Command) -> LocalProcess:
    """Start a command in a process group of its own.

    Raises:
        OSError: when the program cannot be started.
    """
    become_subreaper()
    variables = dict(command.env)
    read_end, write_end = os.pipe() if command.gated else (None, None)
    if read_end is not None:
        variables["REPRO_GATE"] = str(read_end)
    channels = command.channels()
    standard_input = _standard_input(command)
    try:
        process = subprocess.Popen(
            command.words,
            cwd=command.cwd,
            env=variables,
            stdin=standard_input,
            stdout=channels[0].child,
            stderr=channels[1].child,
            pass_fds=[read_end] if read_end is not None else (),
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread is running yet)
        )
    finally:
        for channel in channels:
            channel.start()
        if read_end is not None:
            os.close(read_end)
        if standard_input is not None and standard_input >= 0:
            os.close(standard_input)
    return LocalProcess(process, write_end, channels, command.limits, relay=command.relay)


def _standard_input(command: Command) -> int | None:
    """Return what a command has as its standard input, as `subprocess.Popen` takes it."""
    if command.stdin is None:
        return subprocess.DEVNULL if command.silent else None
    descriptor = os.memfd_create("stdin")
    with open(os.dup(descriptor), "wb") as handle:
        handle.write(command.stdin)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def become_subreaper() -> None:
    """Have what a job leaves behind in other sessions as children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_children(spared: frozenset[int]) -> None:
    """End what was left behind in sessions of its own, first politely: as the subreaper we are its parent now."""
    number = int(signal.SIGTERM)
    for turn in range(4 * _POLITE_TURNS):
        _reap()
        children = watchdog.children(os.getpid()) - spared
        if not children:
            return
        if turn:
            number = int(signal.SIGKILL) if turn > _POLITE_TURNS else 0
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.01)


def kill_left(folder: Path) -> int:
    """Kill every process that belongs to the job of ``folder`` and outlived its supervisor; return how many.

    A job's folder has a name of its own, and in a container may have lain elsewhere.
    """
    end = b"/" + os.fsencode(folder.name)
    return kill_where(lambda pair: pair.startswith(b"REPRO_JOB=") and pair.endswith(end))
