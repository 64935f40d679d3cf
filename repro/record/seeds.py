"""Where every random number comes from: one master seed, and a spawn key for each use of it.

The entropy of `numpy.random.SeedSequence` is the master seed alone. Purpose, stream name, replicate index and rank
go into the spawn key at fixed width: as entropy they collide (``SeedSequence([7 + 3 * 2**32, 0])`` equals
``SeedSequence([7, 3])``). The key's words are uint32: purpose, the 8 words of the name's SHA-256, the replicate (2
words), the rank (2 words), then the indices of a counter-based stream (2 words each). See docs/adr/0004-seeds.md.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

PURPOSES = {"train": 0, "suggest": 1}
# Every process must start from the same weights and agree on the order of the examples.
WITHOUT_RANK = frozenset({"order", "init"})


def spawn_key(
    name: str, *, purpose: str = "train", replicate: int = 0, rank: int = 0, at: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Return the spawn key of a stream, a tuple of uint32 words.

    Raises:
        KeyError: for an unknown purpose.
        ValueError: for a negative number.
    """
    words = list(struct.unpack(">8I", hashlib.sha256(name.encode()).digest()))
    numbers = (replicate, 0 if name in WITHOUT_RANK else rank, *at)
    if min(numbers) < 0:
        msg = f"replicate, rank and indices must not be negative: {numbers}"
        raise ValueError(msg)
    for number in numbers:
        words += [number >> 32, number & 0xFFFFFFFF]
    return (PURPOSES[purpose], *words)


def sequence(
    master: int, name: str, *, purpose: str = "train", replicate: int = 0, rank: int = 0, at: tuple[int, ...] = ()
) -> np.random.SeedSequence:
    """Return the SeedSequence of a stream. Source: numpy.random.SeedSequence, ``spawn_key``."""
    import numpy as np

    key = spawn_key(name, purpose=purpose, replicate=replicate, rank=rank, at=at)
    return np.random.SeedSequence(master, spawn_key=key)


def integer(
    master: int, name: str, bits: int = 32, *, purpose: str = "train", replicate: int = 0, rank: int = 0
) -> int:
    """Return one integer of ``bits`` bits (32 or 64) drawn from a stream, without numpy.

    SHA-256 of the master seed and the spawn key: numpy need not be imported for it, so a script starts lightly.
    """
    words = spawn_key(name, purpose=purpose, replicate=replicate, rank=rank)
    data = f"repro:seed/1\n{master}\n".encode() + struct.pack(f">{len(words)}I", *words)
    return int.from_bytes(hashlib.sha256(data).digest()[: bits // 8], "big")


def restart(name: str, epoch: int) -> str:
    """Return the name that a seed plan has for a stream which begins anew, under another index, before an epoch."""
    return f"{name}@{epoch}"


def restarts(replicates: Mapping[str, int], epoch: int) -> dict[str, int]:
    """Return the streams that a seed plan lets begin anew before ``epoch``, with the replicate index of each."""
    found = ((*_apart(name), index) for name, index in replicates.items())
    return {stream: index for stream, at, index in found if at == epoch}


def until(replicates: Mapping[str, int], epoch: int) -> dict[str, int]:
    """Return what of a seed plan has an effect before ``epoch``: two runs that agree in it are one until then."""
    return {name: index for name, index in replicates.items() if _apart(name)[1] < epoch}


def _apart(name: str) -> tuple[str, int]:
    """Return stream and epoch of a name in a seed plan; -1 for a stream that has its index from the start."""
    stream, mark, epoch = name.rpartition("@")
    return (stream, int(epoch)) if mark and epoch.isdecimal() else (name, -1)
