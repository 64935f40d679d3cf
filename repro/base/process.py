"""Programs run for their answer, and processes that end with the one that began them."""

from __future__ import annotations

import ctypes
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing is to be loaded
_PR_SET_PDEATHSIG = 1


def output(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    pass_fds: Sequence[int] = (),
) -> bytes:
    """Return what ``command`` prints.

    Raises:
        FileNotFoundError: when the program is not there.
        subprocess.CalledProcessError: when it ends with another code than 0; ``stderr`` holds its words.
        subprocess.TimeoutExpired: after ``timeout`` seconds.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        check=True,
        timeout=timeout,
        pass_fds=pass_fds,
    ).stdout


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
