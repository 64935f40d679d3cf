"""Runs of one captured project, so many at once, each outcome handed on when its run is over.

The code is captured once: edits made while the runs go on touch nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import NamedTuple, TypeVar

import msgspec

from repro.base import clock
from repro.capture.variables import OFFLINE
from repro.errors import ReproError
from repro.record.values import Outcome, Recipe, Record, study_of
from repro.replay import restore
from repro.run import execute, leftovers, resume, seal, setting
from repro.run.request import Request
from repro.store.store import Store

_Name = TypeVar("_Name", bound=Hashable)


class Template(NamedTuple):
    """What all runs share: a record that was captured and never sealed, and the environment it was made in.

    ``start`` is the checkpoint that all go on from, where they do.
    """

    store: Store
    record: Record
    env: dict[str, str]
    study_id: str
    start: resume.Start | None = None

    def recipe(self, request: Request) -> Recipe:
        """Return the recipe of one run."""
        words, _ = seal.words_of(request, self.env)
        return msgspec.structs.replace(self.record.recipe, seeds=request.seed_plan, command=words)


def capture(store: Store, request: Request) -> Template:
    """Capture the project as it is now, with the setting that a request has.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured; nothing was run.
    """
    seal.check_arguments(request)
    found = setting.settle(request, None, {})
    outputs = leftovers.known_outputs(store, request.root)
    captured = seal.capture(request, store, clock.new_run_id(), found.python, found.settings, found.env, outputs, None)
    return Template(store, captured.record, found.env, study_of(captured.record.recipe).removeprefix("sha256:")[:16])


def run(template: Template, requests: Mapping[_Name, Request], workers: int) -> Iterator[tuple[_Name, Outcome]]:
    """Make the runs, so many at once, and yield each name with its outcome when it is over.

    Raises:
        ReproError: when one could not be started; those that run are waited for.
    """
    if not requests:
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(workers, len(requests)), mp_context=context) as pool:
        jobs = {pool.submit(_one, template, request): name for name, request in requests.items()}
        try:
            for job in as_completed(jobs):
                run_id, fault, hint = job.result()
                if fault is not None:
                    raise ReproError(f"run {jobs[job]}: {fault}", hint=hint)
                outcome = template.store.outcome(run_id)
                assert outcome is not None  # noqa: S101  (it was sealed by the process that ran it)
                yield jobs[job], outcome
        finally:
            pool.shutdown(cancel_futures=True)


def _one(template: Template, request: Request) -> tuple[str, str | None, str | None]:
    """Make one run and return its id; or what went wrong before it began, and what helps."""
    try:
        return _execute(template, request).record.run_id, None, None
    except ReproError as error:
        return "", str(error), error.hint


def _execute(template: Template, request: Request) -> execute.Result:
    store = template.store
    recipe = template.recipe(request)
    record = msgspec.structs.replace(template.record, recipe=recipe)
    folder, lock = store.new_work()
    try:
        restored = restore.restore(store, record, None, folder)
        placed = replace(request, place=restored.place, outside=restored.stand if request.cwd is None else None)
        project = template.record.circumstances["project"]
        given = seal.Given(recipe.code, recipe.sources, recipe.command, None, project, template.study_id)
        environment = {**OFFLINE, **os.environ}
        options = execute.Options(
            quiet=True, given=given, live=restored.live, environment=environment, start=template.start
        )
        return execute.execute(placed, store, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
