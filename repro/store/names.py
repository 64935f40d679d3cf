"""Which run is meant: an id, a unique prefix of it or of its random tail, ``last``, ``last~1``, ``best:val_acc``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from repro.errors import RunNotFoundError
from repro.store import index
from repro.store.store import Store

_SHOWN = 5


def resolve(store: Store, name: str, *, write: bool = True) -> str:
    """Return the id of the run that ``name`` means; without ``write`` the index is not brought up to date.

    Raises:
        RunNotFoundError: when there is no such run, or more than one.
    """
    runs = index.rows(store, write=write)
    if not runs:
        raise RunNotFoundError(f"no runs in {store.folder}", hint="repro run -- python train.py makes the first")
    back = re.fullmatch(r"last(?:~(\d+))?", name)
    if back is not None:
        return _back(runs, int(back[1] or 0), name)
    if name.startswith("best:"):
        return _best(runs, name.removeprefix("best:"))
    return _prefix([run["run_id"] for run in runs], name)


def _back(runs: list[dict[str, Any]], count: int, name: str) -> str:
    """Return the last run but ``count``; replays do not count."""
    own = [run["run_id"] for run in runs if run["replay_of"] is None]
    if count >= len(own):
        raise RunNotFoundError(f"{name}: there are {len(own)} runs", hint="repro ls lists them")
    return str(own[-1 - count])


def _best(runs: list[dict[str, Any]], metric: str) -> str:
    """Return the completed run with the best last value of a metric; replays do not count."""
    own = (run for run in runs if run["replay_of"] is None and run["state"] == "COMPLETED")
    found = [run for run in own if metric in run["metrics"]]
    found = [run for run in found if run["metrics"][metric] == run["metrics"][metric]]
    if not found:
        known = sorted({name for run in runs for name in run["metrics"]})
        hint = f"metrics here: {', '.join(known)}" if known else "no run has metrics yet"
        raise RunNotFoundError(f"no completed run has a metric {metric!r}", hint=hint)
    direction = next((run["directions"].get(metric) for run in reversed(found) if metric in run["directions"]), None)
    if direction is None:
        hint = f"declare it in the experiment: metrics: {{{metric}: {{direction: maximize}}}}"
        raise RunNotFoundError(f"best:{metric} needs to know whether more is better", hint=hint)
    choose = max if direction == "maximize" else min
    return str(choose(found, key=lambda run: run["metrics"][metric])["run_id"])


def _prefix(ids: list[str], name: str) -> str:
    if name in ids:
        return name
    if not name:
        raise RunNotFoundError("the name of a run is empty", hint="repro ls lists the runs; `last` is the latest")
    found = [run_id for run_id in ids if run_id.startswith(name) or run_id.rpartition("-")[2].startswith(name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RunNotFoundError(f"no run {name!r}", hint="repro ls lists the runs; `last` is the latest")
    raise RunNotFoundError(several(name, found, "runs"), hint="give more of the id")


def several(name: str, found: Sequence[str], what: str) -> str:
    """Return in words that more than one thing answers to a name."""
    shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
    return f"{name!r} fits {len(found)} {what}: {shown}"
