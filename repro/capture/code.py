"""Which files are the code: tracked, staged, changed and untracked-but-not-ignored ones, of nested repositories too."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from repro.base import process
from repro.capture.walk import Layout, is_secret, walk
from repro.errors import CaptureError
from repro.record.values import Gap
from repro.store.code import CodeRepository

MOST_FILES = 5_000
MOST_BYTES = 200_000_000

Stat = tuple[int, int, int]


class Code(NamedTuple):
    """A captured tree, what lies around it, and the stat of each file when it was read (size, mtime in ns, inode)."""

    tree: str
    layout: Layout
    stats: dict[str, Stat]
    gaps: list[Gap]
    left_out: list[str]


class _Listing(NamedTuple):
    tracked: set[bytes]
    untracked: set[bytes]


def capture(
    root: Path, store: Path, repository: CodeRepository, *, outputs: dict[str, Stat], data: Iterable[str] = ()
) -> Code:
    """Capture the project in ``root`` as a git tree.

    ``outputs`` are files that earlier runs left, with their stat then: they are not code while they are unchanged.
    ``data`` are declared data files or folders, relative to the root.

    Raises:
        CaptureError: when a file of the project cannot be read, or git is missing.
    """
    repository.create()
    layout = walk(root, store)
    listing = _list(root, b"", [*layout.skipped, *_inside(store, root)], repository)
    gaps = [
        Gap(what=name + "/", reason=f"{layout.skipped[name]}; never captured unless tracked")
        for name in _not_ignored(root, list(layout.skipped), repository)
    ]
    candidates = stats(root, listing.untracked - listing.tracked)
    candidates = {path: stat for path, stat in candidates.items() if outputs.get(path) != stat}
    candidates = _without(candidates, list(data))
    secrets = sorted(path for path in candidates if is_secret(PurePosixPath(path).name))
    gaps += [Gap(what=path, reason="may hold secrets; never captured unless tracked") for path in secrets]
    kept, large = _limit({path: stat for path, stat in candidates.items() if path not in secrets})
    gaps += large
    files = stats(root, listing.tracked) | kept
    tree = repository.snapshot(root, [os.fsencode(path) for path in files])
    left_out = sorted([*secrets, *(path for path in candidates if path not in files)])
    return Code(tree, layout, files, gaps, left_out[:MOST_FILES])


def _inside(store: Path, root: Path) -> list[str]:
    return [store.relative_to(root).as_posix()] if store.is_relative_to(root) else []


def _list(root: Path, prefix: bytes, skipped: list[str], repository: CodeRepository) -> _Listing:
    """List the files of one repository, or of a folder without one, and of those nested in it."""
    listing = _Listing(set(), set())
    for item in _ls_files(root, skipped, repository).split(b"\0")[:-1]:
        tag, path = item[:1], item[2:]
        target = root / os.fsdecode(path.rstrip(b"/"))
        if (path.endswith(b"/") or tag == b"H") and target.is_dir() and not target.is_symlink():
            nested = _list(target, prefix + path.rstrip(b"/") + b"/", [], repository)
            listing.tracked.update(nested.tracked)
            listing.untracked.update(nested.untracked)
        elif tag == b"?":
            listing.untracked.add(prefix + path)
        else:
            listing.tracked.add(prefix + path)
    return listing


def _ls_files(root: Path, skipped: list[str], repository: CodeRepository) -> bytes:
    excludes = [f"--exclude=/{_escape(name)}/" for name in skipped]
    return _git(root, repository, "ls-files", "-z", "-t", "-c", "-o", "--exclude-standard", *excludes)


def _not_ignored(root: Path, folders: list[str], repository: CodeRepository) -> list[str]:
    """Return those of the folders that the user's own ignore rules do not name."""
    if not folders:
        return []
    listing = b"".join(os.fsencode(name) + b"/\0" for name in folders)
    ignored = _git(root, repository, "check-ignore", "-z", "--stdin", "--no-index", stdin=listing, codes=(0, 1)).split(
        b"\0"
    )
    return [name for name in folders if os.fsencode(name) + b"/" not in ignored]


def _git(
    root: Path, repository: CodeRepository, *arguments: str, stdin: bytes | None = None, codes: tuple[int, ...] = (0,)
) -> bytes:
    """Ask the user's own git, which knows the user's rules, without letting it write anything."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    if not (root / ".git").exists():
        env |= {
            "GIT_DIR": str(repository.folder),
            "GIT_WORK_TREE": str(root),
            "GIT_INDEX_FILE": str(root / ".git-no-index"),
        }
    settings = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")
    try:
        return process.output(["git", *settings, *arguments], cwd=root, env=env, stdin=stdin)
    except FileNotFoundError as error:
        raise CaptureError("git is not installed", hint="install git: repro keeps the code as git trees") from error
    except subprocess.CalledProcessError as error:
        if error.returncode in codes:
            return bytes(error.stdout)
        words = error.stderr.decode(errors="replace").strip()
        raise CaptureError(f"git cannot list the files of {root}: {words}") from error


def _escape(name: str) -> str:
    return "".join("\\" + character if character in "*?[]\\! #" else character for character in name)


def stats(root: Path, paths: Iterable[bytes]) -> dict[str, Stat]:
    """Return the stat of each path that is a file or a link; a path that is gone is left out."""
    found: dict[str, Stat] = {}
    base = os.fsencode(root) + b"/"
    for path in paths:
        try:
            stat = os.lstat(base + path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        found[os.fsdecode(path)] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return found


def _without(files: dict[str, Stat], data: list[str]) -> dict[str, Stat]:
    folders = tuple(name.rstrip("/") + "/" for name in data)
    return {path: stat for path, stat in files.items() if path not in data and not path.startswith(folders)}


def _limit(files: dict[str, Stat]) -> tuple[dict[str, Stat], list[Gap]]:
    """Leave out folders of very many files, then the largest files beyond the limit; name each with the remedy."""
    gaps: list[Gap] = []
    kept = dict(files)
    while len(kept) > MOST_FILES:
        what, group = _largest_group(kept)
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
    return Gap(what=what, reason=f"{why}: taken for data; `data: {{NAME: {what}}}` declares it, .gitignore ignores it")


def _largest_group(files: dict[str, Stat]) -> tuple[str, set[str]]:
    """Return the folder without Python files, or the files of one kind in a folder, that holds the most files."""
    below: Counter[str] = Counter()
    scripts: set[str] = {""}
    kinds: Counter[str] = Counter()
    for path in files:
        place = PurePosixPath(path)
        parents = [str(parent) for parent in place.parents if str(parent) != "."]
        below.update(parents)
        if place.suffix == ".py":
            scripts.update(parents)
        else:
            kinds[str(place.parent / ("*" + place.suffix))] += 1
    folders = {name: count for name, count in below.items() if name not in scripts and count > MOST_FILES}
    if folders:
        top = min(folders, key=lambda name: (name.count("/"), -folders[name], name))
        return top + "/", {path for path in files if path.startswith(top + "/")}
    what = max(sorted(kinds), key=lambda name: kinds[name]) if kinds else ""
    folder, kind = PurePosixPath(what).parent, PurePosixPath(what).name[1:]
    return what, {path for path in files if PurePosixPath(path).parent == folder and PurePosixPath(path).suffix == kind}
