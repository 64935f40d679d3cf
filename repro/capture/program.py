"""A program on standard input (``python - < train.py``): code that has no file of its own."""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import PurePath

from repro.capture import interpreter
from repro.errors import UsageError

#: Under this name, among the sources outside of the project, and as a file in its tree.
NAME = "<stdin>"
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
_MOST = 10_000_000


def on_standard_input(command: Sequence[str]) -> bytes | None:
    """Return the program that a command is going to read from our standard input; None where it reads none there.

    A terminal is left to the command: it is a person who types. So is what a script reads as data: whether it does, or
    another command after this one, nobody knows.

    Raises:
        UsageError: for a program of more than 10 MB.
    """
    if not reads_program(command) or not _is_readable():
        return None
    data = _read()
    if len(data) > _MOST:
        raise UsageError(f"the program on standard input has more than {_MOST:,} bytes", hint="put it into a file")
    return data


def reads_program(command: Sequence[str]) -> bool:
    """Say whether a command takes its program from standard input: an interpreter without a script, module or text."""
    program, *words = command
    if interpreter.is_python(program):
        options = [word for word in words if word.startswith("-")]
        others = any(word.startswith(("-m", "-c", "-V", "-h", "-i", "--version", "--help")) for word in options)
        return interpreter.script_of(words) is None and not others
    if PurePath(program).name not in _SHELLS:
        return False
    return "-s" in words or not any(word == "-c" or not word.startswith("-") for word in words)


@functools.cache
def _read() -> bytes:
    """Read it once: a study makes several requests of one command line."""
    return sys.stdin.buffer.read(_MOST + 1)


def _is_readable() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
