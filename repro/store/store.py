"""The store: a folder that holds records, what runs left, and the journal that binds them.

``docs/reference/store.md`` shows the layout. Sealed files are published whole, made read-only, and entered in the
hash-chained journal under its lock; nothing sealed is ever opened for writing again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.base import clock, digest, files, journal, locks
from repro.errors import StoreDamagedError, StoreError
from repro.record.values import Attachment, Outcome, Record, seal, unseal
from repro.store.code import CodeRepository
from repro.store.objects import Objects

FORMAT = 1
#: Folders of a run; the supervisor and the processes of the run write there, nobody else.
RUN_FOLDERS = ("observed", "metrics", "trail", "checkpoints", "artifacts", "inputs")


class Store:
    """One store on disk. Opening it creates nothing; `create` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.journal = folder / "journal.jsonl"
        self.cache = folder / "cache"
        self.work = folder / "work"
        self.open = folder / "open"
        self.code = CodeRepository(folder / "code.git")
        self.objects = Objects(folder / "objects")

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Open the store in ``folder``, making it if it is not there.

        Raises:
            StoreError: when it cannot be made, or is of another format.
        """
        store = cls(folder)
        marker = folder / "store.json"
        if not marker.exists():
            with files.disk_errors("make the store", folder):
                for part in (folder, store.runs, store.cache, store.work, store.open, store.objects.folder):
                    part.mkdir(parents=True, exist_ok=True)
            with locks.exclusive(folder / "journal.lock"):
                store._found(marker)
        store.check_format()
        return store

    def _found(self, marker: Path) -> None:
        if not marker.exists():
            files.replace(self.folder / ".gitignore", b"*\n")
            files.replace(self.folder / "key", secrets.token_hex(32).encode(), mode=0o600)
            files.replace(marker, json.dumps({"format": FORMAT}).encode() + b"\n")

    def check_format(self) -> None:
        """Raise StoreDamagedError if this store's format is not the one that this version reads."""
        marker = self.folder / "store.json"
        try:
            found = json.loads(marker.read_bytes())["format"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StoreDamagedError(f"{marker} cannot be read: {error}") from error
        if found != FORMAT:
            raise StoreDamagedError(f"{self.folder} has format {found}; this version reads {FORMAT}")

    @cached_property
    def key(self) -> bytes:
        """The store's own key, for digests of values that must not be guessed (environment variables)."""
        try:
            return (self.folder / "key").read_bytes()
        except OSError as error:
            raise StoreDamagedError(f"{self.folder / 'key'} cannot be read: {error.strerror}") from error

    def run_folder(self, run_id: str) -> Path:
        """Return a run's folder."""
        return self.runs / run_id

    def new_run(self, run_id: str) -> tuple[Path, int]:
        """Make a run's folder and take its lock; return the folder and the lock's descriptor.

        The folder gets its name, and the run its mark among the open ones, only when the lock is held: nobody can take
        a run that is just beginning for one whose supervisor is gone.
        """
        folder, beginning = self.run_folder(run_id), self.runs / f".{run_id}"
        pid = os.getpid()
        holder = {"host": os.uname().nodename, "boot": clock.boot_id(), "pid": pid, "start": clock.process_start(pid)}
        with files.disk_errors("make", folder):
            for name in RUN_FOLDERS:
                (beginning / name).mkdir(parents=True)
        lock = locks.acquire(beginning / "lock", json.dumps(holder).encode())
        with files.disk_errors("make", folder):
            beginning.rename(folder)
            (self.open / run_id).touch()
        return folder, lock

    def seal_record(self, record: Record) -> str:
        """Put a record on the disk, whole, synced, read-only and in the journal; return its digest."""
        return self._seal(self.run_folder(record.run_id) / "record.json", "record", record.run_id, seal(record))

    def seal_outcome(self, outcome: Outcome) -> str:
        """Put an outcome on the disk, with what it names made read-only; return its digest."""
        folder = self.run_folder(outcome.run_id)
        for name in outcome.files:
            os.chmod(folder / name, 0o444)
        found = self._seal(folder / "outcome.json", "outcome", outcome.run_id, seal(outcome))
        (self.open / outcome.run_id).unlink(missing_ok=True)
        return found

    def attach(self, attachment: Attachment) -> str:
        """Add an attachment to a run; return its digest."""
        folder = self.run_folder(attachment.run_id) / "attachments"
        with files.disk_errors("make", folder):
            folder.mkdir(exist_ok=True)
        path = folder / f"{clock.new_run_id()}-{attachment.kind}.json"
        return self._seal(path, "attachment", attachment.run_id, seal(attachment))

    def _seal(self, path: Path, kind: str, run_id: str, data: bytes) -> str:
        found = digest.of_bytes(data)
        place = path.relative_to(self.folder).as_posix()
        with locks.exclusive(self.folder / "journal.lock"):
            files.publish(path, data)
            entry = {"kind": kind, "run": run_id, "path": place, "digest": found, "time": clock.now()}
            try:
                journal.append(self.journal, entry)
            except StoreError:
                path.unlink()
                raise
        return found

    def settle(self, run_id: str) -> bool:
        """Enter in the journal what a crash kept out of it, of a run whose supervisor is gone; say if it is complete.

        A run whose record was never sealed never ran any user code: it is taken away.
        """
        folder = self.run_folder(run_id)
        with locks.exclusive(self.folder / "journal.lock"):
            known = {_entry(line).get("path") for _, line in journal.read(self.journal)}
            for path in (folder / "record.json", folder / "outcome.json", *sorted(folder.glob("attachments/*.json"))):
                place = path.relative_to(self.folder).as_posix()
                if path.exists() and place not in known:
                    kind = path.stem if path.parent == folder else "attachment"
                    entry = {"kind": kind, "run": run_id, "path": place, "digest": digest.of_file(path)}
                    journal.append(self.journal, entry | {"time": clock.now(), "recovered": True})
        if not (folder / "record.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        elif not (folder / "outcome.json").exists():
            return False
        (self.open / run_id).unlink(missing_ok=True)
        return True

    def read(self, path: Path) -> bytes:
        """Return the bytes of a sealed file. Raises StoreDamagedError when it is gone."""
        try:
            return path.read_bytes()
        except OSError as error:
            hint = "repro verify lists every file that is not as it was sealed"
            raise StoreDamagedError(f"cannot read {path}: {error.strerror}", hint=hint) from error

    def record(self, run_id: str) -> Record:
        """Return a run's record."""
        path = self.run_folder(run_id) / "record.json"
        return unseal(self.read(path), Record, str(path))

    def outcome(self, run_id: str) -> Outcome | None:
        """Return a run's outcome, or None if it has none yet."""
        path = self.run_folder(run_id) / "outcome.json"
        return unseal(self.read(path), Outcome, str(path)) if path.exists() else None

    def attachments(self, run_id: str) -> list[Attachment]:
        """Return what was learnt of a run after it ended, oldest first."""
        found = sorted((self.run_folder(run_id) / "attachments").glob("*.json"))
        return [unseal(self.read(path), Attachment, str(path)) for path in found]

    def run_ids(self) -> Iterator[str]:
        """Yield the ids of all runs in the order in which their records were sealed."""
        for _, line in journal.read(self.journal):
            entry = _entry(line)
            if entry.get("kind") == "record":
                yield str(entry["run"])

    def has_runs(self) -> bool:
        """Say whether the store holds any record."""
        return next(self.run_ids(), None) is not None

    def alive(self, run_id: str) -> str:
        """Return RUNNING, LOST or UNKNOWN for a run without an outcome: by its lock, not by a guess."""
        lock = self.run_folder(run_id) / "lock"
        try:
            holder = json.loads(lock.read_bytes() or b"{}")
            if holder.get("host") not in (None, os.uname().nodename):
                return "UNKNOWN"
            return "RUNNING" if locks.is_held(lock) else "LOST"
        except (OSError, ValueError):
            return "LOST"


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
