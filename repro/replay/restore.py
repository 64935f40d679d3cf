"""A folder in which a run can be earned again: its code, its folders, and links to all that lay beside the code."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Container, Iterable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path

from repro.base import digest
from repro.capture import beside, data
from repro.capture.data import StatCache
from repro.capture.walk import environments, folders_of, is_secret, walk
from repro.errors import ReproError, StoreDamagedError
from repro.record.values import FETCHED, KEPT, FileDigest, Outcome, Record
from repro.replay import repository
from repro.replay.mirror import Mirror
from repro.replay.restored import FromStore, Restored
from repro.run import leftovers
from repro.store.store import Store

#: Where more files lie beside the code, whole folders of them are linked.
MOST_FILES = 20_000


class NotReplayableError(ReproError):
    """Something that a replay needs is missing; not an error of the command line, but a verdict."""

    exit_code = 4


def restore(
    store: Store,
    record: Record,
    outcome: Outcome | None,
    folder: Path,
    *,
    code: str | None = None,
    current_inputs: bool = False,
    put_back: Container[str] = (),
) -> Restored:
    """Materialise a run's code and all that it needs under ``folder``; a replay's is that of the run it replayed.

    ``code`` is another tree to take. A file that has changed since the run read it gets the bytes that the run read,
    where the store kept them; with ``current_inputs`` only those of the names ``put_back`` do.

    Raises:
        StoreDamagedError: when the code or a kept file does not come out as it was recorded.
        NotReplayableError: when a file that the run read is gone.
    """
    first = record.replay_of
    if first is not None and store.run_folder(first).exists():
        options = {"code": code, "current_inputs": current_inputs, "put_back": put_back}
        return restore(store, store.record(first), store.outcome(first), folder, **options)  # type: ignore[arg-type]
    keeps_current = put_back if current_inputs else None
    return _Restoring(store, record, outcome, Mirror(folder / "root"), code, keeps_current).restore()


def not_recorded(restored: Restored, paths: Iterable[str]) -> list[str]:
    """Return those of the files that are live code and not what its copy in the replay is."""
    pairs = ((path, live, copy) for path in sorted(paths) for live, copy in restored.live if _is_in(path, live))
    found = ((path, copy + path[len(live) :]) for path, live, copy in pairs if not _is_in(path, copy))
    return [path for path, twin in found if os.path.isfile(twin) and not os.path.islink(twin) and _differ(path, twin)]


def _differ(path: str, twin: str) -> bool:
    return os.path.isfile(path) and digest.of_file(path) != digest.of_file(twin)


class _Restoring:
    """One restoration; ``root`` is where the project lay, ``now`` where it lies: it may have been moved.

    ``put_back`` names the changed inputs that get their recorded bytes; None: all whose bytes the store kept.
    """

    def __init__(
        self,
        store: Store,
        record: Record,
        outcome: Outcome | None,
        mirror: Mirror,
        code: str | None,
        put_back: Container[str] | None,
    ) -> None:
        self.store = store
        self.record = record
        self.outcome = outcome
        self.mirror = mirror
        self.project = record.circumstances["project"]
        self.root = Path(self.project["root"])
        self.now = where_now(store, record)
        sources = record.recipe.sources
        self.code = code or record.recipe.code
        self.gone: list[str] = []
        self.apart: list[str] = []
        self.from_store: list[FromStore] = []
        self.put_back = put_back
        #: The inputs that come from the store, with their digests.
        self.back: dict[Path, str] = {}
        self.trees = {str(self.root): self.code} | {
            self.project["sources"][name]: tree for name, tree in sources.items()
        }

    def restore(self) -> Restored:
        """Go through all steps."""
        for path in sorted(self.trees, key=len):
            self._materialise(path)
        for name in self.project["folders"]:
            self.mirror.folder(self.root / name)
        for path in self.trees:
            self._move_links(path)
        self._link_environments()
        stand = self.mirror.folder(self.project["folder"])
        changed, lost = self._inputs()
        older, other = self._beside()
        if len(older) > MOST_FILES:
            self._link_folders(older, other)
        self._link_inputs()
        self._link_declared()
        if len(older) <= MOST_FILES:
            for name in older:
                self.mirror.link(self.now / name, self.root / name)
        self._make_repository()
        return Restored(
            self.mirror.at(self.root),
            stand,
            tuple(self.live.items()),
            changed,
            lost,
            tuple(self.gone),
            tuple(self.apart),
            tuple(self.from_store),
        )

    def _make_repository(self) -> None:
        """Make the project's place a repository of its own, where the project is known to have been one."""
        facts = self.record.circumstances.get("git", {}).get("value") or {}
        head = self.record.circumstances.get("head") or {}
        if facts:
            with contextlib.suppress(*repository.ERRORS):
                repository.make(self.mirror.at(self.root), head, facts, self.store.code)

    @cached_property
    def live(self) -> dict[str, str]:
        """The live places with their copies."""
        return {path: str(self.mirror.at(path)) for path in self.trees} | {
            str(self.now): str(self.mirror.at(self.root))
        }

    @cached_property
    def written(self) -> set[Path]:
        """The files that the run left, by absolute path."""
        return set() if self.outcome is None else {self.root / item.path for item in self.outcome.outputs}

    def _source(self, path: Path) -> Path:
        """Return where a file of the run lies today."""
        return self.now / path.relative_to(self.root) if path.is_relative_to(self.root) else path

    def _recorded(self, source: Path) -> Path:
        """Return where a file of today lay when the run was made."""
        return self.root / source.relative_to(self.now) if source.is_relative_to(self.now) else source

    def _materialise(self, path: str) -> None:
        self.mirror.clear(path)  # a source in another one came along with it
        self.store.code.materialise(self.trees[path], self.mirror.at(path))

    def _move_links(self, path: str) -> None:
        """Let links in the code that lead into live code lead into its copy; what lies beside the code is linked."""
        for name in map(os.fsdecode, self.store.code.paths(self.trees[path])):
            place = self.mirror.at(path) / name
            if not place.is_symlink():
                continue
            text = os.readlink(place)
            aim = os.path.normpath(os.path.join(path, os.path.dirname(name), text))
            copy = next((self.live[live] + aim[len(live) :] for live in self.live if _is_in(aim, live)), None)
            if os.path.isabs(text) and copy is not None:
                place.unlink()
                place.symlink_to(copy)
            elif copy is None and not os.path.isabs(text) and not self._holds_code(aim):
                self.mirror.link(Path(aim))

    def _link_environments(self) -> None:
        """Link the environments of the project: a command may begin with ``.venv/bin/python``."""
        for name in environments(self.now, self.store.folder):
            self.mirror.link(self.now / name, self.root / name)

    def _is_inside(self, path: Path) -> bool:
        return any(_is_in(str(path), live) for live in self.live)

    def _holds_code(self, folder: str | Path) -> bool:
        return any(_is_in(live, str(folder)) for live in self.live)

    def _inputs(self) -> tuple[list[tuple[str, str | None, str | None]], list[str]]:
        """Put back what the run read beside its code: kept files from the store, others by a link, after a check."""
        cache = StatCache(self.store.cache / "files.json")
        changed: list[tuple[str, str | None, str | None]] = []
        lost = []
        for item in self.outcome.inputs if self.outcome is not None else []:
            if item.note == KEPT and item.digest is not None:
                self._put_back(item.digest, self.mirror.at(self.root / item.path))
                continue
            found = self._check(item, cache)
            if found is None:
                self.gone.append(str(self._source(self.root / item.path)))
            elif item.digest is None:
                lost.append(item.path)
            elif found != item.digest and not self._returns(item, found):
                changed.append((item.path, item.digest, found))
        cache.save()
        return changed, lost

    def _put_back(self, name: str, target: Path) -> None:
        if self.mirror.owns(target.parent):
            self.store.objects.restore(name, target)

    def _check(self, item: FileDigest, cache: StatCache) -> str | None:
        """Return the digest that a file has today, in the form of the recorded one; None where it can be fetched.

        One that is gone is as it was where the store kept its bytes.
        """
        source = self._source(self.root / item.path)
        found = leftovers.digest_now(item, source, cache, self.store)
        if found is None and item.note != FETCHED and self._is_kept(item.digest or ""):
            self._take_from_store(item, None)
            return item.digest
        if found is None and item.note != FETCHED:
            hint = f"put it back ({item.size:,} bytes, {item.digest or item.note})"
            raise NotReplayableError(f"{source} is gone; the run read it", hint=hint)
        return found

    def _returns(self, item: FileDigest, found: str) -> bool:
        """Let an input that has changed have its recorded bytes again, where that is wanted and they were kept."""
        wanted = self.put_back is None or item.path in self.put_back
        if not wanted or item.note == FETCHED or not self._is_kept(item.digest or ""):
            return False
        self._take_from_store(item, found)
        return True

    def _take_from_store(self, item: FileDigest, now: str | None) -> None:
        target, then = self.root / item.path, str(item.digest)
        self.back[target] = then
        self.from_store.append(FromStore(item.path, str(self._source(target)), str(self.mirror.at(target)), then, now))

    def _is_kept(self, name: str) -> bool:
        return name.startswith("sha256:") and self.store.objects.path(name).is_file()

    def _link(self, path: Path) -> None:
        """Link one file of the run; one that it also wrote is copied, one that is put back comes from the store."""
        if path in self.back:
            self._put_back(self.back[path], self.mirror.at(path))
        elif path in self.written:
            self.mirror.copy(self._source(path), path)
        else:
            self.mirror.link(self._source(path), path)

    def _link_inputs(self) -> None:
        """Link what the run read: in the code's folders file by file, elsewhere whole folders unless it wrote there."""
        paths = [self.root / item.path for item in (self.outcome.inputs if self.outcome is not None else [])]
        busy = {path.parent for path in {*self.written, *self.back} if not self._is_inside(path)}
        whole = {path.parent for path in paths if not self._is_inside(path)} - busy
        for folder in busy:
            self.mirror.folder(folder)
        for folder in {path.parent for path in self.back} & busy - {path.parent for path in self.written}:
            self._link_rest(folder)
        for folder in sorted(folder for folder in whole if not self._holds_code(folder)):
            self.mirror.link(folder)
        for path in paths:
            self._link(path)

    def _link_rest(self, folder: Path) -> None:
        """Link what else lies in a folder: a reader that nobody saw may have read it."""
        with contextlib.suppress(FileNotFoundError):
            for child in sorted(folder.iterdir()):
                is_mixed = self._holds_code(child) or any(path.is_relative_to(child) for path in self.back)
                if not is_mixed:
                    self.mirror.link(child)

    def _link_declared(self) -> None:
        """Link declared data: folders whole, so that they can be listed, unless the run wrote there.

        Raises:
            NotReplayableError: when there is nothing any more.
        """
        own = {*self.written, *self.back}
        for name, where in self.record.circumstances["launch"]["data"].items():
            found = list(self._expand(where))
            if not found and not self._is_back(where):
                raise NotReplayableError(f"data.{name}: nothing is at {where} any more", hint=f"put back {where}")
            for aim, source in found:
                if aim in self.back:
                    continue
                if source.is_dir() and any(item.is_relative_to(aim) for item in own):
                    self.mirror.link_files(source, aim, without=own)
                else:
                    self.mirror.link(source, aim)

    def _expand(self, where: str) -> Iterator[tuple[Path, Path]]:
        """Yield the places of one declared item (a file, a folder, a glob): as the run had it, and where it is now."""
        place, pattern = data.split(where, self._source(Path(self.project["folder"])))
        found = [place] if pattern is None else sorted(place.glob(pattern))
        yield from ((self._recorded(source), source) for source in found if source.exists())

    def _is_back(self, where: str) -> bool:
        """Say whether files of a declared item that is gone have come from the store."""
        place, pattern = data.split(where, self._source(Path(self.project["folder"])))
        back = [self._source(path) for path in self.back]
        if pattern is None:
            return any(path.is_relative_to(place) for path in back)
        return any(path.relative_to(place).match(pattern) for path in back if path.is_relative_to(place))

    def _beside(self) -> tuple[list[str], list[str]]:
        """Return what else lay in the project when the run began, and all other files, relative to the project.

        A reader or a listing that nobody saw is to find what it found then, and not what came later.
        """
        listed = self._listing()
        older: list[str] = []
        other: list[str] = []
        for entry in beside.files(self.now, walk(self.now, self.store.folder).folders):
            name = entry.path[len(str(self.now)) + 1 :]
            is_free = listed is None and self._is_older(entry) and not is_secret(entry.name)
            if listed is None or name not in listed:
                (older if is_free and not self._is_there(name) else other).append(name)
        if listed is not None:
            older = [name for name in listed if os.path.lexists(self.now / name) and not self._is_there(name)]
            self._tell(listed, older, [name for name in other if not self._is_there(name)])
        return older, other

    def _listing(self) -> dict[str, int] | None:
        """Return what was listed when the run began; None where nothing was."""
        name = self.project.get("beside")
        if name in (None, beside.EMPTY):
            return None if name is None else {}
        try:
            return beside.read(self.store.objects.path(name).read_bytes())
        except (OSError, ValueError, zlib.error) as error:
            where = self.store.objects.path(name)
            raise StoreDamagedError(f"{where} is no listing: {error}", hint="repro verify") from error

    def _is_older(self, entry: os.DirEntry[str]) -> bool:
        """Say whether a file has not changed since the run began, by its times."""
        began = datetime.fromisoformat(self.record.created).timestamp() * 1e9
        try:
            return entry.stat(follow_symlinks=False).st_ctime_ns < began
        except OSError:
            return False

    def _is_there(self, name: str) -> bool:
        return os.path.lexists(self.mirror.at(self.root / name))

    def _tell(self, listed: dict[str, int], older: list[str], later: list[str]) -> None:
        """Name what is not in the replay as the run had it: what came later, is gone, or has another size."""
        known = {item.path for item in (*self.outcome.inputs, *self.outcome.outputs)} if self.outcome else set()
        sizes = {name: os.lstat(self.now / name).st_size for name in older}
        gone = (name for name in listed if name not in sizes and not self._is_there(name))
        self.apart += [f"{name}: came after the run began, and is left out" for name in later if name not in known]
        self.apart += [f"{name}: lay there when the run began, and is gone" for name in gone if name not in known]
        self.apart += [
            f"{name}: had {listed[name]:,} bytes when the run began, has {size:,}"
            for name, size in sizes.items()
            if size != listed[name] and name not in known
        ]

    def _link_folders(self, older: list[str], other: list[str]) -> None:
        """Link the topmost folders that hold nothing but such files."""
        code = map(os.fsdecode, self.store.code.paths(self.code))
        own = {*self.written, *self.back}
        written = (str(path.relative_to(self.root)) for path in own if path.is_relative_to(self.root))
        mixed = folders_of([*other, *code, *written])
        for name in sorted(folders_of(older) - mixed):
            if os.path.dirname(name) in mixed:
                self.mirror.link(self.now / name, self.root / name)


def where_now(store: Store, record: Record) -> Path:
    """Return where a run's project lies today: where it lay, or around its store if both were moved together."""
    project = record.circumstances["project"]
    root, recorded = Path(project["root"]), Path(project["store"])
    if not root.is_dir() and recorded.is_relative_to(root) and store.folder.parts[-1:] == recorded.parts[-1:]:
        depth = len(recorded.relative_to(root).parts)
        return store.folder.parents[depth - 1]
    return root


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
