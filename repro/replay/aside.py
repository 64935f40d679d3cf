"""Where a replay of a run that writes outside its folder writes: layers of its own, which are thrown away with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from repro.engines import layers
from repro.engines.layers import Layers
from repro.record.values import KEPT, Outcome
from repro.run.observed import Observed
from repro.store.store import Store

_FOLDER = "layers"


class Aside(NamedTuple):
    """The layers of a replay, None where it has none; ``refusal`` says why it cannot have those that it needs.

    Then it writes to none of ``guarded``, wherever they lie.
    """

    layers: Layers | None = None
    refusal: str | None = None
    guarded: tuple[str, ...] = ()


def prepare(store: Store, outcome: Outcome | None, seen: Observed, own: Path) -> Aside:
    """Lay what a run needs over the folders outside that it wrote to; ``own`` is the replay's folder.

    They show what lay there when the run began, as far as it is known: what the run made is taken away (but for caches,
    and what they lie in), what it changed and the store kept is put back.
    """
    paths = needed(outcome, seen)
    folders = layers.over([*paths, *map(os.path.realpath, seen.loaded)], layers.mounts())
    if not folders:
        return Aside()
    found = Layers(own / _FOLDER, folders, (os.path.realpath(own),))
    stays = map(Path, [str(own), *seen.loaded, *(seen.caches.keys() - seen.away)])
    stay = {str(folder) for path in stays for folder in (path, *path.parents)}
    absent = sorted(path for path in seen.made - stay if found.covers(path))
    parents = sorted({os.path.dirname(path) for path in seen.away if not _is_below(path, seen.made)})
    back = [(copy, path) for copy, path in _kept(store, outcome, found, own) if path not in seen.made]
    refusal = found.prepare(absent, [path for path in parents if found.covers(path)], back)
    return Aside(found) if refusal is None else Aside(None, refusal, tuple(paths))


def unknown(seen: Observed) -> list[str]:
    """Return what a run changed outside and nobody kept; what lies in folders that it made was its own."""
    return [path for path in seen.lost if not _is_below(path, seen.made)]


def loosen(own: Path) -> None:
    """Let the layers of a replay be removed with its folder."""
    layers.loosen(own / _FOLDER)


def needed(outcome: Outcome | None, seen: Observed) -> list[str]:
    """Return what a run wrote to outside; of temporary files only what it left: a replay may make others of them."""
    left = {item.path for item in (outcome.outputs if outcome is not None else []) if os.path.isabs(item.path)}
    free = os.path.realpath(tempfile.gettempdir()) + os.sep
    paths = left | {path for path in seen.away if not path.startswith(free)}
    return sorted(real for path in paths for real in {path, os.path.realpath(path)})


def _kept(store: Store, outcome: Outcome | None, found: Layers, own: Path) -> Iterable[tuple[str, str]]:
    """Yield the files outside that the run changed and the store kept: a copy of each, and its path."""
    for number, item in enumerate(outcome.inputs if outcome is not None else []):
        if item.note == KEPT and item.digest is not None and found.covers(item.path):
            copy = own / _FOLDER / f"kept-{number}"
            store.objects.restore(item.digest, copy)
            yield str(copy), item.path


def _is_below(path: str, made: set[str]) -> bool:
    return any(str(folder) in made for folder in Path(path).parents)
