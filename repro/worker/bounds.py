"""Where a replay ends before its script does: after a step, at the first that is not as it was, where it was cut."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from repro.record import trail as form
from repro.worker.job import Job, Lines


class Bounds:
    """Ends this process when its trail has got to where the replay was to end; ``rows`` is the process's file of rows.

    The process is ended without its script's clean-up, which may take as long as its training.
    """

    def __init__(self, job: Job, observed: Lines, rows: str) -> None:
        self._until = job.until
        self._observed = observed
        self._known = _counterpart(job.against, rows) if job.against else b""
        self._most = len(_counterpart(job.cut, rows)) // form.ROW.size if job.cut else None
        self._row = 0

    def before(self, step: int) -> None:
        """End the process if the run was cut before this row; what it left after its last one is there by now."""
        if self._most is not None and self._row >= self._most:
            self._end("as far as the run had come", step)

    def check(self, step: int, optimizer: int, chain: bytes) -> None:
        """Take note of one more row, and end the process if it is the last one."""
        end = (self._row + 1) * form.ROW.size
        self._row += 1
        if self._known and self._known[end - len(chain) : end] != chain and end <= len(self._known):
            self._end("another row than before", step)
        if self._until is not None and optimizer == 0 and step >= self._until:
            self._end("as asked for", step)

    def _end(self, why: str, step: int) -> NoReturn:
        self._observed.event("stopped", why=why, step=step)
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        os._exit(0)


def of(job: Job, observed: Lines, rows: str) -> Bounds | None:
    """Return the bounds of a job, or None where there are none."""
    return Bounds(job, observed, rows) if job.until is not None or job.against or job.cut else None


def _counterpart(folder: str, rows: str) -> bytes:
    """Return the rows of the process in ``folder`` that has this one's rank and place, b"" where there is none.

    None counts for a worker of a pool. Of several, it is the one that began to step as the n-th, as ours did in its
    folder.
    """
    place = os.path.basename(rows).rsplit("-", 2)[0] + "-"
    if not place.endswith("-0000-"):  # of a pool: which worker gets which training is a matter of time
        return b""
    ours, theirs = (
        sorted(name for name in os.listdir(found) if name.startswith(place) and name.endswith(".rows"))
        for found in (os.path.dirname(rows), folder)
    )
    number = ours.index(os.path.basename(rows))
    if number >= len(theirs):
        return b""
    with open(os.path.join(folder, theirs[number]), "rb") as handle:
        return handle.read()


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (AttributeError, OSError, ValueError):  # there is none, or the script has closed it
        pass
