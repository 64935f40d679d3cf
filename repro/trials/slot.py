"""One worker's supervisor: makes one run after the other, in one folder and, where it can, from one template."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from repro.base.process import die_with_parent
from repro.capture import packages
from repro.capture.interpreter import Interpreter
from repro.capture.variables import OFFLINE
from repro.engines import local, warm
from repro.engines.limits import RunLimits
from repro.errors import CaptureError, ReproError
from repro.record.devices import VARIABLE
from repro.record.values import Recipe, Record
from repro.run import execute, resume, seal, setting
from repro.run.request import Request
from repro.store.store import Store
from repro.trials import libraries
from repro.trials.folder import Folder


class Template(NamedTuple):
    """What all runs share: a record that was captured and never sealed, and the environment it was made in.

    ``start`` is the checkpoint that all go on from, where they do and have none of their own. ``cold`` says that each
    worker is started anew, also where one could be forked. ``python`` is the interpreter that runs, if one does.
    ``limits`` end each run. ``devices`` has the GPU of each worker, as CUDA_VISIBLE_DEVICES has it, or nothing.
    """

    store: Store
    record: Record
    env: dict[str, str]
    study_id: str
    start: resume.Start | None = None
    cold: bool = False
    python: Interpreter | None = None
    limits: RunLimits = RunLimits()
    devices: tuple[str, ...] = ()

    def recipe(self, request: Request) -> Recipe:
        """Return the recipe of one run."""
        return seal.recipe_of(self.record.recipe, request, self.env)


class Work(NamedTuple):
    """A run to be made, and the checkpoint that it goes on from where it does."""

    request: Request
    start: resume.Start | None


class Over(NamedTuple):
    """What a supervisor says of a run: its id, or the error that there is no outcome of it for."""

    run_id: str
    fault: ReproError | None = None


class Slot:
    """Makes runs of one template, one at a time, on a ``device`` of its own where it has one."""

    def __init__(self, template: Template, device: str | None = None) -> None:
        self._template = template
        self._environment = {**OFFLINE, **os.environ, **({} if device is None else {VARIABLE: device})}
        self._folder = Folder(template.store, template.record)
        self._given: seal.Given | None = None
        self._engine: warm.Engine | None = None
        self._installed = _stamp(template.python)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self._folder.close)
            if self._engine is not None:
                stack.callback(self._engine.close)

    def prepare(self, request: Request) -> str | None:
        """Have the folder, and the template where one can be used; return why none is."""
        placed, _ = self._place(request)
        if self._engine is None:
            return "told to be cold" if self._template.cold else "a command starts as it does by hand"
        found = setting.settle(placed, self._environment, {})
        name = self._template.store.run_folder(self._template.record.run_id)
        return self._engine.prepare({**found.env, "REPRO_JOB": str(name)}, placed.working_folder)

    def make(self, request: Request, start: resume.Start | None = None) -> execute.Result:
        """Make one run, from a checkpoint of its own where it has one.

        Raises:
            CaptureError: when packages were changed since the capture; and what `execute.execute` raises.
        """
        self._check_packages(request)
        placed, live = self._place(request)
        assert self._given is not None  # noqa: S101  (it comes with the place)
        return execute.execute(
            placed,
            self._template.store,
            execute.Options(
                quiet=True,
                given=self._given,
                live=live,
                environment=self._environment,
                start=start or self._template.start,
                launch=local.launch if self._engine is None else self._engine.launch,
                limits=self._template.limits,
            ),
        )

    def _check_packages(self, request: Request) -> None:
        """Raise CaptureError where the packages are not those of the capture; looked at when a folder has changed."""
        now = _stamp(self._template.python)
        if now == self._installed or self._template.python is None:
            return
        record, store = self._template.record, self._template.store
        sources = {name: Path(path) for name, path in record.circumstances["project"]["sources"].items()}
        found = packages.scan(self._template.python.path, store.cache / "packages.json")
        changed = set(found.packages(request.root, sources)) ^ set(record.recipe.packages)
        if changed:
            names = ", ".join(sorted({item.name for item in changed}))
            hint = "the same command goes on: it makes a study of what is installed now"
            raise CaptureError(f"packages were changed while the study went on: {names}", hint=hint)
        self._installed = now

    def _place(self, request: Request) -> tuple[Request, tuple[tuple[str, str], ...]]:
        """Return the request as it is made in this supervisor's folder, and where live code has its copy."""
        restored, is_new = self._folder.fresh()
        placed = replace(request, place=restored.place, outside=restored.stand if request.cwd is None else None)
        if is_new:
            record = self._template.record
            recipe, project = record.recipe, record.circumstances["project"]
            if recipe.entry is not None and not self._template.cold and self._engine is None:
                script = restored.place / recipe.entry.rpartition(":")[0]
                self._engine = warm.Engine(libraries.imported(script), [str(script.parent)])
            given = seal.Given(recipe.code, recipe.sources, None, None, project, self._template.study_id, record)
            self._given = given._replace(stats=seal.given_stats(given, placed, self._template.store))
        return placed, restored.live


def _stamp(python: Interpreter | None) -> dict[str, int]:
    """Return when something was last installed or removed in each folder that is imported from."""
    folders = [] if python is None else [folder for folder in python.path if os.path.isdir(folder)]
    return {folder: os.stat(folder).st_mtime_ns for folder in folders}


def serve(connection: Connection, template: Template, device: str | None, close: Callable[[], None]) -> None:
    """Be the supervisor of one worker: make the runs that are asked for, and say of each when it is over.

    The first request only says what will come; its answer tells why no template is used, or None. ``close`` closes
    what is the controller's.
    """
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return
    os.setpgid(0, 0)  # the controller passes on what a terminal sends
    close()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        with Slot(template, device) as slot:
            connection.send(_said(lambda: slot.prepare(connection.recv())))
            while (work := connection.recv()) is not None:
                connection.send(_over(slot, work))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return


def _said(prepare: Callable[[], str | None]) -> str | None:
    try:
        return prepare()
    except ReproError as error:  # the first run says so, with what helps
        return str(error)


def _over(slot: Slot, work: Work) -> Over:
    try:
        return Over(slot.make(*work).record.run_id)
    except ReproError as error:
        return Over("", error)
