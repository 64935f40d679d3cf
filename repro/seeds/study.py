"""A study of seeds: what is missing is run, each replicate in a folder of its own; what is there is read.

The code is captured once, when the study begins: edits made while it runs touch nothing.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.base import clock
from repro.capture.data import StatCache
from repro.capture.variables import OFFLINE
from repro.errors import ReproError
from repro.record import trail as form
from repro.record.values import KEPT, Outcome, Recipe, Record, SeedPlan, recipe_digest, study_of
from repro.replay import restore
from repro.run import execute, leftovers, observed, recover, seal, setting, trails
from repro.run.request import Request
from repro.seeds import plan
from repro.store import index
from repro.store.store import Store

#: Ends that are results: a run that was lost or cancelled is made again.
_RESULTS = ("COMPLETED", "FAILED", "TIMED_OUT")


class Study(NamedTuple):
    """A study that is complete: how many of its replicates were run now, and how many input files were checked."""

    study_id: str
    replicates: list[plan.Replicate]
    run_now: int
    files_checked: int


class _Template(NamedTuple):
    """What all replicates share: a record that was captured and never sealed, and the environment it was made in."""

    store: Store
    record: Record
    env: dict[str, str]
    study_id: str


def study(
    store: Store,
    make: Callable[[int], Request],
    seeds: Sequence[int],
    workers: int,
    told: Callable[[plan.Replicate, bool], None],
) -> Study:
    """Return the replicates of all ``seeds``, in their order; ``told`` hears of each, and whether it was run now.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured; nothing was run.
        ReproError: when a replicate could not be started.
    """
    recover.recover(store)
    template = _template(store, make(seeds[0]))
    requests = {seed: make(seed) for seed in seeds}
    there, checked = _there(template, requests)
    for found in there.values():
        told(found, False)
    missing = [seed for seed in seeds if seed not in there]
    for found in _run(template, {seed: requests[seed] for seed in missing}, workers):
        there[found.seed] = found
        told(found, True)
    replicates = [there[seed] for seed in seeds]
    plan.check_apart(replicates)
    return Study(template.study_id, replicates, len(missing), checked)


def _template(store: Store, request: Request) -> _Template:
    seal.check_arguments(request)
    found = setting.settle(request, None, {})
    outputs = leftovers.known_outputs(store, request.root)
    captured = seal.capture(request, store, clock.new_run_id(), found.python, found.settings, found.env, outputs, None)
    return _Template(store, captured.record, found.env, study_of(captured.record.recipe).removeprefix("sha256:")[:16])


def _recipe(recipe: Recipe, request: Request, env: dict[str, str]) -> Recipe:
    words, _ = seal.words_of(request, env)
    return msgspec.structs.replace(recipe, seeds=SeedPlan(master=str(request.seed)), command=words)


def _there(template: _Template, requests: dict[int, Request]) -> tuple[dict[int, plan.Replicate], int]:
    """Return the replicates that have been run already and whose inputs are as they were; and how many were checked."""
    store = template.store
    runs: dict[str, list[str]] = {}
    for row in index.rows(store):
        if row["replay_of"] is None and row["state"] in _RESULTS:
            runs.setdefault(row["recipe_digest"], []).append(row["run_id"])
    found: dict[int, plan.Replicate] = {}
    cache = StatCache(store.cache / "files.json")
    checked = 0
    for seed, request in requests.items():
        wanted = recipe_digest(_recipe(template.record.recipe, request, template.env))
        for run_id in reversed(runs.get(wanted, [])):
            outcome = store.outcome(run_id)
            if outcome is not None and _is_as_read(store, request.root, outcome, cache):
                checked += len(outcome.inputs)
                found[seed] = replicate(store, seed, outcome)
                break
    cache.save()
    return found, checked


def _is_as_read(store: Store, root: Path, outcome: Outcome, cache: StatCache) -> bool:
    """Say whether every file that a run read still has its recorded digest."""
    return all(
        item.note == KEPT
        or (item.digest is not None and leftovers.digest_now(item, root / item.path, cache, store) == item.digest)
        for item in outcome.inputs
    )


def replicate(store: Store, seed: int, outcome: Outcome) -> plan.Replicate:
    """Return what came of one run."""
    seen = observed.read(store.run_folder(outcome.run_id))
    seeded = [
        f"{os.path.basename(item['file'])}:{item['line']} calls {item['call']}({item['value']})" for item in seen.seeds
    ]
    return plan.Replicate(seed, outcome.run_id, outcome.state, outcome.metrics, _course(store, outcome), seeded)


def _course(store: Store, outcome: Outcome) -> str | None:
    """Return a digest of a run's trails less the generators, which another seed moves though nobody draws from them."""
    frames = [frame for trail in trails.read(store.run_folder(outcome.run_id)) for frame in trail.frames]
    state = hashlib.sha256()
    for frame in frames:
        columns = [0 if at == form.GENERATORS else value for at, value in enumerate(frame.columns)]
        state.update(form.pack(frame._replace(detail=0, columns=tuple(columns), chain=form.NO_CHAIN)))
    return state.hexdigest() if frames else None


def _run(template: _Template, requests: dict[int, Request], workers: int) -> Iterator[plan.Replicate]:
    """Run the replicates, so many at once, and yield each when it is over.

    Raises:
        ReproError: when one could not be started; those that run are waited for.
    """
    if not requests:
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(workers, len(requests)), mp_context=context) as pool:
        jobs = {pool.submit(_one, template, request): seed for seed, request in requests.items()}
        try:
            for job in as_completed(jobs):
                run_id, fault, hint = job.result()
                if fault is not None:
                    raise ReproError(f"seed {jobs[job]}: {fault}", hint=hint)
                outcome = template.store.outcome(run_id)
                assert outcome is not None  # noqa: S101  (it was sealed by the process that ran it)
                yield replicate(template.store, jobs[job], outcome)
        finally:
            pool.shutdown(cancel_futures=True)


def _one(template: _Template, request: Request) -> tuple[str, str | None, str | None]:
    """Run one replicate and return its id; or what went wrong before it began, and what helps."""
    try:
        return _execute(template, request).record.run_id, None, None
    except ReproError as error:
        return "", str(error), error.hint


def _execute(template: _Template, request: Request) -> execute.Result:
    store = template.store
    recipe = _recipe(template.record.recipe, request, template.env)
    record = msgspec.structs.replace(template.record, recipe=recipe)
    folder, lock = store.new_work()
    try:
        restored = restore.restore(store, record, None, folder)
        placed = replace(request, place=restored.place, outside=restored.stand if request.cwd is None else None)
        project = template.record.circumstances["project"]
        given = seal.Given(recipe.code, recipe.sources, recipe.command, None, project, template.study_id)
        environment = {**OFFLINE, **os.environ}
        options = execute.Options(quiet=True, given=given, live=restored.live, environment=environment)
        return execute.execute(placed, store, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
