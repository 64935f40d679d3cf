"""The decision log: what was suggested, promoted, stopped, and why; a digest of it.

An entry is a plain mapping, a line its canonical JSON. Lines come in the order of the study, never of arrival.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from repro.base import canonical
from repro.tune.search import Score, Suggestion

Entry = dict[str, Any]
_HEAD = b"repro:decisions/1\n"


def line(entry: Entry) -> bytes:
    """Return an entry as it stands in the log."""
    return canonical.dumps(entry) + b"\n"


def digest_of(lines: Iterable[bytes]) -> str:
    """Return the digest of a log's lines."""
    state = hashlib.sha256(_HEAD)
    for item in lines:
        state.update(item)
    return "sha256:" + state.hexdigest()


def suggested(trial: int, found: Suggestion) -> Entry:
    """Return the entry of a trial that begins."""
    entry: Entry = {"kind": "suggested", "trial": trial, "by": found.by, "params": found.params}
    return entry if found.draw is None else entry | {"draw": found.draw}


def shown(score: Score) -> float | str:
    """Return a score as entries have it: the value, or why there is none."""
    return score.value if score.value is not None else f"diverged: {score.reason}"


def first_difference(one: Sequence[bytes], other: Sequence[bytes]) -> int | None:
    """Return the number of the first line, from 0, in which two logs differ; None where they are equal."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return None if len(one) == len(other) else min(len(one), len(other))


def in_words(entry: Entry) -> Iterator[str]:
    """Yield an entry as lines for people."""
    yield from _WORDS[entry["kind"]](entry)


def _suggested(entry: Entry) -> Iterator[str]:
    params = ", ".join(f"{name} {value}" for name, value in entry["params"].items())
    yield f"trial {entry['trial']} suggested ({entry['by']}): {params}"


def _rung(entry: Entry) -> Iterator[str]:
    ranked, count = entry["ranked"], len(entry["ranked"])
    keep = len(entry["promoted"])
    last = not keep
    for place, (trial, value) in enumerate(ranked, 1):
        what = "finished" if last else "promoted" if trial in entry["promoted"] else "stopped"
        more = f", {keep} go on" if keep else ""
        yield f"trial {trial} {what} at {_value(entry['budget'])}: {_value(value)}, {place} of {count}{more}"


def _promoted(entry: Entry) -> Iterator[str]:
    yield (
        f"trial {entry['trial']} promoted at {_value(entry['budget'])} to {_value(entry['to'])}:"
        f" {_value(entry['value'])}, {entry['place']} of {entry['of']}, the best {entry['keep']} go on"
    )


def _judged(entry: Entry) -> Iterator[str]:
    against = "" if entry["median"] is None else f" against a median of {_value(entry['median'])} of {entry['of']}"
    yield f"trial {entry['trial']} {entry['what']} at {_value(entry['budget'])}: {_value(entry['value'])}{against}"


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_WORDS = {"suggested": _suggested, "rung": _rung, "promoted": _promoted, "judged": _judged}
