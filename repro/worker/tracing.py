"""The log of a traced process: what came in from outside of torch, and every operator, as one JSON line each.

`repro diagnose` has two replays leave such logs and compares them; it takes them away again. Lines are written as they
happen, so that a worker which is killed loses none. docs/reference/diagnose.md has the fields.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import xxhash

from repro.worker.job import Job, Lines, close_quietly, lineage, open_to_append, place

#: So many operators are logged before the end of the first step and in the window; so many draws in all.
MOST_OPERATORS = 300_000
MOST_DRAWS = 200_000
#: Results are kept, for their distance in ULP: so many bytes of one, and of all.
MOST_BYTES = 1 << 20
MOST_BYTES_IN_ALL = 256 << 20

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_INSTALLED = (os.path.dirname(os.__file__) + os.sep, sys.prefix + os.sep, sys.base_prefix + "/lib/", "<frozen ", "<__")
#: Operators that these call are the trail's own.
_LOOKING = tuple(f"{_OURS}worker/{name}.py" for name in ("trail", "bits", "generators", "optimizers", "loaders"))
_clock = time.monotonic_ns
#: A process that `multiprocessing` spawned anew learns which child it is only after it has begun.
_SPAWNED = "--multiprocessing-fork" in sys.orig_argv
#: What a loader's workers send comes in any order, and is put in order then: it is seen where it is used.
_RECEIVING = "/torch/multiprocessing/reductions.py"
_NO_INPUT = ("/shutil.py", "/tempfile.py", "<frozen importlib._bootstrap>")
#: What these ask the operating system for, the user's own code asks for.
_ASKING = tuple(f"{os.path.dirname(os.__file__)}/{name}.py" for name in ("random", "secrets", "uuid"))
#: How the name of a generator of the user's own begins.
OWN = "own "
_USER, _INSIDE, _LOOKS, _PASSED = range(4)


@functools.cache
def _kind(code: CodeType) -> int:
    name = code.co_filename
    if name.startswith(_OURS):
        return _LOOKS if name in _LOOKING else _PASSED
    if name.endswith(_RECEIVING):
        return _LOOKS
    if name in _ASKING:
        return _PASSED
    if _SPAWNED and name == "<string>":
        return _INSIDE
    return _INSIDE if name.startswith(_INSTALLED) or "/site-packages/" in name or "/dist-packages/" in name else _USER


def users_line(frame: FrameType | None, *, outside: bool = False) -> tuple[str, int, bool] | None:
    """Return file and line of the innermost call outside installed code, and whether it made the call itself.

    None where there is no such line, and where it is the trail that looks. Of what comes from ``outside`` also where a
    library asks for it while it is imported, or to make names and room: it is no input of the user's.
    """
    direct = True
    while frame is not None:
        kind = _kind(frame.f_code)
        if kind == _USER:
            return frame.f_code.co_filename, frame.f_lineno, direct
        if kind == _LOOKS or (outside and frame.f_code.co_filename.endswith(_NO_INPUT)):
            return None
        direct = direct and kind == _PASSED
        frame = frame.f_back
    return None


class Log:
    """One process's log; a forked child writes one of its own, and has all its operators in it.

    ``start`` is the number of optimizer steps after which operators are logged again; those before the end of the first
    step always are.
    """

    def __init__(self, job: Job) -> None:
        self._start = job.trace or 0
        os.makedirs(os.path.join(job.folder, "trace"), exist_ok=True)
        self._lines = Lines(job.folder, "trace")
        self._folder = job.folder
        self._main = threading.get_ident()
        self._busy: set[int] = set()
        self._lock = threading.Lock()
        self._waiting: list[str] | None = [] if _SPAWNED else None
        self.steps = 0
        self._child = False
        self.operators = True
        self._left = MOST_OPERATORS
        self._draws = MOST_DRAWS
        self._bytes = MOST_BYTES_IN_ALL
        self._fd = -1
        self._name = ""
        self._end = 0
        self.generators = 0
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        if self._fd >= 0:
            close_quietly(self._fd)
        self._fd, self._end = -1, 0
        self._main = threading.get_ident()
        self._lock = threading.Lock()  # another thread may have held it
        self._child = self.operators = True
        self._left = MOST_OPERATORS

    def new_generator(self) -> str:
        """Return the name of one more generator: the process in which it was made, and its number there."""
        self.generators += 1
        return f"{OWN}{place()}/{self.generators}"

    def stepped(self) -> None:
        """Take note that an optimizer has stepped."""
        before = self.operators
        self.steps += 1
        self.operators = self._child or self.steps >= self._start
        if self.operators and not before:
            self._left = MOST_OPERATORS

    def operator(self, event: dict[str, Any]) -> None:
        """Append an operator."""
        self._left -= 1
        if self._left < 0:
            self.operators = False
            self.write("full", {})
            return
        self.write("ops", event)

    def outside(self, stream: str, kind: str, name: str, /, **fields: Any) -> None:
        """Append something from outside of torch, with the user's line; ``stream`` is what it belongs to."""
        found = users_line(sys._getframe(), outside=True)
        if found is not None:
            self.note(stream, kind, name, found, **fields)

    def note(self, stream: str, kind: str, name: str, found: tuple[str, int, bool], /, **fields: Any) -> None:
        """Append something from outside of torch of a known line."""
        if kind == "draw":
            self._draws -= 1
            if self._draws < 0:
                return
        if threading.get_ident() != self._main and not stream.startswith(OWN):  # its draws are its own in any thread
            stream += f"@{threading.current_thread().name}"
        self.write(stream, {"k": kind, "n": name, "at": found[:2], "direct": found[2], **fields})

    def write(self, stream: str, event: dict[str, Any]) -> None:
        """Append one event."""
        thread = threading.get_ident()
        if thread in self._busy:  # what writing itself asks for: the time, in a file's name
            return
        self._busy.add(thread)
        try:
            with self._lock:  # the first line makes the file, and threads may have it at once
                self._append(_encode({"s": stream, "t": _clock(), "step": self.steps, **event}) + "\n")
        finally:
            self._busy.discard(thread)

    def _append(self, line: str) -> None:
        if self._waiting is not None:
            self._waiting.append(line)
            if not lineage():
                return
            line, self._waiting = "".join(self._waiting), None
        self._lines.write(line)

    def quietly(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Do what must not fail into the user's code; a failure is logged."""
        try:
            return action(*args, **kwargs)
        except Exception as error:
            self.write("failure", {"error": f"{type(error).__name__}: {error}"[:300]})
            return None

    def keep(self, data: Any) -> tuple[str, int, int] | None:
        """Keep the bytes of a result; return file, offset and size, or None where they are too many."""
        size = len(data)
        if size > min(MOST_BYTES, self._bytes):
            return None
        if self._fd < 0:
            self._name = f"{place()}-{_clock()}-{os.getpid()}.bytes"
            self._fd = open_to_append(os.path.join(self._folder, "trace", self._name))
        self._bytes -= size
        os.write(self._fd, data)
        self._end += size
        return self._name, self._end - size, size


def _encoder() -> Callable[[Any], str]:
    import json

    return json.JSONEncoder(separators=(",", ":"), default=str).encode


_encode = _encoder()


def digest(data: Any) -> str:
    """Return the digest of a text or of bytes."""
    return xxhash.xxh3_64_hexdigest(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
