"""How far two results lie apart, in units in the last place, from the bytes that traced and narrowing replays kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from repro.replay.traces import Event, Side

_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """How far two tensors of floating-point numbers lie apart: how many elements there are, and how many differ.

    ``ulp`` is the largest distance in steps from one number to the next; ``relative`` the largest difference as a
    fraction of the largest magnitude before, None where that is 0 or not finite.
    """

    elements: int
    unequal: int
    ulp: int
    relative: float | None


def of_results(sides: tuple[Side, Side], one: Event, other: Event, places: list[int]) -> tuple[int | None, int | None]:
    """Return the largest distance of an operator's unequal results, and how many of their elements differ.

    None where a result was not kept (too large, or no floating-point number).
    """
    far, count = 0, 0
    for place in places:
        kept = [event["b"][place] for event in (one, other) if place < len(event.get("b", ()))]
        if len(kept) < len(sides) or None in kept or one["results"][place] != other["results"][place]:
            return None, None
        data = [_read(side, *item) for side, item in zip(sides, kept, strict=True)]
        found = distance(data[0], data[1], _BITS[one["results"][place][1]])
        far, count = max(far, found[0]), count + found[1]
    return (far, count) if places else (None, None)


def of_values(one: Path, other: Path) -> Distance | None:
    """Return how far the tensors lie apart that two replays kept (`repro.worker.values`), all taken together.

    None where there are none, or none that hold floating-point numbers of one dtype and size.
    """
    import numpy as np

    if not (one.is_file() and other.is_file()):
        return None
    pairs = zip(_tensors(one.read_bytes()), _tensors(other.read_bytes()), strict=False)
    found = [(kind, a, b) for (kind, a), (now, b) in pairs if kind == now and kind in _BITS and len(a) == len(b)]
    if not found:
        return None
    parts = [distance(a, b, _BITS[kind]) for kind, a, b in found]
    before = np.concatenate([_numbers(a, kind) for kind, a, _ in found])
    after = np.concatenate([_numbers(b, kind) for kind, _, b in found])
    with np.errstate(all="ignore"):
        relative = float(np.abs(after - before).max(initial=0) / np.abs(before).max(initial=0))
    return Distance(
        elements=before.size,
        unequal=sum(count for _, count in parts),
        ulp=max(far for far, _ in parts),
        relative=relative if np.isfinite(relative) else None,
    )


def _tensors(data: bytes) -> Iterator[tuple[str, bytes]]:
    while data:
        line, _, data = data.partition(b"\n")
        head = json.loads(line)
        yield head["dtype"], data[: head["size"]]
        data = data[head["size"] :]


def _numbers(data: bytes, kind: str) -> Any:
    """Return numbers as float64: a bfloat16 is the upper half of a float32."""
    import numpy as np

    if kind == "bfloat16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, np.dtype(kind).newbyteorder("<")).astype(np.float64)


def _read(side: Side, name: str, offset: int, size: int) -> bytes:
    with (side.folder / name).open("rb") as handle:
        handle.seek(offset)
        return handle.read(size)


def distance(a: bytes, b: bytes, width: int) -> tuple[int, int]:
    """Return the largest distance in ULP between two arrays of floating-point numbers of ``width`` bits, elementwise.

    It is the number of steps from one number to the next; between 0.0 and -0.0 lie none. Also how many elements differ
    in their bits.
    """
    import numpy as np

    one, other = (np.frombuffer(data, f"<u{width // 8}") for data in (a, b))
    unequal = one != other
    keys = [_places(bits[unequal].astype(np.uint64), width) for bits in (one, other)]
    far = np.maximum(*keys) - np.minimum(*keys)
    return int(far.max(initial=0)), int(unequal.sum())


def _places(bits: Any, width: int) -> Any:
    """Return the places of numbers among all numbers of their kind, from their bits; both zeros have one."""
    import numpy as np

    half = np.uint64(1 << (width - 1))
    magnitudes = bits & (half - np.uint64(1))
    return np.where(bits & half != 0, half - magnitudes, half + magnitudes)
