"""The standard output of two runs, line by line: what a run without a trail says of its result.

Digits of times, durations, rates and dates are no result: lines that differ in these alone are told apart, and are no
evidence either (docs/adr/0029-runs-without-a-trail.md).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from repro.replay import series
from repro.replay.series import Extent

#: Of a larger output only the beginning is compared.
_MOST = 64_000_000
_MOST_OF_A_TEXT = 4_000_000
_MOST_SHOWN = 160
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NUMBER = r"[-+]?(?:[0-9][0-9,_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?: ?[AP]M)?"
_DATE = r"\b\d{4}[-/]\d{2}[-/]\d{2}(?:[T _-]\d{2}[:-]\d{2}(?:[:-]\d{2}(?:[.,]\d+)?)?)?(?:Z|[+-]\d{2}:?\d{2})?"
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? +"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = (
    rf"\b(?:{_WEEKDAY})?(?:\d{{1,2}} {_MONTH}|{_MONTH} +\d{{1,2}}),?(?: \d{{4}})?"
    rf" +{_CLOCK}(?: [A-Z]{{3,4}})?(?: \d{{4}})?"
)
_THINGS = r"(?:it|step|batch|token|tok|sample|example|img|image|frame|episode|row|epoch|iter)(?:e?s)?"
_UNITS = r"(?:ns|us|\u00b5s|\u03bcs|ms|msecs?|s|secs?|seconds?|mins|minutes?|hrs|hours?)"
_ENDS = "finished|done|completed|trained|fitted|loaded|built|ran|took|elapsed"
#: Times by their form, wherever they stand.
_TIMES = re.compile(
    "|".join(
        [
            _DATE,
            _DAY,
            r"\b\d{8}[T_-]\d{4,6}\b",
            r"\b\d{1,2}/\d{1,2}/\d{4}\b",
            rf"(?<![\d:]){_CLOCK}(?![\d:])",
            r"\b1[6-9]\d{8}(?:\.\d+)?\b(?! ?[A-Za-z])",  # seconds since 1970
            rf"(?<![\w.]){_NUMBER} ?[kKMG]?(?:{_THINGS}|i?B|b)/(?:s|sec|second)\b",
            rf"(?<![\w.]){_NUMBER} ?{_UNITS}/{_THINGS}\b",
            rf"(?<![\w.]){_NUMBER} ?{_UNITS}(?![\w=])",
            r"\b\d+m ?\d+(?:\.\d+)?s\b",
            rf"\b(?i:{_ENDS})\b[^0-9]*? in:? {_NUMBER}(?=\s*$)",
            r"\bat 0x[0-9a-fA-F]+",  # where an object lies in memory
        ]
    )
)
#: A number under a name: whether it measures time, the name tells.
_NAMED = re.compile(
    rf"([A-Za-z_][\w./-]*)(\"?'?\s*(?:\([a-z/]+\))?\s*[:=]?\s*)({_NUMBER})[a-zA-Z]{{0,2}}(?![\w.]*[0-9A-Za-z])"
)
_NEUTRAL = "\u29d6"


class OutputDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that differs: its number from 1 on, before and after; None where one side has no more lines."""

    line: int
    before: str | None
    after: str | None


class Compared(NamedTuple):
    """How two outputs compare: equal lines that say more than times, and the first that differs."""

    lines: int
    difference: OutputDifference | None


def compare(a: Path, b: Path, *, moved: str = "", extent: Extent = "whole", in_order: bool = True) -> Compared:
    """Compare two files of standard output.

    ``moved`` is a folder that stands for the root of the disk in the second one (a replay's). By their ``extent`` the
    first may end earlier, or either; unless ``in_order``, lines may come in any order (of several processes).
    """
    pairs = itertools.zip_longest(_lines(a, "", torn=extent != "whole"), _lines(b, moved, torn=extent == "common"))
    count = 0
    for number, (one, other) in enumerate(pairs, 1):
        if (one is None and extent != "whole") or (other is None and extent == "common"):
            break
        if one is None or other is None or (one != other and neutral(one) != neutral(other)):
            if not in_order and sorted(map(neutral, _lines(a, ""))) == sorted(map(neutral, _lines(b, moved))):
                return Compared(sum(map(_is_evidence, _lines(a, ""))), None)
            return Compared(count, OutputDifference(line=number, before=_cut(one), after=_cut(other)))
        count += _is_evidence(one)
    return Compared(count, None)


def last_line(path: Path) -> str:
    """Return the last line of an output that is not blank, with times made neutral; "" where there is none."""
    return next((neutral(line) for line in reversed([*_lines(path, "")]) if line.strip()), "")


def same_text(a: Path, b: Path, moved: str = "") -> bool:
    """Say whether two text files have the same lines but for times, and say anything beside them."""
    if any(path.stat().st_size > _MOST_OF_A_TEXT or b"\0" in path.read_bytes() for path in (a, b)):
        return False
    found = compare(a, b, moved=moved)
    return found.difference is None and found.lines > 0


def neutral(line: str) -> str:
    """Return a line with a mark in place of every time, duration, rate, date and address in memory."""
    return _NAMED.sub(_without_measure, _TIMES.sub(_NEUTRAL, line))


def _without_measure(found: re.Match[str]) -> str:
    is_result = series.is_compared(found[1], {}) and found[1].lower() != "took"
    return found[0] if is_result else f"{found[1]}{found[2]}{_NEUTRAL}"


def _is_evidence(line: str) -> bool:
    """Say whether a line says anything beside the time: it has no time in it, or another number."""
    bare = neutral(line)
    return bool(line.strip()) and (_NEUTRAL not in bare or any(char.isdigit() for char in bare))


def _lines(path: Path, moved: str, *, torn: bool = False) -> Iterator[str]:
    """Yield the lines of an output; of a progress bar what it came to, and no colours.

    A last line that nothing ended counts, unless the output was ``torn`` off.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(_MOST)
    except OSError:
        return
    *whole, last = _ESCAPES.sub(b"", data).split(b"\n")
    for line in whole if torn or not last else [*whole, last]:
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
        yield text.replace(moved, "") if moved else text


def _cut(line: str | None) -> str | None:
    return line if line is None or len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 1] + "\u2026"
