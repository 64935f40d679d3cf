"""``repro schema``: the JSON Schema of an experiment file."""

from __future__ import annotations

import click

from repro.cli import common
from repro.run import config


@click.command("schema")
@click.option("--json", "as_json", is_flag=True, help="The schema is JSON in any case.")
def command(as_json: bool) -> int:  # noqa: ARG001
    """Print the JSON Schema of an experiment file, so that editors complete it."""
    common.emit(config.schema())
    return 0
