"""Signatures of the journal's head, made and checked by ``ssh-keygen -Y``: what a hash chain cannot tell by itself.

A signature binds the number and the digest of the journal's last line, and with them every line before it. A journal
that was cut short, or computed anew, no longer has that line.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

from repro.base import canonical, clock, digest, files, journal, locks, process, scratch
from repro.errors import StoreDamagedError, UsageError
from repro.store.store import Store

_NAMESPACE = "repro-journal"


def sign(store: Store, key: Path) -> Path:
    """Sign the journal's head with an SSH key; return the signature's file.

    Raises:
        UsageError: when there is nothing to sign, or ssh-keygen cannot use the key.
    """
    with locks.exclusive(store.folder / "journal.lock"):
        lines = [line for _, line in journal.read(store.journal)]
    if not lines:
        raise UsageError(f"there is nothing to sign in {store.folder}", hint="repro run -- python train.py")
    number, head = len(lines) - 1, digest.of_bytes(lines[-1])
    signature = _ssh_keygen("-Y", "sign", "-f", str(key), "-n", _NAMESPACE, stdin=_message(number, head))
    body = {"seq": number, "head": head, "signature": signature.decode(), "time": clock.now()}
    folder = store.folder / "signatures"
    with files.disk_errors("make", folder):
        folder.mkdir(exist_ok=True)
    path = folder / f"{number:09d}-{clock.new_run_id()}.json"
    files.publish(path, canonical.dumps(body) + b"\n")
    return path


def check(store: Store) -> tuple[list[str], list[str]]:
    """Return what each good signature says, and a fault for each that is not good or whose line is gone."""
    said: list[str] = []
    faults: list[str] = []
    heads = [digest.of_bytes(line) for _, line in journal.read(store.journal)]
    for path in sorted((store.folder / "signatures").glob("*.json")):
        try:
            number, key = _check(path, heads)
            said.append(f"the first {number + 1} journal lines are signed by {key}")
        except (StoreDamagedError, UsageError) as error:
            faults.append(f"signatures/{path.name}: {error}")
    return said, faults


def signers(store: Store, record_digest: str) -> set[str]:
    """Return the keys (``ED25519 key SHA256:...``) whose good signature covers the journal's line of a record."""
    lines = [line for _, line in journal.read(store.journal)]
    place = next((number for number, line in enumerate(lines) if record_digest.encode() in line), None)
    heads = [digest.of_bytes(line) for line in lines]
    found = set()
    for path in sorted((store.folder / "signatures").glob("*.json")) if place is not None else ():
        with contextlib.suppress(StoreDamagedError, UsageError):
            number, key = _check(path, heads)
            if place is not None and number >= place:
                found.add(key)
    return found


def _check(path: Path, heads: list[str]) -> tuple[int, str]:
    """Return the number of the line that is signed, and the key."""
    try:
        body: dict[str, Any] = json.loads(path.read_bytes())
        number, head, signature = int(body["seq"]), str(body["head"]), str(body["signature"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreDamagedError(f"cannot be read: {error}") from error
    with scratch.folder("sign") as place:
        (place / "sig").write_bytes(signature.encode())
        words = ("-Y", "check-novalidate", "-n", _NAMESPACE, "-s", str(place / "sig"))
        answer = _ssh_keygen(*words, stdin=_message(number, head)).decode()
    if number >= len(heads) or heads[number] != head:
        raise StoreDamagedError(
            f"line {number + 1} was signed, and is not in the journal any more: cut or computed anew"
        )
    return number, answer.strip().rpartition(" with ")[2]


def _message(number: int, head: str) -> bytes:
    return f"repro journal\nline {number}\n{head}\n".encode()


def _ssh_keygen(*words: str, stdin: bytes) -> bytes:
    try:
        return process.output(["ssh-keygen", *words], stdin=stdin)
    except FileNotFoundError as error:
        raise UsageError("ssh-keygen is not installed", hint="install OpenSSH's client") from error
    except subprocess.CalledProcessError as error:
        text = (error.stderr or error.stdout).decode(errors="replace").strip()
        raise UsageError(f"ssh-keygen: {text}", hint="--key names a private SSH key: ~/.ssh/id_ed25519") from error
