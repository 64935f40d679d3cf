"""Runs that are there already: by recipe, and whether what they read is as it was."""

from __future__ import annotations

from pathlib import Path

from repro.capture.data import StatCache
from repro.record.values import KEPT, Outcome
from repro.run import leftovers
from repro.store import index
from repro.store.store import Store

#: Ends that a run came to while somebody watched: one that was lost or cancelled is made again.
ENDS = ("COMPLETED", "FAILED", "TIMED_OUT")


def by_recipe(store: Store) -> dict[str, list[str]]:
    """Return the runs that came to an end, replays left out, by the digest of their recipe, the latest last.

    Not all of them are results: a study looks at what they ended with.
    """
    runs: dict[str, list[str]] = {}
    for row in index.rows(store):
        if row["replay_of"] is None and row["state"] in ENDS:
            runs.setdefault(row["recipe_digest"], []).append(row["run_id"])
    return runs


def is_as_read(store: Store, root: Path, outcome: Outcome, cache: StatCache) -> bool:
    """Say whether every file that a run read still has its recorded digest."""
    return all(
        item.note == KEPT
        or (
            item.digest is not None
            and leftovers.is_unchanged(item, leftovers.digest_now(item, root / item.path, cache, store))
        )
        for item in outcome.inputs
    )
