"""``repro average``: one model of several runs, beside the best and the mean single one."""

from __future__ import annotations

from typing import Any

import click

from repro.average import driver, members
from repro.cli import common, trusting
from repro.errors import UsageError
from repro.store import trust
from repro.store.store import Store

_NAMES = {"averaged": "averaged", "best_single": "best single (on validation)", "mean_single": "mean single"}
_COLUMNS = ("accuracy", "rmse", "nll", "ece", "parameters", "inference_seconds")


@click.command("average")
@click.argument("study", metavar="STUDY")
@click.option("--method", type=click.Choice(driver.METHODS), default="ensemble", show_default=True)
@click.option("--test", default="test", show_default=True, metavar="SPLIT", help="The split to report on.")
@click.option(
    "--validation", metavar="SPLIT", help="The split to choose on; val, validation, valid or dev unless given."
)
@click.option("--rebasin", is_flag=True, help="First put the hidden units of MLPs in one order (Git Re-Basin).")
@click.option(
    "--max-barrier",
    type=click.FloatRange(min=0),
    default=driver.MAX_BARRIER,
    show_default=True,
    metavar="LOSS",
    help="Of runs from no common checkpoint, average weights up to this barrier (validation NLL, nats).",
)
@trusting.options
@common.json_option
def command(
    study: str,
    method: str,
    test: str,
    validation: str | None,
    rebasin: bool,
    max_barrier: float,
    as_json: bool,
    trusted: trust.Scope | None,
) -> int:
    """Average the runs of STUDY, and evaluate the model on the test split.

    STUDY is the id of a study of `repro seeds`, or run ids separated by commas. The averaged model is a run of its own:
    it can be shown, replayed and verified.

    ensemble, weighted and greedy average predictions; soup and greedy-soup the weights of several runs; ema, swa and
    last are what a run averaged itself by run.average.
    """
    if rebasin and method not in driver.SOUPS:
        raise UsageError(f"--rebasin is for --method {' and '.join(driver.SOUPS)}")
    common.end_on_signals()
    store = common.open_store()
    common.needs_runs(store)
    store = Store.create(store.folder)
    asked = driver.Asked(method, test, validation, rebasin, max_barrier)
    runs = members.find(store, study)
    for member in runs:
        trusting.need_trust(store, member.run_id, trusted)
    common.say(f"repro: averaging {common.count(len(runs), 'run')} by {method}", dim=True)
    found = driver.average(store, runs, asked)
    if as_json:
        common.emit(_document(found, asked))
    else:
        _print(found, asked)
    return 0


def _document(found: driver.Averaged, asked: driver.Asked) -> dict[str, Any]:
    best = found.details.get("best_single")
    return {
        "run_id": found.result.record.run_id,
        "record_digest": found.result.record_digest,
        "method": asked.method,
        "members": [member.outcome.record_digest for member in found.members],
        "member_runs": [member.run_id for member in found.members],
        "best_single": None if best is None else found.members[best].run_id,
        "metrics": {who: values or None for who, values in found.metrics.items()},
        "notes": found.notes,
        "details": {name: value for name, value in found.details.items() if name not in ("best_single", "method")},
    }


def _print(found: driver.Averaged, asked: driver.Asked) -> None:
    shown = [name for name in _COLUMNS if any(name in values for values in found.metrics.values())]
    rows = [
        [_NAMES[who], *(_shown(name, values.get(name)) for name in shown)]
        for who, values in found.metrics.items()
        if values
    ]
    common.echo(f"{asked.method} of {common.count(len(found.members), 'run')}, on {asked.test}")
    common.table(["", *(name.replace("_", " ") for name in shown)], rows)
    for line in _lines(found):
        common.echo(line)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "parameters":
        return f"{value:,.0f}"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


def _lines(found: driver.Averaged) -> list[str]:
    """Return how the model came about, in words."""
    details, ids = found.details, [member.run_id for member in found.members]
    lines = [] if details["best_single"] is not None else ["no predictions of a validation split: no best single"]
    if "weights" in details:
        pairs = (f"{weight:.3g} {run_id}" for run_id, weight in zip(ids, details["weights"], strict=True) if weight)
        lines.append(f"weights: {', '.join(pairs)}")
    if "barrier" in details:
        start = "they go on from one checkpoint" if details["shared"] else f"limit {details['max_barrier']:g}"
        lines.append(f"barrier: {details['barrier']:.4g}, the highest of {len(details['barriers'])} pairs ({start})")
    if "taken" in details:
        lines.append(f"taken: {', '.join(ids[index] for index in details['taken'])}")
    return [*lines, *details.get("notes", []), *found.notes, f"kept as run {found.result.record.run_id}"]
