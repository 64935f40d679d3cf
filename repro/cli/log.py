"""``repro log``: the metrics of a run, while it runs as well."""

from __future__ import annotations

import csv
import sys

import click

from repro.cli import common
from repro.errors import UsageError
from repro.run import metrics
from repro.store import names


@click.command("log")
@click.argument("run")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values on standard output.")
@common.json_option
def command(run: str, as_csv: bool, as_json: bool) -> int:
    """Show the metrics of RUN: a summary, or every point with --csv or --json."""
    if as_csv and as_json:
        raise UsageError("--csv and --json are two forms of one answer", hint="give one of them")
    store = common.open_store()
    common.needs_runs(store)
    folder = store.run_folder(names.resolve(store, run))
    found = metrics.series(folder)
    if as_json:
        points = {
            name: [{"step": point.step, "value": point.value, "time": point.time} for point in values]
            for name, values in found.items()
        }
        common.emit({"run_id": folder.name, "metrics": points})
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["metric", "step", "value", "time"])
        writer.writerows(
            [p.name, "" if p.step is None else p.step, repr(p.value), f"{p.time:.6f}"] for p in metrics.read(folder)
        )
    elif not found:
        common.say(f"{folder.name} has no metrics")
        common.say("hint: repro.current().log(loss=...), TensorBoard's add_scalar, or repro run --metric acc")
    else:
        common.table(
            ["metric", "points", "first", "lowest", "highest", "last"],
            [_row(name, values) for name, values in sorted(found.items())],
        )
    return 0


def _row(name: str, points: list[metrics.Point]) -> list[str]:
    values = [point.value for point in points]
    end = metrics.final(points)
    shown = (values[0], min(values), max(values), values[-1] if end is None else end)
    return [name, str(len(values)), *map(common.number, shown)]
