"""``repro study``: look at the tuner's studies, and check their decisions."""

from __future__ import annotations

import click

from repro.base import canonical
from repro.cli import common
from repro.errors import UsageError
from repro.store import studies
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import decisions, kept, report


@click.group("study")
def command() -> None:
    """Look at a study of `repro tune`: STUDY is its id, a prefix of it, its file, or last."""


def _find(name: str) -> tuple[Store, StudyFolder]:
    store = common.open_store()
    if not store.exists():
        raise UsageError(f"there is no store in {store.folder}", hint="repro tune study.yaml makes one")
    return store, studies.find(store, name)


@command.command("show")
@click.argument("study")
@common.json_option
def show(study: str, as_json: bool) -> int:
    """Show what a study has come to."""
    found = kept.document_of(*_find(study))
    if as_json:
        common.emit(found)
        return 0
    for line in report.lines(found):
        common.echo(line)
    return 0


@command.command("trials")
@click.argument("study")
@common.json_option
def trials(study: str, as_json: bool) -> int:
    """List the trials of a study."""
    found = kept.document_of(*_find(study))
    if as_json:
        common.emit(found["trials"])
        return 0
    metric, unit = found["objective"]["metric"], found["budget_unit"]
    rows = [
        [
            str(trial["trial"]),
            trial["state"],
            "" if trial["budget"] is None else report.number(trial["budget"]),
            trial["reason"] or ("" if trial["budget"] is None else report.number(trial["metrics"].get(metric))),
            trial["run_id"] or "",
            report.params(trial),
        ]
        for trial in found["trials"]
    ]
    common.table(["trial", "state", report.heading(unit), metric, "run", "parameters"], rows, wrapped=("parameters",))
    return 0


@command.command("decisions")
@click.argument("study")
@common.json_option
def decisions_command(study: str, as_json: bool) -> int:
    """Print the decision log: what was suggested, promoted, stopped, and why."""
    _, folder = _find(study)
    log = folder.decisions()
    entries = [canonical.loads(line) for line in log]
    if as_json:
        found = {"study_id": folder.study_id, "decisions_digest": decisions.digest_of(log)}
        common.emit(found | {"decisions": entries})
        return 0
    for entry in entries:
        for line in decisions.in_words(entry):
            common.echo(line)
    return 0


@command.command("best")
@click.argument("study")
@common.json_option
def best(study: str, as_json: bool) -> int:
    """Print the best configuration, chosen among the trials at the full budget."""
    found = kept.best_of(*_find(study))
    if as_json:
        common.emit(found)
        return 0
    for name, value in found["params"].items():
        common.echo(f"{name}: {value}")
    return 0


@command.command("verify")
@click.argument("study")
@common.json_option
def verify(study: str, as_json: bool) -> int:
    """Derive every decision again from the records (of a table: from the table), and compare with the log.

    Exit code 3: they differ.
    """
    store, folder = _find(study)
    found = kept.verify(store, folder)
    if as_json:
        common.emit({"study_id": folder.study_id, "ok": not found.faults, **found._asdict()})
    else:
        common.echo(f"{found.decisions:,} decisions derived again, {found.digest}")
        for fault in found.faults:
            common.echo(f"  {fault}")
        common.echo("the log is as it must be" if not found.faults else "the log is not as it must be")
    return 3 if found.faults else 0
