"""``repro docker``: a record's environment and code as an image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from repro.cli import common, trusting
from repro.engines import container
from repro.environments import image, recorded, wheels
from repro.errors import UsageError
from repro.record.values import Record
from repro.replay import environment
from repro.store import names, trust
from repro.store.store import Store


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what all three commands take."""
    for option in (
        trusting.options,
        common.json_option,
        click.option("--allow-python", is_flag=True, help="Go on where the base image has another Python."),
        click.option("--base", metavar="IMAGE", help="The image that it is built on; python:VERSION-slim by default."),
        click.option("--engine", metavar="NAME", help="podman or docker; the first that works by default."),
        click.argument("run"),
    ):
        function = option(function)
    return function


@click.group("docker")
def command() -> None:
    """Rebuild a run's environment as an image, run it there, or write its Dockerfile."""


def _found(run: str, trusted: trust.Scope | None) -> tuple[Store, Record]:
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run)
    store = Store.create(store.folder)
    trusting.need_trust(store, run_id, trusted)
    return store, recorded.original(store, store.record(run_id))


@command.command("build")
@click.option("--anew", is_flag=True, help="Build it also where it is there: is it the same again?")
@_options
def build(
    run: str,
    engine: str | None,
    base: str | None,
    allow_python: bool,
    as_json: bool,
    anew: bool,
    trusted: trust.Scope | None,
) -> int:
    """Build the image of RUN: its base, the locked packages, the recorded code.

    Podman gives the same record the same image id each time; Docker does not.

    Exit code 4: the base, a wheel or the engine cannot be had.
    """
    store, record = _found(run, trusted)
    chosen = container.choose(engine)
    built = image.build(store, record, chosen, base=base, allow_python=allow_python, anew=anew, say=common.say)
    environment.note(store, record, built)
    document = {"run_id": record.run_id, "tag": built.tag, "id": built.image.id, "labels": built.image.labels}
    document |= {"fresh": built.fresh} | image.facts(built)
    if as_json:
        common.emit(document)
        return 0
    for line in (built.tag, f"  id: {built.image.id}", f"  base: {built.base}", f"  lock: {built.lock}"):
        common.echo(line)
    common.echo(f"  runs by itself: {image.shown_command(record)}")
    if not built.reproducible:
        common.say(f"repro: this build is not reproducible: {built.engine} gives another id each time; Podman does not")
    return 0


@command.command("run")
@_options
@click.pass_context
def run_(
    context: click.Context,
    run: str,
    engine: str | None,
    base: str | None,
    allow_python: bool,
    as_json: bool,
    trusted: trust.Scope | None,
) -> int:
    """Replay RUN in its image: the same as `repro replay RUN --env container`."""
    from repro.cli.replay import command as replay

    common.needs_runs(store := common.open_store())
    trusting.need_trust(store, names.resolve(store, run), trusted)
    words = {"environment": "container", "engine": engine, "base": base, "allow_python": allow_python}
    return int(context.invoke(replay, run=run, as_json=as_json, **words) or 0)


@command.command("export")
@click.option("--output", type=click.Path(path_type=Path), help="The new folder; repro-RUN by default.")
@_options
def export(
    run: str,
    engine: str | None,
    base: str | None,
    allow_python: bool,
    as_json: bool,
    output: Path | None,
    trusted: trust.Scope | None,
) -> int:
    """Write Dockerfile and context of RUN into a new folder, for people without repro. Needs no engine."""
    if engine is not None or allow_python:
        raise UsageError("export builds nothing: it takes neither --engine nor --allow-python")
    store, record = _found(run, trusted)
    folder = output or Path(f"repro-{record.run_id}")
    if folder.exists():
        raise UsageError(f"{folder} is there already", hint="--output NAME names a new folder")
    source = recorded.source(store, record, common.say)
    name = base or image.default_base(record)
    try:
        image.write_context(folder, store, record, source, wheels.of_self(), name, name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if as_json:
        common.emit({"run_id": record.run_id, "path": str(folder.resolve()), "base": name, "lock": source.lock_digest})
    else:
        common.echo(f"{folder}: docker build {folder}, or podman build {folder}")
    return 0
