"""The trails that a run's processes left, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from repro.base import digest
from repro.record import trail as form
from repro.record.values import TrailSummary


class ProcessTrail(NamedTuple):
    """One process's trail: its label ("rank 0", then "rank 0 #2"), its frames, and the files beside them."""

    process: str
    frames: list[form.Frame]
    details: Path
    tables: dict[int, dict[str, Any]]

    def tensors(self, frame: form.Frame, column: int) -> dict[str, int] | None:
        """Return the digest of each tensor of a column of a full frame, by name; None where there are none."""
        if not frame.detail or (column != form.GRADIENTS and not frame.flags & form.DEEP):
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


def _span(table: dict[str, Any], column: int) -> tuple[list[str], int]:
    names = list(table["names"])
    if column == form.BUFFERS:
        return list(table["buffers"]), len(form.BY_PARAMETER) * len(names)
    if column not in form.BY_PARAMETER:
        return [], 0
    return names, form.BY_PARAMETER.index(column) * len(names)


def read(folder: Path) -> list[ProcessTrail]:
    """Return the trails of the run in ``folder``: by rank, then in the order in which the processes began to step."""
    found = []
    seen: dict[int, int] = {}
    for path in sorted((folder / "trail").glob("*.rows")):
        rank = int(path.name.split("-")[0])
        seen[rank] = seen.get(rank, 0) + 1
        label = f"rank {rank}" + (f" #{seen[rank]}" if seen[rank] > 1 else "")
        frames = form.unpack(path.read_bytes())
        found.append(ProcessTrail(label, frames, path.with_suffix(".details"), _tables(path.with_suffix(".tables"))))
    return found


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
