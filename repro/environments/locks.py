"""A lock as a value: what is pinned, by which hashes, for which interpreter and index; its text and its name."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable
from typing import NamedTuple

from repro.base import digest
from repro.capture.packages import normalise

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_MARK = re.compile(r"^# (inputs|pins): (sha256:[0-9a-f]{64})$", re.MULTILINE)


class Pin(NamedTuple):
    """One distribution of a lock: its PEP 503 name, its version, and the SHA-256 of each file that may be taken."""

    name: str
    version: str
    hashes: tuple[str, ...]


def parse(text: str) -> list[Pin]:
    """Return the pins of a requirements file; lines that pin nothing are passed over."""
    joined = re.sub(r"\\\n", " ", text)
    found = []
    for line in joined.splitlines():
        pin = _PIN.match(line.strip())
        if pin is not None:
            found.append(Pin(normalise(pin[1]), pin[2], tuple(sorted(_HASH.findall(line)))))
    return sorted(found)


def render(pins: Iterable[Pin], head: Iterable[str] = ()) -> str:
    """Return pins as a requirements file with hashes, sorted, with comment lines at its head."""
    lines = [f"# {line}".rstrip() for line in head]
    for pin in sorted(pins):
        lines += [f"{pin.name}=={pin.version}" + "".join(f" \\\n    --hash={item}" for item in sorted(pin.hashes))]
    return "\n".join(lines) + "\n"


def pins_digest(pins: Iterable[Pin]) -> str:
    """Return the digest of what a lock pins, whatever its comments and order."""
    return digest.of_value("lock/1", sorted([pin.name, pin.version, sorted(pin.hashes)] for pin in pins))


def marks(text: str) -> dict[str, str]:
    """Return the digests in the head of a lock of ours: of its inputs, and of its pins."""
    return dict(_MARK.findall(text))


def tag() -> str:
    """Return the interpreter and platform that a lock is for: ``py311-linux-x86_64``."""
    major, minor = sys.version_info[:2]
    return f"py{major}{minor}-{re.sub(r'[^a-z0-9_]+', '-', sysconfig.get_platform())}"


def name_of(pins: Iterable[Pin]) -> str:
    """Return a lock's name: `tag` and, where torch is in it, the index's build of it (``cpu``, ``cu126``, ``pypi``)."""
    torch = next((pin.version for pin in pins if pin.name == "torch"), None)
    if torch is None:
        return tag()
    return f"{tag()}-{normalise(torch.partition('+')[2]) or 'pypi'}"
