"""Runs of one captured project, so many at once, each outcome handed on when its run is over.

The code is captured once: edits made while the runs go on touch nothing. Each worker has a supervisor of its own, a
process that outlives its runs; one that is killed takes its own run along and no other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType, TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from repro.base import clock
from repro.errors import ReproError
from repro.record.values import Outcome, study_of
from repro.run import leftovers, recover, resume, seal, setting
from repro.run.request import Request
from repro.store.store import Store
from repro.trials import devices, slot
from repro.trials.slot import Over, Template, Work

__all__ = ["Pool", "Ready", "Template", "capture", "run", "share"]

#: So often a run is made again that was lost together with its supervisor or template.
_TRIES = 3

_Name = TypeVar("_Name", bound=Hashable)


def capture(store: Store, request: Request, *, cold: bool = False) -> Template:
    """Capture the project as it is now, with the setting that a request has; ``cold``: no worker is to be forked.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured; nothing was run.
    """
    seal.check_arguments(request)
    found = setting.settle(request, None, {})
    outputs = leftovers.not_code(store, request.root)
    captured = seal.capture(request, store, clock.new_run_id(), found.python, found.settings, found.env, outputs, None)
    study = study_of(captured.record.recipe).removeprefix("sha256:")[:16]
    return Template(store, captured.record, found.env, study, cold=cold, python=found.python)


def share(template: Template, workers: int | None, said: Callable[[str], None]) -> tuple[Template, int]:
    """Return a template that has a GPU for each worker where there are some, and how many workers: cores // threads.

    Raises:
        UsageError: when more workers are asked for than there are GPUs.
    """
    most = max(1, len(os.sched_getaffinity(0)) // (template.record.recipe.threads or 1))
    found = devices.share(workers, most, template.record.circumstances["gpus"], template.env)
    for text in found.said:
        said(text)
    return template._replace(devices=found.choices), found.workers


def run(template: Template, requests: Mapping[_Name, Request], workers: int) -> Iterator[tuple[_Name, Outcome]]:
    """Make the runs, so many at once, and yield each name with its outcome when it is over.

    Raises:
        ReproError: when one could not be started; those that run are waited for.
    """
    if not requests:
        return
    waiting = deque(requests.items())
    first = waiting[0][1]
    with Pool[_Name](template, first, min(workers, len(requests))) as pool:
        while waiting or pool.busy:
            while waiting and pool.free:
                pool.begin(*waiting.popleft())
            yield pool.next()


class Ready(NamedTuple):
    """How long a worker's start took, in seconds, and why it has no template where it has none."""

    seconds: float
    why_cold: str | None


class _Supervisor(Generic[_Name]):
    """A supervisor's process and the line to it; ``job`` is what it makes now, on its ``device`` where it has one."""

    process: ForkProcess

    def __init__(self, line: Connection, device: str | None) -> None:
        self.line = line
        self.device = device
        self.begun = time.monotonic()
        self.ready: Ready | None = None
        self.job: tuple[_Name, Work] | None = None


