"""``repro diagnose``: nothing differs, and the bits still do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from repro.cli import common, trusting
from repro.errors import InterruptedReplay, RunNotFoundError, UsageError
from repro.record.values import Profile
from repro.replay import diagnose
from repro.replay.culprit import Finding
from repro.run import execute, request
from repro.store import names, trust
from repro.store.store import Store

_SUFFIXES = (".yaml", ".yml")
_MOST_OTHERS = 5


@click.command("diagnose")
@click.argument("words", nargs=-1, metavar="RUN | EXPERIMENT.yaml | -- COMMAND...", type=click.UNPROCESSED)
@click.option("--runs", type=click.IntRange(2), default=2, metavar="N", help="Compare N runs before they agree (2).")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a parameter of the experiment.")
@click.option("--seed", metavar="N|random", help="The master seed (0 unless given).")
@click.option("--determinism", type=click.Choice(["strict", "portable", "warn", "off"]), help="As with repro run.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each process.")
@click.option("--allow-outside-writes", is_flag=True, help="Let the replays write outside their own folders.")
@trusting.options
@common.json_option
def command(
    words: tuple[str, ...],
    runs: int,
    changes: tuple[str, ...],
    seed: str | None,
    determinism: Profile | None,
    threads: int | None,
    allow_outside_writes: bool,
    as_json: bool,
    trusted: trust.Scope | None,
) -> int:
    """Say why two runs of the same thing differ: the operator, the seed, the draw, the order, with its line.

    Of a run that is recorded the code is replayed; an experiment or a command is run first.

    Exit code 0: the runs agree. 3: they differ. 4: the run cannot be replayed.
    """
    if not words:
        raise UsageError("nothing to diagnose", hint="repro diagnose last, or repro diagnose -- python train.py")
    common.end_on_signals()
    asked = None
    if not _is_run(words):
        choices = request.Choices(changes, (), request.parse_seed(seed), determinism, threads)
        asked = request.of_words(_in_folder(words), choices)
    elif changes or seed or determinism or threads:
        raise UsageError(f"{words[0]} is a run: its recipe is what it is", hint="repro run it anew, with the change")
    if asked is None:
        store = common.open_store()
        common.needs_runs(store)
        run_id = names.resolve(store, words[0])
        trusting.need_trust(store, run_id, trusted)
    else:
        store = Store.create(common.store_folder(asked.root))
        common.say("repro: the first run", dim=True)
        made = execute.execute(asked, store, execute.Options(to_stderr=as_json))
        run_id = made.record.run_id
        if made.told:
            raise InterruptedReplay(f"interrupted: the run {run_id} is {made.outcome.state}")
    how = diagnose.Asked(runs, as_json, allow_outside_writes, lambda text: common.say(text, dim=True))
    found = diagnose.diagnose(Store.create(store.folder), run_id, how)
    if as_json:
        common.emit(_document(found))
    else:
        _print(found)
    return 3 if found.found else 0


def _is_run(words: tuple[str, ...]) -> bool:
    """Say whether a run is meant: one word that names one, and no experiment and no program."""
    if len(words) > 1 or words[0].endswith(_SUFFIXES) or Path(words[0]).exists():
        return False
    try:
        names.resolve(common.open_store(), words[0], write=False)
    except RunNotFoundError:
        return shutil.which(words[0]) is None
    return True


def _in_folder(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the experiment file of a folder where one is meant."""
    return (str(Path(words[0]) / "experiment.yaml"),) if len(words) == 1 and Path(words[0]).is_dir() else words


def _document(found: diagnose.Diagnosis) -> dict[str, Any]:
    finding = found.finding
    fields = dict.fromkeys(Finding.__struct_fields__) | {"others": []}
    fields |= {} if finding is None else {name: getattr(finding, name) for name in fields}
    rest = ("run_id", "found", "text", "step", "column", "tensor", "replays", "gaps")
    return fields | {name: getattr(found, name) for name in rest}


def _print(found: diagnose.Diagnosis) -> None:
    """Print what was found, what is to blame last: that is where one looks in a terminal."""
    if not found.found:
        common.echo(f"  {found.text}")
        return
    if found.step is not None:
        where = f", {found.column}" if found.column else ""
        common.echo(
            f"  two runs differ at step {found.step}{where}" + (f", tensor {found.tensor}" if found.tensor else "")
        )
    finding = found.finding
    if finding is not None:
        for line in _details(finding):
            common.echo(f"  {line}")
        others = [f"{item['file']}:{item['line']}: {item['name']}" for item in finding.others]
        common.print_list("what also differs before it", others[:_MOST_OTHERS])
    common.print_list("gaps", found.gaps)
    if finding is None:
        common.echo(f"  {found.text}")
    else:
        common.echo(f"{finding.file}:{finding.line}: ", bold=True, nl=False)
        common.echo(finding.text)


def _details(finding: Finding) -> list[str]:
    """Return what is known of the operator."""
    if finding.operator is None:
        return []
    if finding.shapes is None:
        return [f"seen first in {finding.operator}"]
    sides = [", ".join(f"[{', '.join(map(str, shape))}]" for shape in side) or "nothing" for side in finding.shapes]
    lines = [f"operator {finding.operator}: {sides[0]} -> {sides[1]} {', '.join(finding.dtype or [])}".rstrip()]
    if finding.unequal is not None:
        lines.append(f"{common.count(finding.unequal, 'element')} of the result differ, by {finding.ulp:,} ULP at most")
    if finding.backward is not None:
        of = "" if finding.forward is None else f", of {finding.forward['file']}:{finding.forward['line']}"
        lines.append(f"in a backward pass ({finding.backward}{of})")
    return lines
