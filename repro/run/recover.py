"""Runs whose supervisor died: what they left is taken in, and they are marked LOST."""

from __future__ import annotations

import fcntl
import os

from repro.base import digest
from repro.engines import local
from repro.run import conclude
from repro.store.store import Store


def others(store: Store, run_id: str) -> int:
    """Return how many other runs are going on."""
    return sum(1 for path in store.open.iterdir() if path.name != run_id)


def recover(store: Store) -> int:
    """Conclude every run whose supervisor is gone; return how many others are still going on."""
    going_on = 0
    for marker in sorted(store.open.iterdir()):
        going_on += not _recover(store, marker.name)
    return going_on - 1


def _recover(store: Store, run_id: str) -> bool:
    """Conclude one run if it is over; say whether it is."""
    folder = store.run_folder(run_id)
    if store.alive(run_id) != "LOST":
        return False
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # taken away by hand
        return store.settle(run_id)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    try:
        local.kill_left(folder)
        if store.settle(run_id):
            return True
        record = store.record(run_id)
        found = digest.of_bytes(store.read(folder / "record.json"))
        outcome = conclude.outcome_of(
            record, found, store, state="LOST", started=record.created, reason="its supervisor ended without an outcome"
        )
        store.seal_outcome(outcome)
    finally:
        os.close(fd)
    return True
