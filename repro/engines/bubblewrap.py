"""Run a job's processes under bubblewrap: no network, nothing writable but what they are given; what they missed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from repro.engines import local
from repro.engines.container import signalled
from repro.errors import EnvironmentMismatchError

_PATIENCE = 2.0
#: What is empty in the sandbox, and its own.
EMPTY = ("/tmp", "/var/tmp", "/run/user")  # noqa: S108  (that they are shared is why)


def find() -> str:
    """Return the program. Raises EnvironmentMismatchError where it is not installed."""
    found = shutil.which("bwrap")
    if found is None:
        raise EnvironmentMismatchError(
            "--hermetic needs bubblewrap, and it is not installed",
            hint="Debian: apt-get install bubblewrap; or repro replay --env container",
        )
    return found


class Sandbox:
    """Starts a run's command in a sandbox; stands in for `local.launch`. ``dropped`` is known when it has ended.

    ``read`` are places that must be seen although they lie in a folder that is empty there; ``write`` may be written
    to, and so may the run's folder.
    """

    def __init__(self, program: str, read: Sequence[str], write: Sequence[str]) -> None:
        self._program, self._read, self._write = program, read, write
        self.dropped = 0

    def __call__(self, command: local.Command) -> SandboxedProcess:
        """Start it."""
        words = [self._program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
        words += ["--dev", "/dev", "--proc", "/proc"]
        words += [part for place in EMPTY if Path(place).is_dir() for part in ("--tmpfs", place)]
        hidden = [place for place in dict.fromkeys(self._read) if place.startswith(tuple(f"{top}/" for top in EMPTY))]
        for option, places in (("--ro-bind", sorted(hidden)), ("--bind", [*self._write, str(command.folder)])):
            words += [part for place in places for part in (option, place, place)]
        words += ["--chdir", str(command.cwd), "--", *command.words]
        return SandboxedProcess(local.launch(command._replace(words=words)), self._ended)

    def _ended(self, dropped: int) -> None:
        self.dropped = dropped


class SandboxedProcess:
    """A job's process in a sandbox: as `local.LocalProcess`, and told of the packets that found no way out."""

    #: Each is started anew.
    warm = False

    def __init__(self, process: local.LocalProcess, ended: Callable[[int], None]) -> None:
        self._process, self._ended = process, ended
        self._counters: list[TextIO] = []

    def release(self) -> None:
        """Let the interpreter enter user code, once its network can be looked at."""
        self._watch()
        self._process.release()

    def abandon(self) -> None:
        """End a process that waits."""
        self._close()
        self._process.abandon()

    def wait(self) -> local.End:
        """Wait for the end."""
        try:
            return signalled(self._process.wait())
        finally:
            self._ended(sum(map(_dropped, self._counters)))
            self._close()

    def _watch(self) -> None:
        """Open the counters of the sandbox's own network: they can be read for as long as they are open."""
        deadline = time.monotonic() + _PATIENCE
        place = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError):
                child = place.read_text(encoding="ascii").split()[0]
                self._counters = [open(f"/proc/{child}/net/{name}", encoding="ascii") for name in ("snmp", "snmp6")]  # noqa: SIM115
                return
            if not place.exists():
                return
            time.sleep(0.001)

    def _close(self) -> None:
        for handle in self._counters:
            handle.close()
        self._counters = []


def _dropped(counters: TextIO) -> int:
    """Return how many packets had no route, as the kernel counted them for the network of a sandbox."""
    try:
        counters.seek(0)
        lines = [line.split() for line in counters.read().splitlines()]
    except OSError:
        return 0
    flat = {words[0]: words[1] for words in lines if len(words) == 2}  # noqa: PLR2004
    if "Ip6OutNoRoutes" in flat:
        return int(flat["Ip6OutNoRoutes"])
    heads = [words for words in lines if words and words[0] == "Ip:"]
    return int(dict(zip(*heads, strict=True))["OutNoRoutes"]) if len(heads) == 2 else 0  # noqa: PLR2004
