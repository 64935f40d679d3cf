"""What lay in the project beside its code when a run began: names and sizes of ignored files, as a listing.

A replay shows the run what it could find then. What came later is told by the listing, not by the times of files: these
move with a `chmod`, a hard link, a copy to another disk (docs/adr/0030-what-lay-beside-the-code.md).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from repro.capture.walk import is_secret

#: Of more files no listing is made.
MOST_FILES = 20_000
#: What stands for the digest of a listing of nothing.
EMPTY = "empty"


def files(root: Path, folders: Iterable[str]) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies in these folders of the project (relative to it) and is no folder."""
    for folder in ["", *folders]:
        try:
            with os.scandir(root / folder) as entries:
                found = [entry for entry in entries if entry.name != ".git" and not entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        yield from sorted(found, key=lambda entry: entry.path)


def listing(root: Path, folders: Iterable[str], code: Container[str]) -> bytes | None:
    """Return name and size in bytes of every file that is no code, compressed; None where there are too many.

    Nothing for none. Files whose names say that they hold secrets are left out.
    """
    start = len(str(root)) + 1
    sizes: dict[str, int] = {}
    for entry in files(root, folders):
        name = entry.path[start:]
        if name in code or is_secret(entry.name):
            continue
        try:
            sizes[name] = entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
        if len(sizes) > MOST_FILES:
            return None
    return zlib.compress(json.dumps(sizes, sort_keys=True).encode()) if sizes else b""


def read(data: bytes) -> dict[str, int]:
    """Return the sizes of a listing. Raises ValueError or zlib.error when it is none."""
    return {str(name): int(size) for name, size in json.loads(zlib.decompress(data)).items()}
