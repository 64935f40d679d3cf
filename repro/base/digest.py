"""Tagged content digests: ``sha256:<hex>``, over a form that says what kind of thing was digested."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from repro.base import canonical

_CHUNK = 1 << 20


def of_bytes(data: bytes | memoryview) -> str:
    """Return the tagged SHA-256 of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_value(kind: str, value: Any) -> str:
    """Return the digest of a plain value of a named kind, over its canonical form.

    The kind and its version (``"recipe/1"``) are part of what is digested, so that two kinds never collide.
    """
    return of_bytes(f"repro:{kind}\n".encode() + canonical.dumps(value))


def of_file(path: str | Path) -> str:
    """Return the tagged SHA-256 of a file's bytes. Raises OSError."""
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as handle:
        while chunk := handle.read(_CHUNK):
            state.update(chunk)
    return "sha256:" + state.hexdigest()
