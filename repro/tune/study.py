"""A study that is kept: found by its file, refused where it was changed, its decisions compared with the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from repro.base import canonical, clock
from repro.errors import UsageError
from repro.store import studies
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import decisions, judging, specification
from repro.tune.method import Ladder
from repro.tune.options import ENDLESS
from repro.tune.scheduler import Limits, Scheduler, Trial
from repro.tune.search import Amount, Mode, plain
from repro.tune.specification import Study
from repro.tune.used import INPUTS

_SHOWN = 6
_SHORT = 60  # characters
#: What of a recipe stands apart in a study's identity, or differs from trial to trial.
_APART = {"code", "sources", "params", "command", "entry", "budget", "horizon", "seeds"}


class Ground(NamedTuple):
    """What a study stands on: a table or an experiment, by digests; and where it was found."""

    digests: dict[str, Any]
    places: dict[str, Any]


class Verified(NamedTuple):
    """What a verification found: how many decisions were derived again, their digest, and what is wrong."""

    decisions: int
    digest: str
    faults: list[str]


class Reader(NamedTuple):
    """What a document needs beside the scheduler: the fidelity, the metric, and what is known of a trial."""

    ladder: Ladder
    metric: str
    mode: Mode
    name: Callable[[int], str | None]
    run_id: Callable[[int, Amount], str | None]
    metrics: Callable[[int, Amount], Mapping[str, float]]


def open_study(store: Store, root: Path, study: Study, ground: Ground, *, new: bool) -> tuple[StudyFolder, list[str]]:
    """Return the study's folder, its specification sealed, and words about what it goes on from.

    Raises:
        UsageError: where a study of this file was begun under another specification, unless ``new``.
    """
    found = identity(root, study, ground)
    folder = studies.StudyFolder(store, studies.new_id(found))
    said: list[str] = []
    if not (folder.folder / "specification.json").exists():
        before = of_file(store, found["path"])
        if before and not new:
            said = _refuse_or_say(before[-1], found, ground.places)
        with folder.held():
            folder.begin(
                {
                    "schema": 1,
                    "study_id": folder.study_id,
                    "created": clock.now(),
                    "file": str(study.path),
                    "text": study.path.read_text(encoding="utf-8"),
                    "identity": found,
                    "places": ground.places,
                }
            )
    return folder, said


def of_file(store: Store, path: str) -> list[StudyFolder]:
    """Return the studies of a file, by its path within the project, the first one begun first."""
    return [one for one in studies.all_of(store) if one.specification()["identity"]["path"] == path]


def identity(root: Path, study: Study, ground: Ground) -> dict[str, Any]:
    """Return what a study is: its file's path within the project, its specification, what it stands on."""
    place = study.path.relative_to(root).as_posix() if study.path.is_relative_to(root) else str(study.path)
    found = {"path": place, "specification": study.sealed(), **ground.digests}
    plain: dict[str, Any] = canonical.loads(canonical.dumps(found))  # as it is read back: lists, no tuples
    return plain


def _refuse_or_say(before: StudyFolder, found: dict[str, Any], places: Mapping[str, Any]) -> list[str]:
    """Return words where only the fidelity's maximum grew: that is a new study by itself; refuse anything else."""
    old = before.specification()["identity"]
    names = [name for name in changed(old, found) if name != INPUTS]
    if names == ["specification.fidelity"] and _grew(old, found):
        return [f"a larger fidelity than study {before.study_id} had: a new study, which goes on from what still holds"]
    then = before.specification()["places"]
    told = [_told(name, {**old, **then}, {**found, **places}) for name in _by_recipe(names, then, places)]
    shown = ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")
    raise UsageError(
        f"study {before.study_id} of {found['path']} was begun with another {shown or 'specification'}",
        hint="put that back to go on with it, or --new: a new study, which reads what still holds",
    )


