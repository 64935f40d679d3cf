"""Metric points as the processes of a run left them."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from repro.run import patterns
from repro.run.observed import lines_of
from repro.worker.losses import Losses

_MOST_OF_A_LINE = 120


class Point(NamedTuple):
    """One value of one metric: the step it was logged with (None: none), the value, seconds since the epoch.

    ``rank`` is that of the process, as its files are named.
    """

    name: str
    step: int | None
    value: float
    time: float
    rank: str = ""


def read(folder: Path) -> Iterator[Point]:
    """Yield all points of the run in ``folder``, in the order of each process."""
    for path in _files(folder):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[Point]:
    """Yield the points of one process, in its order."""
    rank = _rank(path)
    for line in lines_of(path):
        for name, value in line.get("m", {}).items():
            yield Point(name, line.get("step"), float(value), float(line.get("t", 0.0)), rank)


def series(folder: Path) -> dict[str, list[Point]]:
    """Return the points of each metric, in the order of each process."""
    found: dict[str, list[Point]] = {}
    for point in read(folder):
        found.setdefault(point.name, []).append(point)
    return found


def by_step(points: Sequence[Point]) -> list[Point]:
    """Return points by their steps; those without one come first, in their order."""
    return sorted(points, key=lambda point: -1 if point.step is None else point.step)


def final(points: Sequence[Point]) -> float | None:
    """Return the last value of a metric: that of the greatest step, else that which came last; None without points.

    Of several at the greatest step it is that of the highest rank, and of that rank's last process.
    """
    greatest = max((point.step for point in points if point.step is not None), default=None)
    return next((point.value for point in reversed(points) if point.step == greatest), None)


class Summary(NamedTuple):
    """How many points a metric has, and its last value as `final` has it."""

    points: int
    last: float


def summary(folder: Path) -> dict[str, Summary]:
    """Return the summary of each metric without keeping its points: there may be millions."""
    counts: dict[str, int] = {}
    ends: dict[str, tuple[int | None, float]] = {}
    for path in _files(folder):
        for line in lines_of(path):
            step = line.get("step")
            for name, value in line.get("m", {}).items():
                counts[name] = counts.get(name, 0) + 1
                greatest = ends[name][0] if name in ends else None
                if greatest is None or (step is not None and step >= greatest):
                    ends[name] = (step, float(value))
    return {name: Summary(count, ends[name][1]) for name, count in counts.items()}


def last(folder: Path) -> dict[str, float]:
    """Return the last value of each metric."""
    return {name: found.last for name, found in summary(folder).items()}


def are_equal(a: Path, b: Path) -> bool:
    """Say whether the processes of two runs logged the same, to the byte, but for the moments at which they did.

    True says so for certain; what is not equal so may be all the same, in another order or by other processes.
    """
    files = _files(a), _files(b)
    if [_rank(path) for path in files[0]] != [_rank(path) for path in files[1]]:
        return False
    return all(_is_alike(*pair) for pair in zip(*files, strict=True))


def _is_alike(a: Path, b: Path) -> bool:
    with a.open("rb") as one, b.open("rb") as other:
        pairs = itertools.zip_longest(one, other, fillvalue=b"")
        return all(_untimed(first) == _untimed(second) != b"" for first, second in pairs)


def _untimed(line: bytes) -> bytes:
    """Return a line from its step on, where it is whole; nothing else."""
    at = line.find(b'"step"')
    return line[at:] if at > 0 and line.endswith(b"}\n") else b""


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "metrics").glob("*.jsonl"))


def _rank(path: Path) -> str:
    return path.name.partition("-")[0] if not path.name.endswith("-output.jsonl") else ""


class Scanner:
    """Takes metrics out of a run's output (`repro.run.patterns`); the step counts the numbers of each."""

    def __init__(self, folder: Path, expressions: Mapping[str, str]) -> None:
        self._path = folder / "metrics" / f"{time.time_ns():019d}-output.jsonl"
        self._patterns = [patterns.compile_pattern(name, text) for name, text in expressions.items()]
        self._counts = dict.fromkeys(expressions, 0)
        #: The first number of each metric that could not be read in one way alone, and how many there were.
        self._refused: dict[str, tuple[str, int]] = {}
        #: Of a metric that has no number yet: the line that comes nearest, and how near that is.
        self._nearest: dict[str, tuple[int, str]] = {}
        self._rest = b""
        self._torn = False
        self._losses = Losses(str(folder))

    def __call__(self, data: bytes) -> None:
        """Take in a piece of output; lines are ended by newlines and by the carriage returns of progress bars."""
        *whole, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for line in whole:
            self._line(line.decode(errors="replace"))

    def finish(self) -> None:
        """Take in a last line without an end."""
        self._line(self._rest.decode(errors="replace"))
        self._rest = b""

    def notes(self) -> list[str]:
        """Return what is to be said of numbers that were not read, and of metrics that were never seen."""
        refused = [
            f"metric {name}: {text!r} is not a number that can be read in one way ({count} left out)"
            for name, (text, count) in self._refused.items()
        ]
        unseen = [name for name, count in self._counts.items() if not count and name not in self._refused]
        return [*refused, *(f"metric {name} was never seen in the output{self._near(name)}" for name in unseen)]

    def _near(self, name: str) -> str:
        nearness, line = self._nearest.get(name, (0, ""))
        return f"; the nearest line: {line[:_MOST_OF_A_LINE]!r}" if nearness else f": no line has {name!r} in it"

    def _line(self, line: str) -> None:
        for pattern in self._patterns:
            for number in pattern.numbers(line):
                if number.value is None:
                    text, count = self._refused.get(pattern.name, (number.text, 0))
                    self._refused[pattern.name] = text, count + 1
                else:
                    self._write(pattern.name, number.value)
            if not self._counts[pattern.name]:
                self._compare(pattern.name, line)

    def _compare(self, name: str, line: str) -> None:
        """Keep the line if it comes nearer to the metric than those before: by its name, and by having a number."""
        if re.split(r"[/.]", name)[-1].casefold() not in line.casefold():
            return
        nearness = 1 + any(char.isdigit() for char in line)
        if nearness > self._nearest.get(name, (0, ""))[0]:
            self._nearest[name] = nearness, line.strip()

    def _write(self, name: str, number: float) -> None:
        value = number if number - number == 0 else repr(number)
        line = json.dumps({"t": time.time(), "step": self._counts[name], "m": {name: value}})
        self._counts[name] += 1
        try:
            with self._path.open("ab", buffering=0) as handle:
                data = (b"\n" if self._torn else b"") + line.encode() + b"\n"
                self._torn = handle.write(data) != len(data)
        except OSError:  # a full disk must not stop the run
            self._losses.note("metrics")
        if self._torn:
            self._losses.note("metrics")
