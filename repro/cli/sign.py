"""``repro sign``: bind the journal to a key, so that a journal cut short or computed anew is found."""

from __future__ import annotations

from pathlib import Path

import click

from repro.cli import common
from repro.store import signatures


@click.command("sign")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="A private SSH key: ~/.ssh/id_ed25519.")
@common.json_option
def command(key: Path, as_json: bool) -> int:
    """Sign the journal's head with an SSH key; `repro verify` checks it from then on."""
    store = common.open_store()
    common.needs_runs(store)
    path = signatures.sign(store, key.expanduser())
    if as_json:
        common.emit({"path": path})
    else:
        common.echo(path)
    return 0
