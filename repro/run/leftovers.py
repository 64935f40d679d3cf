"""Files: what a run read that is not its code, what it left, and which source was edited behind its back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.base import caches, digest, files, locks
from repro.capture.code import begins_as_key, holds_token, own_streams
from repro.capture.data import StatCache
from repro.capture.variables import keyed
from repro.capture.walk import is_secret, is_secret_folder, walk
from repro.errors import StoreError
from repro.record.values import FETCHED, KEPT, FileDigest
from repro.run import observed as observations
from repro.run.observed import Observed
from repro.store.store import Store

Stat = tuple[int, int, int]
#: So many bytes of one input are kept in the store, and of all inputs of a run; and so many files of a run: to keep
#: one takes 12 ms, which the user waits for.
_MOST_OF_ONE = 8_000_000
_MOST_KEPT = 64_000_000
_MOST_FILES_KEPT = 100
#: The bits of a mode that let the group and all others read.
_READERS = 0o044
#: Files that people write, also while a run goes on.
_SOURCES = (".py", ".pyi", ".pyx", ".ipynb", ".sh", ".yaml", ".yml", ".toml")


class Left(NamedTuple):
    """What a run read and left: inputs, outputs (outside by absolute path), edited sources, stats."""

    inputs: list[FileDigest]
    outputs: list[FileDigest]
    edited: list[str]
    stats: list[tuple[str, Stat]]


class Place(NamedTuple):
    """Where a run's project lay (``root``) and where it ran: there, or in a replay's mirror of the whole disk."""

    root: Path
    folder: Path

    def name(self, path: str) -> str:
        """Return a path relative to the project if it lies in it, else the path outside that it stands for."""
        if path.startswith(f"{self.folder}{os.sep}"):
            return os.path.relpath(path, self.folder)
        mirror = str(self.folder).removesuffix(str(self.root))
        return path.removeprefix(mirror) if path.startswith(f"{mirror}{os.sep}") else path


def inputs(
    observed: Observed, place: Place, code: Container[str], started_ns: int, store: Store, kept: dict[str, str]
) -> list[FileDigest]:
    """Return the files that the run read and that are neither its code nor installed: paths relative to the project.

    A file that changed after the run began is taken for its own, by a writer that nobody saw; but what it fetched into
    a cache came from outside, and is known by what it was in the end.
    """
    cache = StatCache(store.cache / "files.json")
    found = []
    room, left = _MOST_KEPT, _MOST_FILES_KEPT
    for path, stat in sorted(observed.reads.items()):
        name = place.name(path)
        is_fetched = path in observed.fetched
        if name not in code and (stat[1] < started_ns or path in kept or is_fetched):
            item = _input(path, name, stat, cache, store, kept)
            if is_fetched and item.digest is None and path in observed.writes:
                continue  # the run's own, written again after it was read
            if is_fetched and item.digest is not None and path not in kept:
                item = msgspec.structs.replace(item, note=FETCHED)
            found.append(item)
            taken = _keep(path, item, store, room) if left else None
            if taken is not None:
                room, left = room - taken, left - 1
    cache.save()
    return found


def _keep(path: str, item: FileDigest, store: Store, room: int) -> int | None:
    """Keep the bytes of a small input, so that a change of it can be undone; return how much room that took.

    What an averaged model reads of its members is in the store already.
    """
    if os.path.realpath(path).startswith(f"{store.runs}{os.sep}"):
        return None
    is_small = item.size <= min(_MOST_OF_ONE, room)
    if not is_small or item.note is not None or not (item.digest or "").startswith("sha256:"):
        return None
    try:
        if _is_private(path, item.path) or holds_token(Path(path), item.size):
            return None
        store.objects.keep(Path(path), str(item.digest))
    except (OSError, StoreError):  # a file that is gone, a full disk: the run is worth more than this copy
        return None
    return item.size


def may_hold_secrets(name: str) -> bool:
    """Say whether a file may hold a password or a key, by its name (``api_token.txt``) and the folders it lies in."""
    *folders, last = name.split(os.sep)
    return any(map(is_secret_folder, folders)) or is_secret(last)


def _is_private(path: str, name: str) -> bool:
    """Say whether a file is not for the store: its mode hides it from others, or it is a program's own.

    Outside of the project, programs keep their settings in hidden folders, and tokens in those under any name
    (``~/.config/gh/hosts.yml``).
    """
    is_hidden = os.path.isabs(name) and any(part.startswith(".") for part in name.split(os.sep))
    return is_hidden or bool(_READERS & ~_umask() & ~os.stat(path).st_mode)


def _umask() -> int:
    """Return the bits of a mode that this user's files lack anyway (proc(5), Umask)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
        found = next((line for line in handle if line.startswith("Umask:")), "Umask: 0022")
    return int(found.split()[1], 8)


