"""Run a job in a worker that is forked from a template, which has torch loaded already (`repro.worker.template`).

A template belongs to one process, ends with it, and serves one job at a time. What it cannot serve runs cold.
"""

from __future__ import annotations

import array
import contextlib
import functools
import importlib.machinery
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from repro.base import scratch
from repro.base.process import die_with_parent
from repro.engines import local
from repro.engines.local import Command, LocalProcess
from repro.engines.output import Channel

_MOST = 1 << 16
#: Of each job its own, and no business of what a template has read.
_OF_A_JOB = ("REPRO_JOB",)
_SUFFIXES = ("", *importlib.machinery.all_suffixes())


class _NoTemplate(Exception):  # noqa: N818  (it is caught here: the job runs cold)
    """A template cannot be had, or is gone."""


class Engine:
    """Starts jobs as `local.launch` does, those of experiments from a template where there can be one.

    ``folders`` are where the user's modules are looked for, from a job's working folder: a template that has loaded
    other modules of their names is of no use. ``modules`` are installed modules to load beside torch.
    """

    def __init__(self, modules: Sequence[str] = (), folders: Collection[str] = ()) -> None:
        self._modules = list(modules)
        self._folders = folders
        self._template: _Template | None = None
        self._why_cold: dict[frozenset[tuple[str, str]], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def launch(self, command: Command) -> LocalProcess:
        """Start a job; see `local.launch`. Raises OSError when it cannot be started."""
        if command.gated and command.silent and "REPRO_WORKER" in command.env:
            for _ in range(2):  # a template may have been killed since the last job
                with contextlib.suppress(_NoTemplate):
                    return self._fitting(command.env, command.cwd).launch(command)
        return local.launch(command)

    def prepare(self, env: Mapping[str, str], cwd: Path) -> str | None:
        """Have a template ready for jobs with these variables; return why there is none, or None."""
        try:
            self._fitting(env, cwd)
        except _NoTemplate as error:
            return str(error)
        return None

    def _fitting(self, env: Mapping[str, str], cwd: Path) -> _Template:
        key = frozenset((name, value) for name, value in env.items() if name not in _OF_A_JOB)
        if key in self._why_cold:
            raise _NoTemplate(self._why_cold[key])
        if self._template is None or self._template.key != key or not self._template.lives():
            self.close()
            try:
                self._template = self._begin(key, env, cwd)
            except _NoTemplate as error:
                self._why_cold[key] = str(error)
                self.close()
                raise
        return self._template

    def _begin(self, key: frozenset[tuple[str, str]], env: Mapping[str, str], cwd: Path) -> _Template:
        """Start a template; where the modules that are asked for do it no good, one without them."""
        template = _Template(key, env, self._modules)
        if self._modules and not template.is_sound:
            template.close()
            self._modules = []
            return self._begin(key, env, cwd)
        try:
            self._check(template, env, cwd)
        except _NoTemplate:
            template.close()
            raise
        return template

    def _check(self, template: _Template, env: Mapping[str, str], cwd: Path) -> None:
        """Raise _NoTemplate where workers could differ, or user code could have modules of names that are loaded."""
        if not template.is_sound:
            raise _NoTemplate("torch does not leave one thread and unmoved generators when it is imported")
        named = [os.path.join(cwd, entry) for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
        for folder in (*(os.path.join(cwd, entry) for entry in self._folders), *named):
            for name, origin in template.added.items():
                is_its_own = origin is not None and origin.startswith(folder + os.sep)
                if not is_its_own and any(os.path.lexists(os.path.join(folder, name + end)) for end in _SUFFIXES):
                    raise _NoTemplate(f"{folder} has a module {name!r}, which torch's have the name of as well")

    def close(self) -> None:
        """End the template."""
        if self._template is not None:
            self._template.close()
            self._template = None


class _Template:
    """A running template; ``added`` has the modules that it has loaded beyond those of a cold worker.

    It ``is_sound`` where it has one thread, and nothing has been drawn from a generator.
    """

    def __init__(self, key: frozenset[tuple[str, str]], env: Mapping[str, str], modules: Sequence[str]) -> None:
        self.key = key
        with scratch.folder("template") as place:  # empty: nothing is imported from it
            self._begin(os.path.realpath(place), env, modules)

    def _begin(self, stand: str, env: Mapping[str, str], modules: Sequence[str]) -> None:
        """Start the template in an empty folder, and wait until it has loaded the modules."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the rest)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        local.become_subreaper()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "repro.worker", "--template", str(theirs.fileno())],
                cwd=stand,
                env={**env, "REPRO_JOB": "-" * len(env["REPRO_JOB"])},
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509  (no thread is running)
            )
        finally:
            theirs.close()
        try:
            self._ask({"modules": modules, "stand": stand})
            ready = self.answer()
        except BaseException:
            self.close()
            raise
        self.added: dict[str, str | None] = ready["added"]
        self.is_sound = ready["threads"] == 1 and not ready["moved"]

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a request. Raises _NoTemplate when nobody is there."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._control.sendmsg([json.dumps(request).encode()], rights)
        except OSError as error:
            raise self._gone(str(error)) from error

    def answer(self) -> dict[str, Any]:
        """Return the next thing that the template says. Raises _NoTemplate when it is gone."""
        try:
            data = self._control.recv(_MOST)
        except OSError:
            data = b""
        if not data:
            raise self._gone("it ended")
        return dict(json.loads(data))

    def _gone(self, why: str) -> _NoTemplate:
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        self.close()
        return _NoTemplate(f"the template could not be used: {said[-1] if said else why}")

    def lives(self) -> bool:
        """Say whether the template runs."""
        return self._process.poll() is None

    def launch(self, command: Command) -> LocalProcess:
        """Have a worker forked for a job, and do not wait for it. Raises _NoTemplate."""
        channels = command.channels()
        read_end, write_end = os.pipe()
        try:
            request = {"folder": str(command.folder), "cwd": str(command.cwd)}
            self._ask(request, [*(channel.child for channel in channels), read_end])
        except _NoTemplate:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
            for channel in channels:
                channel.start()
        return WarmProcess(_Worker(self), write_end, channels, command, self._process.pid)

    def close(self) -> None:
        """End the template, and a worker that it has with it."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._said.close()


class WarmProcess(LocalProcess):
    """A job whose first process was forked from a template, which lives on."""

    warm = True

    def __init__(self, worker: _Worker, gate: int, channels: list[Channel], command: Command, template: int) -> None:
        super().__init__(worker, gate, channels, command.limits, [template], command.relay)
        self._worker = worker

    def wait(self) -> local.End:
        """Wait for the end; it says where the template was the reason."""
        return super().wait()._replace(lost=self._worker.lost)


class _Worker:
    """A forked worker. ``lost`` says why there is none, or that its template is gone: the kernel then killed it too."""

    def __init__(self, template: _Template) -> None:
        self.lost: str | None = None
        self._template = template
        self._end: dict[str, Any] = {}

    @functools.cached_property
    def pid(self) -> int | None:
        """Its id once it has said it, None where it could not be forked or ended before."""
        answer = self._answer()
        if "error" in answer:
            self.lost = f"no worker could be forked: {os.strerror(answer['error'])}"
        if "pid" not in answer:
            self._end = answer
        return answer.get("pid")

    def wait(self) -> int:
        """Return the exit code, or less than 0 for a signal."""
        if self.pid is not None:
            self._end = self._answer()
        return int(self._end.get("status", -signal.SIGKILL))

    def _answer(self) -> dict[str, Any]:
        try:
            return self._template.answer()
        except _NoTemplate:
            self.lost = "the template that it was forked from ended"
            return {}

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
