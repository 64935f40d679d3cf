"""``repro seeds``: how much of the number is luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from repro.cli import common
from repro.errors import UsageError
from repro.record.values import MetricSpec
from repro.run import request
from repro.run.request import Request
from repro.seeds import plan, report, study
from repro.seeds.plan import Replicate
from repro.store.store import Store

_YAML = (".yaml", ".yml")


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
    """


def _options(function: Callable[..., int]) -> Callable[..., int]:
    """Add what all commands take that make a study."""
    for option in (
        common.json_option,
        click.option("--metric", "patterns", multiple=True, metavar="REGEX", help="As for run."),
        click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads of each replicate."),
        click.option("--determinism", type=click.Choice(["strict", "portable", "warn", "off"]), help="As for run."),
        click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Change a parameter."),
        click.option("--workers", type=click.IntRange(1), default=1, metavar="N", help="So many replicates at once."),
        click.option("--seeds", "given", metavar="LIST", help="The seeds by hand: 1,2,3."),
        click.option("--n", "count", type=int, metavar="N", help="Seeds 0 to N - 1 (5 unless given)."),
    ):
        function = option(function)
    return function


@command.command("run", hidden=True)
@click.argument("words", nargs=-1, metavar="EXPERIMENT.yaml | -- COMMAND...", type=click.UNPROCESSED)
@click.option("--stable-within", type=float, metavar="SD", help="Exit 1 where the spread is larger.")
@_options
def run(words: tuple[str, ...], stable_within: float | None, as_json: bool, **options: Any) -> int:
    """Run what is missing of a study, and report."""
    found, declared = _study(words, options)
    spread = [] if stable_within is None else report.unstable(found.replicates, stable_within, declared)
    verdict = None if stable_within is None else "unstable" if spread else "stable"
    if as_json:
        common.emit(_document(found) | ({} if verdict is None else {"verdict": verdict, "unstable": spread}))
    else:
        for line in report.lines(found.replicates, declared):
            click.echo(line)
        for line in spread:
            click.echo(f"  {line}")
        if verdict is not None:
            click.echo(verdict)
    return 1 if verdict == "unstable" else 0


@command.command("compare")
@click.argument("a", metavar="A.yaml")
@click.argument("b", metavar="B.yaml")
@_options
def compare(a: str, b: str, as_json: bool, **options: Any) -> int:
    """Compare two experiments, paired by seed; what is missing of their studies is run."""
    (one, declared), (other, _) = _study((a,), options), _study((b,), options)
    if one.study_id == other.study_id:
        raise UsageError(f"{a} and {b} have one recipe: there is nothing to compare")
    names = _names(a, b)
    found = report.compare(one.replicates, other.replicates, declared, names)
    if as_json:
        common.emit({"a": one.study_id, "b": other.study_id, "metrics": found})
        return 0
    for name, item in found.items():
        low, high = item["t_interval"]
        click.echo(f"{name}: {names[1]} - {names[0]} is {item['difference']:.4g}, 95% interval [{low:.4g}, {high:.4g}]")
        click.echo(f"  p = {item['p_value']:.3g} (permutation), {item['p_holm']:.3g} with Holm's correction")
        click.echo(f"  {item['sentence']}")
    return 0


@command.command("plan")
@click.argument("words", nargs=-1, metavar="EXPERIMENT.yaml | -- COMMAND...", type=click.UNPROCESSED)
@click.option(
    "--effect", type=float, required=True, metavar="D", help="The difference to be seen, in the metric's unit."
)
@_options
def plan_command(words: tuple[str, ...], effect: float, as_json: bool, **options: Any) -> int:
    """Say how many seeds it takes to see a difference, from the variance seen so far."""
    if not effect:
        raise UsageError("--effect 0: no number of seeds sees it", hint="--effect 0.5")
    found, _ = _study(words, options)
    plans = report.planned(found.replicates, effect)
    if as_json:
        common.emit({"study_id": found.study_id, "effect": effect, "metrics": plans})
        return 0
    for name, item in plans.items():
        click.echo(f"{name}: {effect:g} is {item['effect_in_sd']:.3g} sd: {item['per_arm']} seeds a side")
    click.echo("(two-sided t test, 5%, power 80%)")
    return 0


def _names(a: str, b: str) -> tuple[str, str]:
    """Return what to call two experiments: by the parts of their paths that differ."""
    one, other = Path(a), Path(b)
    if one.stem != other.stem:
        return one.stem, other.stem
    return (one.parent.name, other.parent.name) if one.parent.name != other.parent.name else (a, b)


def _study(words: tuple[str, ...], options: dict[str, Any]) -> tuple[study.Study, Mapping[str, MetricSpec]]:
    seeds = plan.seeds(options["count"], options["given"])

    def make(seed: int) -> Request:
        return request.of_words(
            words, options["changes"], options["patterns"], seed, options["determinism"], options["threads"]
        )

    first = make(seeds[0])
    store = Store.create(common.store_folder(first.root))
    found = study.study(store, make, seeds, options["workers"], _told(len(seeds)))
    read = len(found.replicates) - found.run_now
    if read:
        common.say(f"repro: {read} read, not run; {common.count(found.files_checked, 'input file')} checked", dim=True)
    return found, first.metrics


def _told(total: int) -> Callable[[Replicate, bool], None]:
    count = 0

    def told(found: Replicate, run_now: bool) -> None:
        nonlocal count
        count += 1
        values = " · ".join(f"{name} {value:.4g}" for name, value in sorted(found.metrics.items()))
        how = found.run_id if run_now else f"{found.run_id} (there already)"
        common.say(
            f"repro: [{count}/{total}] seed {found.seed}: {found.state} · {values or 'no metric'} · {how}", dim=True
        )

    return told


def _document(found: study.Study) -> dict[str, Any]:
    runs = [
        {"run_id": item.run_id, "seed": item.seed, "state": item.state, "metrics": dict(item.metrics)}
        for item in found.replicates
    ]
    return {
        "study_id": found.study_id,
        "n": len(runs),
        "failed": sum(run["state"] != "COMPLETED" for run in runs),
        "runs": runs,
        "metrics": report.metrics(found.replicates),
        "run_now": found.run_now,
        "files_checked": found.files_checked,
    }
