"""Two runs held against each other: trails, metrics, artifacts, other files. Nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from repro.record import trail as form
from repro.record.values import FileDigest, MetricSpec, Outcome, Verdict
from repro.replay import pools, series, stdout
from repro.replay.outputs import Contents, pair
from repro.replay.series import Extent
from repro.run import metrics, observed, trails

NOTHING = "nothing to compare: no step or backward pass, no metric, no file, and no output beside times"


class LoaderDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Where what a DataLoader's worker made came apart: its n-th batch, and the column: generators before, or batch."""

    worker: str
    batch: int
    column: str


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Where two trails came apart: step, column, tensor by name, process; ``since`` is the last step known equal.

    ``loader`` is there where the batch differs and came from a DataLoader's worker.
    """

    step: int
    column: str
    tensor: str | None
    process: str
    optimizer: int
    since: int | None
    loader: LoaderDifference | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, what was found, and what was left out.

    ``lines`` of standard output, ``equal_files`` and a ``failure`` that recurs count where nothing else does.
    ``metrics`` has those that differ; ``last`` the last value of every compared metric on both sides; ``ended_alike``
    says whether both came to the same end, ``only_artifacts`` whether nothing but artifacts differs, ``only_metric``
    whether one metric alone does. ``pooled`` trainings of a pool's workers were paired by content, without generators.
    """

    verdict: Verdict
    reason: str | None
    first_difference: FirstDifference | None
    frames: int
    points: int
    artifacts: int
    lines: int
    equal_files: int
    failure: str | None
    output: stdout.OutputDifference | None
    metrics: dict[str, Any]
    last: dict[str, tuple[float | None, float | None]]
    not_compared: list[str]
    files: list[dict[str, Any]]
    ended_alike: bool
    only_artifacts: bool = False
    only_metric: bool = False
    pooled: int = 0


def compare(
    a: tuple[Path, Outcome],
    b: tuple[Path, Outcome],
    declared: Mapping[str, MetricSpec],
    extent: Extent = "whole",
    *,
    moved: str = "",
    contents: Contents | None = None,
) -> Comparison:
    """Compare two runs (folder and outcome) bit for bit; the verdict is IDENTICAL, DIFFERENT or NOT_REPLAYABLE.

    Where there is no trail, standard output decides as well; where there is nothing else, so do the files that were
    left (docs/adr/0029-runs-without-a-trail.md). ``moved`` is a folder that stands for the root of the disk in the
    second run; ``contents`` finds what the files have in them.
    """
    frames, first, uneven, pooled = _of_trails(trails.read(a[0]), trails.read(b[0]), extent)
    if first is not None and first.column == form.COLUMNS[form.BATCH]:
        first = msgspec.structs.replace(first, loader=_loader(trails.of_workers(a[0]), trails.of_workers(b[0])))
    (points, changed, left_out, equal_points), ends = _of_metrics(a[0], b[0], declared, extent)
    artifacts, artifact_faults = _files(a[1].artifacts, b[1].artifacts, extent)
    printed = stdout.Compared(0, None) if frames or first or uneven else _printed(a[0], b[0], extent, moved)
    is_bare = not (frames or points or artifacts)
    outputs, output_faults = pair(a[1].outputs, b[1].outputs, extent, contents if is_bare else None)
    failures = _failures(a, b) if is_bare and extent == "whole" else None
    ended_alike = extent != "whole" or (a[1].exit_code, a[1].signal) == (b[1].exit_code, b[1].signal)
    reasons = [
        *uneven,
        *(f"metric {name} differs" for name in changed),
        *(f"artifact {item['path']} differs" for item in artifact_faults),
        *([] if printed.difference is None else [f"standard output differs at line {printed.difference.line}"]),
        *([] if ended_alike else [f"it ended with {_end(a[1])}, now with {_end(b[1])}"]),
        *([f"output {item['path']} differs" for item in output_faults] if is_bare else []),
        *(
            []
            if failures is None or failures[0] == failures[1]
            else [f"it failed with {failures[0]}, now {failures[1]}"]
        ),
    ]
    only_metric = len(changed) == 1 == len(reasons) and not first and bool(frames or artifacts or equal_points)
    if only_metric:
        reasons = [f"metric {next(iter(changed))} alone differs, all else that was compared is equal"]
    verdict: Verdict = "DIFFERENT" if first or reasons else "IDENTICAL"
    if verdict == "IDENTICAL" and is_bare and not (printed.lines or outputs or failures):
        verdict, reasons = "NOT_REPLAYABLE", [NOTHING]
    return Comparison(
        verdict=verdict,
        reason="; ".join(reasons) or None,
        first_difference=first,
        frames=frames,
        points=points,
        artifacts=artifacts,
        lines=printed.lines,
        equal_files=outputs if is_bare else 0,
        failure=None if failures is None or failures[0] != failures[1] else failures[0],
        output=printed.difference,
        metrics=changed,
        last={name: ends[name] for name in sorted(ends) if name not in left_out},
        not_compared=left_out,
        files=output_faults,
        ended_alike=ended_alike,
        only_artifacts=bool(artifact_faults) and not (first or uneven or changed),
        only_metric=only_metric,
        pooled=pooled,
    )


