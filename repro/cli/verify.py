"""``repro verify``: is every sealed file what it was?"""

from __future__ import annotations

import click

from repro.cli import common
from repro.store import names, verify


@click.command("verify")
@click.argument("run", required=False)
@common.json_option
def command(run: str | None, as_json: bool) -> int:
    """Check the journal's chain and every sealed file of the store, or of RUN.

    Exit code 0: all as it was sealed. 3: a file was changed or is missing. 5: the journal itself is broken.
    """
    store = common.open_store()
    common.needs_runs(store)
    found = verify.verify(store, None if run is None else names.resolve(store, run, write=False))
    if as_json:
        common.emit({"ok": not (found.faults or found.journal_faults), **found._asdict(), "limit": verify.LIMIT})
    else:
        _print(found)
    return 5 if found.journal_faults else 3 if found.faults else 0


def _print(found: verify.Report) -> None:
    for fault in [*found.journal_faults, *found.faults]:
        click.secho(fault, fg="red")
    if not (found.faults or found.journal_faults):
        click.secho(_praise(found.files), fg="green")
    for place in found.recovered:
        click.echo(f"{place} was entered in the journal after a crash")
    for line in found.signatures:
        click.echo(line)
    click.echo(f"journal: {found.entries} entries, head {found.head}")
    common.say(f"note: {verify.LIMIT}", dim=True)


def _praise(count: int) -> str:
    return f"all {count} sealed files are as they were sealed" if count else "nothing was sealed yet"
