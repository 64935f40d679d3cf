"""`repro replay`: rebuild, run again, compare, and attach the verdict to the new record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from repro.base import clock
from repro.errors import EnvironmentMismatchError, InterruptedReplay
from repro.record import differences
from repro.record.differences import Difference
from repro.record.values import Attachment, Outcome, Record, TrailSchedule, Verdict
from repro.replay import aside, compare, cuts, environment, grade, launching, restore, void
from repro.replay.plan import Plan, as_recorded
from repro.replay.restored import Restored
from repro.replay.series import Extent
from repro.run import execute, observed, recover, trees
from repro.run.request import Request
from repro.run.seal import Given
from repro.store.store import Store

#: So many seconds has a replay to end once it was told to: what it would still do is of no use.
_PATIENCE = 5.0


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a replay; ``run_id`` is None where it could not be started.

    ``tests`` has what COMPATIBLE rests on; ``until`` is the step at which the replay was to end. ``environment`` is
    what it ran in, ``denied`` what it wanted beyond its record and did not get (`hermetic`). ``killed`` says that it
    was ended from outside: it tells nothing of the run. ``cut`` says where the run itself was, and with it the replay.
    """

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
    tests: list[dict[str, Any]] = []
    until: int | None = None
    environment: dict[str, Any] = {}
    denied: list[str] = []
    apart: list[str] = []
    killed: bool = False
    cut: str | None = None


@dataclass(frozen=True)
class Asked:
    """How a replay is made, where that has no bearing on its result.

    With ``against`` each process ends at the first step that is not as it was there (a folder of trails); with
    ``trace`` it is traced, its operators from after so many steps on. With ``full`` so many of its first steps have
    full frames, and no verdict is attached: the trail is not that of the run. ``values`` is a tensor of one of those
    that is to be kept (`repro.worker.values`).
    """

    to_stderr: bool = False
    keep: bool = False
    allow_outside: bool = False
    say: Callable[[str], None] = lambda _text: None
    until: int | None = None
    against: Path | None = None
    trace: int | None = None
    full: int | None = None
    values: dict[str, Any] | None = None
    quiet: bool = False
    place: environment.Options = field(default_factory=environment.Options)


def replay(store: Store, run_id: str, plan: Plan | None = None, asked: Asked | None = None) -> Replayed:
    """Replay a run in a folder of its own and compare; with a ``plan``, with what it changes on purpose.

    Raises:
        StoreDamagedError: when the record cannot be read.
        RunNotFoundError, StoreError: as `execute` does.
        ConfigError: when the plan asks for what no run can have.
    """
    asked = asked or Asked()
    record = store.record(run_id)
    plan = plan or as_recorded(record)
    if store.outcome(run_id) is None:  # how far it had come is known once its files are at rest
        recover.recover(store)
    outcome = store.outcome(run_id)
    obstacle = _obstacle(store, record, outcome)
    if obstacle is not None:
        return _not_replayable(record, *obstacle)
    folder, lock = store.new_work()
    try:
        if asked.keep:
            (folder / "kept").touch()
        current = plan.inputs == "current"
        options: dict[str, Any] = {"code": plan.code, "current_inputs": current, "put_back": plan.put_back}
        restored = restore.restore(store, record, outcome, folder, **options)
        for item in [] if asked.quiet else restored.from_store:
            asked.say(f"repro: {item}")
        layer = _aside(store, record, outcome, plan, asked, folder)
        result, denied = _run(store, record, restored, plan, asked, folder, layer)
        _go_on(result)
        return _judge(store, record, outcome, restored, result, asked, denied, layer)
    except (restore.NotReplayableError, EnvironmentMismatchError) as error:
        return _not_replayable(record, str(error), error.hint)
    finally:
        aside.loosen(folder)
        if not asked.keep:
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
    original = outcome or cuts.unfinished(record, store.run_folder(record.run_id))
    cut = cuts.of(original, store.run_folder(record.run_id))
    if cut is not None and cuts.is_empty(original, cut):
        return f"nothing to compare: the run was {original.state} before its first step, metric or line of output", None
    return None


