"""The trail's format: fixed-width rows in causal order, chained, readable after ``kill -9``; and how two compare.

A process leaves three files: rows of `ROW.size` bytes, details (the digest of each tensor of a full frame), and
tables (JSON lines: the names of the tensors). `docs/reference/trail.md` is the reference.
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repro.record.values import TrailSchedule

#: Columns in causal order: the first that is unequal in the first unequal row is where two runs came apart.
COLUMNS = (
    "parameters in",
    "generators",
    "batch",
    "optimizer settings",
    "loss",
    "gradients",
    "optimizer state",
    "parameters out",
    "buffers",
)
(PARAMETERS_IN, GENERATORS, BATCH, SETTINGS, LOSS, GRADIENTS, STATE, PARAMETERS_OUT, BUFFERS) = range(9)
#: The columns with a digest for each parameter, in the order of a detail entry: the last two only in deep frames, where
#: the buffers' digests follow them.
BY_PARAMETER = (PARAMETERS_IN, GRADIENTS, PARAMETERS_OUT, STATE)
DEEP_COLUMNS = (PARAMETERS_OUT, STATE, BUFFERS)

#: step, optimizer, flags, detail (byte offset in the details plus 1, or 0), the columns, the chain's state.
ROW = struct.Struct("<QIIQ9Q16s")
#: The chain's state before the first row.
NO_CHAIN = bytes(16)

#: A deep frame is a full one that also has what the step has made: parameters out, the optimizer's state, the buffers.
#: The first frames are deep, then those of the steps that this divides. What a step makes shows in the parameters in of
#: the next one.
DEEP_EVERY = 16

FULL = 1  # parameters in and gradients were read
DEEP = 64  # parameters out, optimizer state and buffers as well
BATCH_SEEN = 2
LOSS_SEEN = 4
SKIPPED = 8  # a step without any gradient
CLOSURE = 16  # the step was given a closure: loss and gradients are those of its last call
HIDDEN = 32  # a call since the last step could not be read (torch.compile, vmap, a tensor without bytes)


class Frame(NamedTuple):
    """One row: an optimizer's step, the digest of each column (0: not read), and the chain's state after it."""

    step: int
    optimizer: int
    flags: int
    detail: int
    columns: tuple[int, ...]
    chain: bytes


def pack(frame: Frame) -> bytes:
    """Return a row's bytes."""
    return ROW.pack(frame.step, frame.optimizer, frame.flags, frame.detail, *frame.columns, frame.chain)


def unpack(data: bytes) -> list[Frame]:
    """Return all whole rows of ``data``: up to the first without a chain, which is not written yet, or torn."""
    whole = len(data) - len(data) % ROW.size
    rows = itertools.takewhile(lambda row: row[13] != NO_CHAIN, ROW.iter_unpack(data[:whole]))
    return [Frame(row[0], row[1], row[2], row[3], row[4:13], row[13]) for row in rows]


def stride(tensors: int, size: int, *, budget_us: int) -> int:
    """Return every how many steps a frame is full, from the count of tensors and their bytes alone (static sizes).

    A full frame is taken to cost 1.5 us a tensor and 1 us for 15,000 bytes (measured, see docs/reference/trail.md);
    the mean over the steps is held to ``budget_us``.
    """
    cost_us = 1.5 * tensors + size / 15_000
    return max(1, -(-int(cost_us) // budget_us))


def is_full(step: int, every: int, schedule: TrailSchedule) -> bool:
    """Say if ``step`` has a full frame: the first ones, then every ``every``-th, and ten times rarer each decade."""
    if step < schedule.first:
        return True
    limit = schedule.thin_after
    while step >= limit:
        every *= 10
        limit *= 10
    return step % every == 0


def is_deep(step: int, schedule: TrailSchedule) -> bool:
    """Say if a full frame of ``step`` is deep: the first ones, then those of every sixteenth step."""
    return step < schedule.first or step % DEEP_EVERY == 0


def kind(step: int, every: int, schedule: TrailSchedule) -> int:
    """Return what the frame of ``step`` is, as flags: nothing, FULL, or FULL and DEEP."""
    if not is_full(step, every, schedule):
        return 0
    return FULL | DEEP if is_deep(step, schedule) else FULL


def needs(column: str) -> int:
    """Return the flags of the frames in which a column was read."""
    if column in [COLUMNS[index] for index in DEEP_COLUMNS]:
        return DEEP
    return FULL if column in [COLUMNS[index] for index in BY_PARAMETER] else 0


def first_unequal(a: Sequence[Frame], b: Sequence[Frame]) -> int | None:
    """Return the index of the first unequal frame of two chained trails, or None, by binary search on the chain."""
    n = min(len(a), len(b))
    if n == 0 or a[n - 1].chain == b[n - 1].chain:
        return None
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        if a[middle].chain == b[middle].chain:
            low = middle + 1
        else:
            high = middle
    return low


def first_unequal_read(a: Sequence[Frame], b: Sequence[Frame]) -> tuple[int, int | str] | None:
    """Return the index of the first frames that are unequal in a column that both have read, and that column.

    For trails of two schedules, whose chains say nothing about one another.
    """
    for index, (one, other) in enumerate(zip(a, b, strict=False)):
        if one[:2] != other[:2]:
            return index, "order of steps"
        for column, (x, y) in enumerate(zip(one.columns, other.columns, strict=True)):
            if x and y and x != y:
                return index, column
    return None


def first_column(a: Frame, b: Frame) -> int | str:
    """Return the first unequal column of two frames in causal order, or in words what else differs."""
    if (a.step, a.optimizer) != (b.step, b.optimizer):
        return "order of steps"
    for index in range(len(COLUMNS)):
        if a.columns[index] != b.columns[index]:
            return index
    return "kind of step"
