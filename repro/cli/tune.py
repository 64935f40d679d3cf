"""``repro tune``: search; every decision is logged, and a function of the study alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from repro.capture import root
from repro.cli import common
from repro.cli.tuning import Progress
from repro.errors import UsageError
from repro.store.store import Store
from repro.trials import failures
from repro.tune import base as bases
from repro.tune import finalists, method, real, report, simulation, specification, tabled
from repro.tune.ground import Options
from repro.tune.options import exact
from repro.tune.search import plain
from repro.tune.specification import Study


@click.command("tune")
@click.argument("file", metavar="STUDY.yaml")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="So many trials at once; decisions stay the same.")
@click.option("--trials", type=click.IntRange(1), metavar="N", help="Go on to so many trials, whatever the file says.")
@click.option("--budget", type=float, metavar="B", help="Go on to so much budget, whatever the file says.")
@click.option("--repeats", type=click.IntRange(2), metavar="N", help="Of a table: so many studies; nothing is kept.")
@click.option("--new", is_flag=True, help="Begin a new study where the file has changed since its last one began.")
@click.option("--retry-failed", "retry", is_flag=True, help="Begin a new study that runs again what failed.")
@click.option("--code", type=click.Choice(["recorded"]), help="Go on with the code that the study was begun with.")
@click.option("--exact", is_flag=True, help="The whole tree counts as code, also what no run of the study opened.")
@click.option(
    "--give-up", type=click.IntRange(0), metavar="TRIAL", help="Count a trial that came to no result as diverged."
)
@click.option("--cold", is_flag=True, help="Start each trial anew; an experiment's are forked unless told.")
@click.option("--metric", "patterns", multiple=True, metavar="NAME|NAME=REGEX", help="Of a command: as for run.")
@click.option("--dry-run", is_flag=True, help="Print brackets, rungs and total budget, and run nothing.")
@common.json_option
def command(
    file: str,
    workers: int | None,
    trials: int | None,
    budget: float | None,
    repeats: int | None,
    code: str | None,
    give_up: int | None,
    patterns: tuple[str, ...],
    *,
    new: bool,
    retry: bool,
    exact: bool,
    cold: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Search the space of STUDY.yaml, or over its table of finished trainings.

    The same command goes on after a kill; where all is there, nothing is trained.
    """
    common.end_on_signals()
    study = _limited(specification.load(Path(file)), trials, budget)
    if give_up is not None and (dry_run or repeats is not None or study.table is not None):
        raise UsageError("--give-up is of a study's trainings", hint=f"repro tune {file} --give-up {give_up}")
    if dry_run:
        return _dry_run(study, as_json)
    if repeats is not None:
        return _repeats(study, repeats, as_json)
    project = root.find(study.path.parent)
    store = Store.create(common.store_folder(project))
    if study.table is not None:
        found, said = tabled.run(store, project, study, workers or 1, new=new)
        for words in said:
            _say(words)
    else:
        options = Options(workers, new, code == "recorded", exact, cold, patterns, retry)
        with Progress() as progress:
            found = real.run(store, project, study, options, progress.watcher(_say), give_up)
        for words in report.runs(found):
            _say(words)
    if not found["run_now"]:
        _say("all of it was there already: nothing was run")
    _print(found, report.lines(found), as_json)
    if study.table is None:
        ends = {f"trial {item['trial']}": item["run_id"] for item in found["trials"]}
        failures.need_one_completed(store, ends, "trials")
    return 0


def _say(words: str) -> None:
    common.say(f"repro: {words}", dim=True)


def _limited(study: Study, trials: int | None, budget: float | None) -> Study:
    """Return the study under the limits of the command line, where it has any: those of the file then count no more."""
    if trials is None and budget is None:
        return study
    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"--budget {budget}: an amount above 0 is expected")
    return study._replace(trials=trials, budget=None if budget is None else exact(budget))


def _dry_run(study: Study, as_json: bool) -> int:
    if study.table is not None:
        data = tabled.read_table(study)
        whole = simulation.ladder_of(study, data)
        shapes = method.planned(study, whole, len(data.configurations))
    else:
        base = bases.read(study)
        whole = real.ladder_of(base)
        shapes = method.planned(study, whole, bases.available(study, base))
    unit = whole.axis.name
    found: dict[str, Any] = {
        "path": str(study.path),
        "method": study.method.name,
        "budget_unit": unit,
        **whole.rungs(shapes),
        "brackets": [
            {
                "round": shape.round,
                "bracket": shape.bracket,
                "rungs": [
                    {"trials": size, "budget": plain(budget), **whole.values(budget)}
                    for size, budget in zip(shape.sizes, shape.budgets, strict=True)
                ],
                "budget": plain(shape.cost),
                "budget_retrained": plain(shape.retrained),
            }
            for shape in shapes
        ],
        "trials": sum(shape.sizes[0] for shape in shapes),
        "budget": plain(sum((shape.cost for shape in shapes), Fraction(0))),
        "budget_retrained": plain(sum((shape.retrained for shape in shapes), Fraction(0))),
    }
    lines = [f"{study.path.name}: {study.method.name}", *report.rungs(found)]
    if shapes:
        lines += report.plan(shapes, unit)
    else:
        lines += report.open_plan(method.budgets(whole, study.method), method.limits(study, whole), unit)
    if study.finalists and study.table is None:
        more = report.counted(plain(finalists.MOST * study.finalists * whole.axis.high), unit)
        seeds = report.counted(study.finalists, "fresh seeds")
        lines.append(f"  then the best {finalists.MOST} on {seeds}: {more} more at most")
    _print(found, lines, as_json)
    return 0


def _repeats(study: Study, repeats: int, as_json: bool) -> int:
    if study.table is None:
        raise UsageError("--repeats is of studies over a table", hint="table: FILE.npz in the study file")
    data = tabled.read_table(study)
    summary = simulation.repeat(study, data, repeats)
    found = {
        "table": str(study.table),
        "source": data.source,
        "method": study.method.name,
        "seed": study.seed,
        "repeats": repeats,
        "budget_unit": data.budget_name,
        "verdict": report.verdict(summary),
        "summary": summary,
    }
    _print(found, report.repeated(found), as_json)
    return 0


def _print(found: Any, lines: Any, as_json: bool) -> None:
    if as_json:
        common.emit(found)
        return
    for line in lines:
        common.echo(line)
