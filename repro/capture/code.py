"""Which files are the code: tracked, staged, changed and untracked-but-not-ignored ones, of nested repositories too."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from stat import S_ISDIR
from typing import NamedTuple

from repro.base import process
from repro.capture import git, tokens
from repro.capture.data import split
from repro.capture.walk import Layout, folders_of, is_secret, walk
from repro.errors import CaptureError
from repro.record.values import Gap
from repro.store.code import CodeRepository

MOST_FILES = 5_000
MOST_BYTES = 200_000_000
#: A private key in a file of any name: how it begins, and how large such a file may be.
_KEY = re.compile(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----|PuTTY-User-Key-File-")
_BEGINNING = 60
_LARGEST_KEY = 20_000
#: So much of a text is looked through for tokens, and of so many sources.
_LARGEST_TEXT = 100_000
_MOST_TEXTS = 1_000
_SOURCES = (".py", ".pyi", ".ipynb", ".md", ".toml", ".yaml", ".yml")

Stat = tuple[int, int, int]


class Code(NamedTuple):
    """A captured tree, what lies around it, and the stat of each file when it was read (size, mtime in ns, inode)."""

    tree: str
    layout: Layout
    stats: dict[str, Stat]
    gaps: list[Gap]
    left_out: list[str]


class Choice(NamedTuple):
    """Which files are the code: what lies around, their stats, all gaps, those for their size, what is left out."""

    layout: Layout
    files: dict[str, Stat]
    gaps: list[Gap]
    large: list[Gap]
    left_out: list[str]


class _Listing(NamedTuple):
    """Paths tracked by the project or a submodule, by a repository that just lies in it, by none; folders to name."""

    tracked: set[bytes]
    nested: set[bytes]
    untracked: set[bytes]
    skipped: list[str]


def capture(
    root: Path, store: Path, repository: CodeRepository, *, outputs: Mapping[str, Stat | None], data: Iterable[str] = ()
) -> Code:
    """Capture the project in ``root`` as a git tree.

    ``outputs`` are files that runs left, with their stat then: they are not code while they are unchanged; nor is, with
    None, what one is writing.
    ``data`` are declared data files or folders, relative to the root.

    Raises:
        CaptureError: when a file of the project cannot be read, or git is missing.
    """
    chosen = choose(root, store, repository, outputs=outputs, data=data)
    tree = repository.snapshot(root, [os.fsencode(path) for path in chosen.files])
    layout = chosen.layout._replace(folders=chosen.layout.folders[:MOST_FILES])
    return Code(tree, layout, chosen.files, chosen.gaps, chosen.left_out[:MOST_FILES])


def choose(
    root: Path, store: Path, repository: CodeRepository, *, outputs: Mapping[str, Stat | None], data: Iterable[str] = ()
) -> Choice:
    """Return what `capture` would take, and what it would leave out, without reading a file; see there.

    ``repository`` lends its name to git where the project has none.
    """
    repository.create()
    layout = walk(root, store)
    has_git = any((folder / ".git").exists() for folder in (root, *root.parents))
    user = _Repository(root, repository.folder, has_git)
    listing = user.listing([*layout.skipped, *_inside(store, root)])
    gaps = [
        Gap(what=name + "/", reason=f"{layout.skipped[name]}; never captured unless tracked")
        for name in listing.skipped
        if name in layout.skipped
    ]
    candidates = stats(root, (listing.untracked | listing.nested) - listing.tracked)
    candidates = {
        path: stat for path, stat in candidates.items() if path not in outputs or outputs[path] not in (None, stat)
    }
    candidates = _without(candidates, root, list(data), own_streams())
    known = {os.fsdecode(path) for path in listing.nested}
    secrets = sorted(path for path, stat in candidates.items() if path not in known and _is_secret(root, path, stat))
    gaps += [Gap(what=path, reason="may hold secrets; never captured unless tracked") for path in secrets]
    tracked = stats(root, listing.tracked)
    kept, large = _limit({path: stat for path, stat in candidates.items() if path not in secrets}, tracked)
    files = tracked | kept
    gaps += _warnings(root, kept)
    left_out = sorted([*secrets, *(path for path in candidates if path not in files)])
    return Choice(layout, files, [*gaps, *large], large, left_out)


def _warnings(root: Path, files: Mapping[str, Stat]) -> list[Gap]:
    """Name untracked sources that hold what is shaped like a token: they are captured as they are."""
    texts = [path for path in sorted(files) if path.endswith(_SOURCES)][:_MOST_TEXTS]
    reason = "holds what looks like a token or a private key, and is captured as it is"
    return [Gap(what=path, reason=reason) for path in texts if holds_token(root / path, files[path][0])]


def own_streams() -> set[int]:
    """Return the inodes of our own standard output and error: ``repro run -- ... > log.txt`` leaves no code."""
    found = set()
    for descriptor in (1, 2):
        try:
            found.add(os.fstat(descriptor).st_ino)
        except OSError:  # closed
            continue
    return found


def _inside(store: Path, root: Path) -> list[str]:
    """Return where the store lies in the project: a link, and what it leads to, where it is one."""
    places = dict.fromkeys([store, store.resolve()])
    return [place.relative_to(root).as_posix() for place in places if place.is_relative_to(root)]


class _Repository(NamedTuple):
    """A folder that the user's own git is asked about: with its repository, or without one (then ours lends a name)."""

    root: Path
    ours: Path
    has_git: bool

    def listing(self, skipped: list[str]) -> _Listing:
        """List the files of the folder, and of those repositories that lie in it."""
        found = _Listing(set(), set(), set(), [])
        submodules, others = [], []
        for item in self._ls_files(skipped).split(b"\0")[:-1]:
            tag, _, rest = item.partition(b" ")
            if tag != b"?":
                mode, path = rest[:6], rest.partition(b"\t")[2]
                submodules.append(path) if mode == b"160000" else found.tracked.add(path)
            elif rest.endswith(b"/"):
                others.append(rest[:-1])
            else:
                found.untracked.add(rest)
        for folder in sorted({*submodules, *others}):
            self._add(found, folder, skipped, is_submodule=folder in submodules)
        inside = tuple(os.fsdecode(folder) + "/" for folder in (*submodules, *others))
        found.skipped.extend(self._not_ignored([name for name in skipped if not name.startswith(inside)]))
        return found

    def _add(self, listing: _Listing, folder: bytes, skipped: list[str], *, is_submodule: bool) -> None:
        """Add the files of a repository in ``folder``; one that is no submodule is not tracked by the project."""
        prefix = os.fsdecode(folder) + "/"
        place = self.root / os.fsdecode(folder)
        if not place.is_dir() or place.is_symlink():
            return
        inside = [name.removeprefix(prefix) for name in skipped if name.startswith(prefix)]
        found = _Repository(place, self.ours, (place / ".git").exists()).listing(inside)
        start = os.fsencode(prefix)
        listing.untracked.update(start + path for path in found.untracked)
        listing.nested.update(start + path for path in found.nested)
        (listing.tracked if is_submodule else listing.nested).update(start + path for path in found.tracked)
        listing.skipped.extend(prefix + name for name in found.skipped)

    def _ls_files(self, skipped: list[str]) -> bytes:
        ends = (_escape(name) + ("" if (self.root / name).is_symlink() else "/") for name in skipped)
        excludes = ["--exclude=__pycache__/", *(f"--exclude=/{end}" for end in ends)]
        return self._git("ls-files", "-z", "-t", "-s", "-c", "-o", "--exclude-standard", *excludes)

    def _not_ignored(self, folders: list[str]) -> list[str]:
        """Return those of the folders that the user's own ignore rules do not name."""
        folders = [name for name in folders if not (self.root / name).is_symlink()]  # a store's: no folder to git
        if not folders:
            return []
        listing = b"".join(os.fsencode(name) + b"/\0" for name in folders)
        ignored = self._git("check-ignore", "-z", "--stdin", "--no-index", stdin=listing, codes=(0, 1)).split(b"\0")
        return [name for name in folders if os.fsencode(name) + b"/" not in ignored]

    def _git(self, *arguments: str, stdin: bytes | None = None, codes: tuple[int, ...] = (0,)) -> bytes:
        """Ask the user's own git, which knows the user's rules, without letting it write anything."""
        env = git.environment()
        if not self.has_git:
            env |= {"GIT_DIR": str(self.ours), "GIT_WORK_TREE": str(self.root)}
            env |= {"GIT_INDEX_FILE": str(self.root / ".git-no-index")}
        settings = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")
        try:
            return process.output(["git", *settings, *arguments], cwd=self.root, env=env, stdin=stdin)
        except FileNotFoundError as error:
            hint = "install git: repro keeps the code as git trees"
            raise CaptureError("git is not installed", hint=hint) from error
        except subprocess.CalledProcessError as error:
            if error.returncode in codes:
                return bytes(error.stdout)
            words = error.stderr.decode(errors="replace").strip()
            raise CaptureError(f"git cannot list the files of {self.root}: {words}") from error


