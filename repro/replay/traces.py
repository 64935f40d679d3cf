"""The logs of two traced runs, read back and put side by side. Nothing is run.

The log's fields are in docs/reference/diagnose.md. Operators are compared in their order; what came from outside of
torch is compared source by source (a generator, a line that lists folders), so that one call more shifts nothing else.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Event = dict[str, Any]
_OPERATORS = b'{"s":"ops"'
#: An operator is compared by name, line, values, digests of inputs, state of its generator, shapes, digests of results.
_COMPARED = ("n", "at", "p", "i", "g", "shapes", "o")
#: So many further events are looked at to see which of two runs does something more.
_AHEAD = 20_000
#: How the names of generators begin that the user's own code has made.
OWN = "own "
#: These are no generators: each line that asks for them is a source of its own.
_BY_LINE = ("listing", "entropy", "context")


class Side(NamedTuple):
    """The traces of one run: its folder of logs, and the place of the project in it."""

    folder: Path
    place: str


class Fork(NamedTuple):
    """Where two sequences part: what either has there, and which of them has something more (None: neither)."""

    one: Event | None
    other: Event | None
    more: Event | None = None

    @property
    def event(self) -> Event:
        """The event to tell of."""
        return self.more or self.one or self.other or {}


class Stream(NamedTuple):
    """Events of one source in one process, in both runs."""

    process: str
    name: str
    one: list[Event]
    other: list[Event]

    def fork(self, before: float) -> tuple[float, Fork] | None:
        """Return where the stretch begins that differs last before a moment, and when it was last seen to differ.

        Draws that are equal do not end it: of few possible values two are often the same by luck. An equal seed does.
        """
        late = [index for index in self._differing() if self._when(index) < before]
        if not late:
            return None
        known = set(late)
        first = index = late[-1]
        while index > 0 and (index - 1 in known or self._is_draw(index - 1)):
            index -= 1
            first = index if index in known else first
        one, other = self._at(self.one, first), self._at(self.other, first)
        return self._when(late[-1]), Fork(one, other, _more(self.one[first:], self.other[first:]))

    def is_used_otherwise(self, before: float = math.inf) -> bool:
        """Say whether something other than a seed differs before a moment: a draw, the order of a folder."""
        index = self._first_use()
        return index is not None and self._when(index) < before

    def _first_use(self) -> int | None:
        return next((index for index in self._differing() if not self._is_seed(index)), None)

    def _differing(self) -> Iterator[int]:
        return (index for index in range(max(len(self.one), len(self.other))) if self._differs(index))

    def first(self) -> tuple[float, Fork] | None:
        """Return what made the first thing differ that is no seed, else the first seed; and when."""
        index = self._first_use()
        index = next(self._differing(), None) if index is None else index
        return None if index is None else self.fork(self._when(index) + 1)

    def _at(self, events: list[Event], index: int) -> Event | None:
        return events[index] if index < len(events) else None

    def _differs(self, index: int) -> bool:
        one, other = self._at(self.one, index), self._at(self.other, index)
        if one is None or other is None:
            return _is_first(self.process)  # other processes are ended in the middle of things
        return call(one) != call(other) or one["v"] != other["v"]

    def _is_draw(self, index: int) -> bool:
        return all((self._at(events, index) or {}).get("k") == "draw" for events in (self.one, self.other))

    def _is_seed(self, index: int) -> bool:
        return bool((self._at(self.one, index) or self.other[index])["k"] == "seed")

    def _when(self, index: int) -> float:
        event = self._at(self.one, index) or self.other[index]
        return float(event["t"])


class Traced(NamedTuple):
    """Two traced runs: where each process's operators part, and all that came from outside of torch."""

    forks: list[tuple[str, Fork]]
    streams: list[Stream]


def read(a: Side, b: Side) -> Traced:
    """Return the logs of two runs side by side, the processes paired by rank and lineage."""
    pairs = _pairs(a, b)
    sides = _based(a), _based(b)
    forks = [(process, fork) for process in pairs if (fork := _operators(process, pairs[process], sides))]
    return Traced(forks, [stream for process in pairs for stream in _streams(process, pairs[process], sides)])


def failures(side: Side) -> list[str]:
    """Return what a traced run could not log, and that its log was full."""
    lines = (line for path in sorted(side.folder.glob("*.jsonl")) for line in path.read_bytes().split(b"\n"))
    found = [json.loads(line) for line in lines if line.startswith((b'{"s":"failure"', b'{"s":"full"'))]
    return list(dict.fromkeys(item.get("error", "the log was full before the step was over") for item in found))


def _is_first(process: str) -> bool:
    """Say whether a process is the run's own, and no child of `multiprocessing`."""
    return process.partition(" ")[0].endswith("-0000")


