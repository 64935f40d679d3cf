"""Two logs of traced processes held against each other: the first operator or call that is not alike. Nothing is run.

The log's fields are in docs/reference/diagnose.md. Operators are compared in their order; what came from outside of
torch is compared stream by stream (a generator, the listings of folders), so that one call more does not shift the rest.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

Event = dict[str, Any]
Kind = Literal["operator", "seed", "draw", "order", "input", "control"]
_OPERATORS = b'{"s":"ops"'
#: A line so close to the one of a seed, or of a tensor, is taken to have made its value.
_NEAR = 5


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What differs first: ``kind`` says what it is, ``text`` says it in words.

    ``step`` counts the optimizer steps of the process before it. ``shapes`` are those of an operator's inputs, then of
    its results; ``unequal`` says how many elements of its results differ, ``ulp`` by how much at most. ``forward`` is
    the line of the forward pass that an operator of a backward pass belongs to. ``others`` also differ before it.
    """

    kind: Kind
    text: str
    file: str
    line: int
    step: int
    process: str
    operator: str | None = None
    shapes: list[list[list[int]]] | None = None
    dtype: list[str] | None = None
    ulp: int | None = None
    unequal: int | None = None
    backward: str | None = None
    forward: dict[str, Any] | None = None
    others: list[dict[str, Any]] = []


class Side(NamedTuple):
    """The traces of one run: its folder of logs, and the place of the project in it."""

    folder: Path
    place: str


class _Fork(NamedTuple):
    """Where two streams part: what either has there (None: it has ended), and when."""

    stream: str
    one: Event | None
    other: Event | None
    last: int
    extra: bool

    @property
    def event(self) -> Event:
        return self.one or self.other or {}

    @property
    def when(self) -> int:
        return int(self.event["t"])


def find(a: Side, b: Side) -> Finding | None:
    """Return what differs first between two traced runs, or None where nothing does that could change a result."""
    pairs = _pairs(a, b)
    forks = [(process, fork) for process, (one, other) in pairs.items() if (fork := _operators(one, other, a, b))]
    outside = _outside(pairs, a, b)
    if forks:
        process, fork = min(forks, key=lambda item: item[1].when)
        return _of_operators(process, fork, outside, a, b)
    found = [item for item in outside if item[1].event["k"] != "context"]
    direct = [item for item in found if item[1].event["direct"]]
    if not found:
        return None
    process, fork = min(direct or found, key=lambda item: item[1].when)
    return _of_outside(process, fork, outside)


def is_full(side: Side) -> bool:
    """Say whether a log ended before its process did."""
    return any(b'{"s":"full"' in path.read_bytes() for path in side.folder.glob("*.jsonl"))


def failures(side: Side) -> list[str]:
    """Return what a traced run could not log."""
    lines = (line for path in sorted(side.folder.glob("*.jsonl")) for line in path.read_bytes().split(b"\n"))
    return list(dict.fromkeys(json.loads(line)["error"] for line in lines if line.startswith(b'{"s":"failure"')))


def _pairs(a: Side, b: Side) -> dict[str, tuple[Path, Path]]:
    """Return the logs of both runs by process: rank and lineage, and which of several it was."""
    one, other = _logs(a.folder), _logs(b.folder)
    return {name: (path, other[name]) for name, path in one.items() if name in other}


def _logs(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        place = "-".join(path.name.split("-")[:2])
        name = next(name for number in itertools.count(1) if (name := f"{place} #{number}") not in found)
        found[name] = path
    return found


def _events(path: Path, side: Side, *, operators: bool) -> Iterator[Event]:
    with path.open("rb") as handle:
        for line in handle:
            if line.startswith(_OPERATORS) is operators and line.endswith(b"\n"):
                event = json.loads(line)
                for key in ("at", "of"):
                    if event.get(key):
                        event[key] = [_within(event[key][0], side.place), event[key][1]]
                yield event


def _within(file: str, place: str) -> str:
    return file[len(place) + 1 :] if file.startswith(place + "/") else file


def _operators(one: Path, other: Path, a: Side, b: Side) -> _Fork | None:
    """Return the first operators that are not alike."""
    both = itertools.zip_longest(_events(one, a, operators=True), _events(other, b, operators=True))
    for before, after in both:
        if before is None or after is None:
            # The other may have been ended in the middle of things: what it lacks says nothing.
            return None
        if any(before.get(key) != after.get(key) for key in ("n", "at", "p", "i", "g", "shapes", "o")):
            return _Fork("ops", before, after, before["t"], extra=False)
    return None


def _outside(pairs: dict[str, tuple[Path, Path]], a: Side, b: Side) -> list[tuple[str, _Fork]]:
    """Return where each stream from outside of torch parts, with the last event of it that differs."""
    found = []
    for process, (one, other) in pairs.items():
        before, after = _streams(one, a), _streams(other, b)
        for stream in before:
            fork = _parting(stream, before[stream], after.get(stream, []))
            if fork is not None:
                found.append((process, fork))
        for stream in after.keys() - before.keys():
            event = after[stream][0]
            found.append((process, _Fork(stream, None, event, event["t"], extra=True)))
    return sorted(found, key=lambda item: item[1].when)


def _streams(path: Path, side: Side) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in _events(path, side, operators=False):
        if "k" in event:
            found.setdefault(event["s"], []).append(event)
    return found


def _parting(stream: str, one: list[Event], other: list[Event]) -> _Fork | None:
    for index, (before, after) in enumerate(itertools.zip_longest(one, other)):
        if before is None or after is None:
            event = before or after
            return _Fork(stream, before, after, event["t"], extra=True)
        if _call(before) != _call(after) or before["v"] != after["v"]:
            last = max(item["t"] for item in one[index:])
            extra = _call(before) != _call(after)
            if extra and [_call(item) for item in other[index + 1 : index + 2]] == [_call(before)]:
                return _Fork(stream, None, after, last, extra)  # it is the other run that has one more
            return _Fork(stream, before, after, last, extra)
    return None


def _call(event: Event) -> tuple[Any, ...]:
    return event["k"], event["n"], tuple(event["at"])
