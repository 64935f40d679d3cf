"""A study of seeds: what is missing is run, each replicate in a folder of its own; what is there is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from repro.capture.data import StatCache
from repro.record import trail as form
from repro.record.values import Outcome, Record, recipe_digest, was_limited
from repro.run import observed, recover, trails
from repro.run.request import Request
from repro.seeds import plan
from repro.store.store import Store
from repro.trials import pool, there


class Study(NamedTuple):
    """A study that is complete: how many of its replicates were run now, and how many input files were checked."""

    study_id: str
    replicates: list[plan.Replicate]
    run_now: int
    files_checked: int


class Watcher(Protocol):
    """Hears how a study gets on; its runs have names like ``seed 3``."""

    def begin(self, names: Sequence[str], missing: Sequence[str]) -> None:
        """These runs are wanted, and those of them have to be made, in this order."""

    def over(self, name: str, found: plan.Replicate, *, run_now: bool) -> None:
        """A run is there: it was made now, or read."""

    def said(self, text: str) -> None:
        """This is to be said once, before any run."""


class Gathered(NamedTuple):
    """Runs by name, how many of them were run now, and how many input files of the others were checked."""

    runs: dict[str, plan.Replicate]
    run_now: int
    files_checked: int


def study(
    store: Store,
    make: Callable[[int], Request],
    seeds: Sequence[int],
    workers: int,
    watcher: Watcher,
    *,
    cold: bool = False,
) -> Study:
    """Return the replicates of all ``seeds``, in their order.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured; nothing was run.
        ReproError: when a replicate could not be started.
    """
    recover.recover(store)
    template = there.with_known_code(pool.capture(store, make(seeds[0]), cold=cold), watcher.said)
    template, workers = pool.share(template, workers, watcher.said)
    requests = {f"seed {seed}": make(seed) for seed in seeds}
    found = gather(template, requests, workers, watcher)
    replicates = [found.runs[name]._replace(seed=seed) for name, seed in zip(requests, seeds, strict=True)]
    plan.check_apart(replicates)
    return Study(template.study_id, replicates, found.run_now, found.files_checked)


def gather(
    template: pool.Template,
    requests: Mapping[str, Request],
    workers: int,
    watcher: Watcher,
    suits: Callable[[Record], bool] = lambda _record: True,
) -> Gathered:
    """Return the runs of all requests, in their order: those that are there are read, the others are run.

    Two requests of one recipe are two runs. Only runs whose record ``suits`` are read.

    Raises:
        ReproError: when one could not be started.
    """
    runs, checked = _there(template, requests, suits)
    missing = {name: request for name, request in requests.items() if name not in runs}
    watcher.begin(list(requests), list(missing))
    for name, found in runs.items():
        watcher.over(name, found, run_now=False)
    for name, outcome in pool.run(template, missing, workers):
        runs[name] = replicate(template.store, requests[name].seed, outcome)
        watcher.over(name, runs[name], run_now=True)
    return Gathered({name: runs[name] for name in requests}, len(missing), checked)


def _there(
    template: pool.Template, requests: Mapping[str, Request], suits: Callable[[Record], bool]
) -> tuple[dict[str, plan.Replicate], int]:
    """Return the runs that are there and whose inputs are as they were; and how many files were checked."""
    store = template.store
    runs = there.by_recipe(store)
    found: dict[str, plan.Replicate] = {}
    cache = StatCache(store.cache / "files.json")
    checked = 0
    for name, request in requests.items():
        candidates = runs.get(recipe_digest(template.recipe(request)), [])
        while candidates and name not in found:
            run_id = candidates.pop()  # the latest; each counts once
            outcome = store.outcome(run_id)
            if outcome is None or was_limited(outcome) or not suits(store.record(run_id)):
                continue
            if there.is_as_read(store, request.root, outcome, cache):
                checked += len(outcome.inputs)
                found[name] = replicate(store, request.seed, outcome)
    cache.save()
    return found, checked


def whole(record: Record) -> bool:
    """Say whether a run came all the way itself: it goes on from no other."""
    return "resumed" not in record.circumstances


def replicate(store: Store, seed: int, outcome: Outcome) -> plan.Replicate:
    """Return what came of one run."""
    seen = observed.read(store.run_folder(outcome.run_id))
    seeded = [
        f"{os.path.basename(item['file'])}:{item['line']} calls {item['call']}({item['value']})" for item in seen.seeds
    ]
    course = _course(store, outcome)
    return plan.Replicate(
        seed, outcome.run_id, outcome.state, outcome.metrics, course, seeded, frozenset(seen.streams), seen.restarted
    )


def _course(store: Store, outcome: Outcome) -> str | None:
    """Return a digest of a run's trails less the generators, which another seed moves though nobody draws from them."""
    frames = [frame for trail in trails.read(store.run_folder(outcome.run_id)) for frame in trail.frames]
    state = hashlib.sha256()
    for frame in frames:
        columns = [0 if at == form.GENERATORS else value for at, value in enumerate(frame.columns)]
        state.update(form.pack(frame._replace(detail=0, columns=tuple(columns), chain=form.NO_CHAIN)))
    return state.hexdigest() if frames else None
