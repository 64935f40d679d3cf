"""What the runs of a trial came to: whether an end is a result, the score, the means of the metrics."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator, Mapping

from repro.record.values import OVER_MEMORY, OVER_TIME, Outcome, was_limited
from repro.store.store import Store
from repro.tune.search import Score

#: What Python, NumPy, torch and the kernel say where there is too little memory, on the host or on a GPU.
_MEMORY = re.compile(
    r"MemoryError|OutOfMemoryError|out of memory|can(?:no|')t allocate memory|DefaultCPUAllocator"
    r"|STATUS_ALLOC_FAILED|killed by signal: Killed",
    re.IGNORECASE,
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
#: What a worker says that could not write what was logged.
_LOST = "; they are lost from here on"
_TAIL = 1 << 14
_TRACEBACK = "Traceback (most recent call last):"
#: What a shell ends with whose command was killed.
_KILLED = 128 + signal.SIGKILL


def is_result(store: Store, outcome: Outcome) -> bool:
    """Say whether how a run ended tells of its recipe: a signal, a limit, too little memory or a full disk does not."""
    if outcome.state == "COMPLETED":
        return is_whole(store, outcome)
    if outcome.state != "FAILED" or outcome.signal is not None or was_limited(outcome):
        return False
    said = _said(_tail(store, outcome))
    return outcome.exit_code != _KILLED and not any(_MEMORY.search(line) or _FULL.search(line) for line in said)


def is_whole(store: Store, outcome: Outcome) -> bool:
    """Say whether all that a run logged was written, as far as it could tell."""
    return _LOST not in _tail(store, outcome)


def why(store: Store, outcome: Outcome) -> str:
    """Say in words why the end of a run is no result."""
    reason = outcome.reason or ""
    if outcome.state == "TIMED_OUT":
        return f"out of time at {reason.removeprefix(OVER_TIME)}"
    if reason.startswith(OVER_MEMORY):
        return f"out of memory at {reason.removeprefix(OVER_MEMORY).partition(':')[0]}"
    if outcome.state == "COMPLETED":
        return "could not write what it logged"
    if outcome.signal is not None or outcome.exit_code == _KILLED:
        return reason
    return "out of disk space" if any(map(_FULL.search, _said(_tail(store, outcome)))) else "out of memory"


def _tail(store: Store, outcome: Outcome) -> str:
    path = store.run_folder(outcome.run_id) / "stderr.log"
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""


def _said(text: str) -> Iterator[str]:
    """Yield the lines in which a script said what it ended with: from its first traceback on, less the code in it."""
    _, found, after = text.partition(_TRACEBACK)
    yield from (line for line in (after if found else text).splitlines() if not line.startswith(" "))


def score_of(store: Store, outcomes: list[Outcome], metric: str) -> Score:
    """Return the mean over replicates; a trial diverges by NaN, infinity, or an exception of the script."""
    for outcome in outcomes:
        if outcome.state != "COMPLETED":
            return Score(None, _exception(store, outcome))
        if not math.isfinite(outcome.metrics[metric]):
            return Score(None, "NaN" if math.isnan(outcome.metrics[metric]) else "Infinity")
    return Score(math.fsum(outcome.metrics[metric] for outcome in outcomes) / len(outcomes))


def _exception(store: Store, outcome: Outcome) -> str:
    """Return the kind of exception that a script ended with: its words may differ from run to run."""
    for line in reversed(_tail(store, outcome).splitlines()):
        name = line.partition(":")[0]
        if name.endswith(("Error", "Exception")) and name.replace(".", "").isidentifier():
            return name
    return f"exit code {outcome.exit_code}"


def mean_metrics(outcomes: list[Outcome]) -> Mapping[str, float]:
    """Return the means of the metrics that all replicates have; none of a job that was given up."""
    names = set.intersection(*(set(outcome.metrics) for outcome in outcomes)) if outcomes else set()
    return {name: _mean([outcome.metrics[name] for outcome in outcomes]) for name in sorted(names)}


def _mean(values: list[float]) -> float:
    """Return the mean; NaN where infinities of both signs meet."""
    return math.nan if {math.inf, -math.inf} <= set(values) else math.fsum(values) / len(values)
