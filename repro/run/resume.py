"""Going on from a checkpoint: which one it is, whether the recipe is as it was, and what the new run is handed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from repro.base import digest, files
from repro.capture import hardware, providers, variables
from repro.capture.code import Stat
from repro.errors import StoreDamagedError, UsageError
from repro.record import devices, differences, seeds
from repro.record.values import Outcome, Recipe, Record, recipe_digest
from repro.run import conclude, leftovers, observed, recover, relevance, trails
from repro.run.conclude import FOLDER
from repro.run.request import Request
from repro.store.store import Store

#: Differences of these kinds are of circumstances, not of the recipe.
_CIRCUMSTANCES = ("hardware", "metric")
_SHOWN = 8
_HINT = "run.checkpoint(model=model, optimizer=optimizer) at the end of each epoch, and run.resume(...) before"


@dataclass(frozen=True)
class Start:
    """Where a continuation begins: the run that has the checkpoints, and for each of its processes how far it was."""

    record: Record
    outcome: Outcome
    points: dict[str, dict[str, Any]]
    horizon_read: bool = True

    def circumstances(self) -> dict[str, Any]:
        """Return what the record of the continuation says of it."""
        names = [f"checkpoints/{point['checkpoint']}" for point in self.points.values()]
        epoch = next(iter(self.points.values()))["epoch"]
        run_id = self.record.run_id
        found = [{"path": f"runs/{run_id}/{name}", "digest": self.outcome.files[name]} for name in names]
        return {"run": run_id, "epoch": epoch, "checkpoints": found}


def find(store: Store, run_id: str) -> Start:
    """Return where a run that did not come to its end can be gone on from; its files are checked.

    A continuation that has made no checkpoint yet is gone on from where it began.

    Raises:
        UsageError: when there is nothing to go on from, or the run is complete, goes on, or cannot be continued.
        StoreDamagedError: when a file is not what it was when it was sealed.
    """
    recover.recover(store)
    record, (state, outcome) = store.record(run_id), store.state(run_id)
    if outcome is None:
        raise UsageError(f"{run_id} is {state}: it has not ended", hint=f"repro log {run_id}")
    if outcome.state == "COMPLETED":
        raise UsageError(f"{run_id} is COMPLETED: there is nothing to go on with", hint=f"repro replay {run_id}")
    _check_kind(record)
    seen = observed.read(store.run_folder(run_id))
    points, reason = _points(seen.checkpoints)
    earlier = record.circumstances.get("resumed")
    if not points and earlier is not None:
        return _earlier(store, record, store.record(earlier["run"]))
    if not points:
        raise UsageError(f"{run_id} has no checkpoint to go on from: {reason}", hint=_HINT)
    return _checked(store, record, outcome, points)


def _earlier(store: Store, record: Record, before: Record) -> Start:
    """Return where a continuation began that has made no checkpoint itself."""
    if before.recipe_digest != record.recipe_digest:
        hint = "repro seeds --fork-at makes it again"
        raise UsageError(f"{record.run_id} is a fork of {before.run_id} and has made no checkpoint itself", hint=hint)
    points, _ = _points(observed.read(store.run_folder(before.run_id)).checkpoints)
    return _checked(store, before, store.outcome(before.run_id), points)


def after(store: Store, run_id: str, epochs: int) -> Start:
    """Return where a run was after so many epochs (of the first loop of ``run.epochs()``); its files are checked.

    Raises:
        UsageError: when it has no sound checkpoint there, with the line that makes one.
        StoreDamagedError: when a file is not what it was when it was sealed.
    """
    record, outcome = store.record(run_id), store.outcome(run_id)
    _check_kind(record)
    sound, reason = _sound(observed.read(store.run_folder(run_id)).checkpoints)
    points = sound.get((0, epochs - 1))
    if points is None:
        raise UsageError(f"{run_id} has no checkpoint after {epochs} epochs: {reason or _there(sound)}", hint=_HINT)
    return _checked(store, record, outcome, points)


def _there(sound: Mapping[Any, Any]) -> str:
    """Say which points there are instead."""
    found = sorted(point[1] + 1 for point in sound if isinstance(point, tuple) and point[0] == 0)
    if not found:
        return "its checkpoints are not made in a loop over run.epochs()"
    return f"it has those after {', '.join(map(str, found))}"


def _check_kind(record: Record) -> None:
    if record.replay_of is not None:
        raise UsageError(f"{record.run_id} is a replay", hint=f"repro replay {record.replay_of}")
    if record.circumstances["launch"]["patterns"]:
        hint = "log them by repro.current().log"
        raise UsageError(f"{record.run_id} has metrics of its output (--metric): they have no place in it", hint=hint)
    if any(gap.reason.startswith("redacted") for gap in record.gaps):
        raise UsageError(f"an argument of {record.run_id} was redacted", hint="repro run it anew")


def _points(events: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], str]:
    """Return the last point that all processes have a sound checkpoint of, by their places; or why there is none.

    In `run.epochs()` that is the last epoch whose end was seen; elsewhere the last checkpoint.
    """
    sound, reason = _sound(events)
    return (sound[max(sound)] if sound else {}), reason


def _sound(events: list[dict[str, Any]]) -> tuple[dict[Any, dict[str, dict[str, Any]]], str]:
    """Return all points that all processes have a sound checkpoint of, by loop and epoch; or why there is none."""
    if not events:
        return {}, "it made none"
    in_epochs = any(event["epoch"] is not None for event in events)
    wanted = "epoch-end" if in_epochs else "checkpoint"
    found: dict[str, dict[Any, dict[str, Any]]] = {event["place"]: {} for event in events}
    for event in events:
        if event["kind"] == wanted and event["why"] is None:
            sound = found[event["place"]]
            sound[(event["loop"], event["epoch"]) if in_epochs else len(sound)] = event
    common = set.intersection(*(set(sound) for sound in found.values()))
    if common:
        return {point: {place: sound[point] for place, sound in found.items()} for point in common}, ""
    why = next((event["why"] for event in reversed(events) if event["why"]), None)
    return {}, why or "it ended before the epoch of its first one did"


def _checked(store: Store, record: Record, outcome: Outcome | None, points: dict[str, dict[str, Any]]) -> Start:
    """Return the start that a run has, after its files were compared with their digests."""
    folder = store.run_folder(record.run_id)
    assert outcome is not None  # noqa: S101  (a run is gone on from when it is over)
    _check_processes(folder, points)
    for name in (name for point in points.values() for name in _names(point)):
        path = folder / name
        if not path.is_file() or digest.of_file(path) != outcome.files.get(name):
            raise StoreDamagedError(
                f"{path} is not what it was when it was sealed", hint=f"repro verify {record.run_id}"
            )
    return Start(record, outcome, points, read_horizon(store, record))


def read_horizon(store: Store, record: Record) -> bool:
    """Say whether a run, or one that it went on from, read the horizon: then it holds under that horizon alone."""
    earlier = record.circumstances.get("resumed")
    seen = observed.read(store.run_folder(record.run_id))
    return seen.horizon_read or (earlier is not None and read_horizon(store, store.record(earlier["run"])))


def _names(point: Mapping[str, Any]) -> list[str]:
    """Return the files of a run that a continuation begins with."""
    trail = point["trail"]
    parts = [] if trail is None else [f"trail/{trail}.{part}" for part in ("rows", "details", "tables")]
    others = [f"{folder}/{name}" for folder in ("metrics", "loader") for name in point[folder]]
    return [f"checkpoints/{point['checkpoint']}", *parts, *others]


def _check_processes(folder: Path, points: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError where a process has trained or logged that made no checkpoint: it cannot be continued.

    One that made a checkpoint may have logged its first metric only after it.
    """
    known = {name for point in points.values() for name in _names(point)}
    processes = {(place, _process(str(point["trail"]))) for place, point in points.items() if not point["metrics"]}
    trained = [path for path in sorted((folder / "trail").glob("*.rows")) if trails.has_frames(path)]
    for path in [*trained, *sorted((folder / "metrics").glob("*.jsonl"))]:
        place = "-".join(path.stem.split("-")[:2])
        is_later = path.suffix == ".jsonl" and (place, _process(path.stem)) in processes
        if f"{path.parent.name}/{path.name}" not in known and not is_later:
            rank, child, *_ = path.name.split("-")
            who = f"rank {int(rank)}" + ("" if child == "0000" else f", child {child}")
            what = "has trained" if path.suffix == ".rows" else "has logged metrics"
            raise UsageError(
                f"{who} of {folder.name} {what} and made no checkpoint then",
                hint="every process that trains calls run.checkpoint() at the end of each epoch",
            )


