"""The runs that a study has, and the files that they read: which run of a recipe counts, and whether its data is there.

Two runs of one recipe may have read other data. ``runs.jsonl`` names the one that the study took, so that its decisions
follow from it whatever lies at that path later.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from repro.base import canonical
from repro.capture.data import StatCache
from repro.record.values import KEPT, FileDigest, State
from repro.run import leftovers
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune.search import Job

#: What an identity calls the files that a study was begun anew for.
INPUTS = "inputs"
#: Among them, no file: a moment before which no failed run counts for the study.
RETRIED = "(failed runs until)"

_ALL = get_args(State)


class Used:
    """Which run a study has for each job and replicate; where one was named twice the last one counts."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._runs = dict(map(_read, folder.runs()))

    def of(self, job: Job, replicate: int) -> str | None:
        """Return the run of a job, None where the study has none yet."""
        return self._runs.get((job.trial, job.budget, replicate))

    def note(self, job: Job, replicate: int, run_id: str) -> None:
        """Take note of the run that a job has."""
        key = job.trial, job.budget, replicate
        if self._runs.get(key) != run_id:
            value = {"trial": job.trial, "budget": str(job.budget), "replicate": replicate, "run": run_id}
            self._folder.use(canonical.dumps(value) + b"\n")
            self._runs[key] = run_id

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs.values())


def _read(line: bytes) -> tuple[tuple[int, Fraction, int], str]:
    value: dict[str, Any] = canonical.loads(line)
    return (value["trial"], Fraction(value["budget"]), value["replicate"]), value["run"]


def retried(folder: StudyFolder) -> str | None:
    """Return the moment before which no failed run counts for a study, None where all do."""
    moment: str | None = folder.specification()["identity"].get(INPUTS, {}).get(RETRIED)
    return moment


def changed(store: Store, root: Path, folder: StudyFolder, states: Container[str] = _ALL) -> dict[str, str | None]:
    """Return the files that a study's runs read and that are others now, with their digests now (None: gone).

    Only runs that ended in one of ``states`` count.
    """
    cache = StatCache(store.cache / "files.json")
    pinned = folder.specification()["identity"].get(INPUTS, {})
    items = {FileDigest(path=path, size=0, digest=digest) for path, digest in pinned.items() if path != RETRIED}
    for outcome in map(store.outcome, Used(folder)):
        if outcome is not None and outcome.state not in states:
            continue
        items |= {item for item in (outcome.inputs if outcome else ()) if item.note != KEPT and item.digest}
    found = {}
    for item in items:
        now = leftovers.digest_now(item, root / item.path, cache, store)
        if not leftovers.is_unchanged(item, now):
            found[item.path] = now
    cache.save()
    return dict(sorted(found.items()))
