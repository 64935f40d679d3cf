"""From what a run left to its outcome, written once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repro.base import clock, digest
from repro.capture import interpreter
from repro.errors import CaptureError
from repro.record import trail as form
from repro.record.values import FileDigest, Gap, Outcome, Record, State
from repro.run import leftovers, metrics, observed, trails
from repro.run.leftovers import Stat
from repro.store.store import RUN_FOLDERS, Store
from repro.worker import losses

#: Where a continuation finds what it begins with, until it is over.
FOLDER = "resume"
#: Folders of a run with declared results, which a replay compares bit for bit.
RESULTS = ("artifacts", "predictions", "averages")
#: What is said of each kind of thing that was lost.
_LOST = {
    "metrics": ("metrics", "points that were logged are lost: the disk refused them"),
    "observed": ("files read", "the disk refused what was observed: inputs, seeds or outputs may be missing"),
    "trail": ("trail", "the disk refused rows: steps are missing"),
    "output": ("output", "the disk refused a part of stdout.log or stderr.log"),
}
_LOGS = ("stdout.log", "stderr.log", "job.json")


def outcome_of(
    record: Record,
    record_digest: str,
    store: Store,
    *,
    state: State,
    started: str,
    exit_code: int | None = None,
    signal_number: int | None = None,
    reason: str | None = None,
    files: leftovers.Left | None = None,
    notes: Sequence[str] = (),
) -> Outcome:
    """Return the outcome of a run that is over; ``files`` is None where nobody was there to look at its folder.

    ``notes`` are what its supervisor has to say of it.
    """
    folder = store.run_folder(record.run_id)
    seen = observed.read(folder)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)  # links to the files of the run that this one went on from
    found = trails.read(folder)
    trails.settle([*found, *trails.of_workers(folder)])
    trail_digest, summaries = trails.summarise(found)
    artifacts = _artifacts(folder, store)
    return Outcome(
        run_id=record.run_id,
        record_digest=record_digest,
        state=state,
        exit_code=exit_code,
        signal=None if signal_number is None else signal.Signals(signal_number).name,
        reason=reason,
        started=started,
        ended=clock.now(),
        metrics=metrics.last(folder),
        trail_digest=trail_digest,
        trails=summaries,
        files=_digests(folder),
        inputs=[] if files is None else files.inputs,
        outputs=[] if files is None else files.outputs,
        artifacts=artifacts,
        notes=[*_notes(seen, files), *_resume_notes(record, seen), *notes],
        gaps=[*_lost(folder), *_gaps(record, state, seen, found, files)],
    )


def _lost(folder: Path) -> list[Gap]:
    """Return a gap for each kind of thing that the disk refused; what says so is no longer needed."""
    lost = losses.read(str(folder))
    gaps = [Gap(what=what, reason=reason) for kind, (what, reason) in _LOST.items() if kind in lost]
    with contextlib.suppress(OSError):
        (folder / losses.FILE).unlink(missing_ok=True)
    return gaps


def _digests(folder: Path) -> dict[str, str]:
    names = [name for name in _LOGS if (folder / name).exists()]
    for part in RUN_FOLDERS:
        names += sorted(path.relative_to(folder).as_posix() for path in (folder / part).rglob("*") if path.is_file())
    return {name: digest.of_file(folder / name) for name in names}


def _artifacts(folder: Path, store: Store) -> list[FileDigest]:
    """Move the declared results into the objects: artifacts by their name, others with their folder."""
    found = []
    for path in sorted(path for part in RESULTS for path in (folder / part).iterdir()):
        name = path.name if path.parent.name == RESULTS[0] else f"{path.parent.name}/{path.name}"
        found.append(FileDigest(path=name, size=path.stat().st_size, digest=store.objects.take(path)))
    return found


def place_of(artifact: str) -> str:
    """Return where an artifact of an outcome lies in the run's folder."""
    return artifact if "/" in artifact else f"{RESULTS[0]}/{artifact}"


def keep_inputs(seen: observed.Observed, folder: Path, store: Store) -> dict[str, str]:
    """Move the copies of earlier outputs that this run read into the objects; return path and digest of each."""
    secret = {path for path in seen.away if leftovers.may_hold_secrets(path)}
    kept = {path: name for path, name in seen.kept.items() if path not in secret}
    return {path: store.objects.take(folder / "inputs" / name) for path, name in kept.items()}