def _go_on(result: execute.Result) -> None:
    """Raise InterruptedReplay where a replay was told to end; what was logged of it for others is taken away."""
    if result.told:
        for name in ("trace", "values"):
            shutil.rmtree(result.folder / name, ignore_errors=True)
        raise InterruptedReplay(
            f"interrupted: the replay {result.record.run_id} is {result.outcome.state} and has no verdict"
        )


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


def _aside(
    store: Store, record: Record, outcome: Outcome | None, plan: Plan, asked: Asked, folder: Path
) -> aside.Aside:
    """Return the layers for what the run wrote outside; none where it is let, or in a box of another kind."""
    if asked.place.hermetic:
        return aside.Aside(refusal="with --hermetic there is none")
    if asked.allow_outside or plan.environment == "container":
        return aside.Aside()
    return aside.prepare(store, outcome, observed.read(store.run_folder(record.run_id)), folder)


def _run(
    store: Store,
    record: Record,
    restored: Restored,
    plan: Plan,
    asked: Asked,
    folder: Path,
    layer: aside.Aside,
) -> tuple[execute.Result, list[str]]:
    request = _request(store, record, restored, plan, asked)
    variables = launching.environment_of(record, plan, restored, asked.say)
    about = environment.Surroundings(store, record, store.outcome(record.run_id), restored, folder)
    with about.prepared(plan, request, asked.place, variables, asked.say) as place:
        options = _options(store, record, restored, plan, asked, place, variables)
        if (layers := layer.layers) is not None:
            options = replace(options, launch=layers.launch, layers=layers.folders, at=layers.at)
        options = replace(options, job={**options.job, "guarded": [*layer.guarded]})
        result = execute.execute(request, store, options)
        return result, place.denied(observed.read(result.folder), restored, result.folder)


def _request(store: Store, record: Record, restored: Restored, plan: Plan, asked: Asked) -> Request:
    recipe = record.recipe
    root = Path(record.circumstances["project"]["root"])
    launch = record.circumstances["launch"]
    return Request(
        root=root,
        place=restored.place,
        cwd=recipe.cwd,
        outside=restored.stand if recipe.cwd is None else None,
        name=record.name,
        command=None if recipe.command is None else [launching.moved(word, restored) for word in recipe.command],
        entry=recipe.entry,
        params=dict(plan.params),
        metrics=record.metrics,
        patterns=launch["patterns"],
        data=launch["data"],
        seed=plan.seed,
        seed_given=launch["seed_given"],
        replicates=recipe.seeds.replicates,
        profile=plan.profile,
        threads=plan.threads,
        trail=_trail(record, plan, asked),
        epochs=recipe.budget.get("epochs") if plan.params.get("epochs") == recipe.params.get("epochs") else None,
        data_share=recipe.budget.get("data"),
        program=trees.program_of(recipe, store),
    )


def _trail(record: Record, plan: Plan, asked: Asked) -> TrailSchedule:
    """Return the schedule of a replay's trail: none where repro is in its environment and was not in the run's."""
    was_there = not any(gap.what == "trail" and gap.reason.startswith("no trail") for gap in record.gaps)
    schedule = record.recipe.trail
    if asked.full is not None:
        schedule = msgspec.structs.replace(schedule, first=asked.full)
    return schedule if was_there or plan.environment == "current" else msgspec.structs.replace(schedule, enabled=False)


def _cut(store: Store, record: Record) -> cuts.Cut | None:
    """Return how far the run had come, where it was cut."""
    folder = store.run_folder(record.run_id)
    return cuts.of(store.outcome(record.run_id) or cuts.unfinished(record, folder), folder)


