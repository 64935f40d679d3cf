"""The runs that a store has already: which are results of a recipe, and which checkpoints are on the way to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from repro.capture.data import StatCache
from repro.errors import UsageError
from repro.record.values import LOST_POINTS, Outcome, Recipe, recipe_digest
from repro.run import relevance, resume
from repro.store import index
from repro.store.store import Store
from repro.trials import there
from repro.tune import results

#: What a study's identity calls the project's own code.
PROJECT = "project"


def code_of(recipe: Recipe) -> dict[str, str]:
    """Return the code of a recipe as a study's identity has it: the trees of the project and of other sources."""
    return {PROJECT: recipe.code, **recipe.sources}


def with_code(recipe: Recipe, code: Mapping[str, str]) -> Recipe:
    """Return a recipe under other code, as a study's identity has it."""
    sources = {name: tree for name, tree in code.items() if name != PROJECT}
    return msgspec.structs.replace(recipe, code=code[PROJECT], sources=sources)


class Known:
    """The runs that a store has, by recipe: what is a result, and what can be gone on from.

    ``others`` are the codes of earlier studies: a run of theirs counts where it opened nothing that has changed since.
    Runs that failed until ``retried`` are no results.
    """

    def __init__(
        self, store: Store, root: Path, others: Sequence[Mapping[str, str]] = (), retried: str | None = None
    ) -> None:
        self._retried = retried or ""
        self._store = store
        self._root = root
        self._others = others
        self._results = there.by_recipe(store)
        self._cache = StatCache(store.cache / "files.json")
        self._starts: dict[str, list[str]] | None = None

    def result(self, recipe: Recipe) -> Outcome | None:
        """Return the outcome of the first run of this recipe that is a result and whose inputs are as they were."""
        same = self._results.get(recipe_digest(recipe), [])
        for run_id in itertools.chain(same, self._of_other_code(recipe)):
            outcome = self._store.outcome(run_id)
            if outcome is None or (outcome.state == "FAILED" and outcome.ended <= self._retried):
                continue
            if results.is_result(self._store, outcome) and self._is_as_read(run_id, outcome):
                return outcome
        return None

    def listed(self, recipe: Recipe, run_id: str) -> Outcome | None:
        """Return the outcome of a run that a study names, where it is a result of this recipe under any code."""
        outcome = self._store.outcome(run_id)
        if outcome is None or not results.is_result(self._store, outcome):
            return None
        found = self._store.record(run_id).recipe
        return outcome if recipe_digest(with_code(found, code_of(recipe))) == recipe_digest(recipe) else None

    def _is_as_read(self, run_id: str, outcome: Outcome) -> bool:
        """Say whether all that a run read is as it was, and what the runs read that it went on from."""
        if not there.is_as_read(self._store, self._root, outcome, self._cache):
            return False
        resumed = self._store.record(run_id).circumstances.get("resumed")
        before = None if resumed is None else self._store.outcome(resumed["run"])
        return before is None or self._is_as_read(before.run_id, before)

    def failures(self, recipe: Recipe) -> list[Outcome]:
        """Return how the runs of this recipe ended that are no results, the latest last."""
        found = map(self._store.outcome, self._results.get(recipe_digest(recipe), []))
        return [one for one in found if one is not None and not results.is_result(self._store, one)]

    def _of_other_code(self, recipe: Recipe) -> Iterator[str]:
        for code in self._others:
            other = with_code(recipe, code)
            runs = self._results.get(recipe_digest(other), [])
            if runs and other.code != recipe.code and other.sources == recipe.sources:
                records = map(self._store.record, runs)
                yield from (one.run_id for one in records if not relevance.of_code(self._store, one, recipe.code))

    def add(self, recipe: Recipe, run_id: str) -> None:
        """Take note of a run that was made now."""
        self._results.setdefault(recipe_digest(recipe), []).append(run_id)
        if self._starts is not None:
            self._starts.setdefault(_course(recipe), []).append(run_id)

    def start(self, recipe: Recipe) -> tuple[resume.Start | None, str]:
        """Return the furthest checkpoint on the way to a recipe's budget; or why there is none."""
        found, reason = [], ""
        for run_id in self._candidates().get(_course(recipe), []):
            try:
                start = self._of(run_id, recipe)
            except UsageError as error:
                reason = str(error)
                continue
            if start is not None:
                found.append((epochs(start), run_id, start))
        return (max(found, key=lambda item: item[:2])[-1], "") if found else (None, reason)

    def _of(self, run_id: str, recipe: Recipe) -> resume.Start | None:
        record, (state, outcome) = self._store.record(run_id), self._store.state(run_id)
        if outcome is None or outcome.reason == LOST_POINTS:
            return None
        if not results.is_whole(self._store, outcome) or not self._is_as_read(run_id, outcome):
            return None
        budget = recipe.budget.get("epochs", 0)
        if record.recipe.horizon != recipe.horizon and resume.read_horizon(self._store, record):
            return None
        if state == "COMPLETED":
            return resume.after(self._store, run_id, min(budget, record.recipe.budget.get("epochs", 0)))
        if state in ("LOST", "CANCELLED"):
            start = resume.find(self._store, run_id)
            return start if epochs(start) <= budget else None
        return None

    def _candidates(self) -> dict[str, list[str]]:
        """Return all runs that have epochs by what they have in common with those of another budget or horizon."""
        if self._starts is None:
            self._starts = {}
            for row in index.rows(self._store):
                if row["replay_of"] is None and row["state"] in ("COMPLETED", "LOST", "CANCELLED"):
                    recipe = self._store.record(row["run_id"]).recipe
                    self._starts.setdefault(_course(recipe), []).append(row["run_id"])
        return self._starts

    def close(self) -> None:
        """Keep what was digested."""
        self._cache.save()


def _course(recipe: Recipe) -> str:
    """Return the digest of a recipe less what only says how far it goes."""
    params, budget = ({name: of[name] for name in of if name != "epochs"} for of in (recipe.params, recipe.budget))
    return recipe_digest(msgspec.structs.replace(recipe, params=params, budget=budget, horizon={}))


def epochs(start: resume.Start) -> int:
    """Return how many epochs a checkpoint has behind it."""
    return int(next(iter(start.points.values()))["epoch"] or 0) + 1
