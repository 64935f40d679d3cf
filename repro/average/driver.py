"""Makes an averaged model: checks what can be checked before, and has the run made by the one way there is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from repro.average import members as runs
from repro.average.members import Member
from repro.base import clock
from repro.capture.variables import OFFLINE
from repro.errors import ReproError, UsageError
from repro.record.values import MetricSpec, Record
from repro.replay import restore
from repro.run import execute, predictions, recover
from repro.run.request import Request
from repro.run.seal import Given
from repro.store.store import Store
from repro.worker.averaging import DETAILS, key
from repro.worker.job import AVERAGE

#: Of predictions alone; of weights of several runs; of the weights that one run averaged itself.
ENSEMBLES = ("ensemble", "weighted", "greedy")
SOUPS = ("soup", "greedy-soup")
WITHIN = ("ema", "swa", "last")
METHODS = (*ENSEMBLES, *SOUPS, *WITHIN)
#: The barrier, in nats of validation NLL, up to which weights of members without a common checkpoint are averaged.
MAX_BARRIER = 0.01
_WHO = ("averaged", "best_single", "mean_single")
_BETTER: Mapping[str, Any] = {"accuracy": "maximize", "rmse": "minimize", "nll": "minimize", "ece": "minimize"}


class Asked(NamedTuple):
    """What is asked for: the method and the splits (validation: None for the one that is there)."""

    method: str
    test: str = "test"
    validation: str | None = None
    rebasin: bool = False
    max_barrier: float = MAX_BARRIER


class Averaged(NamedTuple):
    """An averaged model: its run, members, scores by who has them, how it came about, and what is amiss."""

    result: execute.Result
    members: list[Member]
    metrics: dict[str, dict[str, float]]
    details: dict[str, Any]
    notes: list[str]


class _Wanted(NamedTuple):
    """The run to be made: a record that was never sealed, for the folder it runs in, and the request's own parts."""

    record: Record
    params: dict[str, Any]
    data: dict[str, str]


def average(store: Store, members: Sequence[Member], asked: Asked) -> Averaged:
    """Make the averaged model of some runs.

    Raises:
        UsageError: where a member lacks what the method needs, or averaging would not be sound.
        ReproError: where the run fails, or cannot be made.
    """
    recover.recover(store)
    validation = runs.validation_split(members, asked.validation)
    module = _module(store, members, asked)
    _check(members, asked, validation, module)
    wanted = _wanted(store, members, asked, validation, module)
    result, changed = _execute(store, members, wanted, asked)
    details = _details(result)
    if result.outcome.state != "COMPLETED":
        raise _failed(result, details)
    before, now = members[0].record.recipe.data, result.record.recipe.data
    changed += [f"data.{name}" for name, value in before.items() if module is not None and now.get(name) != value]
    notes = [f"{path} is not what it was when {members[0].run_id} read it" for path in changed]
    return Averaged(result, list(members), _by_whom(result.outcome.metrics), details, notes)


def _module(store: Store, members: Sequence[Member], asked: Asked) -> str | None:
    """Return the user's module where it offers `build` and `evaluate`; an ensemble goes without where it does not.

    Raises:
        UsageError: where the weights are to be averaged, and there is none, or there are several.
    """
    first = members[0].record
    path = runs.module_of(first)
    source = None if path is None else store.code.read(first.recipe.code, path)
    offered = [] if source is None else runs.offers(source)
    alike = all(_common(member) == _common(members[0]) for member in members)
    if len(offered) == 2 and alike:  # noqa: PLR2004
        return path
    if asked.method in ENSEMBLES:
        return None
    if not alike:
        hint = "--method ensemble averages the predictions of any runs"
        raise UsageError(
            "the members are runs of other code or parameters: their weights have nothing in common", hint=hint
        )
    missing = "build" if "build" not in offered else "evaluate"
    line = {"build": "def build(run) -> torch.nn.Module", "evaluate": "def evaluate(model, run, split)"}[missing]
    raise UsageError(
        f"{path or 'the command'} has no function {missing!r}, which weights are evaluated with", hint=line
    )


def _common(member: Member) -> tuple[Any, ...]:
    recipe = member.record.recipe
    return recipe.code, recipe.sources, recipe.cwd, recipe.entry, recipe.params


def _check(members: Sequence[Member], asked: Asked, validation: str | None, module: str | None) -> None:
    """Raise UsageError where a member lacks what the method needs, with the line to add."""
    if asked.method in ENSEMBLES:
        _check_predictions(members, asked.test)
        if asked.method != "ensemble":
            _check_predictions(members, validation or runs.VALIDATION[0])
        return
    assert module is not None  # noqa: S101  (`_module` has refused)
    lacking = next((member for member in members if member.checkpoint() is None), None)
    if lacking is not None:
        hint = "add to the script, at the end of each epoch or at its end: run.checkpoint(model=model)"
        raise UsageError(f"{lacking.run_id} saved no weights", hint=hint)
    if asked.method in WITHIN:
        _check_averages(members, asked.method)
    elif len(members) < 2:  # noqa: PLR2004
        raise UsageError(f"--method {asked.method}: at least 2 members are expected", hint="repro seeds --n 5 ...")


