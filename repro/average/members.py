"""Which runs are averaged, and what each of them has to give. Nothing is run here."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from repro.capture import interpreter
from repro.errors import RunNotFoundError, UsageError
from repro.record.values import Outcome, Record
from repro.run import predictions
from repro.seeds import studies
from repro.store import names
from repro.store.store import Store

#: What the validation split may be called, in the order in which they are looked for.
VALIDATION = ("val", "validation", "valid", "dev")
_CHECKPOINT = "checkpoints/00000-0000-"


class Member(NamedTuple):
    """One run that is averaged."""

    record: Record
    outcome: Outcome

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    def checkpoint(self) -> str | None:
        """Return the last checkpoint of the run's first process, relative to its folder; None where it made none."""
        return max((name for name in self.outcome.files if name.startswith(_CHECKPOINT)), default=None)

    def average(self, method: str) -> str | None:
        """Return the weights that the run averaged itself, relative to its folder; None where it has none."""
        name = f"averages/{method}.pt"
        return name if name in self.outcome.files else None

    def predicts(self, split: str) -> bool:
        """Say whether the run saved predictions of a split."""
        return predictions.place(split) in self.outcome.files


def find(store: Store, words: str) -> list[Member]:
    """Return the runs that a word means: a study of `repro seeds` by its id, or runs separated by commas.

    Raises:
        UsageError, RunNotFoundError: where there is no such study or run, one is there twice, or has not completed.
    """
    ids = [names.resolve(store, word.strip()) for word in words.split(",")] if "," in words else _one(store, words)
    twice = next((run_id for run_id in ids if ids.count(run_id) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is there twice; it would count one run as two")
    return [_member(store, run_id) for run_id in ids]


def _one(store: Store, word: str) -> list[str]:
    """Return the runs of a study, or the one run that has the name."""
    try:
        return [replicate.run_id for replicate in studies.find(store, word).replicates]
    except UsageError as error:
        try:
            return [names.resolve(store, word)]
        except RunNotFoundError:
            hint = "an id of `repro seeds --json`, or run ids separated by commas"
            raise UsageError(f"{error}, and no run of that name", hint=hint) from None


def _member(store: Store, run_id: str) -> Member:
    state, outcome = store.state(run_id)
    if outcome is None or state != "COMPLETED":
        raise UsageError(f"{run_id} is {state}: only completed runs are averaged")
    return Member(store.record(run_id), outcome)


def validation_split(members: Sequence[Member], given: str | None) -> str | None:
    """Return the split that all members saved predictions of and that is called like one for validation."""
    known = (given,) if given is not None else VALIDATION
    return next((name for name in known if all(member.predicts(name) for member in members)), given)


def are_forked(members: Sequence[Member]) -> bool:
    """Say whether all members go on from one and the same checkpoint."""
    found = [member.record.circumstances.get("resumed", {}).get("checkpoints", []) for member in members]
    starts = [[item["digest"] for item in checkpoints] for checkpoints in found]
    return bool(starts[0]) and all(start == starts[0] for start in starts)


def module_of(record: Record) -> str | None:
    """Return the user's module, relative to the project: the entry's file or the command's script."""
    recipe = record.recipe
    if recipe.entry is not None:
        return recipe.entry.rpartition(":")[0]
    words = recipe.command or []
    script = interpreter.script_of(words[1:]) if words and interpreter.is_python(words[0]) else None
    if script is None or recipe.cwd is None:
        return None
    root = Path(record.circumstances["project"]["root"])
    path = Path(script) if Path(script).is_absolute() else root / recipe.cwd / script
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def offers(source: bytes) -> list[str]:
    """Return which of ``build`` and ``evaluate`` a module's top level defines or imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    found |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return [name for name in ("build", "evaluate") if name in found]
