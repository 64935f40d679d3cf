"""A folder in which a run can be earned again: its code, its folders, and links to the data that it read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from repro.capture.data import StatCache
from repro.errors import ReproError
from repro.record.values import KEPT, Outcome, Record
from repro.store.store import Store


class NotReplayableError(ReproError):
    """Something that a replay needs is missing; not an error of the command line, but a verdict."""

    exit_code = 4


class Restored(NamedTuple):
    """The folder, the live places with their copies in it, and what is not as it was (file, before, after)."""

    place: Path
    live: tuple[tuple[str, str], ...]
    changed: list[tuple[str, str | None, str | None]]


def restore(store: Store, record: Record, outcome: Outcome | None, folder: Path) -> Restored:
    """Materialise a run's code and all that it needs under ``folder``.

    Raises:
        StoreDamagedError: when the code or a kept file does not come out as it was recorded.
        NotReplayableError: when a file that the run read is gone.
    """
    project = record.circumstances["project"]
    root = Path(project["root"])
    place = folder / "tree"
    store.code.materialise(record.recipe.code, place)
    for name in project["folders"]:
        (place / name).mkdir(parents=True, exist_ok=True)
    live = [(str(root), str(place))]
    for name, tree in record.recipe.sources.items():
        store.code.materialise(tree, folder / "sources" / name)
        live.append((project["sources"][name], str(folder / "sources" / name)))
    changed = _inputs(store, outcome, root, place) if outcome is not None else []
    _declared(record, root, place)
    return Restored(place, tuple(live), changed)


def _inputs(store: Store, outcome: Outcome, root: Path, place: Path) -> list[tuple[str, str | None, str | None]]:
    """Put back what the run read beside its code: kept files from the store, others by a link once they are checked."""
    cache = StatCache(store.cache / "files.json")
    changed: list[tuple[str, str | None, str | None]] = []
    for item in outcome.inputs:
        inside = not os.path.isabs(item.path)
        if item.note == KEPT and item.digest is not None:
            if inside:
                store.objects.restore(item.digest, place / item.path)
            continue
        source = root / item.path
        if not source.is_file():
            raise NotReplayableError(
                f"{source} is gone; the run read it", hint=f"put it back ({item.size:,} bytes, {item.digest})"
            )
        found = cache.digest(str(source))
        if item.digest is not None and item.digest.startswith("sha256:") and found != item.digest:
            changed.append((item.path, item.digest, found))
        if inside:
            link(source, place / item.path)
    cache.save()
    return changed


def _declared(record: Record, root: Path, place: Path) -> None:
    """Link declared data that lies in the project: folders whole, so that they can be listed."""
    cwd = record.recipe.cwd
    if cwd is None:
        return
    for where in record.circumstances["launch"]["data"].values():
        source = Path(os.path.normpath(root / cwd / where))
        if any(character in where for character in "*?["):
            for path in sorted((root / cwd).glob(where)):
                link(path, place / path.relative_to(root))
        elif source.is_relative_to(root):
            link(source, place / source.relative_to(root))


def link(source: Path, target: Path) -> None:
    """Make ``target`` a link to ``source`` unless something is there already that is no empty folder."""
    if not source.exists() or target.is_symlink() or target.is_file():
        return
    if target.is_dir():
        try:
            target.rmdir()
        except OSError:
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)
