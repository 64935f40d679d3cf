"""Which changes of the code can matter to a run: by what it opened, imported, listed and looked for.

The tree of the whole project is recorded, and a README is in it. What a run was seen to read decides whether a change
makes it another one: for going on with it, for reading it in a study, and for the recipe's other seeds
(docs/adr/0035-what-a-run-read.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from repro.capture import interpreter
from repro.record.values import Record
from repro.run import observed
from repro.store.code import CodeChange
from repro.store.store import Store

#: What readers that nobody sees (pyarrow, h5py, a shell) do not read: documents, notebooks, logs of a job.
_PROSE = (".md", ".rst", ".ipynb", ".log", ".out", ".err", ".html", ".pdf", ".svg")
_CODE = (".py", ".pyi", ".pyc", ".pyx", ".so", ".pth")
#: Files of the code that may have the names of other files in them.
_WITH_NAMES = (".py", ".yaml", ".yml", ".toml", ".json", ".sh")
_MOST_READ = 1_000_000


class Seen(NamedTuple):
    """What a run was seen to read of its project; paths are relative to its root.

    ``missing`` are the modules that it looked for and did not get, None where that is not known. It is ``is_blind``
    where something read files unseen, and ``is_whole`` where nothing was watched: anything may have been read.
    """

    opened: frozenset[str]
    listed: frozenset[str]
    missing: frozenset[str] | None
    is_blind: bool
    is_whole: bool


def of_run(store: Store, record: Record) -> Seen:
    """Return what a run was seen to read."""
    found = observed.read(store.run_folder(record.run_id))
    place = record.circumstances["project"]["place"] + os.sep
    command = record.recipe.command
    return Seen(
        opened=frozenset(path.removeprefix(place) for path in found.reads if path.startswith(place)),
        listed=frozenset(path.removeprefix(place) for path in found.listed if f"{path}/".startswith(place)),
        missing=None if found.missing is None else frozenset(found.missing),
        is_blind=bool(found.blind) or (command is not None and not interpreter.is_python(command[0])),
        is_whole=not found.processes,
    )


def matter(changes: Iterable[CodeChange], seen: Seen, mentions: Callable[[str], bool]) -> list[CodeChange]:
    """Return those of the changes that the run may have read; ``mentions`` says if its code has a file's name in it."""
    return [change for change in changes if _matters(change, seen, mentions)]


def _matters(change: CodeChange, seen: Seen, mentions: Callable[[str], bool]) -> bool:
    path = change.path
    if seen.is_whole or path in seen.opened:
        return True
    if seen.is_blind and not path.endswith((*_PROSE, *_CODE)):
        return True
    if change.status not in ("A", "D"):
        return False
    return _is_listed(path, seen.listed) or _is_looked_for(path, seen) or mentions(os.path.basename(path))


def _is_listed(path: str, listed: frozenset[str]) -> bool:
    """Say whether a folder around a file was listed, at whatever depth: its own may have been new."""
    folder = os.path.dirname(path)
    while folder:
        if folder in listed:
            return True
        folder = os.path.dirname(folder)
    return "" in listed or "." in listed


def _is_looked_for(path: str, seen: Seen) -> bool:
    """Say whether a file may be a module, or part of a package, that the run looked for and did not get."""
    if not path.endswith(_CODE):
        return False
    if seen.missing is None:
        return True
    names = {os.path.splitext(part)[0].partition(".")[0] for part in path.split(os.sep)}
    return any(name.rpartition(".")[2] in names or name.partition(".")[0] in names for name in seen.missing)


def of_code(store: Store, record: Record, now: str) -> list[CodeChange]:
    """Return the changes from a run's code to the tree ``now`` that may matter to it."""
    before = record.recipe.code
    if before == now:
        return []
    seen = of_run(store, record)
    return matter(store.code.changes(before, now), seen, _Mentions(store, before, seen.opened))


class _Mentions:
    """Says whether a file's name stands in the code that a run opened: it may have looked for it, and not found it."""

    def __init__(self, store: Store, tree: str, opened: frozenset[str]) -> None:
        self._store, self._tree = store, tree
        self._opened = sorted(path for path in opened if path.endswith(_WITH_NAMES))
        self._texts: list[bytes] | None = None

    def __call__(self, name: str) -> bool:
        if self._texts is None:
            read = (self._store.code.read(self._tree, path) for path in self._opened)
            self._texts = [text for text in read if text is not None and len(text) < _MOST_READ]
        wanted = re.compile(rb"(?<![\w.-])" + re.escape(os.fsencode(name)) + rb"(?![\w-])")
        return any(wanted.search(text) for text in self._texts)
