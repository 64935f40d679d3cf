"""``repro verify``: is every sealed file what it was? With --environment: is every installed one?"""

from __future__ import annotations

from pathlib import Path

import click

from repro.capture import interpreter, root
from repro.cli import common
from repro.environments import state
from repro.errors import ReproError
from repro.store import names, verify


@click.command("verify")
@click.argument("run", required=False)
@click.option("--environment", is_flag=True, help="Check the installed packages instead, each file against its RECORD.")
@common.json_option
def command(run: str | None, environment: bool, as_json: bool) -> int:
    """Check the journal's chain and every sealed file of the store, or of RUN.

    With --environment: every file of the installed packages against what its wheel had, and the packages against the
    lock in force, or against what RUN was recorded with.

    Exit code 0: all as it was sealed, or installed. 3: something was changed or is missing. 5: the journal itself is
    broken.
    """
    if environment:
        return _environment(run, as_json)
    store = common.open_store()
    common.needs_runs(store)
    found = verify.verify(store, None if run is None else names.resolve(store, run, write=False))
    if as_json:
        common.emit({"ok": not (found.faults or found.journal_faults), **found._asdict(), "limit": verify.LIMIT})
    else:
        _print(found)
    return 5 if found.journal_faults else 3 if found.faults else 0


def _environment(run: str | None, as_json: bool) -> int:
    record = None
    if run is not None:
        store = common.open_store()
        common.needs_runs(store)
        record = store.record(names.resolve(store, run, write=False))
    try:
        place = root.find(Path.cwd())
    except ReproError:  # no project here: there is no lock then
        place = Path.cwd()
    found = state.look(interpreter.own(), place, record)
    if as_json:
        common.emit(found)
    else:
        _print_environment(found)
    return 0 if found.ok else 3


def _print_environment(found: state.State) -> None:
    common.echo(f"{found.interpreter}, {found.python}, {common.shown(found.digest)}")
    for item in found.edited:
        common.echo(f"{item.name} {item.version} is not what its wheel was", fg="red")
        common.print_list("changed", item.changed)
        common.print_list("missing", item.missing)
    if not found.edited:
        common.echo(
            f"all {found.files:,} files of {found.distributions} packages are as their wheels had them", fg="green"
        )
    common.print_list("without a list of files, so not checked", found.unlisted)
    if found.run_id is not None:
        title = f"other than when {found.run_id} was recorded"
        common.print_list(title, found.differs)
        if not found.differs:
            common.echo(f"the packages are those of {found.run_id}", fg="green")
    elif found.lock is None:
        common.echo("no lock is in force (repro lock makes one)")
    else:
        common.echo(f"lock: {found.lock}, " + ("which it matches" if found.matches else "which it does not match"))
        common.print_list("other than locked", found.differs)


def _print(found: verify.Report) -> None:
    for fault in [*found.journal_faults, *found.faults]:
        common.echo(fault, fg="red")
    if not (found.faults or found.journal_faults):
        common.echo(_praise(found.files), fg="green")
    for line in found.unsafe:
        common.echo(f"not used: {line}", fg="yellow")
    for place in found.recovered:
        common.echo(f"{place} was entered in the journal after a crash")
    for line in found.signatures:
        common.echo(line)
    common.echo(f"journal: {found.entries} entries, head {found.head}")
    common.say(f"note: {verify.LIMIT}", dim=True)


def _praise(count: int) -> str:
    return f"all {count} sealed files are as they were sealed" if count else "nothing was sealed yet"