def _input(path: str, name: str, stat: Stat, cache: StatCache, store: Store, kept: dict[str, str]) -> FileDigest:
    if path in kept:
        return FileDigest(path=name, size=stat[0], digest=kept[path], note=KEPT)
    try:
        now = os.stat(path)
        value = cache.digest(path)
    except OSError as error:
        return FileDigest(path=name, size=stat[0], digest=None, note=f"could not be read any more: {error.strerror}")
    if (now.st_size, now.st_mtime_ns, now.st_ino) != stat:
        return FileDigest(path=name, size=stat[0], digest=None, note="changed while the run went on")
    if may_hold_secrets(name) or begins_as_key(Path(path), now.st_size):
        return FileDigest(path=name, size=stat[0], digest=f"keyed:{keyed(value, store.key)}", note="may hold secrets")
    return FileDigest(path=name, size=now.st_size, digest=value)


def digest_now(item: FileDigest, path: Path, cache: StatCache, store: Store) -> str | None:
    """Return the digest that an input has today at ``path``, in the form of the recorded one; None if it is gone."""
    if not path.is_file():
        return None
    found = cache.digest(str(path))
    is_keyed = item.digest is not None and item.digest.startswith("keyed:")
    return f"keyed:{keyed(found, store.key)}" if is_keyed else found


def is_unchanged(item: FileDigest, now: str | None) -> bool:
    """Say whether an input with the digest of today is as it was read, or gone from where it is fetched again."""
    return now == item.digest if now is not None else item.note == FETCHED


def edited(observed: Observed, place: Place, code: dict[str, Stat]) -> list[str]:
    """Name the sources that were edited between their capture and the moment they were read."""
    named = ((place.name(path), path, stat) for path, stat in observed.reads.items())
    return sorted(name for name, path, stat in named if code.get(name, stat) != stat and path not in observed.writes)


def outputs(
    place: Path,
    store: Store,
    started_ns: int,
    observed: Observed,
    code: dict[str, Stat],
    *,
    alone: bool,
    hidden_writers: bool,
) -> list[tuple[str, Stat]]:
    """Return the files under ``place`` that changed since the run began, and their stat now.

    Where other runs went on beside it (not ``alone``), only files that its own processes were seen to write count.
    Code that was not seen to be written was edited by the user meanwhile, unless the command is one whose writing
    nobody sees (``hidden_writers``: a shell script).
    """
    own = set(observed.writes)
    streams = own_streams()
    found = {}
    for name in _files(place, store.folder):
        path = os.path.join(place, name)
        stat = stat_of(path)
        if stat is None or code.get(name) == stat or stat[2] in streams or _changed_ns(path) < started_ns:
            continue
        is_code = name in code or name.endswith(_SOURCES)
        if path in own or observed.in_cache(path) or (alone and (hidden_writers or not is_code)):
            found[name] = stat
    return sorted(found.items())


def outside(observed: Observed, place: Place, at: Callable[[str], str]) -> list[FileDigest]:
    """Return the files that the run wrote outside its folder and that are still there; caches do not count.

    ``at`` says where what it wrote to a path lies: it may have been kept from there by a layer.
    """
    away = (path for path in observed.writes if not path.startswith(f"{place.folder}{os.sep}"))
    there = sorted((path, at(path)) for path in away if os.path.isfile(at(path)) and not is_cache(path, observed))
    stats = ((path, source, stat_of(source)) for path, source in there)
    return [_digest(Path(source), place.name(path), stat) for path, source, stat in stats if stat is not None]