def _process(name: str) -> str:
    """Return the number of the process in the name of its file."""
    return name.rpartition("-")[2]


def request_of(record: Record) -> Request:
    """Return the request that makes a run of this record's recipe in the user's own folder.

    Raises:
        UsageError: when the project is not where it was.
    """
    recipe, project, launch = record.recipe, record.circumstances["project"], record.circumstances["launch"]
    if not os.path.isdir(project["folder"]):
        raise UsageError(f"{project['folder']} is gone, where {record.run_id} ran", hint="put the project back there")
    return Request(
        root=Path(project["root"]),
        place=Path(project["root"]),
        cwd=recipe.cwd,
        outside=Path(project["folder"]) if recipe.cwd is None else None,
        name=record.name,
        command=recipe.command,
        entry=recipe.entry,
        params=recipe.params,
        metrics=record.metrics,
        data=launch["data"],
        seed=int(recipe.seeds.master),
        seed_given=launch["seed_given"],
        replicates=recipe.seeds.replicates,
        profile=recipe.profile,
        threads=recipe.threads,
        trail=recipe.trail,
        epochs=recipe.budget.get("epochs"),
        data_share=recipe.budget.get("data"),
    )


def environment_of(record: Record, say: Callable[[str], None]) -> dict[str, str]:
    """Return the user's environment of now, with the variables of the recipe as they were, and with the GPUs.

    A run that was given some gets them again, unless the user says now which can be seen, or one of them is not here.
    """
    now = dict(os.environ)
    for name in variables.recipe(now):
        del now[name]
    now |= record.recipe.environment
    path, given = (record.circumstances["launch"].get(name) for name in ("pythonpath", "visible_devices"))
    if given is not None and devices.VARIABLE not in now:
        if devices.is_there(given, providers.collect({"gpus": hardware.gpus})["gpus"]):
            now[devices.VARIABLE] = given
        else:
            say(f"repro: not as recorded: {devices.VARIABLE}={given} names what cannot be seen here; it is left out")
    return now | ({} if path is None else {"PYTHONPATH": path})


