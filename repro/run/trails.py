"""The trails that a run's processes left, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from repro.base import digest
from repro.base.files import disk_errors
from repro.record import trail as form
from repro.record.values import TrailSummary

#: Hidden ones are litter of a crash in `settle`.
_ROWS = "[!.]*.rows"


class ProcessTrail(NamedTuple):
    """One process's trail: its label ("rank 0", then "rank 0 #2"), its frames, and the files beside them."""

    process: str
    frames: list[form.Frame]
    details: Path
    tables: dict[int, dict[str, Any]]

    def tensors(self, frame: form.Frame, column: int) -> dict[str, int] | None:
        """Return the digest of each tensor of a column of a full frame, by name; None where there are none."""
        if not frame.detail or (column in form.DEEP_COLUMNS and not frame.flags & form.DEEP):
            return None
        with self.details.open("rb") as handle:
            handle.seek(frame.detail - 1)
            table = self.tables.get(int.from_bytes(handle.read(8), "little"))
            if table is None:
                return None
            names, start = _span(table, column)
            handle.seek(frame.detail - 1 + 8 + 8 * start)
            data = handle.read(8 * len(names))
        return {name: int.from_bytes(data[8 * i : 8 * i + 8], "little") for i, name in enumerate(names)}

    def end_of_details(self) -> int:
        """Return where the last frame's detail entry ends in its file."""
        last = next((frame for frame in reversed(self.frames) if frame.detail), None)
        if last is None:
            return 0
        with self.details.open("rb") as handle:
            handle.seek(last.detail - 1)
            table = self.tables.get(int.from_bytes(handle.read(8), "little"))
        if table is None:
            return self.details.stat().st_size
        names = len(table["names"])
        digests = len(form.BY_PARAMETER) * names + len(table["buffers"]) if last.flags & form.DEEP else 2 * names
        return last.detail - 1 + 8 + 8 * digests


def _span(table: dict[str, Any], column: int) -> tuple[list[str], int]:
    names = list(table["names"])
    if column == form.BUFFERS:
        return list(table["buffers"]), len(form.BY_PARAMETER) * len(names)
    if column not in form.BY_PARAMETER:
        return [], 0
    return names, form.BY_PARAMETER.index(column) * len(names)


def settle(found: Iterable[ProcessTrail]) -> None:
    """Cut off what lies reserved behind the last row and the last detail entry of each process's files.

    The files are replaced and not truncated: a process that outlives its run may still have the old ones mapped, and
    would die of it.
    """
    for trail in found:
        _shorten(trail.details.with_suffix(".rows"), len(trail.frames) * form.ROW.size)
        _shorten(trail.details, trail.end_of_details())


def _shorten(path: Path, size: int) -> None:
    short = path.with_name(f".{path.name}")
    short.unlink(missing_ok=True)
    if not path.exists() or path.stat().st_size <= size:
        return
    with disk_errors("write", short):
        try:
            with path.open("rb") as old, short.open("xb") as new:
                while new.tell() < size and (data := old.read(min(1 << 20, size - new.tell()))):
                    new.write(data)
            short.replace(path)
        finally:
            short.unlink(missing_ok=True)


def has_frames(path: Path) -> bool:
    """Say whether a file of rows has any."""
    with path.open("rb") as handle:
        return bool(form.unpack(handle.read(form.ROW.size)))


def read(folder: Path) -> list[ProcessTrail]:
    """Return the trails of the run in ``folder``: by rank, then in the order in which the processes began to step."""
    found = []
    seen: dict[int, int] = {}
    for path in sorted((folder / "trail").glob(_ROWS)):
        rank = int(path.name.split("-")[0])
        seen[rank] = seen.get(rank, 0) + 1
        label = f"rank {rank}" + (f" #{seen[rank]}" if seen[rank] > 1 else "")
        found.append(_read_one(path, label))
    return found


def of_workers(folder: Path) -> list[ProcessTrail]:
    """Return what the workers of DataLoaders made, in the order in which they were started (`repro.worker.loaders`)."""
    paths = sorted((folder / "loader").glob(_ROWS))
    return [_read_one(path, f"worker {int(path.stem.rpartition('-')[2])}") for path in paths]


def _read_one(path: Path, label: str) -> ProcessTrail:
    details, tables = path.with_suffix(".details"), path.with_suffix(".tables")
    return ProcessTrail(label, form.unpack(path.read_bytes()), details, _tables(tables))


def _tables(path: Path) -> dict[int, dict[str, Any]]:
    tables = {}
    try:
        text = path.read_bytes()
    except OSError:
        return {}
    for line in text.split(b"\n"):
        try:
            table = json.loads(line)
        except ValueError:
            continue
        tables[int(table["table"])] = table
    return tables


def summarise(trails: list[ProcessTrail]) -> tuple[str | None, list[TrailSummary]]:
    """Return one digest for all trails of a run (None where there is no frame), and a line for each."""
    found = [
        TrailSummary(process=item.process, frames=len(item.frames), digest=f"xxh3:{item.frames[-1].chain.hex()}")
        for item in trails
        if item.frames
    ]
    if not found:
        return None, []
    return digest.of_value("trail/1", [[item.process, item.frames, item.digest] for item in found]), found
