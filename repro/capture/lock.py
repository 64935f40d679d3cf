"""The lockfile in force, and whether the environment matches it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from repro.base import digest
from repro.capture.packages import Distribution, normalise

_TOML = ("pylock.toml", "uv.lock", "poetry.lock", "pdm.lock")
_TEXT = ("requirements.lock", "requirements.txt")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)")
_MOST = 20


def describe(root: Path, installed: list[Distribution]) -> dict[str, Any]:
    """Return the lock of ``root`` that fits best, and how the installed distributions differ from it."""
    versions = {item.name: item.version for item in installed}
    compared = (_compare(path, root, versions) for path in _candidates(root))
    found = [item for item in compared if item is not None]
    return min(found, key=lambda item: (not item["hashes"], item["differ"]), default={"lock": None})


def _candidates(root: Path) -> list[Path]:
    named = [root / name for name in (*_TOML, *_TEXT)]
    return [*sorted(root.glob("lockfiles/*.txt")), *(path for path in named if path.exists())]


def _compare(path: Path, root: Path, versions: dict[str, str]) -> dict[str, Any] | None:
    pins = _pins(path)
    if not pins:
        return None
    differ = [
        f"{name}: locked {want}, here {versions.get(name, 'none')}"
        for name, want in sorted(pins.items())
        if versions.get(name) != want
    ]
    return {
        "lock": path.relative_to(root).as_posix(),
        "digest": digest.of_file(path),
        "hashes": path.suffix != ".txt" or "--hash=" in path.read_text(encoding="utf-8", errors="replace"),
        "matches": not differ,
        "differ": len(differ),
        "differences": differ[:_MOST],
    }


def _pins(path: Path) -> dict[str, str]:
    if path.suffix == ".txt" or path.name == "requirements.lock":
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = (_PIN.match(line) for line in lines)
        return {normalise(item[1]): item[2] for item in found if item is not None}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}
    packages = tables.get("package") or tables.get("packages") or []
    return {normalise(item["name"]): str(item["version"]) for item in packages if "name" in item and "version" in item}
