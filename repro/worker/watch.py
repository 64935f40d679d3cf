"""What files this process reads and writes, seen by an audit hook (PEP 578), and what it must not touch.

The hook sees every open by Python code. Readers and writers in C (h5py, pyarrow, torch.save's own writer) are not
seen by it; torch.save is told of by `note_write`, and the observed list names such modules when they were loaded.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from _thread import get_ident
from importlib._bootstrap_external import source_from_cache
from typing import Any

from repro.base import caches
from repro.worker import links
from repro.worker.job import Job, Lines

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LISTINGS = ("os.listdir", "os.scandir")
#: Who lists the folders of modules in search of one, or of what is installed: no listing of the script's.
_LIBRARY = os.path.dirname(os.__file__)
_SEARCHES = ("<frozen importlib", f"{_LIBRARY}/importlib/", f"{_LIBRARY}/pkgutil")
_MOST_MISSING = 2_000
#: Audit events that change files by name: where each has the path, and the descriptor the path is relative to.
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "shutil.rmtree": ((0, None),),
}
#: So many bytes of a file outside that is changed are kept, of so many files; and the bits that let others read.
_MOST_OF_ONE, _MOST_COPIES, _READERS = 8_000_000, 100, 0o044
#: A name is looked up before it is connected to: it counts once.
_NETWORK = ("socket.getaddrinfo", "socket.connect")
_TAKING = ("os.remove", "os.rename", "os.truncate", "shutil.rmtree")
_NEW_FILES = ("os.rename", "os.link")
_VARIABLES = ("os.putenv", "os.unsetenv")
#: Those that change the file that a link leads to.
_THROUGH_LINKS = ("os.truncate", "os.chmod", "os.chown", "os.utime")
#: Parts of the operating system: not inputs of an experiment.
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/run/", "/etc/", "/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/")
#: Modules that read or write files without Python's knowledge.
BLIND = ("h5py", "pyarrow", "cv2", "netCDF4", "zarr", "tables", "rasterio", "decord", "av", "lmdb", "safetensors")


class Refused(PermissionError):  # noqa: N818  (scripts may catch OSError; this is one)
    """A replay tried to write outside its own folder."""


class Watcher:
    """One process's list of files read and written, kept as it happens."""

    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed
        self._seen: set[str] = set()
        self._written: set[str] = set()
        self._imported: set[str] = set()
        self._folders: set[str] = set()
        self._keep = frozenset(job.keep)
        self._quiet = tuple(dict.fromkeys([*_interpreter_folders(), job.folder + os.sep]))
        own = (job.root, job.folder, *(copy for _, copy in job.live))  # as named, and where a link leads: of the store
        self._own = tuple(dict.fromkeys(place + os.sep for name in own for place in (name, os.path.realpath(name))))
        self._live = tuple(pair[0] + os.sep for pair in job.live)
        self._free = _free_folders() if job.protect else ()
        self._layers = tuple(place.rstrip(os.sep) + os.sep for place in job.layers)
        self._guarded = frozenset(job.guarded)
        self._touched: set[str] = set()
        self._copies = 0
        self._busy: set[int] = set()
        self._caches: caches.Caches | None = None
        self._told: set[str] = set()

    def install(self) -> None:
        """Start watching; an audit hook cannot be taken off again."""
        changes = _CHANGES
        opened, changed, connected, called = self._opened, self._changed, self._connected, self._called
        imported, listed = self._imported.add, self._listed

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event == "open":
                opened(args)
            elif event in changes:
                changed(event, args)
            elif event == "import":
                imported(args[0])
                if args[1]:  # a compiled module: the dynamic linker reads it
                    opened((args[1], None, 0))
            elif event in _LISTINGS:
                listed(args[0], sys._getframe(1).f_code.co_filename)
            elif event == "sqlite3.connect":
                connected(args[0])
            elif event in _NETWORK:
                called(event, args)
            elif event in _VARIABLES and os.fsdecode(args[0]) in caches.PLACED_BY:
                self._caches = None

        sys.addaudithook(hook)

    def _listed(self, path: Any, by: str) -> None:
        """Take note of a folder of the user's that is listed; in an import, modules that were not there are noted."""
        is_search = by.startswith(_SEARCHES) or "/pkg_resources/" in by
        full = None if is_search or isinstance(path, int) else _absolute(path or ".")
        if full is not None and full not in self._folders and not full.startswith(self._quiet):
            self._folders.add(full)
            if f"{full}/".startswith(self._own):
                self._observed.event("listed", path=full)

    def missing(self) -> list[str]:
        """Return the modules that were looked for and are not there: at the top, or in a package of the user's own."""
        names = (name for name in self._imported if name not in sys.modules)
        return sorted(name for name in names if self._is_own_package(name.rpartition(".")[0]))[:_MOST_MISSING]

    def _is_own_package(self, package: str) -> bool:
        if not package:
            return True
        file = getattr(sys.modules.get(package), "__file__", None)
        return package not in sys.modules or (isinstance(file, str) and file.startswith(self._own))

    def _opened(self, args: tuple[Any, ...]) -> None:
        path, _, flags = args
        thread = get_ident()
        if isinstance(path, int) or path is None or thread in self._busy:
            return
        writing = isinstance(flags, int) and bool(flags & _WRITES)
        if not writing and path in self._seen:
            return
        self._busy.add(thread)
        try:
            full = _absolute(path)
            if full is not None and writing:
                self._write(full, replaces=bool(flags & os.O_TRUNC))
            elif full is not None:
                self._read(path, full)
        finally:
            self._busy.discard(thread)

    def _changed(self, event: str, args: tuple[Any, ...]) -> None:
        thread = get_ident()
        if thread in self._busy:
            return
        self._busy.add(thread)
        try:
            for index, descriptor in _CHANGES[event]:
                if descriptor is not None and len(args) > descriptor and args[descriptor] >= 0:
                    continue
                full = None if isinstance(args[index], int) else _absolute(args[index])
                if full is not None:
                    new = event in _NEW_FILES and index == 1
                    self._change(full, through=event in _THROUGH_LINKS, new=new, takes=event in _TAKING)
        finally:
            self._busy.discard(thread)

    def _change(self, full: str, *, through: bool, new: bool, takes: bool) -> None:
        """See to one path that is about to be changed.

        One may stand for what a link leads to, become a new file, or have what it holds taken away.
        """
        if self._job.protect:
            self._refuse(full)
        if self._job.live and through:
            links.own_copy(full, self._own)
        if new:  # what was at its name gives way, also a link
            self._write(full, through=False)
            return
        place = None if full in self._written else self._away(full)
        if place is not None and place not in self._touched:
            lost = takes and not self._keep_old(place)
            self._touched.add(place)
            self._observed.event("touched", path=place, **self._facts(full, place, lost=lost))

    def _called(self, event: str, args: tuple[Any, ...]) -> None:
        """See to a name that is looked up, or an address that is connected to, of another machine."""
        address = args[:2] if event == "socket.getaddrinfo" else args[1]
        if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[0], (str, bytes)):  # noqa: PLR2004
            return
        host = os.fsdecode(address[0])
        if host.partition(".")[0] == os.uname().nodename.partition(".")[0]:  # torchrun asks for its own machine
            return
        is_number = ":" in host or host.replace(".", "").isdigit()
        if host in ("", "localhost", "::1", "0.0.0.0") or host.startswith("127."):  # noqa: S104  (this machine)
            return
        if is_number == (event == "socket.connect"):
            self._observed.event("network", host=host, port=str(address[1]))

    def _connected(self, database: Any) -> None:
        """See to a database: SQLite opens it past Python, to read and, unless told otherwise, to write."""
        try:
            text = os.fsdecode(database)
        except TypeError:
            return
        if text in ("", ":memory:"):
            return
        name, _, query = text.removeprefix("file:").partition("?") if text.startswith("file:") else (text, "", "")
        full = None if "mode=memory" in query else _absolute(name)
        thread = get_ident()
        if full is None or thread in self._busy:
            return
        self._busy.add(thread)
        try:
            if os.path.exists(full):
                self._read(None, full)
            if "mode=ro" not in query and "immutable=1" not in query:
                self._write(full)
                for beside in ("-wal", "-journal"):  # SQLite goes on from what they hold
                    if self._job.live and os.path.lexists(full + beside):
                        links.own_copy(full + beside, self._own)
        finally:
            self._busy.discard(thread)

    def _read(self, path: Any, full: str) -> None:
        if full.endswith(".pyc"):
            full = _source_of(full)
        known = full in self._seen
        self._seen.add(full)
        if isinstance(path, (str, bytes)) and os.path.isabs(path):
            self._seen.add(path)  # type: ignore[arg-type]
        if known or full.startswith(self._quiet) or self._is_system(full):
            return
        place = self._cache(full)
        if caches.lies_beside(full) or (place is not None and place.kind == "made"):
            return
        try:
            found = os.stat(full)
        except OSError:
            return
        if stat.S_ISREG(found.st_mode) and (place is not None or full not in self._written):
            kept = self._save(full) if full in self._keep else None
            fields = {} if place is None else {"fetched": True, "shared": place.shared}
            now = [found.st_size, found.st_mtime_ns, found.st_ino]
            self._observed.event("read", path=full, stat=now, t=time.time_ns(), kept=kept, **fields)

    def _cache(self, full: str) -> caches.Place | None:
        """Return the cache that a file lies in, and tell of each cache once; a script may name one as it goes."""
        place = self._cache_of(full)
        folder = None if place is None else place.folder(full)
        if place is not None and folder not in self._told:
            self._told.add(str(folder))
            self._observed.event("cache", folder=folder, holds=place.kind)
        return place

    def _cache_of(self, full: str) -> caches.Place | None:
        if self._caches is None:
            self._caches = caches.named(os.environ, (*self._own, *self._live))
        return self._caches.of(full)

    def _save(self, full: str) -> str | None:
        """Keep a copy of an earlier run's output that this run reads: it may be overwritten in a moment."""
        import shutil

        name = f"{time.time_ns():x}"
        try:
            shutil.copyfile(full, os.path.join(self._job.folder, "inputs", name))
        except OSError:
            return None
        return name

    def _write(self, full: str, *, replaces: bool = True, through: bool = True) -> None:
        if self._job.protect:
            self._refuse(full)
        if self._job.live and through:
            links.own_copy(full, self._own)
        if full not in self._written and not full.startswith(("/dev/", "/proc/", self._job.folder + os.sep)):
            self._written.add(full)
            was_read = full in self._seen
            cache, place = self._cache(full), self._away(full)
            if cache is not None and cache.kind == "made":
                return
            if cache is not None:  # what is fetched now is read next
                self._seen.discard(full)
            if place is None:
                self._observed.event("write", path=full, t=time.time_ns())
                return
            lost = (not replaces or was_read) and not self._keep_old(place)
            self._observed.event("write", path=place, away=True, **self._facts(full, place, lost=lost))

    def _facts(self, full: str, place: str, *, lost: bool) -> dict[str, Any]:
        """Return what is told of a place outside that is about to be changed."""
        shared = {} if self._cache_of(full) is None else {"shared": True}
        return {"t": time.time_ns(), "new": not os.path.lexists(place), "lost": lost, **shared}

    def _away(self, full: str) -> str | None:
        """Return the place of a file that lies outside of the run's folders, maybe behind a link; else None.

        A cache of what can be made or fetched again is no such place.
        """
        place = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full))
        is_own = (place + os.sep).startswith((*self._own, *self._quiet, "/dev/", "/proc/", "/sys/"))
        cache = self._cache_of(full)
        is_cache = caches.lies_beside(place + os.sep) or (cache is not None and not cache.shared)
        return None if is_own or is_cache else place

    def _keep_old(self, place: str) -> bool:
        """Keep what a small file outside holds that is about to be changed, for replays to begin with the same.

        Not what others may not read, nor what lies in hidden folders: programs keep tokens there. Say whether nothing
        that was there before the run is lost.
        """
        try:
            found = os.stat(place)
        except OSError:
            return True
        real = os.path.realpath(place)
        if found.st_ctime_ns > self._job.started_ns and (place in self._touched or real in self._written):
            return True  # the run's own
        is_open = stat.S_ISREG(found.st_mode) and bool(found.st_mode & _READERS) and "/." not in place
        if is_open and found.st_size <= _MOST_OF_ONE and self._copies < _MOST_COPIES:
            self._copies += 1
            now, kept = [found.st_size, found.st_mtime_ns, found.st_ino], self._save(place)
            self._observed.event("read", path=place, stat=now, t=time.time_ns(), kept=kept)
            return kept is not None
        return False

    def note_write(self, path: Any) -> None:
        """Tell of a file that is about to be written without Python's knowledge."""
        full = None if isinstance(path, int) else _absolute(path)
        thread = get_ident()
        if full is None or thread in self._busy:
            return
        self._busy.add(thread)
        try:
            self._write(full)
        finally:
            self._busy.discard(thread)

    def _is_system(self, full: str) -> bool:
        return full.startswith(_SYSTEM) and not full.startswith((*self._own, "/dev/shm/"))  # noqa: S108  (data lies there)

    def _refuse(self, full: str) -> None:
        """Raise unless ``full`` lies in the replay's folder, in a cache, or in a free place outside the user's tree."""
        place = os.path.join(os.path.realpath(os.path.dirname(full)), os.path.basename(full)) + os.sep
        if place.startswith((*self._own, *self._layers)):
            return
        is_cache = any(map(self._cache, (full + os.sep, place)))  # the home may lie in the project
        is_free = is_cache or (place.startswith(self._free) and not place.startswith(self._live))
        if is_free and place.removesuffix(os.sep) not in self._guarded:
            return
        if not _is_byte_code(full):  # an import goes on without
            self._observed.event("refused", path=full)
        raise Refused(errno.EACCES, "repro: a replay does not write outside its own folder", full)


