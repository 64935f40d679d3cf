"""A SQLite view of the runs, for lists: derived from the journal, made anew when missing, old or damaged."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from repro.base import canonical, digest, journal
from repro.errors import StoreDamagedError
from repro.store.store import Store

_VERSION = 2
_SCHEMA = """
CREATE TABLE head (version INTEGER, offset INTEGER, digest TEXT);
CREATE TABLE runs (
    place INTEGER PRIMARY KEY, run_id TEXT UNIQUE, name TEXT, state TEXT, started TEXT, params TEXT, metrics TEXT,
    directions TEXT, recipe_digest TEXT, replay_of TEXT, root TEXT, verdict TEXT
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


def rows(store: Store) -> list[dict[str, Any]]:
    """Return one mapping for each run, oldest first; a run without an outcome has its state of this moment."""
    with contextlib.closing(_open(store)) as base:
        found = base.execute(f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY place").fetchall()  # noqa: S608
    runs = [dict(zip(_COLUMNS, row, strict=True)) for row in found]
    for run in runs:
        for name in _JSON:
            run[name] = canonical.loads(run[name])
        if run["state"] is None:
            run["state"] = store.alive(run["run_id"])
    return runs


def _open(store: Store) -> sqlite3.Connection:
    """Return the index, brought up to the journal's end; in memory where the store cannot be written."""
    path = store.folder / "index.sqlite"
    for place in (str(path), None, ":memory:"):
        if place is None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            place = str(path)  # noqa: PLW2901
        base = sqlite3.connect(place, timeout=10, isolation_level=None)
        try:
            _catch_up(base, store)
        except sqlite3.Error:
            base.close()
        else:
            return base
    msg = f"the index of {store.folder} can be made neither on the disk nor in memory"
    raise StoreDamagedError(msg)


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
        if kind == "record":
            _enter_record(base, store, run_id)
        elif kind == "outcome":
            outcome = store.outcome(run_id)
            if outcome is not None:
                values = (outcome.state, canonical.dumps(outcome.metrics).decode(), run_id)
                base.execute("UPDATE runs SET state = ?, metrics = ? WHERE run_id = ?", values)
        elif kind == "attachment" and "verdict" in entry["path"]:
            for note in store.attachments(run_id):
                base.execute("UPDATE runs SET verdict = ? WHERE run_id = ?", (note.body.get("verdict"), run_id))
    except (ValueError, KeyError, StoreDamagedError):
        return


def _enter_record(base: sqlite3.Connection, store: Store, run_id: str) -> None:
    record = store.record(run_id)
    directions = {name: spec.direction for name, spec in record.metrics.items() if spec.direction}
    values = (
        run_id,
        record.name,
        record.created,
        canonical.dumps(record.recipe.params).decode(),
        canonical.dumps(directions).decode(),
        record.recipe_digest,
        record.replay_of,
        record.circumstances.get("project", {}).get("root"),
    )
    base.execute(
        "INSERT OR REPLACE INTO runs"
        " (run_id, name, started, params, metrics, directions, recipe_digest, replay_of, root)"
        " VALUES (?, ?, ?, ?, '{}', ?, ?, ?, ?)",
        values,
    )
