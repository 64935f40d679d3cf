"""A materialised folder as a repository of its own, where the project was one: the recorded commit is its HEAD.

A script may ask git for its commit, or look for the folder that has a `.git`. It finds the folder it runs in, at the
commit and in the state that were recorded; the user's own repository is not needed, and not reached.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.base import process
from repro.store.code import CodeRepository

_VARIABLES = {
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n[gc]\n\tauto = 0\n"


def make(folder: Path, head: Mapping[str, Any], facts: Mapping[str, Any], code: CodeRepository) -> None:
    """Make ``folder`` a repository: ``head`` is what `capture.head.keep` returned, ``facts`` are branch and remotes.

    The objects are those of the store, read through `objects/info/alternates`; what the script adds is its own. The
    history before the commit is not there (a shallow clone). Without ``head``, a repository without a commit.
    """
    place = folder / ".git"
    if os.path.lexists(place):
        return
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (place / name).mkdir(parents=True)
    branch = facts.get("branch") or ("" if head else "main")
    commit = str(head.get("commit", ""))
    (place / "objects/info/alternates").write_bytes(os.fsencode(f"{code.folder.resolve()}/objects\n"))
    (place / "HEAD").write_text(f"ref: refs/heads/{branch}\n" if branch else f"{commit}\n", encoding="utf-8")
    (place / "config").write_text(_CONFIG, encoding="utf-8")
    for name, url in facts.get("remotes", {}).items():
        _git(folder, "config", f"remote.{name}.url", url)
    if not head:
        return
    _git(folder, "hash-object", "-t", "commit", "-w", "--stdin", stdin=str(head["object"]).encode("latin-1"))
    (place / "shallow").write_text(f"{commit}\n", encoding="utf-8")
    refs = [f"refs/tags/{tag}" for tag in head.get("tags", ())] + ([f"refs/heads/{branch}"] if branch else [])
    _git(folder, "update-ref", "--stdin", stdin="".join(f"update {ref} {commit}\n" for ref in refs).encode())
    _git(folder, "read-tree", "HEAD")
    entries = b"".join(f"{mode} {name}\t{path}\0".encode("latin-1") for mode, name, path in head.get("staged", ()))
    if entries:
        _git(folder, "update-index", "-z", "--index-info", stdin=entries)


def _git(folder: Path, *arguments: str, stdin: bytes | None = None) -> None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), **_VARIABLES}
    words = ["git", "-c", "safe.directory=*", *arguments]
    process.output(words, cwd=folder, env=environment | {"GIT_DIR": str(folder / ".git")}, stdin=stdin)


#: What `make` may fail with; a replay goes on without a repository then.
ERRORS = (OSError, subprocess.SubprocessError)
