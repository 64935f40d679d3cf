"""A SQLite view of the runs, for lists: derived from the journal, made anew when missing, old or damaged."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from repro.base import canonical, digest, journal
from repro.errors import StoreDamagedError
from repro.store.store import Store

_VERSION = 4
_MAGIC = b"SQLite format 3\0"
_HEAD = 100  # bytes of a database's header
#: "repr": what tells an index of ours from any other database (sqlite.org/fileformat.html, application id).
_APPLICATION = 0x72657072
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
CREATE TABLE head (version INTEGER, offset INTEGER, digest TEXT);
CREATE TABLE runs (
    place INTEGER PRIMARY KEY, run_id TEXT UNIQUE, name TEXT, state TEXT, started TEXT DEFAULT '',
    params TEXT DEFAULT '{{}}', metrics TEXT DEFAULT '{{}}', directions TEXT DEFAULT '{{}}', recipe_digest TEXT,
    replay_of TEXT, root TEXT, verdict TEXT
);
"""
_COLUMNS = (
    "run_id",
    "name",
    "state",
    "started",
    "params",
    "metrics",
    "directions",
    "recipe_digest",
    "replay_of",
    "root",
    "verdict",
)
_JSON = ("params", "metrics", "directions")


def rows(store: Store, *, write: bool = True) -> list[dict[str, Any]]:
    """Return one mapping for each run, oldest first; a run without an outcome has its state of this moment.

    Without ``write`` nothing is made or brought up to date on the disk.

    Raises:
        StoreDamagedError: when the index can be made neither on the disk nor in memory.
    """
    for attempt in _attempts(store, write=write):
        try:
            with contextlib.closing(attempt()) as base:
                _catch_up(base, store)
                return [_present(run, store) for run in _all(base)]
        except (sqlite3.Error, ValueError):
            continue
    msg = f"the index of {store.folder} can be made neither on the disk nor in memory"
    raise StoreDamagedError(msg)


def _attempts(store: Store, *, write: bool) -> list[Callable[[], sqlite3.Connection]]:
    """Return the ways to an index, best first: as it lies on the disk, made anew there, in memory."""
    path = store.folder / "index.sqlite"

    def as_it_is() -> sqlite3.Connection:
        return _connect(os.fsencode(path) if write else f"file:{quote(os.fsencode(path))}?mode=ro")

    def anew() -> sqlite3.Connection:
        with contextlib.suppress(OSError):
            for name in (path, path.with_name(f"{path.name}-journal")):
                name.unlink(missing_ok=True)
        return as_it_is()

    def in_memory() -> sqlite3.Connection:
        return _connect(":memory:")

    if not _is_ours(path):
        return [in_memory]
    return [as_it_is, anew, in_memory] if write else [as_it_is, in_memory]


def _is_ours(path: Path) -> bool:
    """Say whether a file may be made anew as an index: a damaged one, and one of an older version too.

    A link may lead to a database of somebody else's, and so may a name.
    """
    if path.is_symlink():
        return False
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if not head.startswith(_MAGIC):
        return True
    return int.from_bytes(head[68:72], "big") == _APPLICATION or _is_of_older_version(path)


def _is_of_older_version(path: Path) -> bool:
    """Say whether a database has the tables of an index from before it had an application id, and no others."""
    try:
        with contextlib.closing(_connect(f"file:{quote(os.fsencode(path))}?mode=ro")) as base:
            names = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            base.execute("SELECT version, offset, digest FROM head")
    except sqlite3.Error:
        return False
    return names == {"head", "runs"}


def _connect(place: str | bytes) -> sqlite3.Connection:
    uri = isinstance(place, str) and place.startswith("file:")
    return sqlite3.connect(place, timeout=10, isolation_level=None, uri=uri)


def _all(base: sqlite3.Connection) -> list[dict[str, Any]]:
    found = base.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY place").fetchall()  # noqa: S608
    runs = [dict(zip(_COLUMNS, row, strict=True)) for row in found]
    for run in runs:
        for name in _JSON:
            run[name] = canonical.loads(run[name])
    return runs


def _present(run: dict[str, Any], store: Store) -> dict[str, Any]:
    """Return the run with its state of this moment: it may have ended since the journal was read."""
    if run["state"] is None:
        try:
            run["state"], outcome = store.state(run["run_id"])
        except StoreDamagedError:
            run["state"], outcome = "UNKNOWN", None
        if outcome is not None:
            run["metrics"] = outcome.metrics
    return run


