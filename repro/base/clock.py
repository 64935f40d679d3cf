"""Time and the names made from it."""

from __future__ import annotations

import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

#: What `new_run_id` makes.
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-z]{8}")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def now() -> str:
    """Return the time in UTC as RFC 3339 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """Return a new run id: the second it was made, then 40 random bits (``20261124-063315-k3f9x2ab``)."""
    tail = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + tail


def boot_id() -> str:
    """Return what tells this boot of this machine from any other, or an empty text where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), or None when there is no such process.

    With the pid it tells one process from a later one that got the same pid. Source: proc(5), field 22 of stat.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
