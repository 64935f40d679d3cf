"""The commit that the user's repository stands at, kept so that a replay can be a repository of its own.

The user's `.git` is only read. What is kept is the commit with its tree, not the history before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.capture import git
from repro.store.code import CodeRepository

_BLOBS = ("100644", "100755", "120000")


def keep(root: Path, code: CodeRepository) -> dict[str, Any]:
    """Keep the commit at HEAD; return its id, its bytes (as Latin-1), its tree, what is staged, and its tags.

    Empty where there is none. The tree is put into ``code`` with every object of it, and so is what is staged.

    Raises:
        OSError, subprocess.SubprocessError, CaptureError: when git does not answer, or an object is not there.
    """
    if not (root / ".git").exists():
        return {}
    answer, _, body = git.ask(root, "cat-file", "--batch", stdin=b"HEAD\n").partition(b"\n")
    name, kind, *size = answer.decode().split(" ")
    if kind != "commit":  # no commit yet: "HEAD missing"
        return {}
    text = body[: int(size[0])]
    tree = text.partition(b"\n")[0].split()[1].decode()
    staged = _staged(root, name)
    needed = [] if code.has(f"git:{tree}") else _objects(root, name, tree)
    _copy(root, [*needed, *(item[1] for item in staged if item[0] in _BLOBS)], code)
    tags = git.ask(root, "tag", "--points-at", name).decode(errors="replace").split()
    return {"commit": name, "object": text.decode("latin-1"), "tree": f"git:{tree}", "staged": staged, "tags": tags}


def _staged(root: Path, commit: str) -> list[list[str]]:
    """Return mode (0: removed), object and path (as Latin-1) of each entry of the index that is not the commit's."""
    parts = git.ask(root, "diff-index", "--cached", "--no-renames", "-z", commit).decode("latin-1").split("\0")
    entries = zip(parts[::2], parts[1::2], strict=False)
    return [[_mode(words), words.split()[3], path] for words, path in entries]


def _mode(words: str) -> str:
    mode = words.split()[1]
    return "0" if mode == "000000" else mode


def _objects(root: Path, commit: str, tree: str) -> list[str]:
    """Return the ids of all objects of a commit's tree, less the commits of submodules."""
    lines = git.ask(root, "ls-tree", "-r", "-t", "-z", commit).split(b"\0")[:-1]
    return [tree, *(line.split()[2].decode() for line in lines if line.split()[0].decode() in (*_BLOBS, "040000"))]


def _copy(root: Path, names: list[str], code: CodeRepository) -> None:
    """Copy those objects that the code does not have: of a clean tree that is none but folders."""
    missing = code.lacking(sorted(set(names))) if names else []
    if missing:
        listing = "".join(f"{item}\n" for item in missing).encode()
        code.add(git.ask(root, "pack-objects", "--stdout", "-q", stdin=listing))