def _of_metrics(
    a: Path, b: Path, declared: Mapping[str, MetricSpec], extent: Extent
) -> tuple[series.Compared, dict[str, tuple[float | None, float | None]]]:
    """Compare the metrics of two runs; return also the last value of each in either."""
    if metrics.are_equal(a, b):
        found = metrics.summary(a)
        return series.of_equal(found, declared), {name: (item.last, item.last) for name, item in found.items()}
    before, after = metrics.series(a), metrics.series(b)
    ends = {
        name: (metrics.final(before.get(name, ())), metrics.final(after.get(name, ()))) for name in {*before, *after}
    }
    return series.compare(before, after, declared, extent), ends


def _printed(a: Path, b: Path, extent: Extent, moved: str) -> stdout.Compared:
    processes = len(observed.read(a).processes)
    logs = a / "stdout.log", b / "stdout.log"
    return stdout.compare(*logs, moved=moved, extent=extent, in_order=processes < 2)  # noqa: PLR2004


def _failures(a: tuple[Path, Outcome], b: tuple[Path, Outcome]) -> tuple[str, str] | None:
    """Return what two runs failed with, where both did: the last line of their errors (an exception, mostly)."""
    if not a[1].state == b[1].state == "FAILED":
        return None
    ends = [stdout.last_line(folder / "stderr.log") for folder, _ in (a, b)]
    return (ends[0] or _end(a[1]), ends[1] or _end(b[1]))


def _end(outcome: Outcome) -> str:
    return outcome.signal or f"exit code {outcome.exit_code}"


def _of_trails(
    a: list[trails.ProcessTrail], b: list[trails.ProcessTrail], extent: Extent
) -> tuple[int, FirstDifference | None, list[str], int]:
    """Compare trails process by process; where workers of a pool do not agree so, training by training.

    Return the frames compared, the first difference, in words what one side has more of, and how many trainings.
    """
    frames, first, uneven = _trails(a, b, extent)
    workers = pools.workers(a), pools.workers(b)
    paired = pools.pair(*workers) if (first or uneven) and all(workers) else None
    if paired is None or not pools.have_moved(paired.pairs):
        return frames, first, uneven, 0
    rest = [[item for item in side if item not in own] for side, own in zip((a, b), workers, strict=True)]
    frames, first, uneven = _trails(rest[0], rest[1], extent)
    firsts = [] if first is None else [first]
    for one, other in paired.pairs:
        frames += min(len(one.frames), len(other.frames))
        at = pools.first_unequal(one, other)
        if at is not None:
            firsts.append(_difference(one, other, *at))
        elif _is_uneven(len(one.frames), len(other.frames), extent):
            uneven.append(f"a training in {one.process} took {len(one.frames)} steps, now {len(other.frames)}")
    lone = "a training of {} steps in {} {} no counterpart"
    missing, more = (paired.missing if extent != "common" else []), (paired.more if extent == "whole" else [])
    uneven += [lone.format(len(item.frames), item.process, "has") for item in missing]
    uneven += [lone.format(len(item.frames), item.process, "had") for item in more]
    return frames, min(firsts, key=lambda item: item.step, default=None), uneven, len(paired.pairs)


def _trails(
    a: list[trails.ProcessTrail], b: list[trails.ProcessTrail], extent: Extent
) -> tuple[int, FirstDifference | None, list[str]]:
    pairs, rest = _pairs(a, b)
    count = 0
    found: list[FirstDifference] = []
    uneven = []
    for one, other in pairs:
        if other is None:
            uneven += [f"{one.process} took no step"] if extent != "common" else []
            continue
        count += min(len(one.frames), len(other.frames))
        first = first_difference(one, other)
        if first is not None:
            found.append(first)
        elif _is_uneven(len(one.frames), len(other.frames), extent):
            uneven.append(f"{one.process} took {len(one.frames)} steps, now {len(other.frames)}")
    uneven += [f"{item.process} took no step before" for item in rest] if extent == "whole" else []
    return count, min(found, key=lambda item: item.step, default=None), uneven


def _is_uneven(before: int, after: int, extent: Extent) -> bool:
    return {"whole": before != after, "first": before > after, "common": False}[extent]


