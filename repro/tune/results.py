"""What the runs of a trial came to: whether an end is a result, the score, the means of the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping

from repro.record.values import Outcome
from repro.store.store import Store
from repro.tune.search import Score

_MEMORY = ("MemoryError", "out of memory", "OutOfMemoryError", "Cannot allocate memory")
_TAIL = 4096


def is_result(store: Store, outcome: Outcome) -> bool:
    """Say whether how a run ended tells of its recipe: a signal, a time limit, or too little memory does not."""
    if outcome.state == "COMPLETED":
        return True
    if outcome.state != "FAILED" or outcome.signal is not None:
        return False
    return not any(word in _tail(store, outcome) for word in _MEMORY)


def why(outcome: Outcome) -> str:
    """Say in words why the end of a run is no result."""
    return f"was {outcome.reason}" if outcome.signal is not None else "had too little memory"


def _tail(store: Store, outcome: Outcome) -> str:
    path = store.run_folder(outcome.run_id) / "stderr.log"
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""


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
    """Return the means of the metrics that all replicates have."""
    names = set.intersection(*(set(outcome.metrics) for outcome in outcomes))
    return {name: _mean([outcome.metrics[name] for outcome in outcomes]) for name in sorted(names)}


def _mean(values: list[float]) -> float:
    """Return the mean; NaN where infinities of both signs meet."""
    return math.nan if {math.inf, -math.inf} <= set(values) else math.fsum(values) / len(values)