class Pool(Generic[_Name]):
    """Workers for runs of one template: `begin` as many as are `free`, then take what is over by `next`.

    ``like`` is a request of the kind that comes. Leaving the block waits for what runs, unless by KeyboardInterrupt:
    that is passed on to the runs, which end as CANCELLED.
    """

    def __init__(self, template: Template, like: Request, workers: int) -> None:
        self._template = template
        self._like = like
        self._lost: Counter[Hashable] = Counter()
        self._supervisors: list[_Supervisor[_Name]] = []
        self._stop_before = signal.getsignal(signal.SIGTSTP)
        for at in range(workers):
            self._start(template.devices[at] if template.devices else None)

    def __enter__(self) -> Self:
        if self._stop_before == signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end(interrupt=kind is not None and not issubclass(kind, Exception))
        finally:
            for supervisor in self._supervisors:
                supervisor.process.kill()
                supervisor.process.join()
            signal.signal(signal.SIGTSTP, self._stop_before)

    @property
    def busy(self) -> int:
        """How many runs go on."""
        return sum(supervisor.job is not None for supervisor in self._supervisors)

    @property
    def free(self) -> int:
        """How many more can be begun."""
        return len(self._supervisors) - self.busy

    def ready(self) -> list[Ready]:
        """Wait until all workers are ready, and say how each is."""
        while not all(supervisor.ready for supervisor in self._supervisors):
            self._step()
        return [supervisor.ready for supervisor in self._supervisors if supervisor.ready]

    def begin(self, name: _Name, request: Request, start: resume.Start | None = None) -> None:
        """Begin a run, from a checkpoint of its own where it has one; one worker at least is free."""
        idle = [supervisor for supervisor in self._supervisors if supervisor.job is None]
        supervisor = next((item for item in idle if item.ready), idle[0])
        supervisor.job = name, Work(request, start)
        self._send(supervisor)

    def next(self) -> tuple[_Name, Outcome]:
        """Wait for the next run that is over. One that was lost with its supervisor or template is made again.

        Raises:
            ReproError: when a run could not be started, or was lost too often.
        """
        while True:
            found = self._step()
            if found is None:
                continue
            (name, work), over = found
            if over.fault is not None:
                raise type(over.fault)(f"{name}: {over.fault}", hint=over.fault.hint)
            outcome = self._template.store.outcome(over.run_id)
            assert outcome is not None  # noqa: S101  (it was sealed by the process that made it)
            if outcome.state != "LOST":
                return name, outcome
            self._note_lost(name)
            self.begin(name, *work)

    def _step(self) -> tuple[tuple[_Name, Work], Over] | None:
        """Wait until a supervisor says something or ends; return the run that is over, if one is."""
        lines = {supervisor.line: supervisor for supervisor in self._supervisors}
        supervisor = next(lines[line] for line in wait(list(lines)))  # type: ignore[index]
        try:
            said = supervisor.line.recv()
        except (EOFError, OSError):
            self._replace(supervisor)
            return None
        if isinstance(said, Over):
            job, supervisor.job = supervisor.job, None
            return None if job is None else (job, said)
        supervisor.ready = Ready(time.monotonic() - supervisor.begun, said)
        return None

    def _start(self, device: str | None) -> _Supervisor[_Name]:
        ours, theirs = multiprocessing.Pipe()
        supervisor: _Supervisor[_Name] = _Supervisor(ours, device)
        self._supervisors.append(supervisor)

        def close() -> None:
            for other in self._supervisors:
                other.line.close()

        context = multiprocessing.get_context("fork")
        about = theirs, self._template, device, close
        supervisor.process = context.Process(target=slot.serve, args=about, daemon=True)
        supervisor.process.start()
        theirs.close()
        supervisor.line.send(self._like)
        return supervisor

    def _replace(self, supervisor: _Supervisor[_Name]) -> None:
        """Start another supervisor for one that is gone, and have it make what that one was at."""
        supervisor.process.join()
        supervisor.line.close()
        self._supervisors.remove(supervisor)
        recover.recover(self._template.store)
        self._note_lost("a worker" if supervisor.job is None else supervisor.job[0])
        new = self._start(supervisor.device)
        if supervisor.job is not None:
            new.job = supervisor.job
            self._send(new)

    def _note_lost(self, name: Hashable) -> None:
        self._lost[name] += 1
        if self._lost[name] == _TRIES:
            hint = "something kills processes: out of memory? fewer --workers, or --cold"
            raise ReproError(f"{name}: its supervisor or its template was killed {_TRIES} times", hint=hint)

    def _send(self, supervisor: _Supervisor[_Name]) -> None:
        assert supervisor.job is not None  # noqa: S101  (that is what is sent)
        with contextlib.suppress(OSError):  # it was killed: `next` finds that out
            supervisor.line.send(supervisor.job[1])

    def _end(self, *, interrupt: bool) -> None:
        """Let the supervisors end: those that make a run when it is over, or by a signal that is passed on to it."""
        for supervisor in self._supervisors:
            is_starting = supervisor.ready is None and supervisor.job is None
            if (interrupt and supervisor.job is not None) or is_starting:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(supervisor.process.pid or 0, signal.SIGINT)
            supervisor.line.close()
        for supervisor in self._supervisors:
            supervisor.process.join()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """Stop with the runs (Ctrl-Z), and go on with them."""
        for number in (signal.SIGTSTP, signal.SIGCONT):
            for supervisor in self._supervisors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(supervisor.process.pid or 0, number)
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
