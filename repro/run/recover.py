"""Runs whose supervisor died: what they left is taken in, and they are marked LOST."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Container
from datetime import datetime
from pathlib import Path

from repro.base import digest
from repro.engines import local
from repro.errors import StoreError
from repro.run import conclude, strays
from repro.store.store import Store

_PATIENCE = 10.0  # seconds for killed processes to be gone


def recover(store: Store, dead: Container[str] = ()) -> list[str]:
    """Conclude every run whose supervisor is gone, and return which; those of ``dead`` hosts too, as their user says.

    One that cannot be concluded (the disk is full, its record is damaged) stays open for the next writer: it must not
    keep anybody from running. It is shown as LOST meanwhile, and `verify` names what is damaged.
    """
    settled = []
    for run_id in store.open_runs():
        with contextlib.suppress(StoreError, OSError):
            settled += [run_id] if _recover(store, run_id, dead) else []
    with contextlib.suppress(OSError):
        store.sweep()
        if settled:  # something was killed: only then is each folder of the code's objects worth a look
            store.code.sweep()
    return settled


def _recover(store: Store, run_id: str, dead: Container[str]) -> bool:
    """Conclude one run if it is over; say whether it was, and is sealed now."""
    folder = store.run_folder(run_id)
    found = store.alive(run_id)
    if found == "RUNNING" or (found == "UNKNOWN" and store.holder(run_id).get("host") not in dead):
        return False
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        store.forget(run_id)
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _conclude(store, run_id)
    finally:  # BlockingIOError: another writer is at it
        os.close(fd)
    return (folder / "outcome.json").exists()


def _conclude(store: Store, run_id: str) -> None:
    folder = store.run_folder(run_id)
    _end_processes(folder)
    if store.settle(run_id):
        return
    record = store.record(run_id)
    found = digest.of_bytes(store.read(folder / "record.json"))
    reason = "its supervisor ended without an outcome"
    began = int(datetime.fromisoformat(record.created).timestamp() * 1e9)
    apart = strays.set_apart(folder)
    notes = [f"{name} is nothing that repro wrote, and was set apart in {strays.FOLDER}/" for name in apart]
    files = conclude.look_back(record, store, began)
    outcome = conclude.outcome_of(
        record, found, store, state="LOST", started=record.created, reason=reason, files=files, notes=notes
    )
    store.seal_outcome(outcome)


def _end_processes(folder: Path) -> None:
    """Kill what the run left going on, and wait until it is gone: nobody writes to its files any more."""
    deadline = time.monotonic() + _PATIENCE
    while local.kill_left(folder) and time.monotonic() < deadline:
        time.sleep(0.005)
