"""Which records were made here, by this user: a record can be handed over, and what it names is run on a replay.

The digest of each record that is sealed is noted in the user's own state folder, and in no store: a store from somebody
else has no such note. What the user trusts after all is remembered there too.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Literal

from repro.base import digest, files, locks
from repro.errors import UsageError
from repro.store import signatures
from repro.store.store import Store

Scope = Literal["record", "store", "key"]


def state_folder() -> Path:
    """Return the folder of the user's own state (XDG_STATE_HOME)."""
    named = os.environ.get("XDG_STATE_HOME")
    return (Path(named) if named else Path.home() / ".local" / "state") / "repro"


def note_made_here(store: Store, record_digest: str) -> None:
    """Note that a record was sealed here; where the user has no place for that, the user is asked later."""
    path = _notes(store)
    with contextlib.suppress(OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{record_digest}\n".encode())
        finally:
            os.close(fd)


def is_trusted(store: Store, run_id: str) -> bool:
    """Say whether a run was recorded here by this user, or is trusted: its record, its store, or a key that signed it.

    Raises:
        StoreError: when the record cannot be read.
    """
    record = digest.of_bytes(store.read(store.run_folder(run_id) / "record.json"))
    if _is_made_here(store, record):
        return True
    known = _trusted()
    return not known.isdisjoint({record, _store_name(store.key)}) or not known.isdisjoint(
        signatures.signers(store, record)
    )


def _is_made_here(store: Store, record_digest: str) -> bool:
    try:
        return record_digest.encode() in _notes(store).read_bytes().split(b"\n")
    except (OSError, RuntimeError):
        return False


def trust(store: Store, run_id: str, scope: Scope) -> None:
    """Remember that a run's record, all of its store, or all that is signed by the key of its signature is trusted.

    Raises:
        UsageError: when no key has signed it.
        StoreError: when the record cannot be read, or the answer cannot be written.
    """
    record = digest.of_bytes(store.read(store.run_folder(run_id) / "record.json"))
    names = {_store_name(store.key)} if scope == "store" else {record}
    if scope == "key":
        names = signatures.signers(store, record)
        if not names:
            raise UsageError(f"no key has signed the journal with {run_id} in it", hint="--trust trusts this record")
    folder = state_folder()
    with files.disk_errors("make", folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locks.exclusive(folder / "trusted.lock"):
        text = json.dumps(sorted(_trusted() | names), indent=0)
        files.replace(folder / "trusted.json", text.encode(), mode=0o600)


def _trusted() -> set[str]:
    try:
        found = json.loads((state_folder() / "trusted.json").read_bytes())
    except (OSError, ValueError):
        return set()
    return {item for item in found if isinstance(item, str)} if isinstance(found, list) else set()


def _store_name(store_key: bytes) -> str:
    return "store:" + digest.of_bytes(b"repro:store\n" + store_key)


def _notes(store: Store) -> Path:
    """Return the file that has the digests of the records that were made in a store, one a line."""
    return state_folder() / "made" / _store_name(store.key).rpartition(":")[2][:32]