def _check_predictions(members: Sequence[Member], split: str) -> None:
    lacking = next((member for member in members if not member.predicts(split)), None)
    if lacking is not None:
        hint = (
            f"add to the script: run.predictions({split!r}, ids, probabilities, targets), where run = repro.current()"
        )
        raise UsageError(f"{lacking.run_id} saved no predictions of {split!r}", hint=hint)


def _check_averages(members: Sequence[Member], method: str) -> None:
    lacking = next((member for member in members if member.average(method) is None), None)
    if lacking is not None:
        more = {"ema": "ema=0.999", "swa": "swa=True", "last": "last=5"}[method]
        hint = f"add to the script, behind the line that makes the model: run.average(model, {more})"
        raise UsageError(f"{lacking.run_id} did not average its weights by {method!r}", hint=hint)


def _wanted(
    store: Store, members: Sequence[Member], asked: Asked, validation: str | None, module: str | None
) -> _Wanted:
    first = members[0].record
    split = validation or (None if module is None else runs.VALIDATION[0])
    own = _files(store, members, asked, [asked.test, *([split] if split else [])])
    data = {**({} if module is None else first.circumstances["launch"]["data"]), **own}
    params = {
        "method": asked.method,
        "members": [member.outcome.record_digest for member in members],
        "params": first.recipe.params,
        "seeds": [msgspec.to_builtins(member.record.recipe.seeds) for member in members],
        "module": module,
        "test": asked.test,
        "validation": split,
        "shared": runs.are_forked(members),
        "rebasin": asked.rebasin,
        "max_barrier": asked.max_barrier,
    }
    launch = first.circumstances["launch"] | {"data": data}
    facts = {name: value for name, value in first.circumstances.items() if name != "resumed"}
    record = msgspec.structs.replace(
        first, created=clock.now(), replay_of=None, circumstances=facts | {"launch": launch}
    )
    return _Wanted(record, params, data)


def _files(store: Store, members: Sequence[Member], asked: Asked, splits: Sequence[str]) -> dict[str, str]:
    """Return the members' files by their name among the declared data, as paths from where the run begins."""
    first = members[0].record
    found: dict[str, str] = {}
    for number, member in enumerate(members):
        own = {f"predictions/{split}": predictions.place(split) for split in splits if member.predicts(split)}
        own |= {"weights": member.checkpoint() or ""}
        own |= {"average": member.average(asked.method) or ""} if asked.method in WITHIN else {}
        folder = store.run_folder(member.run_id)
        found |= {key(number, name): _from(first, folder / place) for name, place in own.items() if place}
    return found


def _from(record: Record, path: Path) -> str:
    """Return a path from where the run begins, so that project and store can be moved together; else absolute."""
    project = record.circumstances["project"]
    if record.recipe.cwd is None or not path.is_relative_to(project["root"]):
        return str(path)
    return os.path.relpath(path, os.path.join(project["root"], record.recipe.cwd))


def _execute(
    store: Store, members: Sequence[Member], wanted: _Wanted, asked: Asked
) -> tuple[execute.Result, list[str]]:
    """Make the run in a folder of its own; return it and the files that are not as the first member read them."""
    record, recipe = wanted.record, wanted.record.recipe
    folder, lock = store.new_work()
    try:
        outcome = None if wanted.params["module"] is None else members[0].outcome
        restored = restore.restore(store, record, outcome, folder)
        request = Request(
            root=Path(record.circumstances["project"]["root"]),
            place=restored.place,
            cwd=recipe.cwd,
            outside=restored.stand if recipe.cwd is None else None,
            name=f"{record.name}-{asked.method}",
            command=None,
            entry=AVERAGE,
            params=wanted.params,
            metrics={f"{who}/{name}": MetricSpec(direction=better) for who in _WHO for name, better in _BETTER.items()},
            data=wanted.data,
            seed=int(recipe.seeds.master),
            seed_given=True,
            replicates=recipe.seeds.replicates,
            profile=recipe.profile,
            threads=recipe.threads,
            trail=recipe.trail,
        )
        given = Given(recipe.code, recipe.sources, None, None, record.circumstances["project"])
        environment = {**OFFLINE, **os.environ}
        options = execute.Options(quiet=True, given=given, live=restored.live, environment=environment)
        return execute.execute(request, store, options), [path for path, _, _ in restored.changed]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _details(result: execute.Result) -> dict[str, Any]:
    """Return what the run says of how its model came about; nothing where it did not come that far."""
    try:
        found: dict[str, Any] = json.loads((result.folder / "artifacts" / DETAILS).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _failed(result: execute.Result, details: Mapping[str, Any]) -> ReproError:
    """Return the error that a run which did not complete comes to."""
    if "refused" in details:
        return UsageError(str(details["refused"]), hint=details.get("hint"))
    lines = (result.folder / "stderr.log").read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else result.outcome.reason or result.outcome.state
    hint = f"repro show {result.record.run_id}; all that it said is in {result.folder / 'stderr.log'}"
    return ReproError(f"the averaged model could not be made: {last}", hint=hint)


def _by_whom(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {who: {} for who in _WHO}
    for name, value in values.items():
        who, _, what = name.partition("/")
        if who in found:
            found[who][what] = value
    return found
