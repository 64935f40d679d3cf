"""``repro replay``: earn a run again."""

from __future__ import annotations

from typing import Any

import click

from repro.cli import common
from repro.replay import replay
from repro.store import names
from repro.store.store import Store

_EXIT = {"IDENTICAL": 0, "WITHIN_TOLERANCE": 0, "COMPATIBLE": 0, "DIFFERENT": 3, "NOT_REPLAYABLE": 4}
_MOST = 12


@click.command("replay")
@click.argument("run")
@click.option("--keep", is_flag=True, help="Keep the folder in which the replay ran.")
@click.option("--allow-outside-writes", is_flag=True, help="Let the replay write outside its own folder.")
@common.json_option
def command(run: str, keep: bool, allow_outside_writes: bool, as_json: bool) -> int:
    """Run RUN again from its record, in a folder of its own, and compare bit for bit.

    Exit code 0: IDENTICAL. 3: DIFFERENT. 4: NOT_REPLAYABLE, with the reason.
    """
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run)
    store = Store.create(store.folder)
    common.say(f"repro: replaying {run_id}", dim=True)
    found = replay.replay(
        store, run_id, to_stderr=as_json, keep=keep, allow_outside=allow_outside_writes, say=common.say
    )
    if as_json:
        common.emit(_document(found))
    else:
        _print(found)
    return _EXIT[found.verdict]


def _document(found: replay.Replayed) -> dict[str, Any]:
    compared = found.comparison
    return {
        "run_id": found.run_id,
        "replay_of": found.replay_of,
        "verdict": found.verdict,
        "reason": found.reason,
        "hint": found.hint,
        "first_difference": None if compared is None else compared.first_difference,
        "differences": found.differences,
        "compared": None
        if compared is None
        else {"frames": compared.frames, "points": compared.points, "artifacts": compared.artifacts},
        "metrics": {} if compared is None else compared.metrics,
        "not_compared": [] if compared is None else compared.not_compared,
        "files": [] if compared is None else compared.files,
        "notes": found.notes,
        "gaps": found.gaps,
        "folder": found.folder,
    }


def _print(found: replay.Replayed) -> None:
    """Print what was found, the verdict last: that is where one looks in a terminal."""
    if found.run_id is not None:
        click.echo(f"  {found.run_id} replays {found.replay_of}")
    compared = found.comparison
    if compared is not None:
        click.echo(
            f"  compared: {common.count(compared.frames, 'step')}, {common.count(compared.points, 'metric point')},"
            f" {common.count(compared.artifacts, 'artifact')}"
        )
        first = compared.first_difference
        if first is not None:
            click.echo(f"  first difference: {_place(first)}")
    for line in _reasons(found):
        click.echo(f"  {line}")
    if found.hint:
        click.echo(f"  hint: {found.hint}")
    if compared is not None:
        _print_metrics(compared)
    _print_list("differences between then and now, likely causes first", [_line(item) for item in found.differences])
    if compared is not None:
        _print_list("not compared (they measure time or memory)", compared.not_compared)
        _print_list("files that differ (they decide nothing)", [item["path"] for item in compared.files])
    if found.verdict == "DIFFERENT":
        _print_list("the run itself", found.notes)
    _print_list("gaps", found.gaps)
    if found.folder:
        click.echo(f"  kept: {found.folder}")
    click.secho(found.verdict, fg=common.VERDICT_STYLE.get(found.verdict), bold=True)


def _reasons(found: replay.Replayed) -> list[str]:
    """Return the reasons in words, less those that are printed in full below."""
    shown = {f"metric {name} differs" for name in (found.comparison.metrics if found.comparison is not None else ())}
    return [reason for reason in (found.reason or "").split("; ") if reason and reason not in shown]


def _place(first: Any) -> str:
    tensor = f", tensor {first.tensor}" if first.tensor else ""
    back = (
        ""
        if first.since is None or first.since >= first.step - 1
        else f" (equal at step {first.since}; not looked at between)"
    )
    process = "" if first.process == "rank 0" else f", {first.process}"
    return f"step {first.step}, {first.column}{tensor}{process}{back}"


def _print_metrics(compared: Any) -> None:
    for name, fault in compared.metrics.items():
        where = "" if fault["step"] is None else f" at step {fault['step']}"
        last = "" if not fault["last"] else f"; last {fault['last'][0]!r} -> {fault['last'][1]!r}"
        click.echo(f"  metric {name}: first differs{where}: {fault['before']!r} -> {fault['after']!r}{last}")


def _line(item: Any) -> str:
    return f"{item.kind}: {item.path}: {common.shown(item.before)} -> {common.shown(item.after)}"


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        click.echo(f"  {title}:")
        for line in lines[:_MOST]:
            click.echo(f"    {line}")
        if len(lines) > _MOST:
            click.echo(f"    ... and {len(lines) - _MOST} more (--json has all)")
