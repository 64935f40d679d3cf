"""``repro seeds``: how much of the number is luck."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from repro.cli import common, live, plot
from repro.errors import UsageError
from repro.record.values import MetricSpec
from repro.run import leftovers, request
from repro.run.request import Request
from repro.seeds import examples, fork, plan, report, sources, studies, study, vary
from repro.seeds.plan import Replicate
from repro.store.store import Store
from repro.trials import failures

_YAML = (".yaml", ".yml")
_STUDY = re.compile("last|[0-9a-f]{1,16}")


class _Seeds(click.Group):
    """A group whose first word, where it is no subcommand, is what to run under several seeds."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("seeds", cls=_Seeds)
def command() -> None:
    """Run one recipe under several seeds, and say how much of its numbers is luck.

    repro seeds --n 5 experiment.yaml, or: repro seeds --n 5 -- python train.py --seed {seed}

    repro seeds --vary init,order,dropout,augment,split experiment.yaml: which source of chance it is.

    repro seeds --fork-at 5 experiment.yaml: members that share their first 5 epochs.
    """


def _options(function: Callable[..., int]) -> Callable[..., int]:
    """Add what all commands take that make a study."""
    for option in (
        common.json_option,
        click.option("--metric", "patterns", multiple=True, metavar="NAME|NAME=REGEX", help="As for run."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each replicate."),
        click.option("--determinism", type=click.Choice(["strict", "portable", "warn", "off"]), help="As for run."),
        click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a parameter."),
        click.option("--workers", type=click.IntRange(1), default=1, metavar="N", help="So many replicates at once."),
        click.option("--cold", is_flag=True, help="Start each replicate anew; an experiment's are forked unless told."),
        click.option("--seeds", "given", metavar="LIST", help="The seeds (with --vary: the indices) by hand: 1,2,3."),
        click.option("--n", "count", type=int, metavar="N", help="Seeds 0 to N - 1 (5 unless given)."),
    ):
        function = option(function)
    return function


@command.command("run", hidden=True)
@click.argument("words", nargs=-1, metavar="EXPERIMENT.yaml | -- COMMAND...", type=click.UNPROCESSED)
@click.option("--stable-within", type=float, metavar="SD", help="Exit 1 where the spread is larger.")
@click.option("--vary", "streams", metavar="STREAMS", help="Vary each stream alone: init,order,dropout,augment,split.")
@click.option("--crossed", is_flag=True, help="All of init x order.")
@click.option("--fork-at", type=click.IntRange(1), metavar="EPOCHS", help="Go on from one run, under other orders.")
@click.option(
    "--plots", "folder", type=click.Path(file_okay=False, path_type=Path), help="Make PNG and SVG files here."
)
@_options
def run(
    words: tuple[str, ...],
    stable_within: float | None,
    streams: str | None,
    crossed: bool,
    fork_at: int | None,
    folder: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Run what is missing of a study, and report."""
    common.end_on_signals()
    if fork_at is not None and (streams is not None or crossed):
        raise UsageError("--fork-at varies the order alone", hint="leave out --vary and --crossed")
    if fork_at is not None:
        said = _forked(words, options, fork_at, stable_within)
    elif streams is not None or crossed:
        said = _varied(words, options, plan.streams(streams, crossed=crossed), stable_within, crossed=crossed)
    else:
        said = _plain(words, options, stable_within)
    if folder is not None:
        _draw(said.document, *_opened(words, options), folder, "order" if fork_at is not None else "seed")
    if as_json:
        common.emit(said.document)
    else:
        for line in said.lines:
            common.echo(line)
    if said.document["failed"] == said.document["n"]:
        ends = {item.get("varied", f"seed {item['seed']}"): item["run_id"] for item in said.document["runs"]}
        failures.need_one_completed(_opened(words, options)[1], ends, "replicates")
    return said.code


def _draw(document: Mapping[str, Any], asked: Request, store: Store, folder: Path, what: str) -> None:
    """Write the figures of all metrics, and say where; like what a run left they are no code of the next study."""
    from repro.base import files
    from repro.report import seeds as pictures

    drawn = pictures.draw(document, store, what)
    with files.disk_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in drawn.items():
            (folder / name).write_bytes(data)
    leftovers.remember(store, asked.root, [folder / name for name in drawn])
    common.say(f"repro: {common.count(len(drawn), 'figure')} in {folder}: {', '.join(sorted(drawn))}", dim=True)


class _Said(NamedTuple):
    """What a study comes to: its document, its report, the exit code."""

    document: dict[str, Any]
    lines: list[str]
    code: int


def _said(
    document: dict[str, Any], lines: Sequence[str], spread: Sequence[str] | None, again: Mapping[str, Any] | None = None
) -> _Said:
    """Add what is unstable (None: nobody asked), and what of one seed run twice: where it differs the code is 3."""
    differs = again is not None and not again["equal"]
    if spread is None:
        return _Said(document, [*lines], 3 if differs else 0)
    verdict = "unstable" if spread else "stable"
    more = {"verdict": verdict, "unstable": [*spread]}
    return _Said(
        document | more, [*lines, *(f"  {line}" for line in spread), verdict], 3 if differs else int(bool(spread))
    )


def _plain(words: tuple[str, ...], options: dict[str, Any], limit: float | None) -> _Said:
    store, found, declared = _study(words, options)
    spread = None if limit is None else report.unstable(found.replicates, limit, declared)
    single = examples.values(store, found.replicates)
    document = _document(found.replicates, found, report.metrics(found.replicates)) | {"examples": single}
    lines = [*report.lines(found.replicates, declared), *examples.lines(single), *plot.every(document["metrics"])]
    return _said(document, lines, spread)


def _varied(
    words: tuple[str, ...], options: dict[str, Any], streams: list[str], limit: float | None, *, crossed: bool
) -> _Said:
    indices = plan.seeds(options["count"], options["given"])
    asked, store = _opened(words, options)
    with live.watcher(options["workers"]) as watcher:
        workers, cold = options["workers"], options["cold"]
        found = vary.vary(store, asked, streams, indices, workers, watcher, crossed=crossed, cold=cold)
    _say_read(len(found.runs) + 1 - found.run_now, found.files_checked)
    declared = asked.metrics
    again = sources.twice(found.runs[plan.HELD], found.again, declared)
    runs = {**found.runs, plan.AGAIN: found.again}
    document = _document(list(runs.values()), found, report.metrics_by_name(found.runs))
    for item, name in zip(document["runs"], runs, strict=True):
        item["varied"] = name
    document |= {"sources": sources.values(found, declared), "same_seed_twice": again, "trusted": again["equal"]}
    if crossed:
        document["crossed"] = sources.components(found)
    spread = None if limit is None else sources.unstable(found, limit, declared, again)
    return _said(document, [*sources.lines(found, declared, document)], spread, again)


def _forked(words: tuple[str, ...], options: dict[str, Any], epochs: int, limit: float | None) -> _Said:
    indices = plan.seeds(options["count"], options["given"])
    asked, store = _opened(words, options)
    with live.watcher(options["workers"]) as watcher:
        found = fork.fork(store, asked, epochs, indices, options["workers"], watcher, cold=options["cold"])
    _say_read(len(found.members) + 1 - found.run_now, found.files_checked)
    again = sources.gone_on(found, asked.metrics)
    document = _document(found.members, found, report.metrics(found.members))
    document |= {
        "forked": {"run_id": found.parent.run_id, "epochs": epochs, "began_anew": sources.began_anew(found)},
        "sources": {"order": sources.values_of(found.members, asked.metrics)},
        "same_seed_twice": again,
        "trusted": again is None or again["equal"],
    }
    spread = None if limit is None else report.unstable(found.members, limit, asked.metrics)
    return _said(document, [*sources.of_fork(found, asked.metrics, again)], spread, again)


@command.command("compare")
@click.argument("a", metavar="A.yaml|STUDY")
@click.argument("b", metavar="B.yaml|STUDY")
@_options
def compare(a: str, b: str, as_json: bool, **options: Any) -> int:
    """Compare two experiments or studies, paired by seed; what is missing of an experiment's is run."""
    if not any(word.endswith(_YAML) for word in (a, b)):
        _needs_no_options(options)
    one, other = (_made((word,), options) if word.endswith(_YAML) else _there(word) for word in (a, b))
    if one.study_id == other.study_id:
        raise UsageError(f"{a} and {b} have one recipe: there is nothing to compare")
    if one.is_fork != other.is_fork:
        raise UsageError(f"one of {a} and {b} is a fork: its members have no seeds of their own to pair by")
    names = _names(one, other)
    found = report.compare(one.replicates, other.replicates, one.metrics, names)
    if not found:
        raise UsageError(f"{a} and {b} have no metric on two common seeds", hint="repro seeds compare A.yaml B.yaml")
    if as_json:
        common.emit({"a": one.study_id, "b": other.study_id, "metrics": found})
        return 0
    for name, item in found.items():
        low, high = item["t_interval"]
        common.echo(
            f"{name}: {names[1]} - {names[0]} is {item['difference']:.4g}, 95% interval [{low:.4g}, {high:.4g}]"
        )
        common.echo(f"  p = {item['p_value']:.3g} (permutation), {item['p_holm']:.3g} with Holm's correction")
        common.echo(f"  {item['sentence']}")
    return 0


@command.command("plan")
@click.argument("words", nargs=-1, metavar="EXPERIMENT.yaml | STUDY | -- COMMAND...", type=click.UNPROCESSED)
@click.option(
    "--effect", type=float, required=True, metavar="D", help="The difference to be seen, in the metric's unit."
)
@_options
def plan_command(words: tuple[str, ...], effect: float, as_json: bool, **options: Any) -> int:
    """Say how many seeds it takes to see a difference, from the variance seen so far."""
    if not effect:
        raise UsageError("--effect 0: no number of seeds sees it", hint="--effect 0.5")
    if len(words) == 1 and _STUDY.fullmatch(words[0]):
        _needs_no_options(options)
        found = _there(words[0])
    else:
        found = _made(words, options)
    plans = report.planned(found.replicates, effect)
    if as_json:
        common.emit({"study_id": found.study_id, "effect": effect, "metrics": plans})
        return 0
    for name, item in plans.items():
        common.echo(f"{name}: {effect:g} is {item['effect_in_sd']:.3g} sd: {item['per_arm']} seeds a side")
    common.echo("(two-sided t test, 5%, power 80%)")
    return 0


class _Side(NamedTuple):
    """A study to compare: run or read for an experiment, read alone for an id."""

    word: str
    name: str
    study_id: str
    replicates: list[Replicate]
    metrics: Mapping[str, MetricSpec]
    is_fork: bool


def _needs_no_options(options: Mapping[str, Any]) -> None:
    """Raise UsageError where a study of the store, which is read as it is, is given seeds or settings."""
    if any(value for name, value in options.items() if name != "workers"):
        raise UsageError("a study of the store is read as it is: no --n, --seeds, --set or settings")


def _there(word: str) -> _Side:
    """Return a study of the store."""
    store = common.open_store()
    common.needs_runs(store)
    found = studies.find(store, word)
    return _Side(word, found.record.name, found.study_id, found.replicates, found.record.metrics, found.fork)


def _made(words: tuple[str, ...], options: dict[str, Any]) -> _Side:
    """Return the study of an experiment or a command; what is missing of it is run."""
    _, found, declared = _study(words, options)
    return _Side(words[0], Path(words[0]).stem, found.study_id, found.replicates, declared, is_fork=False)


def _names(one: _Side, other: _Side) -> tuple[str, str]:
    """Return what to call two sides: by their names, else by the folders of their files, else as they were typed."""
    if one.name != other.name:
        return one.name, other.name
    folders = Path(one.word).parent.name, Path(other.word).parent.name
    return folders if folders[0] != folders[1] and all(folders) else (one.word, other.word)


def _opened(words: tuple[str, ...], options: dict[str, Any], seed: int | None = None) -> tuple[Request, Store]:
    """Return the request that the words make, and the store of its project."""
    asked = _request(words, options, seed)
    return asked, Store.create(common.store_folder(asked.root))


def _request(words: tuple[str, ...], options: dict[str, Any], seed: int | None) -> Request:
    choices = request.Choices(options["changes"], options["patterns"], seed, options["determinism"], options["threads"])
    return request.of_words(words, choices)


def _study(words: tuple[str, ...], options: dict[str, Any]) -> tuple[Store, study.Study, Mapping[str, MetricSpec]]:
    seeds = plan.seeds(options["count"], options["given"])
    first, store = _opened(words, options, seeds[0])
    with live.watcher(options["workers"]) as watcher:
        workers, cold = options["workers"], options["cold"]
        found = study.study(store, lambda seed: _request(words, options, seed), seeds, workers, watcher, cold=cold)
    _say_read(len(found.replicates) - found.run_now, found.files_checked)
    return store, found, first.metrics


def _say_read(read: int, checked: int) -> None:
    if read:
        common.say(f"repro: {read} read, not run; {common.count(checked, 'input file')} checked", dim=True)


def _document(
    replicates: Sequence[Replicate], found: study.Study | vary.Varied | fork.Forked, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    runs = [
        {"run_id": item.run_id, "seed": item.seed, "state": item.state, "metrics": dict(item.metrics)}
        for item in replicates
    ]
    return {
        "study_id": found.study_id,
        "n": len(runs),
        "failed": sum(run["state"] != "COMPLETED" for run in runs),
        "runs": runs,
        "metrics": metrics,
        "run_now": found.run_now,
        "files_checked": found.files_checked,
    }
