"""``repro ls``: the runs of a store."""

from __future__ import annotations

from typing import Any

import click

from repro.cli import common
from repro.store import index

_LAST = 40
_LONG = 100  # characters of a cell that a terminal shows
_FIELDS = ("run_id", "state", "name", "params", "metrics", "started", "recipe_digest", "replay_of", "verdict")


@click.command("ls")
@click.option("--all", "every", is_flag=True, help=f"All runs, not only the last {_LAST}.")
@common.json_option
def command(every: bool, as_json: bool) -> int:
    """List the runs, oldest first. A run's id begins with the second (UTC) in which it was started."""
    store = common.open_store()
    runs = index.rows(store) if store.exists() else []
    if as_json:
        common.emit([{name: run[name] for name in _FIELDS} for run in runs])
        return 0
    if not runs:
        common.say(f"no runs in {store.folder} yet")
        common.say("hint: repro run experiment.yaml, or repro run -- python train.py")
        return 0
    shown = runs if every else runs[-_LAST:]
    head = ["run", "state", "name", "params", "metrics"]
    common.table(head, [_row(run) for run in shown], wrapped=("params", "metrics"), style=_style)
    if len(shown) < len(runs):
        common.say(f"{common.count(len(runs) - len(shown), 'earlier run')}: repro ls --all", dim=True)
    return 0


def _row(run: dict[str, Any]) -> list[str]:
    state = run["state"]
    if run["replay_of"]:
        state = f"{run['verdict'] or state} (replay)"
    return [run["run_id"], state, run["name"], _pairs(run["params"]), _pairs(run["metrics"])]


def _pairs(values: dict[str, Any]) -> str:
    text = " ".join(f"{name}={common.number(value)}" for name, value in sorted(values.items()))
    return text if len(text) <= _LONG or not common.is_terminal() else text[: _LONG - 1] + "…"


def _style(column: int, text: str) -> str | None:
    word = text.split(maxsplit=1)[0] if text else ""
    return {**common.STATE_STYLE, **common.VERDICT_STYLE}.get(word) if column == 1 else None
