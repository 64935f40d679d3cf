"""A folder for runs of one captured project, used for one after the other: what a run left in it is taken away."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from repro.record.values import Record
from repro.replay import restore
from repro.replay.restored import Restored
from repro.store.store import Store

_State = tuple[int, ...]


class Folder:
    """Materialised once, and again only where a run changed or removed something that was there before it."""

    def __init__(self, store: Store, record: Record) -> None:
        self._store = store
        self._record = record
        self._restored: Restored | None = None
        self._before: dict[str, _State] = {}
        self._folder: Path | None = None
        self._lock = -1

    def fresh(self) -> tuple[Restored, bool]:
        """Return the folder as a run is to find it, and whether it was made anew. Raises StoreError and its like."""
        if self._restored is not None and self._clean():
            return self._restored, False
        self.close()
        self._folder, self._lock = self._store.new_work()
        self._restored = restore.restore(self._store, self._record, None, self._folder)
        self._before = dict(_states(str(self._folder)))
        return self._restored, True

    def _clean(self) -> bool:
        """Take away what was not there before; say whether all that was is as it was."""
        try:
            found = dict(_states(str(self._folder)))
            if any(found.get(path) != state for path, state in self._before.items()):
                return False
            for path, state in found.items():
                if path not in self._before and os.path.dirname(path) in self._before:
                    shutil.rmtree(path) if stat.S_ISDIR(state[0]) else os.unlink(path)
        except OSError:  # a folder without rights, or a process that goes on here
            return False
        return True

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = self._restored = None


def _states(folder: str) -> Iterator[tuple[str, _State]]:
    """Yield every folder below one with its mode, and every other thing with what changes when it is changed."""
    yield folder, (os.lstat(folder).st_mode,)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _states(entry.path)
            else:
                found = entry.stat(follow_symlinks=False)
                times = found.st_mtime_ns, found.st_ctime_ns
                yield entry.path, (found.st_mode, found.st_size, *times, found.st_ino)