def _options(
    store: Store,
    record: Record,
    restored: Restored,
    plan: Plan,
    asked: Asked,
    place: environment.Place,
    variables: dict[str, str],
) -> execute.Options:
    recipe, project = record.recipe, record.circumstances["project"]
    cut = _cut(store, record)
    return execute.Options(
        to_stderr=asked.to_stderr,
        quiet=asked.quiet,
        given=Given(plan.code, recipe.sources, recipe.command, record.run_id, project, elsewhere=place.elsewhere),
        elsewhere=place.elsewhere,
        launch=place.launch,
        live=(*restored.live, *place.live),
        environment=variables,
        sealed=(lambda _now, _said: None) if asked.quiet else launching.Teller(record, plan, asked.say),
        say=asked.say,
        allow_outside=asked.allow_outside,
        overrides=plan.variables,
        job={
            "until": asked.until,
            "against": "" if asked.against is None else str(asked.against),
            "trace": asked.trace,
            "values": asked.values,
            "cut": str(cut.folder / "trail") if cut is not None and cut.rows else "",
        },
        enough=None if cut is None else cuts.until(cut),
        patience=_PATIENCE,
    )


def _judge(
    store: Store,
    record: Record,
    outcome: Outcome | None,
    restored: Restored,
    result: execute.Result,
    asked: Asked,
    denied: list[str],
    layer: aside.Aside,
) -> Replayed:
    before = store.run_folder(record.run_id)
    original = outcome if outcome is not None else cuts.unfinished(record, before)
    seen = observed.read(result.folder)
    cut = cuts.of(original, before)
    stopped = asked.until is not None and bool(seen.stopped)
    sides = (before, original), (result.folder, result.outcome)
    root = Path(record.circumstances["project"]["root"])
    about: dict[str, Any] = {
        "moved": str(restored.place).removesuffix(str(root)),
        "contents": void.Contents(store, root, restored.place, str if layer.layers is None else layer.layers.at),
    }
    extent: Extent = "whole" if cut is None else "first" if cut.rows else "common"
    found = compare.compare(*sides, record.metrics, "common" if stopped else extent, **about)
    found = cuts.compared(found, cut)
    killed = cuts.killed(original, result.outcome, observed.read(before), seen)
    killed = None if found.verdict == "IDENTICAL" else killed
    tests: list[dict[str, Any]] = []
    if killed is not None:
        found = cuts.void(compare.compare(*sides, record.metrics, "common", **about), killed)
    else:
        if found.verdict == "DIFFERENT" and extent == "whole" and not stopped and asked.against is None:
            found, tests = grade.grade(found, record.metrics, grade.other_seeds(store, record))
        found = void.overruled(found, observed.read(before), seen, restored)
    replayed = Replayed(
        run_id=result.record.run_id,
        replay_of=record.run_id,
        verdict=found.verdict,
        reason=found.reason,
        hint=void.hint(found, layer),
        comparison=found,
        differences=[] if killed is not None else _differences(record, original, before, restored, result),
        notes=[note.replace(f"{restored.place}{os.sep}", "") for note in result.outcome.notes],
        gaps=_gaps(record, outcome),
        folder=str(restored.place) if asked.keep else None,
        tests=tests,
        until=asked.until if stopped else None,
        environment=_kind(result.record),
        denied=[*denied, *(f"a write to {path}" for path in seen.refused)],
        apart=[*restored.apart],
        killed=killed is not None,
        cut=None if cut is None else cuts.words(original, cut),
    )
    if asked.full is None:
        store.attach(_attachment(record, replayed, result))
    return replayed


def _kind(record: Record) -> dict[str, Any]:
    """Return what a record says of the environment of its run, less the files that are kept of it."""
    facts = record.circumstances["environment"]
    return {name: value for name, value in facts.items() if name not in ("editables", "wheels")}


def _differences(
    record: Record, original: Outcome, before: Path, restored: Restored, result: execute.Result
) -> list[Difference]:
    found = differences.compare(record, result.record)
    seen = observed.read(result.folder)
    found += differences.compare_observed(observed.read(before).document(), seen.document())
    unread = [(item.path, item.then, item.now) for item in restored.unread(seen.reads) if item.now is not None]
    found += [
        Difference(kind="data", path=f"inputs.{path}", before=old, after=new, prior="certain")
        for path, old, new in (*restored.changed, *unread)
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
