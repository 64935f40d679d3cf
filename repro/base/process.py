"""Programs run for their answer, and processes that end with the one that began them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
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
    mortal: bool = False,
) -> bytes:
    """Return what ``command`` prints; a ``mortal`` one ends with this process.

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
        preexec_fn=die_with_parent if mortal else None,
    ).stdout


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, however that does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_where(belongs: Callable[[bytes], bool]) -> int:
    """Kill every other process that has such a variable (``NAME=value``); return how many there were."""
    count = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(map(belongs, (entry / "environ").read_bytes().split(b"\0"))):
                os.kill(int(entry.name), signal.SIGKILL)
                count += 1
    return count
