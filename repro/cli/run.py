"""``repro run``: one experiment or any command, recorded before it trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from repro.cli import common
from repro.engines.limits import RunLimits, seconds, size
from repro.errors import UsageError
from repro.record.values import Gap, Profile, Record
from repro.run import execute, request, resume, said, trees
from repro.store import names
from repro.store.store import Store

_T = TypeVar("_T")
_CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": True}


@click.command("run", context_settings=_CONTEXT)
@click.argument("words", nargs=-1, metavar="EXPERIMENT.yaml | best:STUDY | -- COMMAND...", type=click.UNPROCESSED)
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a parameter of the experiment.")
@click.option("--seed", metavar="N|random", help="The master seed (0 unless given).")
@click.option(
    "--determinism",
    type=click.Choice(["strict", "portable", "warn", "off"]),
    help="What is done for equal bits: strict unless given, warn for a command.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each process (as found unless given)."
)
@click.option("--metric", "patterns", multiple=True, metavar="NAME|NAME=REGEX", help="Take a metric out of the output.")
@click.option("--timeout", metavar="SECONDS", help="End the run after so long (90, 10m, 2h): TIMED_OUT, exit code 124.")
@click.option(
    "--memory-limit", metavar="SIZE", help="End the run where its processes use more (4GiB, 500MB): FAILED, 137."
)
@click.option("--resume", "resumed", metavar="RUN", help="Go on from the last checkpoint of RUN, under its recipe.")
@common.json_option
def command(
    words: tuple[str, ...],
    changes: tuple[str, ...],
    seed: str | None,
    determinism: Profile | None,
    threads: int | None,
    patterns: tuple[str, ...],
    timeout: str | None,
    memory_limit: str | None,
    resumed: str | None,
    as_json: bool,
) -> int:
    """Run an experiment file, or any command after --, and keep a record of it.

    The record (code, packages, hardware, settings, seeds, data) is on the disk before the first line of your code runs.
    The exit code is that of the command; 1 where an experiment fails.
    """
    limits = RunLimits(
        _limit("--timeout", timeout, seconds, "--timeout 600"),
        _limit("--memory-limit", memory_limit, size, "--memory-limit 4GiB"),
    )
    if resumed is not None:
        if words or changes or seed or determinism or threads or patterns:
            raise UsageError(
                "--resume takes everything from the run that it goes on from, but limits",
                hint=f"repro run --resume {resumed}",
            )
        return _resume(resumed, limits, as_json)
    master = request.parse_seed(seed)
    if len(words) == 1 and words[0].startswith("best:"):
        if changes or determinism or threads or patterns:
            raise UsageError(f"{words[0]} takes everything but --seed from its study", hint=f"repro run {words[0]}")
        asked = _best(words[0].removeprefix("best:"), master)
    else:
        asked = request.of_words(words, request.Choices(changes, patterns, master, determinism, threads))
    store = Store.create(common.store_folder(asked.root))
    options = execute.Options(
        to_stderr=as_json, sealed=lambda record, lines: _announce(record, lines, asked.seed_given), limits=limits
    )
    return _finish(execute.execute(asked, store, options), as_json)


def _limit(name: str, text: str | None, read: Callable[[str], _T], hint: str) -> _T | None:
    """Return a limit of the command line. Raises UsageError for a text that is none."""
    try:
        return None if text is None else read(text)
    except ValueError as error:
        raise UsageError(f"{name} {text}: {error}", hint=hint) from error


def _finish(result: execute.Result, as_json: bool) -> int:
    _report(result)
    if as_json:
        common.emit(_document(result))
    return execute.exit_code(result)


def _best(name: str, seed: int | None) -> request.Request:
    """Return the request of a study's best configuration, at its full budget, of the experiment as it is now."""
    from repro.store import studies
    from repro.tune import kept

    store = common.open_store()
    asked = kept.best_request(store, studies.find(store, name))
    return asked if seed is None else dataclasses.replace(asked, seed=seed, seed_given=True)


def _resume(name: str, limits: RunLimits, as_json: bool) -> int:
    """Go on from the last checkpoint of a run, as a run of its own."""
    store = common.open_store()
    common.needs_runs(store)
    start = resume.find(store, names.resolve(store, name))
    options = execute.Options(
        to_stderr=as_json,
        environment=resume.environment_of(start.record, common.say),
        sealed=lambda record, lines: _announce(record, lines, record.circumstances["launch"]["seed_given"]),
        start=start,
        limits=limits,
    )
    again = dataclasses.replace(resume.request_of(start.record), program=trees.program_of(start.record.recipe, store))
    return _finish(execute.execute(again, store, options), as_json)


def _announce(record: Record, lines: list[str], seed_given: bool) -> None:
    recipe = record.recipe
    seed = f"seed {recipe.seeds.master}" + ("" if seed_given else " (the default)")
    threads = f"{recipe.threads} thread" + ("" if recipe.threads == 1 else "s")
    common.say(f"repro: {record.name} · {seed} · {recipe.profile} · {threads} · run {record.run_id}", dim=True)
    for line in [*_start(record), *lines, *_gaps(record, record.gaps)]:
        common.say(f"repro: {line}", dim=True)


def _start(record: Record) -> list[str]:
    """Say where a continuation begins."""
    start = record.circumstances.get("resumed")
    if start is None:
        return []
    where = "" if start["epoch"] is None else f", after epoch {start['epoch']}"
    return [f"goes on from {start['run']}{where}"]


def _gaps(record: Record, gaps: Sequence[Gap]) -> list[str]:
    """Say what was not captured: a gap that an earlier run of the store had as well is only counted."""
    fresh, count = said.split(Path(record.circumstances["project"]["store"]) / "cache", gaps)
    lines = [f"not captured: {gap.what}: {gap.reason}" for gap in fresh]
    return [*lines, *([f"{common.count(count, 'gap')} as before: repro show {record.run_id}"] if count else [])]


def _report(result: execute.Result) -> None:
    outcome = result.outcome
    colour = common.STATE_STYLE.get(outcome.state)
    reason = f" ({outcome.reason})" if outcome.reason else ""
    values = " · ".join(f"{name} {common.number(value)}" for name, value in sorted(outcome.metrics.items())[:6])
    frames = sum(item.frames for item in outcome.trails)
    common.say("repro: ", nl=False, dim=True)
    common.say(outcome.state, fg=colour, nl=False)
    trail = f"{common.count(frames, 'step')} in the trail" if frames else "no trail"
    common.say(f"{reason} · {' · '.join(filter(None, [values, trail]))}", dim=True)
    for note in outcome.notes:
        common.say(f"repro: {note}", dim=True)
    for line in _gaps(result.record, outcome.gaps):
        common.say(f"repro: {line}", dim=True)


def _document(result: execute.Result) -> dict[str, Any]:
    outcome, record = result.outcome, result.record
    return {
        "run_id": record.run_id,
        "name": record.name,
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
        "reason": outcome.reason,
        "metrics": outcome.metrics,
        "seed": record.recipe.seeds.master,
        "recipe_digest": record.recipe_digest,
        "record_digest": result.record_digest,
        "trail_digest": outcome.trail_digest,
        "frames": sum(item.frames for item in outcome.trails),
        "resumed": record.circumstances.get("resumed"),
        "path": str(result.folder),
        "gaps": [*record.gaps, *outcome.gaps],
        "notes": outcome.notes,
    }