def _by_recipe(names: list[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return names with those of what the recipes differ in for the digest of it."""
    if "experiment.environment" not in names:
        return names
    one, other = old["recipe"], new["recipe"]
    fields = [name for name in sorted({*one, *other} - _APART) if one.get(name) != other.get(name)]
    return [name for name in names if name != "experiment.environment"] + [f"recipe.{name}" for name in fields]


def _told(name: str, old: Any, new: Any) -> str:
    """Return a name with the value that it had and the one that it has, where these are short."""
    for step in name.split("."):
        old, new = (value.get(step) if isinstance(value, dict) else None for value in (old, new))
    was, now = (canonical.dumps(value).decode() for value in (old, new))
    return f"{name} ({was}, now {now})" if len(was) + len(now) < _SHORT else name


def changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of what differs between two identities, down to the keys of what was asked for."""
    found = []
    for name in sorted({*old, *new}):
        one, other = old.get(name), new.get(name)
        if one == other:
            continue
        if name in ("specification", "experiment") and isinstance(one, dict) and isinstance(other, dict):
            found += changed(one, other, f"{name}.")
        else:
            found.append(prefix + name)
    return found


def _grew(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    before, after = old["specification"]["fidelity"], new["specification"]["fidelity"]
    if list(before) != list(after):
        return False
    return all(_is_larger(before[name], after[name]) for name in before)


def _is_larger(old: Any, new: Any) -> bool:
    """Say whether an axis has the same least and a larger whole; a ladder of models: further ones above the others."""
    if isinstance(old, dict) and isinstance(new, dict):
        top = max(map(Fraction, old.values()))
        return old.items() <= new.items() and all(Fraction(new[name]) > top for name in new.keys() - old.keys())
    return type(old) is type(new) and old[0] == new[0] and Fraction(new[-1]) >= Fraction(old[-1])


def keep(folder: StudyFolder, scheduler: Scheduler, limits: Limits) -> int:
    """Write what is new in the decision log, seal its digest, and return how many lines were new.

    Raises:
        UsageError: where the log has other decisions than those that follow from the scores.
    """
    lines = [decisions.line(entry) for entry in scheduler.entries]
    there = folder.decisions()
    at = disagree(there, lines)
    if at is not None:
        raise UsageError(
            f"study {folder.study_id}: decision {at} in its log is not the one that follows from its trials",
            hint=f"repro study verify {folder.study_id}",
        )
    folder.append(lines[len(there) :])
    if len(lines) > _sealed_up_to(folder):
        folder.end(
            {
                "schema": 1,
                "study_id": folder.study_id,
                "created": clock.now(),
                "trials": len(scheduler.trials.all),
                "decisions": len(lines),
                "decisions_digest": decisions.digest_of(lines),
                "limits": {
                    "trials": limits.trials,
                    "budget": None if limits.budget is None else str(limits.budget),
                },
            }
        )
    return max(0, len(lines) - len(there))


def is_over(folder: StudyFolder) -> bool:
    """Say whether an end is sealed that the whole log lies within; else the study goes on, or was cut off."""
    return len(folder.decisions()) <= _sealed_up_to(folder)


def _sealed_up_to(folder: StudyFolder) -> int:
    return max((int(end["decisions"]) for end in folder.ends()), default=-1)


def disagree(there: list[bytes], lines: list[bytes]) -> int | None:
    """Return the first decision that two logs have differently; one may go on where the other ends."""
    common = min(len(there), len(lines))
    return decisions.first_difference(there[:common], lines[:common])


def limits_of(end: Mapping[str, Any]) -> Limits:
    """Return the limits that a sealed end was reached under."""
    budget = end["limits"]["budget"]
    return Limits(end["limits"]["trials"], None if budget is None else Fraction(budget))


def restored(folder: StudyFolder) -> Study:
    """Return the study as it was sealed, under the limits of its last end, or as far as its log goes beyond that."""
    sealed = folder.specification()
    found = specification.parse(sealed["text"], Path(sealed["file"]))
    ends = folder.ends()
    if is_over(folder):
        last = limits_of(max(ends, key=lambda end: int(end["decisions"])))
        return found._replace(trials=last.trials, budget=last.budget)
    is_limited = found.trials is not None or found.budget is not None
    if not ends and (is_limited or found.method.name not in ENDLESS):
        return found
    begun = sum(b'"kind":"suggested"' in line for line in folder.decisions())  # under limits that nobody knows any more
    return found._replace(trials=max(1, begun), budget=None)


def compared(folder: StudyFolder, lines: list[bytes]) -> Verified:
    """Compare the decisions that follow from the trials with the log and the sealed digests."""
    there, faults = folder.decisions(), []
    at = decisions.first_difference(there, lines)
    if at is not None and at >= len(there):
        faults.append(f"the log ends after {len(there)} decisions; {len(lines)} follow from the trials")
    elif at is not None and at >= len(lines):
        faults.append(f"the log has {len(there)} decisions; {len(lines)} follow from the trials")
    elif at is not None:
        faults.append(f"decision {at} in the log is not the one that follows from the trials")
    for number, end in enumerate(folder.ends()):
        if decisions.digest_of(lines[: int(end["decisions"])]) != end["decisions_digest"]:
            faults.append(f"ends/{number:04}.json was sealed with other decisions")
    return Verified(len(lines), decisions.digest_of(lines), faults)


def document(folder: StudyFolder, study: Study, scheduler: Scheduler, reader: Reader) -> dict[str, Any]:
    """Return a study as plain values, as ``repro tune --json`` prints it."""
    lines = [decisions.line(entry) for entry in scheduler.entries]
    trials = [_trial(at, trial, reader) for at, trial in enumerate(scheduler.trials.all)]
    best = judging.best_of(scheduler, reader.ladder.axis.high)
    return {
        "study_id": folder.study_id,
        "path": folder.specification()["identity"]["path"],
        "method": study.method.name,
        "objective": {"metric": reader.metric, "mode": reader.mode},
        "best": None if best is None else _best(trials[best]),
        "trials": trials,
        "budget_unit": reader.ladder.axis.name,
        **reader.ladder.rungs(),
        "budget_spent": plain(scheduler.trials.spent),
        "budget_retrained": plain(scheduler.trials.retrained),
        "decisions": len(lines),
        "decisions_digest": decisions.digest_of(lines),
    }


def _best(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {name: trial[name] for name in ("trial", "params", "metrics", "run_id", "budget", "name") if name in trial}


def _trial(at: int, trial: Trial, reader: Reader) -> dict[str, Any]:
    reached = max(trial.scores, default=None)
    last = trial.last
    named = {} if reader.name(at) is None else {"name": reader.name(at)}
    return {
        "trial": at,
        **named,
        "params": trial.suggestion.params,
        "by": trial.suggestion.by,
        "state": _state(trial, reader.ladder.axis.high),
        "budget": None if reached is None else plain(reached),
        "metrics": {} if reached is None else dict(reader.metrics(at, reached)),
        "reason": None if last is None else last.detail or last.reason,
        "run_id": None if reached is None else reader.run_id(at, reached),
        "scores": [{"budget": plain(budget), "value": score.value} for budget, score in sorted(trial.scores.items())],
    }


def _state(trial: Trial, high: Amount) -> str:
    last = trial.last
    if last is None:
        return "running"
    if last.value is None:
        return "diverged"
    return "finished" if high in trial.scores else "stopped"
