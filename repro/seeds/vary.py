"""Which source of chance moves a number: each stream varied alone, the others held; two of them crossed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from repro.errors import ReproError
from repro.run import recover
from repro.run.request import Request
from repro.seeds import plan
from repro.seeds.plan import Replicate
from repro.seeds.study import Watcher, gather, whole
from repro.store.store import Store
from repro.trials import pool, there


class Varied(NamedTuple):
    """A design that is complete.

    ``sources`` has the replicates of each stream that was asked for, none of one that the run never uses; their seeds
    are replicate indices. ``crossed`` has a row of replicates for each index of `init`, or nothing. ``runs`` are all
    runs of the design by name, ``again`` is the one with all held made once more.
    """

    study_id: str
    sources: dict[str, list[Replicate]]
    crossed: list[list[Replicate]]
    runs: dict[str, Replicate]
    again: Replicate
    run_now: int
    files_checked: int


def vary(
    store: Store,
    request: Request,
    streams: Sequence[str],
    indices: Sequence[int],
    workers: int,
    watcher: Watcher,
    *,
    crossed: bool,
    cold: bool = False,
) -> Varied:
    """Return the runs of a design over replicate indices, all under the master seed of ``request``.

    The run with all streams at index 0 is made twice: it says which streams there are, and whether anything moves that
    no seed controls.

    Raises:
        CaptureError, ConfigError, UsageError: when the recipe cannot be captured, or uses none of the streams.
        ReproError: when a run could not be started, or the first one did not complete.
    """
    recover.recover(store)
    template = there.with_known_code(pool.capture(store, request, cold=cold), watcher.said)
    template, workers = pool.share(template, workers, watcher.said)
    twice = gather(template, {plan.HELD: request, plan.AGAIN: request}, workers, watcher, whole)
    held, again = twice.runs[plan.HELD], twice.runs[plan.AGAIN]
    check_completed(held)
    used = plan.check_used(streams, held.streams, crossed=crossed)
    points = {plan.label(point): point for point in plan.design(used, indices, crossed=crossed)}
    requests = {name: replace(request, replicates=point) for name, point in points.items() if point}
    others = gather(template, requests, workers, watcher, whole)
    runs = {plan.HELD: held} | others.runs

    def at(**point: int) -> Replicate:
        return runs[plan.label({name: index for name, index in point.items() if index})]

    table = [[at(init=row, order=column) for column in indices] for row in indices] if crossed else []
    sources = {
        name: [at(**{name: index})._replace(seed=index) for index in indices] if name in used else []
        for name in streams
    }
    run_now, checked = (a + b for a, b in zip(twice[1:], others[1:], strict=True))
    return Varied(template.study_id, sources, table, runs, again, run_now, checked)


def check_completed(found: Replicate) -> None:
    """Raise ReproError unless the run that all others go by came to its end."""
    if found.state != "COMPLETED":
        said = f"{found.run_id} {found.state}: it is the run that all others go by"
        raise ReproError(said, hint=f"repro show {found.run_id}; repro run makes it again once it is mended")
