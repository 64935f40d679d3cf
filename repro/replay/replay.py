"""`repro replay`: rebuild, run again, compare, and attach the verdict to the new record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from repro.base import clock
from repro.record import differences
from repro.record.differences import Difference
from repro.record.values import Attachment, Outcome, Record, Verdict
from repro.replay import compare, restore
from repro.run import execute, observed
from repro.run.request import Request
from repro.run.seal import Given
from repro.store.store import Store


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a replay; ``run_id`` is None where it could not be started."""

    run_id: str | None
    replay_of: str
    verdict: Verdict
    reason: str | None
    hint: str | None
    comparison: compare.Comparison | None
    differences: list[Difference]
    notes: list[str]
    gaps: list[str]
    folder: str | None


def replay(
    store: Store,
    run_id: str,
    *,
    to_stderr: bool = False,
    keep: bool = False,
    allow_outside: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Replayed:
    """Replay a run in a folder of its own and compare.

    Raises:
        StoreDamagedError: when the record cannot be read.
        RunNotFoundError, StoreError: as `execute` does.
    """
    record = store.record(run_id)
    outcome = store.outcome(run_id)
    obstacle = _obstacle(store, record, outcome)
    if obstacle is not None:
        return _not_replayable(record, *obstacle)
    folder, lock = store.new_work()
    try:
        if keep:
            (folder / "kept").touch()
        restored = restore.restore(store, record, outcome, folder)
        result = _run(store, record, restored, to_stderr=to_stderr, allow_outside=allow_outside, say=say)
        return _judge(store, record, outcome, restored, result, str(restored.place) if keep else None)
    except restore.NotReplayableError as error:
        return _not_replayable(record, str(error), error.hint)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _obstacle(store: Store, record: Record, outcome: Outcome | None) -> tuple[str, str | None] | None:
    """Return why a run cannot be replayed at all, and the command that helps; None where nothing speaks against it."""
    redacted = [gap.what for gap in record.gaps if gap.reason.startswith("redacted")]
    if redacted:
        return (
            f"{', '.join(redacted)} was redacted when the run was recorded",
            "repro run it anew, with the secret in a variable",
        )
    if outcome is None and store.alive(record.run_id) == "RUNNING":
        return "the run is still going on", f"repro log {record.run_id}"
    return None


def _not_replayable(record: Record, reason: str, hint: str | None) -> Replayed:
    return Replayed(
        run_id=None,
        replay_of=record.run_id,
        verdict="NOT_REPLAYABLE",
        reason=reason,
        hint=hint,
        comparison=None,
        differences=[],
        notes=[],
        gaps=_gaps(record, None),
        folder=None,
    )


def _gaps(record: Record, outcome: Outcome | None) -> list[str]:
    gaps = [*record.gaps, *(outcome.gaps if outcome is not None else [])]
    return [f"{gap.what}: {gap.reason}" for gap in gaps]


def _run(
    store: Store,
    record: Record,
    restored: restore.Restored,
    *,
    to_stderr: bool,
    allow_outside: bool,
    say: Callable[[str], None],
) -> execute.Result:
    recipe = record.recipe
    root = Path(record.circumstances["project"]["root"])
    launch = record.circumstances["launch"]
    asked = Request(
        root=root,
        place=restored.place,
        cwd=recipe.cwd,
        outside=restored.stand if recipe.cwd is None else None,
        name=record.name,
        command=None if recipe.command is None else [_moved(word, restored) for word in recipe.command],
        entry=recipe.entry,
        params=recipe.params,
        metrics=record.metrics,
        patterns=launch["patterns"],
        data=launch["data"],
        seed=int(recipe.seeds.master),
        seed_given=launch["seed_given"],
        profile=recipe.profile,
        threads=recipe.threads,
        trail=recipe.trail,
    )
    options = execute.Options(
        to_stderr=to_stderr,
        given=Given(recipe.code, recipe.sources, recipe.command, record.run_id, record.circumstances["project"]),
        live=restored.live,
        environment=_environment(record),
        say=say,
        allow_outside=allow_outside,
    )
    return execute.execute(asked, store, options)


def _moved(word: str, restored: restore.Restored) -> str:
    """Return a word of the command with an absolute path into a live source pointing into its copy."""
    before, equals, tail = word.partition("=") if word.startswith("-") and "=" in word else ("", "", word)
    for live, copy in restored.live:
        if tail == live or tail.startswith(live + os.sep):
            moved = copy + tail[len(live) :]
            return before + equals + (moved if os.path.exists(moved) or not os.path.exists(tail) else tail)
    return word


def _environment(record: Record) -> dict[str, str]:
    """Return the user's environment of now, with the variables of the recipe as they were."""
    from repro.capture import variables

    now = dict(os.environ)
    for name in variables.recipe(now):
        del now[name]
    now |= record.recipe.environment
    for name, value in variables.OFFLINE.items():
        now.setdefault(name, value)
    path = record.circumstances["launch"]["pythonpath"]
    if path is not None:
        now["PYTHONPATH"] = path
    return now


def _judge(
    store: Store,
    record: Record,
    outcome: Outcome | None,
    restored: restore.Restored,
    result: execute.Result,
    folder: str | None,
) -> Replayed:
    before = store.run_folder(record.run_id)
    original = outcome if outcome is not None else _unfinished(record, before)
    found = compare.compare(
        (before, original),
        (result.folder, result.outcome),
        record.metrics,
        until_end=original.state in ("COMPLETED", "FAILED"),
    )
    found = _overruled(found, observed.read(result.folder), restored)
    replayed = Replayed(
        run_id=result.record.run_id,
        replay_of=record.run_id,
        verdict=found.verdict,
        reason=found.reason,
        hint=_hint(found),
        comparison=found,
        differences=_differences(record, original, before, restored, result),
        notes=result.outcome.notes,
        gaps=_gaps(record, outcome),
        folder=folder,
    )
    store.attach(_attachment(record, replayed, result))
    return replayed


def _overruled(found: compare.Comparison, seen: observed.Observed, restored: restore.Restored) -> compare.Comparison:
    """Return the comparison with what makes it void: a module from the live tree, a refused write, lost data."""
    reason = None
    if seen.live_modules:
        name, path = seen.live_modules[0]
        reason = f"the module {name} was imported from {path}, not from the recorded code"
    elif seen.refused:
        reason = f"the run writes outside its folder: {seen.refused[0]}"
    elif found.verdict != "IDENTICAL" and restored.lost:
        reason = f"{restored.lost[0]} is not what it was when the run read it, and nobody kept it"
    elif found.verdict != "IDENTICAL" and (stale := restore.not_recorded(restored, seen.reads)):
        reason = f"{stale[0]} was read by its absolute path, and is not what was recorded"
    if reason is None:
        return found
    return msgspec.structs.replace(found, verdict="NOT_REPLAYABLE", reason=reason)


def _hint(found: compare.Comparison) -> str | None:
    if found.verdict != "NOT_REPLAYABLE":
        return None
    if "writes outside" in (found.reason or ""):
        return "repro replay --allow-outside-writes lets it"
    if "nothing to compare" in (found.reason or ""):
        return "log a metric (repro.current().log), or take one out of the output (repro run --metric 'acc=([0-9.]+)')"
    return None


def _unfinished(record: Record, folder: Path) -> Outcome:
    """Return what stands for the outcome of a run that was lost and not yet concluded."""
    return Outcome(
        run_id=record.run_id,
        record_digest="",
        state="LOST",
        exit_code=None,
        signal=None,
        reason=None,
        started=record.created,
        ended=record.created,
        metrics={},
        trail_digest=None,
        trails=[],
        files={},
        inputs=[],
        outputs=[],
        artifacts=[],
        notes=[str(folder)],
        gaps=[],
    )


def _differences(
    record: Record, original: Outcome, before: Path, restored: restore.Restored, result: execute.Result
) -> list[Difference]:
    found = differences.compare(record, result.record)
    found += differences.compare_observed(observed.read(before).document(), observed.read(result.folder).document())
    found += [
        Difference(kind="data", path=f"inputs.{path}", before=old, after=new, prior="certain")
        for path, old, new in restored.changed
    ]
    known = {item.path for item in found}
    return differences.ordered([*found, *_other_inputs(original, result.outcome, known)])


def _other_inputs(a: Outcome, b: Outcome, known: set[str]) -> list[Difference]:
    """Return files that only one of the runs read; a link into the live tree counts as the file it stands for."""
    return [
        item for item in differences.compare_outcomes(a, b) if item.path not in known and item.before and item.after
    ]


def _attachment(record: Record, replayed: Replayed, result: execute.Result) -> Attachment:
    body = cast("dict[str, Any]", msgspec.to_builtins(replayed))
    return Attachment(
        kind="verdict",
        about=result.record_digest,
        run_id=result.record.run_id,
        created=clock.now(),
        body=body | {"of": record.run_id},
    )
