"""On a replay, packages that are installed editable are imported from the materialised tree, not from their live place.

A finder ahead of all others lets them find, and moves what they found if it lies under a live source. It also moves
entries of ``sys.path`` and of PYTHONPATH that point there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from repro.worker.imports import find_after
from repro.worker.job import Job


def install(job: Job) -> None:
    """Move imports from the live sources to the materialised ones; does nothing outside a replay."""
    if not job.live:
        return
    redirect = _Redirect([(live, copy) for live, copy in job.live if live != copy], job.store)
    sys.path[:] = [redirect.moved(entry) for entry in sys.path]
    sys.meta_path.insert(0, redirect)


class _Redirect:
    def __init__(self, pairs: list[tuple[str, str]], store: str) -> None:
        self._pairs = sorted(pairs, key=lambda pair: -len(pair[0]))
        self._store = store + os.sep

    def moved(self, path: str) -> str:
        """Return where ``path`` lies in the materialised tree, or ``path`` itself."""
        if path.startswith(self._store) or "/site-packages" in path:
            return path
        for live, copy in self._pairs:
            if path == live or path.startswith(live + os.sep):
                place = copy + path[len(live) :]
                return place if os.path.exists(place) else path
        return path

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "repro":  # this very package watches the replay: it stays as it is
            return None
        spec = find_after(self, name, path, target)
        return None if spec is None else self._move(spec)

    def _move(self, spec: ModuleSpec) -> ModuleSpec:
        folders = (
            None
            if spec.submodule_search_locations is None
            else [self.moved(p) for p in spec.submodule_search_locations]
        )
        if not spec.has_location or spec.origin is None:
            if folders is not None and folders != list(spec.submodule_search_locations or ()):
                spec.submodule_search_locations = folders
            return spec
        place = self.moved(spec.origin)
        if place == spec.origin:
            return spec
        moved = importlib.util.spec_from_file_location(spec.name, place, submodule_search_locations=folders)
        return spec if moved is None else moved
