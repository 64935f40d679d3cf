"""How far two results lie apart, in units in the last place, from the bytes that traced runs kept."""

from __future__ import annotations

from repro.replay.traces import Event, Side

_BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


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

    one, other = (np.frombuffer(data, f"<i{width // 8}") for data in (a, b))
    unequal = one != other
    keys = [_key(int(x), width) for x in one[unequal]], [_key(int(x), width) for x in other[unequal]]
    return max((abs(x - y) for x, y in zip(*keys, strict=True)), default=0), int(unequal.sum())


def _key(bits: int, width: int) -> int:
    """Return a number's place among all numbers of its kind, from its bits as a signed integer."""
    return bits if bits >= 0 else -(bits + (1 << (width - 1)))
