"""The files that two runs left, paired: by path and digest, then by digest, then by the path less its parts of time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from repro.record.values import FileDigest
from repro.replay import stdout
from repro.replay.series import Extent

#: Where the bytes of a file that a run left are still to be had: side (0 or 1), file; None where they are not.
Contents = Callable[[int, FileDigest], Path | None]

#: Parts of a path that tell when it was made, or by which process: `runs/2026-12-01/10-07-17`, `events.1796119083`.
_TIMELY = re.compile(r"\d{1,4}(?:[-_:.T]\d{2})+(?!\d)|\d{4,}")


class Paired(NamedTuple):
    """How many files are equal, and those that are not: path, digests before and after, the other path if it moved."""

    equal: int
    faults: list[dict[str, Any]]


def pair(
    a: Iterable[FileDigest], b: Iterable[FileDigest], extent: Extent = "whole", contents: Contents | None = None
) -> Paired:
    """Pair the files of two runs, nearest first; a file without a counterpart has None for the missing digest.

    With ``contents`` text that differs in times alone is equal. Of runs that are not compared as wholes, files that one
    side lacks are no faults.
    """
    before, after = list(a), list(b)
    equal = 0
    faults: list[dict[str, Any]] = []
    keys: tuple[Callable[[FileDigest], Any], ...] = (
        lambda item: (item.path, item.digest),
        lambda item: item.digest or (item.path,),
        lambda item: item.path,
        lambda item: _TIMELY.sub("#", item.path),
    )
    for key in keys:
        pairs, before, after = _match(before, after, key)
        unequal = [two for two in pairs if two[0].digest != two[1].digest and not _is_same_text(two, contents)]
        equal += len(pairs) - len(unequal)
        faults += [_fault(*two) for two in unequal]
    faults += [_fault(item, None) for item in before] if extent != "common" else []
    faults += [_fault(None, item) for item in after] if extent == "whole" else []
    return Paired(equal, sorted(faults, key=lambda fault: str(fault["path"])))


def _is_same_text(two: tuple[FileDigest, FileDigest], contents: Contents | None) -> bool:
    places = [None if contents is None else contents(side, item) for side, item in enumerate(two)]
    return None not in places and stdout.same_text(places[0], places[1])  # type: ignore[arg-type]


def _match(
    a: list[FileDigest], b: list[FileDigest], key: Callable[[FileDigest], Any]
) -> tuple[list[tuple[FileDigest, FileDigest]], list[FileDigest], list[FileDigest]]:
    """Return pairs of equal keys, in the order of their paths, and what is left of either side."""
    waiting = defaultdict(list)
    for item in sorted(b, key=lambda item: item.path, reverse=True):
        waiting[key(item)].append(item)
    pairs, rest = [], []
    for item in sorted(a, key=lambda item: item.path):
        if waiting[key(item)]:
            pairs.append((item, waiting[key(item)].pop()))
        else:
            rest.append(item)
    return pairs, rest, [item for items in waiting.values() for item in items]


def _fault(before: FileDigest | None, after: FileDigest | None) -> dict[str, Any]:
    path = before.path if before is not None else after.path if after is not None else ""
    fault = {
        "path": path,
        "before": None if before is None else before.digest,
        "after": None if after is None else after.digest,
    }
    moved = before is not None and after is not None and before.path != after.path
    return fault | {"path_after": after.path} if moved and after is not None else fault
