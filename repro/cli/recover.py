"""``repro recover``: settle runs whose supervisor is gone, also those of a machine that will not come back."""

from __future__ import annotations

import click

from repro.cli import common
from repro.errors import UsageError
from repro.run import recover
from repro.store.store import Store


@click.command("recover")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="This host's runs are over: its supervisors are dead."
)
@common.json_option
def command(hosts: tuple[str, ...], as_json: bool) -> int:
    """Mark runs as LOST whose supervisor is gone, with all that they left, as each run does first.

    Whether a run of another machine goes on is known by its lease, which it renews each minute: for a quarter of an
    hour after a crash it is UNKNOWN. --host NAME says that nothing of that host runs any more.
    """
    store = common.open_store()
    common.needs_runs(store)
    store = Store.create(store.folder)
    known = {run_id: store.holder(run_id).get("host") for run_id in store.open_runs()}
    for host in hosts:
        if host not in known.values():
            there = sorted({name for name in known.values() if name is not None})
            raise UsageError(
                f"no run of host {host} is open", hint=f"open are runs of {', '.join(there)}" if there else "repro ls"
            )
    settled = recover.recover(store, hosts)
    unknown = {run_id: known[run_id] for run_id in known if store.state(run_id)[0] == "UNKNOWN"}
    if as_json:
        common.emit({"settled": settled, "unknown": [{"run_id": key, "host": unknown[key]} for key in unknown]})
        return 0
    for run_id in settled:
        common.echo(f"{run_id}: {store.state(run_id)[0]}")
    for key, name in unknown.items():
        common.echo(f"{key}: UNKNOWN, of host {name}; if nothing runs there: repro recover --host {name}")
    if not settled and not unknown:
        common.echo("nothing to recover")
    return 0
