"""``repro diff``: how two runs differ."""

from __future__ import annotations

from typing import Any

import click

from repro.cli import common
from repro.record import differences
from repro.record.values import Outcome, Record
from repro.replay import compare
from repro.run import changes, observed, trails
from repro.store import names
from repro.store.store import Store

_SHORT = 40  # lines of code that are shown unasked


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--code", "--patch", "whole", is_flag=True, help="Show the code line by line however long it is.")
@common.json_option
def command(a: str, b: str, whole: bool, as_json: bool) -> int:
    """Show how runs A and B differ: recipe, surroundings, what they observed, files, trail, metrics.

    Where little of the code differs it is shown line by line.
    """
    store = common.open_store()
    common.needs_runs(store)
    ids = [names.resolve(store, name) for name in (a, b)]
    one, other = (store.record(run_id) for run_id in ids)
    found = _differences(store, [one, other])
    code = changes.of_code(store, one, other)
    data = _data(store, one, other)
    first = _first(store, [one, other])
    metrics = _metrics(store, ids)
    lines = sum((item.added or 0) + (item.removed or 0) for item in code)
    is_shown = code and (whole or (not as_json and 0 < lines <= _SHORT))
    patch = changes.patch(store, one, other) if is_shown else None
    if as_json:
        document = {"a": ids[0], "b": ids[1], "differences": found, "code": code, "data": data}
        common.emit({**document, "first_difference": first, "metrics": metrics, "patch": patch})
        return 0
    _print(found, _files(code, data), first, metrics)
    if patch is not None:
        click.echo(common.visible_lines(patch), nl=False)
    elif lines:
        common.say(f"repro: {common.count(lines, 'line')} of code differ: --code shows them", dim=True)
    return 0


def _differences(store: Store, records: list[Record]) -> list[differences.Difference]:
    a, b = records
    seen = [observed.read(store.run_folder(record.run_id)).document() for record in records]
    outcomes = [store.outcome(record.run_id) for record in records]
    found = [*differences.compare(a, b), *differences.compare_observed(*seen)]
    if outcomes[0] is not None and outcomes[1] is not None:
        found += differences.compare_outcomes(outcomes[0], outcomes[1])
    return differences.ordered(found)


def _data(store: Store, one: Record, other: Record) -> list[changes.DataFile]:
    before, after = (store.outcome(record.run_id) for record in (one, other))
    return [] if before is None or after is None else changes.of_data(store, (one, before), (other, after))


def _first(store: Store, records: list[Record]) -> compare.FirstDifference | None:
    a, b = (trails.read(store.run_folder(record.run_id)) for record in records)
    same = records[0].recipe.trail == records[1].recipe.trail
    difference = compare.first_difference if same else compare.first_difference_read
    by_name = {item.process: item for item in b}
    pairs = ((one, by_name[one.process]) for one in a if one.process in by_name)
    found = (difference(one, other) for one, other in pairs)
    return min((item for item in found if item is not None), key=lambda item: item.step, default=None)


def _metrics(store: Store, ids: list[str]) -> dict[str, list[Any]]:
    outcomes: list[Outcome | None] = [store.outcome(run_id) for run_id in ids]
    a, b = (outcome.metrics if outcome is not None else {} for outcome in outcomes)
    return {
        name: [a.get(name), b.get(name)] for name in sorted({*a, *b}) if not differences.same(a.get(name), b.get(name))
    }


def _print(
    found: list[differences.Difference],
    files: dict[str, list[str]],
    first: compare.FirstDifference | None,
    metrics: dict[str, list[Any]],
) -> None:
    if not (found or first or metrics):
        common.echo("no difference")
        return
    for item in found:
        common.echo(f"{item.kind:<12} {item.path}: {common.change(item.before, item.after)}")
        for line in files.get(item.path, ()):
            common.echo(f"{'':<12}   {line}")
    if first is not None:
        tensor = f", tensor {first.tensor}" if first.tensor else ""
        common.echo(f"{'trail':<12} parts at step {first.step}: {first.column}{tensor}")
    for name, (before, after) in metrics.items():
        common.echo(f"{'metric':<12} {name}: {common.change(before, after)}")


def _files(code: list[changes.CodeFile], data: list[changes.DataFile]) -> dict[str, list[str]]:
    """Return the lines about files by the path of the difference that they belong to."""
    found: dict[str, list[str]] = {f"inputs.{item.path}": [_of_data(item)] for item in data}
    for item in code:
        found.setdefault("code" if item.source is None else f"sources.{item.source}", []).append(_of_code(item))
    return found


def _of_code(item: changes.CodeFile) -> str:
    """Return a file of the code with the lines that it gained and lost."""
    lines = "binary" if item.added is None else f"+{item.added} -{item.removed}"
    return f"{item.status} {item.path}  {lines}"


def _of_data(item: changes.DataFile) -> str:
    """Return a file that was read with its sizes, and what of it differs where that is known."""
    sizes = [common.count(size, "byte") if size is not None else "not read" for size in item.sizes]
    words = f"{item.status} {' -> '.join(sizes)}"
    found = item.contents
    if found is None:
        return words if item.status != "M" else f"{words} (the contents are not to be had any more)"
    words += f", {common.count(found.bytes, 'byte')} differ"
    if found.rows is None:
        return words
    rows = f"{found.rows[0]:,} -> {found.rows[1]:,} rows"
    if not (found.rows_added or found.rows_removed):
        return f"{words}; {rows}, the same in another order or with other line ends"
    return f"{words}; {rows}: {found.rows_added:,} added, {found.rows_removed:,} removed"
