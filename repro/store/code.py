"""Captured code: git trees in a bare repository of the store's own, through an index kept between captures.

The user's git configuration, attributes and filters have no say here: the bytes are those on the disk. Only plumbing
commands are used, with an environment of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from repro.base import files, locks, process, scratch
from repro.errors import CaptureError, StoreDamagedError

_ATTRIBUTES = b"* -text -filter -ident -working-tree-encoding -export-ignore -export-subst\n"
_SETTINGS = {
    "core.fileMode": "true",
    "core.symlinks": "true",
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    "core.ignoreCase": "false",
    "core.protectHFS": "false",
    "core.protectNTFS": "false",
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.hooksPath": "/dev/null",
    "index.skipHash": "false",
    "core.fsync": "loose-object",
    "core.fsyncMethod": "batch",
    "gc.auto": "0",
}
#: An object in what git fsck says: by its file, or by its name; the far end of a broken link is a line of its own.
_OBJECT = re.compile(
    r"^(?!broken link|notice:)(?:.*\bobjects/([0-9a-f]{2})/([0-9a-f]{38})|.*?\b([0-9a-f]{2})([0-9a-f]{38})\b)",
    re.MULTILINE,
)


#: The lines of the configuration that `git init --bare` writes, and the files by which git is sent elsewhere.
_CONFIG = re.compile(
    r"\s*|\[core\]|\s+(repositoryformatversion = 0|bare = true|(filemode|ignorecase|symlinks|precomposeunicode) = \w+)"
)
_OBEYED = (
    "objects/info/alternates",
    "objects/info/http-alternates",
    "commondir",
    "gitdir",
    "config.worktree",
    "info/grafts",
    "info/sparse-checkout",
    "shallow",
    "hooks",
)


_OLD = 3_600  # seconds: no git of ours is at work so long

_MODES = {"100755": " (executable)", "120000": " (a link)"}
_PLAIN = ("--no-ext-diff", "--no-textconv")


class CodeChange(NamedTuple):
    """One file that differs between two trees: A (added), D (deleted), M (modified) or T (type changed)."""

    status: str
    path: str


class CodeRepository:
    """The bare repository of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _git(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        index: Path | None = None,
        tree: Path | None = None,
        held: tuple[int, ...] = (),
    ) -> bytes:
        strangers = self.strangers()
        if strangers:
            raise StoreDamagedError(strangers[0], hint="somebody else wrote it; take it out, then repro verify")
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_DIR": str(self.folder),
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_TERMINAL_PROMPT": "0",
        }
        if index is not None:
            env["GIT_INDEX_FILE"] = str(index)
        if tree is not None:
            env["GIT_WORK_TREE"] = str(tree)
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        try:
            return process.output(["git", *settings, *arguments], env=env, stdin=stdin, cwd=tree, pass_fds=held)
        except FileNotFoundError as error:
            raise CaptureError("git is not installed", hint="install git: repro keeps the code as git trees") from error
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode(errors="replace").strip()
            failed = CaptureError(f"git {arguments[0]} failed in {self.folder}: {words}")
            raise files.refusal(words, self.folder) or failed from error

    def strangers(self) -> list[str]:
        """Return a sentence for each file that makes git obey somebody else than us: it may name programs, and places.

        A store may come from somebody else, and git runs what its configuration names.
        """
        found = [
            f"{self.folder.name}/{name} is none of repro's files"
            for name in _OBEYED
            if os.path.lexists(self.folder / name)
        ]
        if not all(_CONFIG.fullmatch(line) for line in _read(self.folder / "config").decode("latin-1").splitlines()):
            found.append(f"{self.folder.name}/config is not the one that repro writes")
        if _read(self._attributes) not in (b"", _ATTRIBUTES):
            found.append(f"{self.folder.name}/info/attributes is not the one that repro writes")
        return found

    def create(self) -> None:
        """Make the repository if it is not there yet."""
        if self._attributes.exists():
            return
        with files.disk_errors("make", self.folder):
            self._attributes.parent.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self._lock) as lock:
            (self.folder / "config.lock").unlink(missing_ok=True)  # of a git that was killed: none is at work
            self._git("init", "--quiet", "--bare", "--template=", held=(lock,))
            files.replace(self._attributes, _ATTRIBUTES)

    @property
    def _attributes(self) -> Path:
        """The last file that `create` writes."""
        return self.folder / "info" / "attributes"

    @property
    def _lock(self) -> Path:
        return self.folder / "capture.lock"

    def sweep(self) -> None:
        """Remove the temporary files and folders of a git that was killed; none that may still be at work."""
        objects = self.folder / "objects"
        left = [*objects.glob("tmp_*"), *objects.glob("??/tmp_obj_*"), *objects.glob("incoming-*")]
        left += objects.glob("bulk-fsync-*")
        for path in left:
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime > _OLD:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def snapshot(self, root: Path, paths: Iterable[bytes]) -> str:
        """Capture the files of ``paths`` (relative to ``root``) as they are on the disk; return the tree's id.

        Raises:
            CaptureError: when a file cannot be read.
        """
        self.create()
        index = self.folder / ("index-" + hashlib.sha256(os.fsencode(root)).hexdigest()[:16])
        with locks.exclusive(self._lock) as lock:
            index.with_name(f"{index.name}.lock").unlink(missing_ok=True)  # of a git that was killed: none is at work
            if not _is_sound(index):
                index.unlink(missing_ok=True)
            wanted = sorted(set(paths))
            try:
                return self._snapshot(root, index, wanted, (lock,))
            except CaptureError:
                if not index.exists():
                    raise
            index.unlink()  # it is only a cache; a damaged one, or one of lost objects, is made anew
            return self._snapshot(root, index, wanted, (lock,))

    def snapshot_of(self, name: str, data: bytes) -> str:
        """Capture bytes that are no file of the disk; return the id of a tree that has them under ``name``."""
        self.create()
        blob = self._git("hash-object", "-w", "--stdin", stdin=data).strip()
        entry = b"100644 blob " + blob + b"\t" + os.fsencode(name) + b"\0"
        return "git:" + self._git("mktree", "-z", stdin=entry).decode().strip()

    def _snapshot(self, root: Path, index: Path, wanted: list[bytes], held: tuple[int, ...] = ()) -> str:
        """Bring an index up to date and write its tree; git goes on holding ``held`` where we die meanwhile."""
        if index.exists():
            known = self._git("ls-files", "-z", index=index).split(b"\0")[:-1]
            gone = sorted(set(known).difference(wanted))
            if gone:
                self._update(root, index, ["--force-remove"], gone, held)
        self._update(root, index, ["--add", "--remove", "--replace"], wanted, held)
        return "git:" + self._git("write-tree", index=index).decode().strip()

    def _update(self, root: Path, index: Path, how: list[str], paths: list[bytes], held: tuple[int, ...]) -> None:
        listing = b"".join(path + b"\0" for path in paths)
        self._git("update-index", *how, "-z", "--stdin", stdin=listing, index=index, tree=root, held=held)

    def paths(self, tree: str) -> list[bytes]:
        """Return the paths of all files of a tree."""
        return self._git("ls-tree", "-r", "-z", "--name-only", _id(tree)).split(b"\0")[:-1]

    def has(self, tree: str) -> bool:
        """Say whether the tree and everything in it can be read back."""
        try:
            self._git("fsck", "--no-dangling", "--connectivity-only", "--no-progress", _id(tree))
        except CaptureError:
            return False
        return True

    def materialise(self, tree: str, folder: Path) -> None:
        """Write a tree's files into a new folder, and check that reading them again gives the same tree.

        Raises:
            StoreDamagedError: when the tree cannot be read or does not come out equal.
        """
        folder.mkdir(parents=True)
        with scratch.folder("index") as place:
            try:
                self._git("read-tree", _id(tree), index=place / "a")
                self._git("checkout-index", "--all", "--force", index=place / "a", tree=folder)
                back = self._snapshot(folder, place / "b", self.paths(tree))
            except CaptureError as error:
                raise StoreDamagedError(f"the code {tree} cannot be restored: {error}") from error
        if back != tree:
            raise StoreDamagedError(f"the code was restored as {back}, recorded as {tree}", hint="repro verify")

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Return those of some objects, by their ids, that are not here."""
        listing = "".join(f"{name}\n" for name in names).encode()
        answers = self._git("cat-file", "--batch-check=%(objectname)", stdin=listing).decode().splitlines()
        return [line.split()[0] for line in answers if line.endswith(" missing")]

    def add(self, pack: bytes) -> None:
        """Take in the objects of a pack. Raises CaptureError when it is not sound."""
        with locks.exclusive(self._lock):
            self._git("unpack-objects", "-q", stdin=pack)

    def changes(self, before: str, after: str) -> list[CodeChange]:
        """Return the files that differ between two trees."""
        if before == after:
            return []
        parts = self._git("diff-tree", "-r", "-z", "--name-status", "--no-renames", _id(before), _id(after)).split(
            b"\0"
        )
        pairs = zip(parts[:-1:2], parts[1::2], strict=True)
        return [CodeChange(status.decode(), os.fsdecode(path)) for status, path in pairs]

    def line_counts(self, before: str, after: str) -> dict[str, tuple[int | None, int | None]]:
        """Return of each file that differs between two trees the lines added and removed; None for a binary one."""
        said = self._git("diff-tree", "-r", "-z", "--numstat", "--no-renames", *_PLAIN, _id(before), _id(after))
        rows = (row.split(b"\t", 2) for row in said.split(b"\0")[:-1])
        return {os.fsdecode(path): (_number(added), _number(removed)) for added, removed, path in rows}

    def file(self, tree: str, path: str) -> str | None:
        """Return the id of one file's bytes in a tree and its kind, unless plain; None where it is not there."""
        entry = self._entry(tree, path)
        if entry is None:
            return None
        mode, _, name = entry.partition(b"\t")[0].decode().split()
        return f"git:{name}{_MODES.get(mode, '')}"

    def read(self, tree: str, path: str) -> bytes | None:
        """Return the bytes of one file in a tree; None where it is not there."""
        entry = self._entry(tree, path)
        return None if entry is None else self._git("cat-file", "blob", entry.split()[2].decode())

    def _entry(self, tree: str, path: str) -> bytes | None:
        """Return git's line about one file of a tree: of that path, and not of those in a folder of that name."""
        entries = self._git("ls-tree", "-r", "-z", _id(tree), "--", path).split(b"\0")[:-1]
        return next((entry for entry in entries if entry.partition(b"\t")[2] == os.fsencode(path)), None)

    def compose(self, base: str, other: str, paths: Iterable[str]) -> str:
        """Return the tree ``base`` with the files of ``paths`` as ``other`` has them: with its bytes, or not at all."""
        with scratch.folder("index") as place:
            index = place / "index"
            self._git("read-tree", _id(base), index=index)
            for path in paths:
                entry = self._entry(other, path) or b"0 " + b"0" * 40 + b"\t" + os.fsencode(path)
                self._git("update-index", "-z", "--index-info", stdin=entry + b"\0", index=index, tree=place)
            return "git:" + self._git("write-tree", index=index).decode().strip()

    def patch(self, before: str, after: str) -> str:
        """Return the difference of two trees as a patch for people; undecodable bytes are shown as such."""
        said = self._git("diff-tree", "-p", "-r", "--no-color", *_PLAIN, _id(before), _id(after))
        return said.decode(errors="backslashreplace")

    def check(self, trees: Collection[str], *, only: bool = False) -> list[str]:
        """Return a sentence for each file of an object that is missing or not what its name says.

        All objects are looked at, and all that ``trees`` need; with ``only``, just those that they need.
        """
        if not self._attributes.exists():  # nothing was captured yet
            return [f"{self._attributes.relative_to(self.folder.parent)} is missing"] if trees else []
        strangers = self.strangers()
        if strangers:
            return strangers
        try:
            self._git("fsck", "--full", "--no-dangling", "--no-progress", *map(_id, trees))
        except CaptureError as error:
            found = error.__cause__
            if not isinstance(found, subprocess.CalledProcessError):
                raise
            return self._damaged(found.stdout + found.stderr, self._needed(trees) if only else None)
        return []

    def _damaged(self, said: bytes, needed: set[str] | None) -> list[str]:
        names = {
            (found[1] or found[3]) + (found[2] or found[4]) for found in _OBJECT.finditer(said.decode(errors="replace"))
        }
        if not names:
            return [f"{self.folder.name}: {line}" for line in said.decode(errors="replace").splitlines()]
        files = {name: self.folder / "objects" / name[:2] / name[2:] for name in names}
        return [
            f"{path.relative_to(self.folder.parent)} is {'not what its name says' if path.exists() else 'missing'}"
            for name, path in sorted(files.items())
            if needed is None or name in needed
        ]

    def _needed(self, trees: Iterable[str]) -> set[str] | None:
        """Return the names of all objects of the trees, or None where they cannot be listed."""
        found = {_id(tree) for tree in trees}
        try:
            for tree in list(found):
                found.update(line.split()[2].decode() for line in self._git("ls-tree", "-r", "-t", tree).splitlines())
        except CaptureError:
            return None
        return found


def _is_sound(index: Path) -> bool:
    """Say whether an index is as git wrote it: it ends with its SHA-1, which git itself does not look at.

    Source: gitformat-index(5). Of a flipped bit in it git makes a tree that is not that of the disk.
    """
    try:
        data = index.read_bytes()
    except OSError:
        return False
    return hashlib.sha1(data[:-20], usedforsecurity=False).digest() == data[-20:]


def _read(path: Path) -> bytes:
    """Return the bytes of a small file: none where it is not there yet, the error where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        return str(error).encode()


def _number(text: bytes) -> int | None:
    return None if text == b"-" else int(text)


def _id(tree: str) -> str:
    return tree.removeprefix("git:")