def _pairs(a: Side, b: Side) -> dict[str, tuple[Path, Path]]:
    """Return the logs of both runs by process: rank and lineage, and which of several it was."""
    one, other = _logs(a.folder), _logs(b.folder)
    return {name: (path, other[name]) for name, path in one.items() if name in other}


def _logs(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        place = "-".join(path.name.split("-")[:2])
        number = sum(name.startswith(place + " ") for name in found)
        found[f"{place} #{number + 1}"] = path
    return found


class _Based(NamedTuple):
    """A side, and the moment from which its times are counted."""

    place: str
    begin: int


def _based(side: Side) -> _Based:
    firsts = [path.open("rb").readline() for path in side.folder.glob("*.jsonl")]
    return _Based(side.place, min((json.loads(line)["t"] for line in firsts if line.endswith(b"\n")), default=0))


def _events(path: Path, side: _Based, *, operators: bool) -> Iterator[Event]:
    with path.open("rb") as handle:
        for line in handle:
            if line.startswith(_OPERATORS) is operators and line.endswith(b"\n"):
                event = json.loads(line)
                event["t"] -= side.begin
                for key in ("at", "of"):
                    if event.get(key):
                        event[key] = [_within(event[key][0], side.place), event[key][1]]
                yield event


def _within(file: str, place: str) -> str:
    return file[len(place) + 1 :] if file.startswith(place + "/") else file


def _operators(process: str, paths: tuple[Path, Path], sides: tuple[_Based, _Based]) -> Fork | None:
    """Return the first operators that are not alike."""
    one, other = (_events(path, side, operators=True) for path, side in zip(paths, sides, strict=True))
    for before, after in itertools.zip_longest(one, other):
        if (before is None or after is None) and not _is_first(process):
            return None  # it was ended in the middle of things
        if before is None or after is None:
            return Fork(before, after, before or after)
        if any(before.get(key) != after.get(key) for key in _COMPARED):
            ahead = ([event, *itertools.islice(rest, _AHEAD)] for event, rest in ((before, one), (after, other)))
            return Fork(before, after, _more(*ahead))
    return None


def _more(one: list[Event], other: list[Event]) -> Event | None:
    """Return the first event that one of two sequences has more, None where both have the same call first."""
    if not one or not other:
        return next(iter(one or other), None)
    if call(one[0]) == call(other[0]):
        return None
    for index in range(1, _AHEAD):
        if index < len(one) and call(one[index]) == call(other[0]):
            return one[0]
        if index < len(other) and call(other[index]) == call(one[0]):
            return other[0]
    return None


def _streams(process: str, paths: tuple[Path, Path], sides: tuple[_Based, _Based]) -> list[Stream]:
    one, other = (_by_stream(path, side) for path, side in zip(paths, sides, strict=True))
    names = counterparts(one, other)
    found = [Stream(process, name, events, other.get(names.get(name, ""), [])) for name, events in one.items()]
    return found + [Stream(process, name, [], other[name]) for name in other if name not in names.values()]


def counterparts(one: dict[str, list[Event]], other: dict[str, list[Event]]) -> dict[str, str]:
    """Return the name in the other run of each source that both have.

    Generators of the user's own are made in an order that threads may change: those that one line made belong together
    where they were seeded to one state, and else in their order.
    """
    rest = list(other)
    found: dict[str, str] = {}
    for origin in (_state, _origin):
        for name, events in one.items():
            if name not in found:
                known = origin(name, events)
                match = next((item for item in rest if known == origin(item, other[item])), None)
                if match is not None:
                    rest.remove(match)
                    found[name] = match
    return found


def _origin(name: str, events: list[Event]) -> Any:
    """Return the line that made and seeded a generator of the user's own; of what else there is, the name."""
    return call(events[0]) if name.startswith(OWN) and events[0]["k"] == "seed" else name


def _state(name: str, events: list[Event]) -> Any:
    """Return that line, and the state to which the generator was seeded."""
    origin = _origin(name, events)
    return origin if origin == name else (origin, events[0]["v"])


def _by_stream(path: Path, side: _Based) -> dict[str, list[Event]]:
    """Return the events of each source: a generator, and where there is none, a line."""
    found: dict[str, list[Event]] = {}
    for event in _events(path, side, operators=False):
        if "k" in event:
            is_one = event["k"] == "draw" or not event["s"].startswith(_BY_LINE)
            name = event["s"] if is_one else f"{event['s']} {event['at']}"
            found.setdefault(name, []).append(event)
    return found


def call(event: Event) -> tuple[Any, ...]:
    """Return what was called: name and line."""
    return event.get("k"), event["n"], *event["at"]