def _escape(name: str) -> str:
    return "".join("\\" + character if character in "*?[]\\! #" else character for character in name)


def stats(root: Path, paths: Iterable[bytes]) -> dict[str, Stat]:
    """Return the stat of each path that is a file or a link; one that is gone, or lies behind a link, is left out."""
    found: dict[str, Stat] = {}
    base = os.fsencode(root) + b"/"
    real: dict[bytes, bool] = {b"": True}
    for path in paths:
        try:
            stat = os.lstat(base + path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not S_ISDIR(stat.st_mode) and _is_real(base, path.rpartition(b"/")[0], real):
            found[os.fsdecode(path)] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def _is_real(base: bytes, folder: bytes, known: dict[bytes, bool]) -> bool:
    """Say whether neither a folder nor any above it is a link: what lies behind a link is no file of the project's."""
    if folder not in known:
        above = folder.rpartition(b"/")[0]
        known[folder] = _is_real(base, above, known) and not os.path.islink(base + folder)
    return known[folder]


def _is_secret(root: Path, path: str, stat: Stat) -> bool:
    """Say whether an untracked file may hold a secret: by its name, or by a token or a private key in it."""
    if is_secret(PurePosixPath(path).name):
        return True
    return not path.endswith(_SOURCES) and holds_token(root / path, stat[0])


def holds_token(path: Path, size: int) -> bool:
    """Say whether a small file of so many bytes holds what is shaped like a token, or a private key."""
    if size > _LARGEST_TEXT:
        return False
    try:
        with open(path, "rb", opener=_open_regular) as handle:
            beginning = handle.read(_BEGINNING)
            return b"\0" not in beginning and tokens.found_in(beginning + handle.read(_LARGEST_TEXT))
    except OSError:
        return False


def begins_as_key(path: Path, size: int) -> bool:
    """Say whether a file of so many bytes begins as private keys do."""
    if size > _LARGEST_KEY:
        return False
    try:
        with open(path, "rb", opener=_open_regular) as handle:
            return _KEY.match(handle.read(_BEGINNING)) is not None
    except OSError:
        return False


def _open_regular(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _without(files: dict[str, Stat], root: Path, data: list[str], inodes: set[int]) -> dict[str, Stat]:
    """Leave out declared data (files, folders and globs relative to the root), and files by their inode."""
    names, folders = set(data), [name.rstrip("/") + "/" for name in data]
    for place, pattern in (split(name, root) for name in data):
        if pattern is not None and place.is_relative_to(root):
            found = [path.relative_to(root).as_posix() for path in place.glob(pattern)]
            names.update(found)
            folders += [f"{name}/" for name in found]
    return {
        path: stat
        for path, stat in files.items()
        if path not in names and not path.startswith(tuple(folders)) and stat[2] not in inodes
    }


def _limit(files: dict[str, Stat], tracked: Iterable[str]) -> tuple[dict[str, Stat], list[Gap]]:
    """Leave out folders of very many files, then the largest files beyond the limit; name each with the remedy."""
    gaps: list[Gap] = []
    kept = dict(files)
    code = {""} if len(kept) <= MOST_FILES else folders_of([*tracked, *(path for path in kept if path.endswith(".py"))])
    while len(kept) > MOST_FILES:
        what, group = _largest_group(kept, code)
        if len(group) <= MOST_FILES:
            break
        gaps.append(_as_data(what, f"{len(group):,} untracked files, more than {MOST_FILES:,}"))
        kept = {path: stat for path, stat in kept.items() if path not in group}
    total = sum(stat[0] for stat in kept.values())
    for path, stat in sorted(kept.items(), key=lambda item: -item[1][0]):
        if total <= MOST_BYTES:
            break
        total -= stat[0]
        gaps.append(_as_data(path, f"{stat[0]:,} bytes; untracked files exceed {MOST_BYTES:,} in all"))
        del kept[path]
    return kept, gaps


def _as_data(what: str, why: str) -> Gap:
    named = json.dumps(what, ensure_ascii=False)
    return Gap(what=what, reason=f"{why}: taken for data; `data: {{NAME: {named}}}` declares it, .gitignore ignores it")


def _largest_group(files: dict[str, Stat], code: set[str]) -> tuple[str, set[str]]:
    """Return the folder without code, or else the files of one kind in one folder, that holds the most files."""
    below: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    for path in files:
        folder, _, name = path.rpartition("/")
        kinds[folder, _kind(name)] += not name.endswith(".py")
        while folder:
            below[folder] += 1
            folder = folder.rpartition("/")[0]
    folders = {name: count for name, count in below.items() if name not in code and count > MOST_FILES}
    if folders:
        top = min(folders, key=lambda name: (name.count("/"), -folders[name], name))
        return top + "/", {path for path in files if path.startswith(top + "/")}
    folder, kind = max(sorted(kinds), key=lambda item: kinds[item])
    what = f"{folder}/*{kind}" if folder else f"*{kind}"
    return what, {path for path in files if path.rpartition("/")[0] == folder and _kind(path) == kind}


def _kind(path: str) -> str:
    return PurePosixPath(path).suffix
