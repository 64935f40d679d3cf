"""How long a job may run and how much memory its processes may have: read from text, and said in words."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
#: So many of a unit are said without decimals.
_MANY = 100
_NAMES = {"kib": "KiB", "mib": "MiB", "gib": "GiB", "tib": "TiB", "kb": "kB", "mb": "MB", "gb": "GB", "tb": "TB"}


class RunLimits(NamedTuple):
    """What ends a job: so many seconds from when it is let go, so many bytes in use by its processes together."""

    time: float | None = None
    memory: int | None = None


class Over(NamedTuple):
    """A limit that a job went beyond: which one, where it lies, and what was seen (seconds or bytes).

    ``enough`` is none: the job has gone as far as it is to.
    """

    what: Literal["time", "memory", "enough"]
    limit: float
    seen: float


def seconds(value: Any) -> float:
    """Return a time limit: a number of seconds above 0, or a text such as ``90s``, ``10m``, ``2h``.

    Raises:
        ValueError: for anything else, with what is expected.
    """
    found = value if isinstance(value, (int, float)) and not isinstance(value, bool) else _read(value, _SECONDS, "s")
    if found is None or not 0 < found < math.inf:
        raise ValueError("a time above 0 is expected, in seconds or such as 10m")
    return float(found)


def size(value: Any) -> int:
    """Return a memory limit in bytes, of a text with its unit: ``4GiB``, ``500MB``.

    Raises:
        ValueError: for anything else, with what is expected.
    """
    found = _read(value, _BINARY | _DECIMAL, None)
    if found is None or not 1 <= found < math.inf:
        raise ValueError("a size with its unit is expected, such as 4GiB or 500MB")
    return int(found)


def _read(value: Any, units: dict[str, int], default: str | None) -> float | None:
    """Return the amount that a text names; one without a unit is in the default one, where there is one."""
    text = value.strip() if isinstance(value, str) else ""
    match = _AMOUNT.fullmatch(text if default is None or text[-1:].isalpha() else text + default)
    if match is None or match[2].lower() not in units:
        return None
    return float(match[1]) * units[match[2].lower()]


def in_seconds(value: float) -> str:
    """Return a time for people: ``600 s``."""
    return f"{value:.15g} s"


def in_bytes(value: float, like: float) -> str:
    """Return a size for people, in units of 1000 where a limit like that is a whole number of them: ``4.1 GiB``."""
    units = _DECIMAL if like % 10**6 == 0 and like % 2**20 else _BINARY
    name = max((name for name in units if units[name] <= like), key=units.__getitem__, default=next(iter(units)))
    amount = value / units[name]
    return f"{amount:{'.0f' if amount >= _MANY else '.3g'}} {_NAMES[name]}"
