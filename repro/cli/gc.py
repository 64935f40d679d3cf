"""``repro gc``: give back the room that a store's caches take."""

from __future__ import annotations

import contextlib

import click

from repro.cli import common
from repro.environments import cache


@click.command("gc")
@click.option("--all", "everything", is_flag=True, help="Every environment that is not in use, not only the oldest.")
@common.json_option
def command(everything: bool, as_json: bool) -> int:
    """Remove environments that were built for replays: half-built ones, and beyond the last 8; and what kills left.

    A replay builds them anew. No record, and nothing that a run left, is touched.
    """
    store = common.open_store()
    common.needs_runs(store)
    found = cache.sweep(store, everything=everything)
    with contextlib.suppress(OSError):
        store.sweep()
        store.code.sweep()
    if as_json:
        common.emit(found._asdict())
        return 0
    for name, reason in found.removed.items():
        common.echo(f"removed the environment {name}: {reason}")
    common.echo(
        f"{common.count(len(found.removed), 'environment')} removed, {found.bytes / 1e9:.2f} GB;"
        f" {common.count(len(found.kept), 'environment')} kept"
    )
    return 0
