"""Which records were made here, by this user: a record can be handed over, and what it names is run on a replay.

A record that is sealed gets a mark: a keyed hash of its digest, by a key that lies in the user's own state folder and
in no store. A store from somebody else has no such marks. What the user trusts after all is remembered there too.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Literal

from repro.base import digest, files, locks
from repro.errors import StoreError, UsageError
from repro.store import signatures
from repro.store.store import Store

#: The name of the mark in a run's folder.
MARK = "made-here"
_BYTES = 32

Scope = Literal["record", "store", "key"]


def state_folder() -> Path:
    """Return the folder of the user's own state (XDG_STATE_HOME)."""
    named = os.environ.get("XDG_STATE_HOME")
    return (Path(named) if named else Path.home() / ".local" / "state") / "repro"


def mark(folder: Path, record_digest: str) -> None:
    """Mark a run's record as made here; where the user has no place for a key, it stays without."""
    key = _key(make=True)
    if key is not None:
        with contextlib.suppress(OSError):  # on a full disk the user is asked later
            fd = os.open(folder / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
            try:
                os.write(fd, _mark(key, record_digest).encode())
            finally:
                os.close(fd)


def _is_made_here(folder: Path, record_digest: str) -> bool:
    """Say whether a run's record, as it is now, was sealed by this user."""
    key = _key(make=False)
    try:
        found = (folder / MARK).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    return key is not None and hmac.compare_digest(found, _mark(key, record_digest))


def is_trusted(store: Store, run_id: str) -> bool:
    """Say whether a run was recorded here by this user, or is trusted: its record, its store, or a key that signed it.

    Raises:
        StoreError: when the record cannot be read.
    """
    folder = store.run_folder(run_id)
    record = digest.of_bytes(store.read(folder / "record.json"))
    if _is_made_here(folder, record):
        return True
    known = _trusted()
    return not known.isdisjoint({record, _store_name(store.key)}) or not known.isdisjoint(
        signatures.signers(store, record)
    )


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


def _mark(key: bytes, record_digest: str) -> str:
    return hmac.new(key, record_digest.encode(), hashlib.sha256).hexdigest()


def _key(*, make: bool) -> bytes | None:
    path = state_folder() / "key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError:
        return None
    if not make:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locks.exclusive(path.with_name("key.lock")):
            if not path.exists():
                files.replace(path, secrets.token_hex(_BYTES).encode(), mode=0o600)
        return path.read_bytes()
    except (OSError, StoreError):
        return None