def _absolute(path: Any) -> str | None:
    try:
        text = os.fsdecode(path)
        return os.path.normpath(text if text[:1] == "/" else os.path.join(os.getcwd(), text))
    except (OSError, TypeError, ValueError):
        return None


def _is_byte_code(path: str) -> bool:
    return "/__pycache__/" in path + os.sep


def _source_of(byte_code: str) -> str:
    """Return the source of byte code, beside it or under the interpreter's prefix for byte code."""
    folder, name = os.path.split(byte_code)
    if os.path.basename(folder) == "__pycache__":  # also pytest's own, which has a name of its own
        return os.path.join(os.path.dirname(folder), name.split(".", 1)[0] + ".py")
    try:
        return os.path.normpath(source_from_cache(byte_code))
    except (NotImplementedError, ValueError):
        return byte_code


def _interpreter_folders() -> list[str]:
    """Return the folders of installed code: the standard library, site-packages, and this package itself."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sites = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return [folder + os.sep for folder in (os.path.dirname(os.__file__), here, *sites)] + [sys.prefix + "/pyvenv.cfg"]


def _free_folders() -> tuple[str, ...]:
    """Return where a replay may write beside its own folder and caches: temporary files and devices."""
    temporary = next((os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)), "/tmp")  # noqa: S108
    return tuple(os.path.realpath(folder).rstrip("/") + "/" for folder in ("/dev", "/proc", temporary))
