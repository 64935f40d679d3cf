"""``repro diff``: how two runs differ."""

from __future__ import annotations

from typing import Any

import click

from repro.cli import common
from repro.record import differences
from repro.record.values import Outcome, Record
from repro.replay import compare
from repro.run import observed, trails
from repro.store import names
from repro.store.store import Store


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--patch", is_flag=True, help="Show the difference of the code line by line.")
@common.json_option
def command(a: str, b: str, patch: bool, as_json: bool) -> int:
    """Show how runs A and B differ: recipe, surroundings, what they observed, trail, metrics."""
    store = common.open_store()
    common.needs_runs(store)
    ids = [names.resolve(store, name) for name in (a, b)]
    records = [store.record(run_id) for run_id in ids]
    found = _differences(store, records)
    changes = store.code.changes(records[0].recipe.code, records[1].recipe.code)
    first = _first(store, ids)
    metrics = _metrics(store, ids)
    lines = store.code.patch(records[0].recipe.code, records[1].recipe.code) if patch and changes else None
    if as_json:
        files = [{"status": change.status, "path": change.path} for change in changes]
        common.emit(
            {
                "a": ids[0],
                "b": ids[1],
                "differences": found,
                "code": files,
                "first_difference": first,
                "metrics": metrics,
                "patch": lines,
            }
        )
        return 0
    _print(found, changes, first, metrics)
    if lines is not None:
        click.echo(lines)
    return 0


def _differences(store: Store, records: list[Record]) -> list[differences.Difference]:
    a, b = records
    seen = [observed.read(store.run_folder(record.run_id)).document() for record in records]
    outcomes = [store.outcome(record.run_id) for record in records]
    found = [*differences.compare(a, b), *differences.compare_observed(*seen)]
    if outcomes[0] is not None and outcomes[1] is not None:
        found += differences.compare_outcomes(outcomes[0], outcomes[1])
    return differences.ordered(found)


def _first(store: Store, ids: list[str]) -> compare.FirstDifference | None:
    a, b = (trails.read(store.run_folder(run_id)) for run_id in ids)
    by_name = {item.process: item for item in b}
    pairs = ((one, by_name[one.process]) for one in a if one.process in by_name)
    found = (compare.first_difference(one, other) for one, other in pairs)
    return min((item for item in found if item is not None), key=lambda item: item.step, default=None)


def _metrics(store: Store, ids: list[str]) -> dict[str, list[Any]]:
    outcomes: list[Outcome | None] = [store.outcome(run_id) for run_id in ids]
    a, b = (outcome.metrics if outcome is not None else {} for outcome in outcomes)
    return {name: [a.get(name), b.get(name)] for name in sorted({*a, *b}) if a.get(name) != b.get(name)}


def _print(
    found: list[differences.Difference],
    changes: list[Any],
    first: compare.FirstDifference | None,
    metrics: dict[str, list[Any]],
) -> None:
    if not (found or changes or first or metrics):
        click.echo("no difference")
        return
    for item in found:
        click.echo(f"{item.kind:<12} {item.path}: {common.shown(item.before)} -> {common.shown(item.after)}")
        if item.path == "code":
            for change in changes:
                click.echo(f"{'':<12}   {change.status} {change.path}")
    if first is not None:
        tensor = f", tensor {first.tensor}" if first.tensor else ""
        click.echo(f"{'trail':<12} parts at step {first.step}: {first.column}{tensor}")
    for name, (before, after) in metrics.items():
        click.echo(f"{'metric':<12} {name}: {common.shown(before)} -> {common.shown(after)}")
