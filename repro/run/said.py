"""Which gaps were said on the screen before: one that stands in every run of a store is said once, then counted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from repro.base import files
from repro.errors import StoreError
from repro.record.values import Gap

_NAME = "gaps-said.json"


def split(cache: Path, gaps: Sequence[Gap]) -> tuple[list[Gap], int]:
    """Return the gaps that were not said before, and how many were; all of them count as said now.

    ``cache`` is the store's folder of what can be made again: without it, everything is said once more.
    """
    path = cache / _NAME
    try:
        known = {tuple(item) for item in json.loads(path.read_bytes())}
    except (OSError, ValueError, TypeError):
        known = set()
    fresh = [gap for gap in gaps if (gap.what, gap.reason) not in known]
    if fresh:
        known |= {(gap.what, gap.reason) for gap in fresh}
        with contextlib.suppress(OSError, StoreError):
            files.replace(path, json.dumps(sorted(known)).encode())
    return fresh, len(gaps) - len(fresh)
