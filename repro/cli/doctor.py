"""``repro doctor``: what will not hold, before a long run."""

from __future__ import annotations

import os
from pathlib import Path

import click

from repro.cli import common
from repro.doctor.examine import Report, examine
from repro.doctor.finding import Finding
from repro.errors import UsageError
from repro.record.values import Profile
from repro.run import request
from repro.run.request import Request
from repro.store.store import Store

_DEFAULT = "experiment.yaml"
_YAML = (".yaml", ".yml")


@click.command("doctor", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[EXPERIMENT.yaml | train.py | -- COMMAND...]", type=click.UNPROCESSED)
@click.option("--determinism", type=click.Choice(["strict", "portable", "warn", "off"]), help="As for run.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="As for run.")
@common.json_option
def command(words: tuple[str, ...], determinism: Profile | None, threads: int | None, as_json: bool) -> int:
    """Say what will not hold, before a long run: in the script, its modules, and what surrounds them.

    Nothing is run. The exit code is 0 where nothing was found, 2 where something was.
    """
    experiment, asked = _request(words, determinism, threads)
    report = examine(asked, Store(common.store_folder(asked.root)), experiment)
    if as_json:
        common.emit({"findings": report.findings, "files": report.files})
    else:
        _print(report, asked.root)
    return 2 if report.findings else 0


def _request(words: tuple[str, ...], profile: Profile | None, threads: int | None) -> tuple[Path | None, Request]:
    """Return the experiment file, if it is one, and the run that is asked for."""
    choices = request.Choices(profile=profile, threads=threads)
    first = Path(words[0] if words else _DEFAULT)
    if first.is_dir():
        first = first / _DEFAULT
    if first.name.endswith(_YAML):
        if not words and not first.exists():
            hint = "repro doctor experiment.yaml, or repro doctor -- python train.py"
            raise UsageError(f"there is no {_DEFAULT} in {Path.cwd()}", hint=hint)
        if len(words) > 1:
            raise UsageError(f"an experiment takes no further words: {' '.join(words[1:])}")
        return first, request.of_experiment(first, choices)
    command = ["python", *words] if words[0].endswith(".py") else list(words)
    return None, request.of_command(command, choices)


def _print(report: Report, root: Path) -> None:
    for item in report.findings:
        where = "" if item.file is None else f"{_shown(item, root)}: "
        common.echo(where, nl=False)
        common.echo(item.rule, nl=False, bold=True)
        common.echo(f": {item.text}")
        common.echo(f"    remedy: {item.remedy}")
    number = common.count(len(report.findings), "finding") if report.findings else "nothing found"
    common.say(f"repro: {number} · {common.count(len(report.files), 'file')} read", dim=True)
    if not report.files:
        common.say("repro: no Python script is named there: the code was not looked at", dim=True)


def _shown(item: Finding, root: Path) -> str:
    """Return file and line as seen from where the user stands."""
    path = root / (item.file or "")
    name = os.path.relpath(path) if path.exists() else str(item.file)
    return name if item.line is None else f"{name}:{item.line}"