def _catch_up(base: sqlite3.Connection, store: Store) -> None:
    offset, last = _head(base)
    if offset > 0 and not _stands(store.journal, offset, last):
        offset = -1
    if offset >= 0 and next(journal.read(store.journal, offset), None) is None:
        return
    base.execute("BEGIN IMMEDIATE")
    offset, last = _head(base)
    if offset < 0 or (offset > 0 and not _stands(store.journal, offset, last)):
        base.execute("DROP TABLE IF EXISTS runs")
        base.execute("DROP TABLE IF EXISTS head")
        for statement in filter(None, map(str.strip, _SCHEMA.split(";"))):
            base.execute(statement)
        base.execute("INSERT INTO head VALUES (?, 0, '')", (_VERSION,))
        offset = 0
    for end, line in journal.read(store.journal, offset):
        _take_in(base, store, line)
        offset, last = end, digest.of_bytes(line)
    base.execute("UPDATE head SET offset = ?, digest = ?", (offset, last))
    base.execute("COMMIT")


def _head(base: sqlite3.Connection) -> tuple[int, str]:
    try:
        version, offset, last = base.execute("SELECT version, offset, digest FROM head").fetchone()
    except (sqlite3.OperationalError, TypeError):
        return -1, ""
    return (offset, last) if version == _VERSION else (-1, "")


def _stands(path: Path, offset: int, last: str) -> bool:
    """Say whether the journal's line that ends at ``offset`` is still the one that was taken in last."""
    try:
        with path.open("rb") as handle:
            start = max(0, offset - 65536)
            handle.seek(start)
            data = handle.read(offset - start)
    except OSError:
        return False
    return data.endswith(b"\n") and digest.of_bytes(data[:-1].rpartition(b"\n")[2]) == last


def _take_in(base: sqlite3.Connection, store: Store, line: bytes) -> None:
    """Enter one journal line; a sealed file that cannot be read leaves its run as it was (verify names the file)."""
    try:
        entry = json.loads(line)
        kind, run_id = entry["kind"], entry["run"]
    except (ValueError, KeyError, TypeError):
        return
    if kind == "record":
        base.execute("INSERT OR IGNORE INTO runs (run_id, name) VALUES (?, 'its record cannot be read')", (run_id,))
    with contextlib.suppress(StoreDamagedError):
        _TAKERS.get(kind, _nothing)(base, store, run_id)


def _nothing(_base: sqlite3.Connection, _store: Store, _run_id: str) -> None:
    """Take in nothing, of a line of a kind that lists do not show."""


def _enter_record(base: sqlite3.Connection, store: Store, run_id: str) -> None:
    record = store.record(run_id)
    directions = {name: spec.direction for name, spec in record.metrics.items() if spec.direction}
    values = (
        _text(record.name),
        record.created,
        canonical.dumps(record.recipe.params).decode(),
        canonical.dumps(directions).decode(),
        record.recipe_digest,
        record.replay_of,
        _text(record.circumstances.get("project", {}).get("root") or ""),
    )
    base.execute(
        "UPDATE runs SET name = ?, started = ?, params = ?, directions = ?, recipe_digest = ?, replay_of = ?, root = ?"
        " WHERE run_id = ?",
        (*values, run_id),
    )


def _text(name: str) -> str:
    """Return a name as SQLite takes it: bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


def _enter_outcome(base: sqlite3.Connection, store: Store, run_id: str) -> None:
    outcome = store.outcome(run_id)
    if outcome is not None:
        values = (outcome.state, canonical.dumps(outcome.metrics).decode(), run_id)
        base.execute("UPDATE runs SET state = ?, metrics = ? WHERE run_id = ?", values)


def _enter_attachments(base: sqlite3.Connection, store: Store, run_id: str) -> None:
    for note in store.attachments(run_id):
        if note.kind == "verdict":
            base.execute("UPDATE runs SET verdict = ? WHERE run_id = ?", (note.body.get("verdict"), run_id))


_TAKERS: dict[str, Callable[[sqlite3.Connection, Store, str], None]] = {
    "record": _enter_record,
    "outcome": _enter_outcome,
    "attachment": _enter_attachments,
}