def _notes(seen: observed.Observed, files: leftovers.Left | None) -> list[str]:
    notes = [f"{item['call']}({item['value']}) at {item['file']}:{item['line']}" for item in seen.seeds]
    notes += [f"the script changed {name}: {before} -> {after}" for name, (before, after) in seen.overridden().items()]
    notes += [
        f"{item['operator']} has no deterministic kernel ({item['file']}:{item['line']})"
        for item in seen.nondeterministic
    ]
    if files is not None:
        notes += [f"{name} was edited between its capture and the moment it was read" for name in files.edited]
    return notes


def _resume_notes(record: Record, seen: observed.Observed) -> list[str]:
    """Say where a continuation did not get its run's state back, and from what checkpoints none can go on."""
    notes = []
    if "resumed" in record.circumstances and not seen.resumed:
        notes.append("the script did not call run.resume(): it began anew")
    notes += [
        f"{item['unequal']} did not come back from the checkpoint bit for bit"
        for item in seen.resumed
        if item["unequal"]
    ]
    unsound = next((event for event in seen.checkpoints if event["kind"] == "epoch-end" and event["told"]), None)
    if unsound is not None:
        notes.append(f"no run can go on from {unsound['checkpoint']}: {unsound['why']}")
    return notes


def _gaps(
    record: Record,
    state: State,
    seen: observed.Observed,
    found: list[trails.ProcessTrail],
    files: leftovers.Left | None,
) -> list[Gap]:
    gaps = []
    if seen.blind:
        reason = f"{', '.join(seen.blind)} read and write files unseen: the list of inputs may not be complete"
        gaps.append(Gap(what="files read", reason=reason))
    if seen.failures:
        gaps.append(Gap(what="trail", reason=f"a step could not be read: {seen.failures[0]}"))
    if seen.unplaced:
        why = ", ".join(sorted({event["why"] for event in seen.unplaced}))
        gaps.append(Gap(what="seeds", reason=f"{why}: which of them draws which numbers is a matter of time"))
    frames = [frame for item in found for frame in item.frames]
    hidden = sum(1 for frame in frames if frame.flags & form.HIDDEN)
    if hidden:
        reason = f"{hidden} steps had calls whose tensors could not be read (traced or transformed)"
        gaps.append(Gap(what="trail", reason=reason))
    unseen = sum(1 for frame in frames if not frame.flags & (form.BATCH_SEEN | form.SKIPPED))
    if unseen:
        reason = f"the batch of {unseen} steps was not seen: no network was called, or within torch.compile"
        gaps.append(Gap(what="trail", reason=reason))
    unreached = not seen.processes and not any(gap.what == "trail" for gap in record.gaps)
    if unreached and state != "LOST":
        gaps.append(
            Gap(
                what="trail",
                reason="the hooks reached no Python of the run (if one ran, repro is not installed for it)",
            )
        )
    if files is not None:
        gaps += [
            Gap(what=item.path, reason=f"read, and then {item.note}") for item in files.inputs if item.digest is None
        ]
    return gaps


def look_back(record: Record, store: Store, began_ns: int) -> leftovers.Left:
    """Look at what a lost run had read, as its processes told; what it left cannot be told from later changes."""
    folder = store.run_folder(record.run_id)
    seen = observed.read(folder)
    project = record.circumstances["project"]
    try:
        code = {os.fsdecode(path) for path in store.code.paths(record.recipe.code)}
    except CaptureError:  # a damaged tree: `verify` names it
        return leftovers.Left(inputs=[], outputs=[], edited=[], stats=[])
    named = leftovers.Place(Path(project["root"]), Path(project["place"]))
    read = leftovers.inputs(seen, named, code, began_ns, store, keep_inputs(seen, folder, store))
    return leftovers.Left(inputs=read, outputs=[], edited=[], stats=[])


def look(
    record: Record,
    store: Store,
    place: Path,
    code: Mapping[str, Stat],
    started_ns: int,
    *,
    alone: bool,
    at: Callable[[str], str],
) -> leftovers.Left:
    """Look at what the run left (outside, ``at`` the places of its layers) and what it read; its processes are gone."""
    folder = store.run_folder(record.run_id)
    seen = observed.read(folder)
    kept = keep_inputs(seen, folder, store)
    hidden = record.recipe.command is not None and not interpreter.is_python(record.recipe.command[0])
    left = leftovers.outputs(place, store, started_ns, seen, dict(code), alone=alone, hidden_writers=hidden)
    named = leftovers.Place(Path(record.circumstances["project"]["root"]), place)
    results = [item for item in left if not seen.in_cache(os.path.join(place, item[0]))]
    return leftovers.Left(
        inputs=leftovers.inputs(seen, named, code, started_ns, store, kept),
        outputs=[*leftovers.digests(results, place), *leftovers.outside(seen, named, at)],
        edited=leftovers.edited(seen, named, dict(code)),
        stats=left,
    )
