"""Run a job's processes on this machine: their output kept and passed through, their end seen to."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_GRACE = 5.0
_CHUNK = 1 << 16

Listener = Callable[[bytes], None]


class End(NamedTuple):
    """How the job's first process ended: its exit code or signal, and the signals that were passed on to it."""

    code: int | None
    signal: int | None
    forwarded: list[int]


class LocalProcess:
    """A started job; `release` lets an interpreter go on that waits for the seal."""

    def __init__(self, process: subprocess.Popen[bytes], gate: int | None, pumps: list[threading.Thread]) -> None:
        self.pid = process.pid
        self._process = process
        self._gate = gate
        self._pumps = pumps

    def release(self) -> None:
        """Let the interpreter enter user code. One that is gone already (SIGKILL, a broken start) is not an error."""
        if self._gate is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._gate, b"!")
            self._close_gate()

    def abandon(self) -> None:
        """End a process that waits: it leaves without having run any user code."""
        self._close_gate()
        self._process.kill()
        self._process.wait()
        _end_children()
        self._join()

    def _close_gate(self) -> None:
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def wait(self) -> End:
        """Wait for the end, passing signals on; processes that the job left behind are ended too."""
        forwarded: list[int] = []

        def forward(number: int, _frame: Any) -> None:
            forwarded.append(number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

        with _handlers(forward):
            code = self._process.wait()
            self._end_group()
            _end_children()
            self._join()
        return End(code if code >= 0 else None, -code if code < 0 else None, forwarded)

    def _end_group(self) -> None:
        """Ask the rest of the process group to end, then make it."""
        deadline = time.monotonic() + _GRACE
        number = signal.SIGTERM
        while _signal_group(self.pid, number):
            _reap()
            number = signal.SIGKILL if time.monotonic() > deadline else signal.Signals(0) if number else number
            time.sleep(0.01)

    def _join(self) -> None:
        for pump in self._pumps:
            pump.join(timeout=_GRACE)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def _handlers(forward: Any) -> Iterator[None]:
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    folder: Path,
    gated: bool,
    to_stderr: bool = False,
    listener: Listener | None = None,
) -> LocalProcess:
    """Start ``command`` in a process group of its own.

    Its output goes to ``stdout.log`` and ``stderr.log`` in ``folder`` and on to this process's own (with ``to_stderr``
    all of it to standard error), through a terminal where ours is one. A gated interpreter waits for `release`.
    ``listener`` is called with each piece of output.

    Raises:
        OSError: when the program cannot be started.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    variables = dict(env)
    read_end, write_end = os.pipe() if gated else (None, None)
    if read_end is not None:
        variables["REPRO_GATE"] = str(read_end)
    outs = (sys.stderr if to_stderr else sys.stdout, sys.stderr)
    channels = [
        _Channel(out.fileno(), folder / f"{name}.log", listener)
        for name, out in zip(("stdout", "stderr"), outs, strict=True)
    ]
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=variables,
            stdout=channels[0].child,
            stderr=channels[1].child,
            pass_fds=[read_end] if read_end is not None else (),
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509  (no thread is running yet)
        )
    finally:
        for channel in channels:
            os.close(channel.child)
        if read_end is not None:
            os.close(read_end)
    return LocalProcess(process, write_end, [channel.start() for channel in channels])


class _Channel:
    """One output stream: from the child to the log and to ours."""

    def __init__(self, out: int, log: Path, listener: Listener | None) -> None:
        self._out = out
        self._log: BinaryIO = log.open("ab", buffering=0)
        self._listener = listener
        if os.isatty(out):
            self._source, self.child = _terminal(out)
        else:
            self._source, self.child = os.pipe()

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._pump, daemon=True)
        thread.start()
        return thread

    def _pump(self) -> None:
        out: int | None = self._out
        while data := self._read():
            with contextlib.suppress(OSError):  # a full disk must not stop the run
                self._log.write(data)
            if self._listener is not None:
                self._listener(data)
            try:
                if out is not None:
                    _write_all(out, data)
            except BrokenPipeError:  # as under plain python: the child's next write finds nobody either
                break
            except OSError:
                out = None
        os.close(self._source)
        self._log.close()

    def _read(self) -> bytes:
        try:
            return os.read(self._source, _CHUNK)
        except OSError:  # a terminal whose other side is closed
            return b""


def _write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def _terminal(out: int) -> tuple[int, int]:
    """Return both sides of a new terminal that has the size of ours and leaves the bytes as they are."""
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    with contextlib.suppress(OSError):
        fcntl.ioctl(slave, termios.TIOCSWINSZ, fcntl.ioctl(out, termios.TIOCGWINSZ, bytes(8)))
    return master, slave


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_children() -> None:
    """End what was left behind in sessions of its own: as the subreaper we are its parent now."""
    for _ in range(100):
        _reap()
        children = _children()
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    me = os.getpid()
    found = []
    for task in Path(f"/proc/{me}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (task / "children").read_text(encoding="ascii").split()]
    return found


def kill_left(folder: Path) -> int:
    """Kill every process that belongs to the job of ``folder`` and outlived its supervisor; return how many."""
    mark = b"REPRO_JOB=" + os.fsencode(folder)
    count = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                count += 1
    return count
