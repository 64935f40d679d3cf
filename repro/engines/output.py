"""A job's output: from the child to the log, to who listens, and on to ours; through a terminal where ours is one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TextIO

from repro.worker.losses import Losses

_GRACE = 5.0
_CHUNK = 1 << 16

Listener = Callable[[bytes], None]


def open_channels(
    folder: Path, listener: Listener | None, *, to_stderr: bool = False, quiet: bool = False
) -> list[Channel]:
    """Return the channels of a job's output and errors, not yet started."""
    outs = (None, None) if quiet else (sys.stderr if to_stderr else sys.stdout, sys.stderr)
    one_at_a_time = threading.Lock()
    return [
        Channel(_descriptor(out), folder / f"{name}.log", None if listener is None else _Lines(listener, one_at_a_time))
        for name, out in zip(("stdout", "stderr"), outs, strict=True)
    ]


def _descriptor(stream: TextIO | None) -> int:
    """Return a stream's descriptor; one of ours that is closed (``>&-``) swallows what the child says."""
    return _nowhere() if stream is None else stream.fileno()


@functools.cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


class _Lines:
    """Hands a stream to a listener line by line, whatever pieces it comes in."""

    def __init__(self, listener: Listener, one_at_a_time: threading.Lock) -> None:
        self._listener = listener
        self._lock = one_at_a_time
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Take in a piece."""
        data = self._rest + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._rest = data[end:]
        self._give(data[:end])

    def finish(self) -> None:
        """Hand over a last line that nothing ended."""
        self._give(self._rest and self._rest + b"\n")

    def _give(self, lines: bytes) -> None:
        if lines:
            with self._lock:
                self._listener(lines)


class Channel:
    """One output stream: from the child to the log and to ours."""

    def __init__(self, out: int, log: Path, lines: _Lines | None) -> None:
        self._out = out
        self._log: BinaryIO = log.open("ab", buffering=0)
        self._losses = Losses(str(log.parent))
        self._lines = lines
        self._terminal = os.isatty(out)
        self._source, self.child = _terminal(out) if self._terminal else os.pipe()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._reading = False
        self._pieces = 0
        self._given_up = False
        #: Why what came could not be passed on from some point; the log has it all the same.
        self.failure: str | None = None

    def start(self) -> None:
        """Close the child's side here, as the child has it by now or never will, and begin to pass output on."""
        os.close(self.child)
        self._thread.start()

    def finish(self) -> None:
        """Return when all output is through, however slow its reader is; the log is final then.

        Given up after a while without output: a process that is no child of ours still holds the stream open.
        """
        while self._thread.is_alive() and not self._given_up:
            before = self._pieces
            self._thread.join(timeout=_GRACE)
            self._given_up = self._thread.is_alive() and self._reading and self._pieces == before

    def resize(self) -> None:
        """Give the child's terminal the size of ours."""
        if self._terminal:
            _copy_size(self._out, self._source)

    def _pump(self) -> None:
        out: int | None = self._out
        while data := self._read():
            if self._given_up:
                break
            try:
                if self._log.write(data) != len(data):
                    self._losses.note("output")
            except OSError:  # a full disk must not stop the run
                self._losses.note("output")
            if self._lines is not None:
                self._lines.take(data)
            try:
                if out is not None:
                    _write_all(out, data)
            except BrokenPipeError:  # as under plain python: the child's next write finds nobody either
                break
            except OSError as error:
                out, self.failure = None, error.strerror
        os.close(self._source)
        self._log.close()
        if self._lines is not None:
            self._lines.finish()

    def _read(self) -> bytes:
        self._reading = True
        try:
            return os.read(self._source, _CHUNK)
        except OSError:  # a terminal whose other side is closed
            return b""
        finally:
            self._reading = False
            self._pieces += 1


def _write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(out, view) :]
        except BlockingIOError:  # whoever started us does not wait on it
            select.select([], [out], [])


def _terminal(out: int) -> tuple[int, int]:
    """Return both sides of a new terminal that has the size of ours and leaves the bytes as they are."""
    master, slave = os.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    _copy_size(out, slave)
    return master, slave


def _copy_size(one: int, other: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(other, termios.TIOCSWINSZ, fcntl.ioctl(one, termios.TIOCGWINSZ, bytes(8)))
