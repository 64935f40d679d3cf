"""Which studies a store has. There is no file of one: it is told from the records, and nothing is run here.

A study of seeds is all runs whose recipes differ in the master seed alone, also those made one by one. A fork is the
runs that `repro seeds --fork-at` made: they go on from one checkpoint under an `order` of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from repro.base import digest
from repro.errors import UsageError
from repro.record import seeds
from repro.record.values import Outcome, Record, recipe_digest, study_of
from repro.seeds.plan import Replicate
from repro.store import names
from repro.store.store import Store

_LENGTH = 16


class Members(NamedTuple):
    """A study of the store: its id, the record of its first run, and its completed replicates in order of their seed.

    The replicates' trails were not looked at. ``fork`` says that their seeds are replicate indices of `order`.
    """

    study_id: str
    record: Record
    replicates: list[Replicate]
    fork: bool


class _Run(NamedTuple):
    study: str
    fork: bool
    made_as: str | None
    seed: int
    record: Record
    outcome: Outcome


def study_id(record: Record) -> str:
    """Return the id of the study of seeds that a record belongs to."""
    return _short(study_of(record.recipe))


def fork_id(record: Record, epoch: int) -> str:
    """Return the id of the fork that goes on from a run of this record's recipe after so many epochs."""
    return _short(digest.of_value("fork/1", {"recipe": recipe_digest(_before(record, epoch)), "epoch": epoch}))


def _before(record: Record, epoch: int) -> Any:
    plan = seeds.until(record.recipe.seeds.replicates, epoch)
    return msgspec.structs.replace(record.recipe, seeds=msgspec.structs.replace(record.recipe.seeds, replicates=plan))


def _short(found: str) -> str:
    return found.partition(":")[2][:_LENGTH]


def find(store: Store, word: str) -> Members:
    """Return the study that ``word`` means: its id, a unique prefix of it, or ``last`` for the one that ran last.

    ``last`` is among those that `repro seeds` made. Of several runs with one seed the first counts.

    Raises:
        UsageError: when there is no such study, or more than one.
    """
    runs = list(_runs(store))
    wanted = _last(runs) if word == "last" else _by_prefix(runs, word)
    members: dict[int, _Run] = {}
    for run in runs:
        if run.study == wanted and run.outcome.state == "COMPLETED":
            members.setdefault(run.seed, run)
    if not members:
        raise UsageError(f"study {wanted} has no completed replicate", hint="repro ls lists the runs")
    first = next(run for run in runs if run.study == wanted)
    return Members(wanted, first.record, [_replicate(members[seed]) for seed in sorted(members)], first.fork)


def _runs(store: Store) -> Iterator[_Run]:
    """Yield all runs that are over, oldest first, with their study; replays do not count."""
    for run_id in store.run_ids():
        record = store.record(run_id)
        outcome = None if record.replay_of else store.outcome(run_id)
        if outcome is not None:
            made_as = record.circumstances.get("launch", {}).get("study")
            yield _of(record, outcome, made_as)


def _of(record: Record, outcome: Outcome, made_as: str | None) -> _Run:
    start: Mapping[str, Any] = record.circumstances.get("resumed") or {}
    if made_as is not None and start.get("epoch") is not None:
        fork = fork_id(record, start["epoch"] + 1)
        if fork == made_as:
            index = seeds.restarts(record.recipe.seeds.replicates, start["epoch"] + 1).get("order", 0)
            return _Run(fork, True, made_as, index, record, outcome)
    return _Run(study_id(record), False, made_as, int(record.recipe.seeds.master), record, outcome)


def _last(runs: list[_Run]) -> str:
    known = {run.study for run in runs}
    found = next((run.made_as for run in reversed(runs) if run.made_as in known), None)
    if found is None:
        raise UsageError("no study is in the store", hint="repro seeds --n 5 experiment.yaml makes one")
    return str(found)


def _by_prefix(runs: list[_Run], word: str) -> str:
    found = sorted({run.study for run in runs if word and run.study.startswith(word)})
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"no study {word!r}", hint="repro seeds --json says a study's id; `last` is the latest")
    raise UsageError(names.several(word, found, "studies"), hint="give more of the id")


def _replicate(run: _Run) -> Replicate:
    return Replicate(run.seed, run.record.run_id, run.outcome.state, run.outcome.metrics, None, ())