def _pairs(
    a: list[trails.ProcessTrail], b: list[trails.ProcessTrail]
) -> tuple[list[tuple[trails.ProcessTrail, trails.ProcessTrail | None]], list[trails.ProcessTrail]]:
    """Return each process with its counterpart in the other run, and those of the other run that are left.

    Processes of one rank that ran side by side come in any order: those whose trails are equal belong together, and
    the others in the order in which they began.
    """
    rest = list(b)
    found: dict[str, trails.ProcessTrail | None] = {}
    for is_like in (_is_same, _is_equal, _is_of_one_rank):
        for one in a:
            other = next((item for item in rest if is_like(one, item)), None) if one.process not in found else None
            if other is not None:
                rest = [item for item in rest if item is not other]
                found[one.process] = other
    return [(one, found.get(one.process)) for one in a], rest


def _is_of_one_rank(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return one.process.partition(" #")[0] == other.process.partition(" #")[0]


def _is_equal(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return _is_of_one_rank(one, other) and form.first_unequal(one.frames, other.frames) is None


def _is_same(one: trails.ProcessTrail, other: trails.ProcessTrail) -> bool:
    return one.process == other.process and _is_equal(one, other)


def first_difference(a: trails.ProcessTrail, b: trails.ProcessTrail) -> FirstDifference | None:
    """Return where two trails of one process came apart, or None where one goes on as the other."""
    index = form.first_unequal(a.frames, b.frames)
    if index is None:
        return None
    column = form.first_column(a.frames[index], b.frames[index])
    return _difference(a, b, index, column)


def first_difference_read(a: trails.ProcessTrail, b: trails.ProcessTrail) -> FirstDifference | None:
    """Return where two trails of two schedules came apart in what both have read.

    No basis for a verdict: None does not say that they are equal.
    """
    found = form.first_unequal_read(a.frames, b.frames)
    return None if found is None else _difference(a, b, *found)


def _difference(a: trails.ProcessTrail, b: trails.ProcessTrail, index: int, column: int | str) -> FirstDifference:
    one, other = a.frames[index], b.frames[index]
    tensor = None
    if isinstance(column, int):
        tensor = _tensor(a.tensors(one, column), b.tensors(other, column))
        column = form.COLUMNS[column]
    return FirstDifference(
        step=one.step,
        column=column,
        tensor=tensor,
        process=a.process,
        optimizer=one.optimizer,
        since=_since(a.frames, index, column),
    )


class Window(NamedTuple):
    """Rows of a trail: from the one after the last whose parameters were read, to the ``place`` of a difference.

    ``until`` is the first optimizer's step that ends it; None where it makes none any more.
    """

    start: int
    place: int
    until: int | None


def window(frames: list[form.Frame], first: FirstDifference) -> Window:
    """Return where a difference may have begun: from the last row before it whose parameters are known to be equal."""
    place = next(i for i, item in enumerate(frames) if (item.step, item.optimizer) == (first.step, first.optimizer))
    start = next((i + 1 for i in range(place - 1, -1, -1) if frames[i].flags & form.FULL), 0)
    return Window(start, place, next((item.step for item in frames[place:] if item.optimizer == 0), None))


def _loader(a: list[trails.ProcessTrail], b: list[trails.ProcessTrail]) -> LoaderDifference | None:
    """Return the first batch that differs of the first worker, in the order of their starts, that made another one."""
    for one, other in zip(a, b, strict=False):
        index = form.first_unequal(one.frames, other.frames)
        if index is not None:
            column = form.first_column(one.frames[index], other.frames[index])
            name = form.COLUMNS[column] if isinstance(column, int) else column
            return LoaderDifference(worker=one.process, batch=one.frames[index].step, column=name)
    return None


def _since(frames: list[form.Frame], index: int, column: str) -> int | None:
    """Return the last step that is known to be equal in this column: further back where frames were not full."""
    wanted = form.needs(column)
    for frame in reversed(frames[:index]):
        if frame.optimizer == frames[index].optimizer and frame.flags & wanted == wanted:
            return frame.step
    return None


def _tensor(a: dict[str, int] | None, b: dict[str, int] | None) -> str | None:
    if not a or not b:
        return None
    return next((name for name, value in a.items() if b.get(name) != value), None)


def _files(a: list[FileDigest], b: list[FileDigest], extent: Extent) -> tuple[int, list[dict[str, Any]]]:
    before, after = ({item.path: item.digest for item in files} for files in (a, b))
    both = before.keys() & after.keys()
    names = sorted({"whole": {*before, *after}, "first": {*before}, "common": both}[extent])
    faults = [
        {"path": name, "before": before.get(name), "after": after.get(name)}
        for name in names
        if before.get(name) != after.get(name)
    ]
    return len(before.keys() & after.keys()), faults
