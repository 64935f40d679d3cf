"""``repro lock``: pin an environment, with hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from repro.base import files
from repro.capture import root
from repro.cli import common, trusting
from repro.environments import compiling, locks, pylock, recorded, resolve
from repro.errors import ReproError, UsageError
from repro.store import names, trust


@click.command("lock")
@click.option("--check", is_flag=True, help="Only say whether the lock is what its inputs ask for.")
@click.option("--from", "run", metavar="RUN", help="The lock of the environment that RUN was recorded in.")
@click.option("--extra", "extras", multiple=True, metavar="NAME", help="An extra of pyproject.toml; may be repeated.")
@click.option("--upgrade", is_flag=True, help="Take the newest of everything, not what is locked already.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="With --from: the file to write.")
@trusting.options
@common.json_option
def command(
    check: bool,
    run: str | None,
    extras: tuple[str, ...],
    upgrade: bool,
    output: Path | None,
    as_json: bool,
    trusted: trust.Scope | None,
) -> int:
    """Compile lockfiles/*.in, or pyproject.toml, into a lock with hashes, by pip-tools.

    It is for the interpreter and the index that it is made with, and named after them. Beside it pylock.NAME.toml has
    the same as PEP 751.

    Exit code 0: done, or fresh. 3: --check found the lock stale. 4: something is not on the index.
    """
    if run is not None:
        _refuse("--from", check=check, upgrade=upgrade, extra=bool(extras))
        return _from(run, output, trusted, as_json=as_json)
    if output is not None:
        raise UsageError("--output goes with --from: a project's lock is named after its interpreter and index")
    asked = compiling.inputs(root.find(Path.cwd()), extras)
    if check:
        _refuse("--check", upgrade=upgrade)
        return _check(asked, as_json)
    common.say("repro: compiling " + ", ".join(asked.files), dim=True)
    name, text = compiling.compile_lock(asked, upgrade=upgrade)
    pins = locks.parse(text)
    converted = pylock.convert(pins)
    path = compiling.write(asked.root, f"{name}.txt", text)
    other = compiling.write(asked.root, f"pylock.{name}.toml", converted)
    found = {"path": str(path), "pylock": str(other), "digest": locks.pins_digest(pins), "packages": len(pins)}
    _show(found | {"inputs": asked.files}, f"{path}: {common.count(len(pins), 'package')}", as_json)
    return 0


def _refuse(option: str, **others: bool) -> None:
    wrong = next((name for name, given in others.items() if given), None)
    if wrong is not None:
        raise UsageError(f"{option} and --{wrong} do not go together", hint="repro lock --help")


def _show(document: dict[str, Any], words: str, as_json: bool) -> None:
    if as_json:
        common.emit(document)
    else:
        common.echo(words)


def _check(asked: compiling.Inputs, as_json: bool) -> int:
    try:
        path = compiling.check(asked)
    except ReproError as error:
        if not as_json:
            raise
        common.emit({"fresh": False, "path": None, "reason": str(error), "hint": error.hint})
        return error.exit_code
    _show({"fresh": True, "path": str(path), "reason": None, "hint": None}, f"{path} is fresh", as_json)
    return 0


def _from(run: str, output: Path | None, trusted: trust.Scope | None, *, as_json: bool) -> int:
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run, write=False)
    trusting.need_trust(store, run_id, trusted)
    record = store.record(run_id)
    common.say(f"repro: looking for the wheels of {run_id}", dim=True)
    found = resolve.resolve(record, resolve.wanted(record), recorded.target(record))
    path = output or root.find(Path.cwd()) / compiling.FOLDER / f"run-{run_id}.txt"
    head = [
        f"The environment of run {run_id}, {record.recipe.interpreter}, made by repro lock --from.",
        f"pins: {locks.pins_digest(found.pins)}",
        *(f"not resolved: {name}: {reason}" for name, reason in found.unresolved.items()),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, locks.render(found.pins, head).encode())
    if as_json:
        common.emit({"path": str(path), "run_id": run_id, "packages": len(found.pins), **found._asdict()})
    else:
        common.echo(f"{path}: {common.count(len(found.pins), 'package')} of {run_id}, each with its wheel's hash")
        common.print_list("could not be resolved", [f"{name}: {why}" for name, why in found.unresolved.items()])
        common.print_list("resolved, not proved", [f"{name}: {why}" for name, why in found.unproved.items()])
    return 4 if found.unresolved else 0
