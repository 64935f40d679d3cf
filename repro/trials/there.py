"""Runs that are there already: by recipe, and whether what they read is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from repro.capture.data import StatCache
from repro.record.values import KEPT, Outcome, Recipe, Record, study_of
from repro.run import leftovers, relevance
from repro.store import index
from repro.store.store import Store
from repro.trials.slot import Template

#: Ends that a run came to while somebody watched: one that was lost or cancelled is made again.
ENDS = ("COMPLETED", "FAILED", "TIMED_OUT")
_SHOWN = 4


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


def with_known_code(template: Template, say: Callable[[str], None]) -> Template:
    """Return a study's template with the code of its earlier runs, where none of them read what has changed since.

    So what is there is read, and what is missing is run as they were. Without such runs, the template as it is.
    """
    store, recipe = template.store, template.record.recipe
    for code, records in _of_other_code(template).items():
        if not any(relevance.of_code(store, record, recipe.code) for record in records):
            names = sorted(change.path for change in store.code.changes(code, recipe.code))
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            say(f"the code counts as the same: no run opened what has changed ({', '.join(names[:_SHOWN])}{more})")
            then = msgspec.structs.replace(recipe, code=code)
            record = msgspec.structs.replace(template.record, recipe=then)
            return template._replace(record=record, study_id=study_of(then).removeprefix("sha256:")[:16])
    return template


def _of_other_code(template: Template) -> dict[str, list[Record]]:
    """Return the completed runs whose recipes differ in seeds and code alone, by code, the latest first.

    None where there is a run of the code as it is now.
    """
    recipe = template.record.recipe
    found: dict[str, list[Record]] = {}
    wanted = _without_seeds(recipe, recipe.code)
    for row in reversed(list(index.rows(template.store))):
        if row["replay_of"] is not None or row["state"] != "COMPLETED":
            continue
        record = template.store.record(row["run_id"])
        if _without_seeds(record.recipe, recipe.code) == wanted:
            if record.recipe.code == recipe.code:
                return {}
            found.setdefault(record.recipe.code, []).append(record)
    return found


def _without_seeds(recipe: Recipe, code: str) -> str:
    plan = msgspec.structs.replace(recipe.seeds, replicates={})
    return study_of(msgspec.structs.replace(recipe, code=code, seeds=plan))
