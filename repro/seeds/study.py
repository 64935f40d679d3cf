"""A study of seeds: what is missing is run, each replicate in a folder of its own; what is there is read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from repro.capture.data import StatCache
from repro.record import trail as form
from repro.record.values import KEPT, Outcome, recipe_digest
from repro.run import leftovers, observed, recover, trails
from repro.run.request import Request
from repro.seeds import plan
from repro.seeds.studies import Members, find
from repro.store import index
from repro.store.store import Store
from repro.trials import pool

__all__ = ["Members", "Study", "find", "replicate", "study"]

#: Ends that are results: a run that was lost or cancelled is made again.
_RESULTS = ("COMPLETED", "FAILED", "TIMED_OUT")


class Study(NamedTuple):
    """A study that is complete: how many of its replicates were run now, and how many input files were checked."""

    study_id: str
    replicates: list[plan.Replicate]
    run_now: int
    files_checked: int


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
    template = pool.capture(store, make(seeds[0]))
    requests = {seed: make(seed) for seed in seeds}
    there, checked = _there(template, requests)
    for found in there.values():
        told(found, False)
    missing = [seed for seed in seeds if seed not in there]
    for seed, outcome in pool.run(template, {seed: requests[seed] for seed in missing}, workers):
        there[seed] = replicate(store, seed, outcome)
        told(there[seed], True)
    replicates = [there[seed] for seed in seeds]
    plan.check_apart(replicates)
    return Study(template.study_id, replicates, len(missing), checked)


def _there(template: pool.Template, requests: dict[int, Request]) -> tuple[dict[int, plan.Replicate], int]:
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
        wanted = recipe_digest(template.recipe(request))
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
