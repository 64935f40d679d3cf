"""Metric points as the processes of a run left them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from repro.run.observed import lines


class Point(NamedTuple):
    """One value of one metric: the step it was logged with (None: none), the value, seconds since the epoch."""

    name: str
    step: int | None
    value: float
    time: float


def read(folder: Path) -> Iterator[Point]:
    """Yield all points of the run in ``folder``, in the order of each process."""
    for line in lines(folder / "metrics"):
        for name, value in line.get("m", {}).items():
            yield Point(name, line.get("step"), float(value), float(line.get("t", 0.0)))


def series(folder: Path) -> dict[str, list[Point]]:
    """Return the points of each metric."""
    found: dict[str, list[Point]] = {}
    for point in read(folder):
        found.setdefault(point.name, []).append(point)
    return found


def last(folder: Path) -> dict[str, float]:
    """Return the last value of each metric."""
    return {name: points[-1].value for name, points in series(folder).items()}


class Scanner:
    """Takes metrics out of a run's output by regular expressions; the step counts the matches of each."""

    def __init__(self, folder: Path, patterns: Mapping[str, str]) -> None:
        self._path = folder / "metrics" / f"{time.time_ns():019d}-output.jsonl"
        self._patterns = {name: re.compile(text) for name, text in patterns.items()}
        self._counts = dict.fromkeys(patterns, 0)
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        """Take in a piece of output; lines are ended by newlines and by the carriage returns of progress bars."""
        *whole, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for line in whole:
            self._line(line.decode(errors="replace"))

    def finish(self) -> None:
        """Take in a last line without an end."""
        self._line(self._rest.decode(errors="replace"))
        self._rest = b""

    def _line(self, line: str) -> None:
        for name, pattern in self._patterns.items():
            for found in pattern.finditer(line):
                number = _number(found[1])
                if number is not None:
                    self._write(name, number)

    def _write(self, name: str, number: float) -> None:
        value = number if number - number == 0 else repr(number)
        line = json.dumps({"t": time.time(), "step": self._counts[name], "m": {name: value}})
        self._counts[name] += 1
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").rstrip("."))
    except ValueError:
        return None
