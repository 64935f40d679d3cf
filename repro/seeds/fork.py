"""Runs that share their first epochs: they go on from one checkpoint, each under an `order` of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from repro.errors import UsageError
from repro.record import seeds
from repro.record.values import Record
from repro.run import recover, resume
from repro.run.request import Request
from repro.seeds import plan, studies
from repro.seeds.plan import Replicate
from repro.seeds.study import Watcher, gather, whole
from repro.seeds.vary import check_completed
from repro.store.store import Store
from repro.trials import pool

_STREAM = "order"
_PARENT = "the run to fork"


class Forked(NamedTuple):
    """A fork that is complete: the run that it goes on from, and its members, whose seeds are replicate indices.

    Member 0 goes on as the parent did: it is that run again, from the checkpoint on.
    """

    study_id: str
    epochs: int
    parent: Replicate
    members: list[Replicate]
    run_now: int
    files_checked: int


def fork(
    store: Store,
    request: Request,
    epochs: int,
    indices: Sequence[int],
    workers: int,
    watcher: Watcher,
    *,
    cold: bool = False,
) -> Forked:
    """Return the members of a fork after ``epochs`` epochs; the run that they go on from is made where there is none.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured, or there is nothing to go on from.
        ReproError: when a run could not be started, or the one to fork did not complete.
    """
    total = request.budget.get("epochs")
    if total is not None and epochs >= total:
        raise UsageError(f"--fork-at {epochs}: the run has {total} epochs, nothing is left to train")
    recover.recover(store)
    template = pool.capture(store, request, cold=cold)
    template, workers = pool.share(template, workers, watcher.said)
    first = gather(template, {_PARENT: request}, workers, watcher, whole)
    parent = first.runs[_PARENT]
    check_completed(parent)
    start = resume.after(store, parent.run_id, epochs)
    study_id = studies.fork_id(start.record, epochs)
    name = seeds.restart(_STREAM, epochs)
    requests = {f"{_STREAM} {index}": replace(request, replicates={name: index} if index else {}) for index in indices}
    forked = template._replace(start=start, study_id=study_id)

    def is_member(record: Record) -> bool:
        return bool(record.circumstances["launch"]["study"] == study_id)

    found = gather(forked, requests, workers, watcher, is_member)
    members = [run._replace(seed=index) for run, index in zip(found.runs.values(), indices, strict=True)]
    plan.check_forked(members)
    run_now, checked = (a + b for a, b in zip(first[1:], found[1:], strict=True))
    return Forked(study_id, epochs, parent, members, run_now, checked)