def is_cache(path: str, observed: Observed) -> bool:
    """Say whether a file that a run wrote is in a cache: it is no output."""
    return caches.lies_beside(path) or observed.in_cache(path)


def _files(place: Path, store: Path) -> Iterable[str]:
    layout = walk(place, store)
    for folder in ["", *layout.folders]:
        try:
            with os.scandir(place / folder) as entries:
                files = [entry.name for entry in entries if entry.is_symlink() or entry.is_file()]
        except OSError:
            continue
        yield from (os.path.join(folder, name) for name in files)


def stat_of(path: str) -> Stat | None:
    """Return size, time and inode of a file, or None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _changed_ns(path: str) -> int:
    try:
        return os.lstat(path).st_ctime_ns
    except OSError:
        return 0


def digests(names: Iterable[tuple[str, Stat]], place: Path) -> list[FileDigest]:
    """Return size and digest of each file; of a link, those of what it says."""
    return [_digest(place / name, name, stat) for name, stat in names]


def _digest(path: Path, name: str, stat: Stat) -> FileDigest:
    try:
        if path.is_symlink():
            text = os.readlink(path)
            return FileDigest(path=name, size=stat[0], digest=digest.of_bytes(os.fsencode(text)), note="a link")
        return FileDigest(path=name, size=stat[0], digest=digest.of_file(path))
    except OSError as error:
        return FileDigest(path=name, size=stat[0], digest=None, note=error.strerror)


def known_outputs(store: Store, root: Path) -> dict[str, Stat]:
    """Return the files that earlier runs left in this project, with their stat then; a cache, rebuilt when missing."""
    path = _outputs_path(store, root)
    try:
        return {name: tuple(stat) for name, stat in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return _rebuild_outputs(store, root)


def not_code(store: Store, root: Path) -> dict[str, Stat | None]:
    """Return the files of a project that runs left, with their stat, or are writing now, with None."""
    writing: dict[str, Stat | None] = {}
    for run_id in store.open_runs():
        try:
            writes = observations.read(store.run_folder(run_id)).writes
        except (ValueError, KeyError, TypeError, OSError):  # what is not ours in a killed run: recovery sees to it
            continue
        for path in writes:
            if path.startswith(f"{root}{os.sep}"):
                writing[os.path.relpath(path, root)] = None
    return {**known_outputs(store, root), **writing}


def _rebuild_outputs(store: Store, root: Path) -> dict[str, Stat]:
    last: dict[str, str | None] = {}
    for run_id in store.run_ids():
        outcome = store.outcome(run_id)
        record = store.record(run_id) if outcome is not None and outcome.outputs else None
        if outcome is not None and record is not None and record.circumstances["project"]["place"] == str(root):
            last |= {item.path: item.digest for item in outcome.outputs}
    found = {}
    for name, value in last.items():
        stat = stat_of(str(root / name))
        if stat is not None and value is not None and _digest(root / name, name, stat).digest == value:
            found[name] = stat
    return found


def remember_outputs(store: Store, root: Path, left: Iterable[tuple[str, Stat]]) -> None:
    """Add what a run left to the known outputs of its project; on a full disk they are made anew when asked for."""
    path = _outputs_path(store, root)
    try:
        with locks.exclusive(store.cache / "outputs.lock"):
            known = known_outputs(store, root) | dict(left)
            files.replace(path, json.dumps(known).encode())
    except StoreError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remember(store: Store, root: Path, paths: Iterable[Path]) -> None:
    """Add files that `repro` itself wrote to the known outputs; those outside of the project are no code anyway."""
    inside = ((os.path.relpath(path.resolve(), root.resolve()), stat_of(str(path))) for path in paths)
    left = [(name, stat) for name, stat in inside if stat is not None and not name.startswith("..")]
    remember_outputs(store, root, left)


def _outputs_path(store: Store, root: Path) -> Path:
    return store.cache / f"outputs-{digest.of_bytes(os.fsencode(root))[7:23]}.json"
