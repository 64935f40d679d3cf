"""What a study was told when it stopped and asked: trials that were given up, sealed beside its specification.

An answer is no result of a training and no part of the decision log's words: a trial that was given up stands there as
diverged, for the reason ``given up``, whatever brought it about.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from repro.base import clock
from repro.errors import ReproError
from repro.record.values import Outcome, was_limited
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import results
from repro.tune.search import Amount, Job, Score
from repro.tune.specification import shown

_WORDS = ("once", "twice", "three times")


class GivenUp(NamedTuple):
    """A job that was given up: the replicate that never came to a result, why, and its last run."""

    trial: int
    budget: Amount
    replicate: int
    reason: str
    run_id: str

    @property
    def score(self) -> Score:
        """What the job counts as."""
        return Score(None, "given up", f"{self.reason}; given up")


class Answers:
    """The answers that a study has."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self.all = [_read(value) for value in folder.answers()]

    def of(self, job: Job, replicates: range, *, beyond: bool = False) -> GivenUp | None:
        """Return the answer for a job with these replicates; with ``beyond`` one for a smaller budget counts too."""
        for item in self.all:
            reached = item.budget <= job.budget if beyond else item.budget == job.budget
            if item.trial == job.trial and reached and item.replicate in replicates:
                return item
        return None

    def add(self, found: GivenUp) -> None:
        """Seal an answer."""
        value = found._asdict() | {"budget": str(found.budget)}
        self._folder.answer({"schema": 1, "study_id": self._folder.study_id, "created": clock.now(), **value})
        self.all.append(found)


def _read(value: dict[str, object]) -> GivenUp:
    fields = {name: value[name] for name in GivenUp._fields}
    return GivenUp(**(fields | {"budget": Fraction(str(value["budget"]))}))  # type: ignore[arg-type]


def why(store: Store, failed: Sequence[Outcome]) -> str:
    """Return in words why runs came to no result, the last one's reason and how often: ``out of time, twice``."""
    words = results.why(store, failed[-1])
    count = sum(results.why(store, outcome) == words for outcome in failed)
    return f"{words}, {_WORDS[count - 1] if count <= len(_WORDS) else f'{count} times'}"


def question(store: Store, file: Path, trial: int, what: str, failed: Sequence[Outcome]) -> ReproError:
    """Return what a study stops with when a training came to no result too often: what it was, and the ways on."""
    last = failed[-1]
    name = shown(file)
    limit = ("time" if last.state == "TIMED_OUT" else "memory") if was_limited(last) else None
    again = f"raise limits.{limit} in {name} and run" if limit else "run"
    return ReproError(
        f"{what}: {why(store, failed)}: that is no result (the last is run {last.run_id})",
        hint=f"{again} the same command, which tries again; or repro tune {name} --give-up {trial}: it counts as"
        " diverged then",
    )
