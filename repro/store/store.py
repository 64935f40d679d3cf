"""The store: a folder that holds records, what runs left, and the journal that binds them.

``docs/reference/store.md`` shows the layout. Sealed files are published whole, made read-only, and entered in the
hash-chained journal under its lock; nothing sealed is ever opened for writing again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.base import clock, digest, files, holders, journal, locks, scratch
from repro.errors import StoreDamagedError, StoreError, UsageError
from repro.record.values import Attachment, Outcome, Record, State, seal, unseal
from repro.store.code import CodeRepository
from repro.store.objects import Objects

FORMAT = 1
#: Folders of a run; the supervisor and the processes of the run write there, nobody else.
RUN_FOLDERS = (
    "observed",
    "metrics",
    "trail",
    "loader",
    "checkpoints",
    "artifacts",
    "predictions",
    "averages",
    "inputs",
)
#: What a store's folder may hold before its marker is written.
_PARTS = frozenset({".gitignore", "key", "journal.lock", "runs", "cache", "work", "open", "objects"})


class Store:
    """One store on disk. Opening it creates nothing; `create` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.journal = folder / "journal.jsonl"
        self._journal_lock = folder / "journal.lock"
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
        fresh = not store.exists()
        if fresh:
            store.check_format()
            store._check_place()
        with files.disk_errors("make the store", folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # records hold what not all of a machine may read
            for part in (store.runs, store.cache, store.work, store.open, store.objects.folder):
                part.mkdir(parents=True, exist_ok=True)
        if fresh:
            with locks.exclusive(store._journal_lock):
                store._found()
        store.check_format()
        return store

    def exists(self) -> bool:
        """Say whether there is a store in the folder: the marker is the last file that `create` writes."""
        return self._marker.exists()

    @property
    def _marker(self) -> Path:
        return self.folder / "store.json"

    def _check_place(self) -> None:
        """Raise UsageError where the new store's folder holds something that is no part of a store half made."""
        try:
            strangers = sorted(set(os.listdir(self.folder)) - _PARTS)
        except OSError:  # not there yet, or no folder: making it says what is wrong
            return
        strangers = [name for name in strangers if not name.endswith(files.TEMPORARY)]
        if strangers:
            hint = "REPRO_STORE=/a/folder that is new or empty"
            raise UsageError(f"{self.folder} is not empty and no store: it holds {strangers[0]}", hint=hint)

    def _found(self) -> None:
        if not self.exists():
            files.replace(self.folder / ".gitignore", b"*\n")
            if not (self.folder / "key").exists():
                files.replace(self.folder / "key", secrets.token_hex(32).encode(), mode=0o600)
            files.replace(self._marker, json.dumps({"format": FORMAT}).encode() + b"\n")

    def check_format(self) -> None:
        """Raise StoreDamagedError if this store's format is not the one that this version reads."""
        try:
            found = json.loads(self._marker.read_bytes())["format"]
        except FileNotFoundError:
            if self.journal.exists():
                hint = f"put it back: echo '{{\"format\": {FORMAT}}}' > {self._marker}"
                raise StoreDamagedError(f"{self._marker} is missing", hint=hint) from None
            return
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StoreDamagedError(f"{self._marker} cannot be read: {error}") from error
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

        It is marked as open first, so that a crash leaves nothing that the next writer does not find. The folder gets
        its name when the lock is held, under the journal's lock: nobody takes a run that is just beginning for one
        whose supervisor is gone.
        """
        folder, beginning = self.run_folder(run_id), self._beginning(run_id)
        with locks.exclusive(self._journal_lock), files.disk_errors("make", folder):
            (self.open / run_id).touch()
            for name in RUN_FOLDERS:
                (beginning / name).mkdir(parents=True)
            lock = locks.acquire(beginning / "lock", holders.note())
            beginning.rename(folder)
            files.sync_folder(self.runs)
        return folder, lock

    def _beginning(self, run_id: str) -> Path:
        return self.runs / f".{run_id}"

    def forget(self, run_id: str) -> None:
        """Take away the mark of a run that has no folder, when nobody can be making it any more."""
        with locks.exclusive(self._journal_lock):
            if not self.run_folder(run_id).exists():
                shutil.rmtree(self._beginning(run_id), ignore_errors=True)
                (self.open / run_id).unlink(missing_ok=True)

    def new_work(self) -> tuple[Path, int]:
        """Make a folder for one replay, locked while its supervisor lives; return it and the lock's descriptor."""
        name = clock.new_run_id()
        folder, beginning = self.work / name, self.work / f".{name}"
        with files.disk_errors("make", folder):
            beginning.mkdir(parents=True)
            lock = locks.acquire(beginning / "lock", self._sign_of_ours)
            beginning.rename(folder)
        return folder, lock

    @cached_property
    def _sign_of_ours(self) -> bytes:
        """What the lock of a replay's folder says: that it was made by this store, which may remove it."""
        return f"work of store {digest.of_bytes(b'repro:work' + self.key)}".encode()

    def sweep(self) -> None:
        """Remove the folders of replays whose supervisor was killed; one that was to be kept has the file ``kept``.

        Only what this store made: `work` may be a link to a disk where other things lie. With them goes what killed
        commands left half made where temporary files are and among the objects.
        """
        scratch.sweep()
        self.objects.sweep()
        for folder in self.work.iterdir():
            if self._is_left(folder) and not (folder / "kept").exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _is_left(self, folder: Path) -> bool:
        """Say whether a folder is one that this store made for a replay which is over."""
        lock = folder / "lock"
        if clock.RUN_ID.fullmatch(folder.name.removeprefix(".")) is None or folder.is_symlink() or lock.is_symlink():
            return False
        try:
            is_ours = lock.read_bytes() == self._sign_of_ours
        except OSError:
            return False
        return is_ours and not locks.is_held(lock)

    def seal_record(self, record: Record) -> str:
        """Put a record on the disk, whole, synced, read-only and in the journal; return its digest."""
        return self._seal(self.run_folder(record.run_id) / "record.json", "record", record.run_id, seal(record))

    def seal_outcome(self, outcome: Outcome, complete: Callable[[Outcome], Outcome] = lambda outcome: outcome) -> str:
        """Put an outcome on the disk, with what it names made read-only; return its digest.

        ``complete`` adds what is known at the last moment: to make files read-only and durable takes its time.
        """
        folder = self.run_folder(outcome.run_id)
        files.make_final(folder / name for name in outcome.files)
        outcome = complete(outcome)
        found = self._seal(folder / "outcome.json", "outcome", outcome.run_id, seal(outcome))
        (self.open / outcome.run_id).unlink(missing_ok=True)
        return found

    def attach(self, attachment: Attachment) -> str:
        """Add an attachment to a run; return its digest."""
        folder = self.run_folder(attachment.run_id) / "attachments"
        path = folder / f"{clock.new_run_id()}-{attachment.kind}.json"
        with self._marked(attachment.run_id):
            with files.disk_errors("make", folder):
                folder.mkdir(exist_ok=True)
            return self._seal(path, "attachment", attachment.run_id, seal(attachment))

    @contextlib.contextmanager
    def _marked(self, run_id: str) -> Iterator[None]:
        """Have a run among the open ones, so that after a crash the next writer enters in the journal what is not."""
        lock, mark = self.run_folder(run_id) / "lock", self.open / run_id
        if locks.is_held(lock):  # by its supervisor, and so it has its mark
            yield
            return
        with locks.exclusive(lock):
            with files.disk_errors("make", mark):
                mark.touch()
            try:
                yield
            finally:
                mark.unlink(missing_ok=True)

    def seal_file(self, path: Path, kind: str, data: bytes) -> str:
        """Seal a file of the store that belongs to no run; return its digest."""
        return self._seal(path, kind, "", data)

    def enter(self, kinds: Mapping[Path, str], run_id: str = "") -> None:
        """Enter in the journal what a crash kept out of it: those of these sealed files that it has no line of."""
        with locks.exclusive(self._journal_lock):
            known = {_entry(line).get("path") for _, line in journal.read(self.journal)}
            for path, kind in kinds.items():
                place = path.relative_to(self.folder).as_posix()
                if place not in known and path.exists():
                    entry = {"kind": kind, "run": run_id, "path": place, "digest": digest.of_file(path)}
                    journal.append(self.journal, entry | {"time": clock.now(), "recovered": True})

    def _seal(self, path: Path, kind: str, run_id: str, data: bytes) -> str:
        found = digest.of_bytes(data)
        place = path.relative_to(self.folder).as_posix()
        with locks.exclusive(self._journal_lock):
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
        sealed = {folder / f"{kind}.json": kind for kind in ("record", "outcome")}
        attachments = sorted(folder.glob("attachments/*.json"))
        self.enter(sealed | dict.fromkeys(attachments, "attachment"), run_id)
        for path in (*folder.glob(f".*{files.TEMPORARY}"), *folder.glob(f"attachments/.*{files.TEMPORARY}")):
            path.unlink(missing_ok=True)
        if not (folder / "record.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
        elif not (folder / "outcome.json").exists():
            return False
        (self.open / run_id).unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Have nobody between sealing a file and entering it in the journal meanwhile; nothing is written."""
        with locks.shared(self._journal_lock):
            yield

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

    def others_since(self, end: int, run_id: str) -> bool:
        """Say whether another run was sealed or ended since the journal ended at ``end``, or is open now."""
        lines = (_entry(line) for _, line in journal.read(self.journal, end))
        return any(name != run_id for name in self.open_runs()) or any(entry.get("run") != run_id for entry in lines)

    def open_runs(self) -> list[str]:
        """Return the ids of the runs that are marked as open; what else lies there is no mark."""
        return sorted(path.name for path in self.open.iterdir() if clock.RUN_ID.fullmatch(path.name))

    def run_ids(self) -> Iterator[str]:
        """Yield the ids of all runs in the order in which their records were sealed."""
        for _, line in journal.read(self.journal):
            entry = _entry(line)
            if entry.get("kind") == "record":
                yield str(entry["run"])

    def has_runs(self) -> bool:
        """Say whether the store holds any record."""
        return next(self.run_ids(), None) is not None

    def state(self, run_id: str) -> tuple[State, Outcome | None]:
        """Return the state of a run, and its outcome if it has one; a run may end while we look."""
        alive = self.alive(run_id)
        outcome = self.outcome(run_id)
        return (alive if outcome is None else outcome.state), outcome

    def alive(self, run_id: str) -> holders.State:
        """Return RUNNING, LOST or UNKNOWN for a run without an outcome: by its lock and its lease, not by a guess."""
        lock = self.run_folder(run_id) / "lock"
        try:
            if locks.is_held(lock):
                return "RUNNING"
            found, age = self.holder(run_id), holders.age(lock)
        except FileNotFoundError:
            return "LOST"
        except OSError:  # of another user, or on a server that is away
            return "UNKNOWN"
        return holders.state(found, age, is_local=holders.is_local(lock))

    def holder(self, run_id: str) -> dict[str, Any]:
        """Return what a run's lock says of its supervisor, nothing where it says nothing. Raises OSError."""
        try:
            return _entry((self.run_folder(run_id) / "lock").read_bytes())
        except FileNotFoundError:
            return {}


def _entry(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
