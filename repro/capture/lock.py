"""The lockfile in force, and whether the environment matches it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.base import digest
from repro.capture import pins
from repro.capture.packages import Distribution

_TOML = ("pylock.toml", "uv.lock", "poetry.lock", "pdm.lock")
_TEXT = ("requirements.lock", "requirements.txt")
_MOST = 20


def describe(root: Path, installed: list[Distribution], interpreter: str = "") -> dict[str, Any]:
    """Return the lock of ``root`` that fits best, and how the installed distributions differ from it.

    ``interpreter`` (``CPython 3.11.7``) is the one for which environment markers are evaluated; ours unless given.
    """
    versions = {item.name: item.version for item in installed}
    compared = (_compare(path, root, versions, interpreter) for path in _candidates(root))
    found = [item for item in compared if item is not None]
    return min(found, key=lambda item: (not item["hashes"], item["differ"]), default={"lock": None})


def _candidates(root: Path) -> list[Path]:
    named = [root / name for name in (*_TOML, *_TEXT)]
    return [*sorted(root.glob("lockfiles/*.txt")), *(path for path in named if path.exists())]


def _compare(path: Path, root: Path, versions: dict[str, str], interpreter: str) -> dict[str, Any] | None:
    locked = pins.read(path, interpreter)
    if locked is None or not (locked.required or locked.optional):
        return None
    wanted = locked.required | {name: want for name, want in locked.optional.items() if name in versions}
    differ = [
        f"{name}: locked {' or '.join(sorted(want))}, here {versions.get(name, 'none')}"
        for name, want in sorted(wanted.items())
        if versions.get(name) not in want
    ]
    return {
        "lock": path.relative_to(root).as_posix(),
        "digest": digest.of_file(path),
        "hashes": path.suffix != ".txt" or "--hash=" in path.read_text(encoding="utf-8", errors="replace"),
        "matches": not differ,
        "differ": len(differ),
        "differences": differ[:_MOST],
    }