def left_by(start: Start, store: Store, root: Path) -> dict[str, Stat]:
    """Return the files that a run was seen to write in its project, with their stat now: they are no code of its.

    What is in its tree is code all the same: the run has changed it, and that is a difference.
    """
    code = {os.fsdecode(path) for path in store.code.paths(start.record.recipe.code)}
    written = observed.read(store.run_folder(start.record.run_id)).writes
    names = [os.path.relpath(path, root) for path in written if Path(path).is_relative_to(root)]
    stats = {name: leftovers.stat_of(str(root / name)) for name in names if name not in code}
    return {name: stat for name, stat in stats.items() if stat is not None}


def check_recipe(start: Start, found: Record, store: Store) -> None:
    """Raise UsageError unless the recipe that was captured now is the one that is to be continued.

    Code that has changed counts where the run may have read what has changed (`relevance`).
    """
    before = start.record
    changes = relevance.of_code(store, before, found.recipe.code)
    recipe = found.recipe if changes else msgspec.structs.replace(found.recipe, code=before.recipe.code)
    if recipe_digest(_until(recipe, start)) == recipe_digest(_until(before.recipe, start)):
        return
    names = [f"{item.path} ({item.status})" for item in changes]
    names += [
        item.path
        for item in differences.compare(before, found)
        if item.kind not in _CIRCUMSTANCES and item.path != "code" and not item.path.startswith("variables.")
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    raise UsageError(
        f"not as {before.run_id} had it: {', '.join(names[:_SHOWN]) or 'the recipe'}{more}",
        hint="a run goes on under its own recipe alone: put that back, or begin anew without --resume",
    )


def _until(recipe: Recipe, start: Start) -> Recipe:
    """Return a recipe less what of it has no effect before the checkpoint.

    That is the later part of the seed plan; the budget, where it reaches as far; and the horizon, where the run that
    made the checkpoint never read it.
    """
    epoch = next(iter(start.points.values()))["epoch"]
    if epoch is None:
        return recipe
    plan = msgspec.structs.replace(recipe.seeds, replicates=seeds.until(recipe.seeds.replicates, epoch + 1))
    budget = dict(recipe.budget)
    if "epochs" in budget:
        budget["epochs"] = min(budget["epochs"], epoch + 1)
    found = msgspec.structs.replace(recipe, seeds=plan, budget=budget)
    if start.horizon_read:
        return found
    params = {name: value for name, value in found.params.items() if name != "epochs"}
    return msgspec.structs.replace(found, params=params, horizon={})


def hand_over(start: Start, store: Store, folder: Path) -> None:
    """Put into a new run's folder what its processes begin with: links to sealed files, and the points so far."""
    before = store.run_folder(start.record.run_id)
    with files.disk_errors("write", folder / FOLDER):
        for place, point in start.points.items():
            _hand_over_one(before, point, folder / FOLDER / place)
            for name in point["loader"]:
                os.link(before / "loader" / name, folder / "loader" / name)
        for item in start.outcome.artifacts:
            store.objects.restore(str(item.digest), folder / conclude.place_of(item.path))


def _hand_over_one(before: Path, point: Mapping[str, Any], target: Path) -> None:
    target.mkdir(parents=True)
    os.link(before / "checkpoints" / point["checkpoint"], target / "checkpoint.pt")
    for part in ("rows", "details", "tables") if point["trail"] is not None else ():
        os.link(before / "trail" / f"{point['trail']}.{part}", target / part)
    with (target / "metrics").open("xb") as handle:
        for name, size in sorted(point["metrics"].items()):
            handle.write((before / "metrics" / name).read_bytes()[:size])
