"""``repro replay``: earn a run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import click

from repro.capture import program
from repro.cli import common, plot, trusting
from repro.errors import UsageError
from repro.record.values import Record
from repro.replay import grade, narrow, replay, ulp, why
from repro.replay.environment import Options
from repro.replay.plan import as_recorded, changed
from repro.run import metrics
from repro.store import names, trust
from repro.store.store import Store

_EXIT = {"IDENTICAL": 0, "WITHIN_TOLERANCE": 0, "COMPATIBLE": 0, "DIFFERENT": 3, "NOT_REPLAYABLE": 4}
#: From the best to the worst.
_ORDER = [*_EXIT]


@click.command("replay")
@click.argument("run")
@click.option("--with", "changes", multiple=True, metavar="NAME=VALUE", help="Change a circumstance on purpose.")
@click.option(
    "--code",
    type=click.Choice(["recorded", "current"]),
    default="recorded",
    help="current: the project as it is now, instead of the recorded code.",
)
@click.option(
    "--inputs",
    type=click.Choice(["recorded", "current"]),
    default="recorded",
    help="current: files that changed since as they are now, instead of the bytes that the store kept.",
)
@click.option("--until", type=click.IntRange(0), metavar="STEP", help="End after this step of the first optimizer.")
@click.option("--times", type=click.IntRange(1), default=1, metavar="N", help="Replay N times, and compare those too.")
@click.option("--why", "wants_why", is_flag=True, help="Prove which difference is the cause, by undoing one at a time.")
@click.option(
    "--narrow",
    "wants_narrow",
    is_flag=True,
    help="Place the first difference exactly, and how far apart it is: by more replays.",
)
@click.option(
    "--env",
    "environment",
    type=click.Choice(["current", "locked", "container"]),
    default="current",
    help="locked: the recorded packages in an environment of their own; container: in an image.",
)
@click.option("--engine", metavar="NAME", help="With --env container: podman or docker; the first that works.")
@click.option("--base", metavar="IMAGE", help="With --env container: the image that it is built on.")
@click.option("--hermetic", is_flag=True, help="Under bubblewrap: no network, a read-only disk; says what it missed.")
@click.option("--allow-python", is_flag=True, help="With --env locked or container: go on with another Python.")
@click.option("--keep", is_flag=True, help="Keep the folder in which the replay ran.")
@click.option("--allow-outside-writes", is_flag=True, help="Let the replay write outside its own folder.")
@trusting.options
@common.json_option
def command(
    run: str,
    changes: tuple[str, ...],
    code: str,
    inputs: Literal["recorded", "current"],
    until: int | None,
    times: int,
    wants_why: bool,
    wants_narrow: bool,
    environment: Literal["current", "locked", "container"],
    engine: str | None,
    base: str | None,
    hermetic: bool,
    allow_python: bool,
    keep: bool,
    allow_outside_writes: bool,
    as_json: bool,
    trusted: trust.Scope | None,
) -> int:
    """Run RUN again from its record, in a folder of its own, and compare bit for bit.

    --with takes threads=1, seed=7, determinism=off, params.lr=0.1, env.NAME=VALUE, and env.NAME alone to unset it.

    Exit code 0: IDENTICAL, WITHIN_TOLERANCE or COMPATIBLE. 3: DIFFERENT. 4: NOT_REPLAYABLE, with the reason.
    """
    if wants_why and (times > 1 or until is not None):
        raise UsageError("--why makes its own replays: it goes with neither --times nor --until")
    if wants_narrow and times > 1:
        raise UsageError("--narrow makes its own replays: it does not go with --times")
    common.end_on_signals()
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run)
    store = Store.create(store.folder)
    trusting.need_trust(store, run_id, trusted)
    record = store.record(run_id)
    plan = replace(changed(as_recorded(record), record, changes), environment=environment, inputs=inputs)
    if code == "current":
        plan = replace(plan, code=why.current_code(store, record))
        if installed := ", ".join(sorted(record.recipe.sources.keys() - {program.NAME})):
            common.say(f"repro: code from outside the project is replayed as recorded: {installed}")
    if environment != "container" and (engine or base):
        raise UsageError("--engine and --base are for --env container")
    place = Options(allow_python=allow_python, hermetic=hermetic, engine=engine, base=base)
    asked = replay.Asked(as_json, keep, allow_outside_writes, common.say, until, place=place)
    found = []
    for number in range(times):
        common.say(f"repro: replaying {run_id}" + (f" ({number + 1} of {times})" if times > 1 else ""), dim=True)
        found.append(replay.replay(store, run_id, plan, replace(asked, quiet=number > 0)))
    nearer = narrow.narrow(store, run_id, plan, found[0], asked) if wants_narrow else None
    cause = why.why(store, run_id, plan, found[0], asked) if wants_why else None
    worst = max(found, key=lambda item: _ORDER.index(item.verdict))
    rest = _times(store, record, found) | ({} if cause is None else _cause(cause))
    rest |= {} if nearer is None else {"narrowed": nearer}
    if as_json:
        common.emit(_document(worst) | rest)
    else:
        _print(store, worst, cause, rest)
    return _EXIT[worst.verdict]


def _times(store: Store, record: Record, found: list[replay.Replayed]) -> dict[str, Any]:
    """Return what several replays say together: whether they agree, and if they fall short of the seeds' runs."""
    if len(found) == 1:
        return {}
    ends = [item.comparison.last for item in found if item.comparison is not None]
    seeds = grade.other_seeds(store, record)
    return {
        "times": [{"run_id": item.run_id, "verdict": item.verdict} for item in found],
        "agree": why.agree(store, record, found),
        "worse": grade.worse(record.metrics, seeds, ends),
    }


def _cause(found: why.Why) -> dict[str, Any]:
    return {
        "cause": found.cause,
        "why": {"reason": found.reason, "hint": found.hint, "replays": found.replays, "not_undone": found.not_undone},
    }


def _document(found: replay.Replayed) -> dict[str, Any]:
    compared = found.comparison
    return {
        "run_id": found.run_id,
        "replay_of": found.replay_of,
        "verdict": found.verdict,
        "reason": found.reason,
        "hint": found.hint,
        "first_difference": None if compared is None else compared.first_difference,
        "differences": found.differences,
        "compared": None
        if compared is None
        else {
            name: getattr(compared, name)
            for name in ("frames", "points", "artifacts", "lines", "equal_files", "failure")
        },
        "output": None if compared is None else compared.output,
        "metrics": {} if compared is None else compared.metrics,
        "not_compared": [] if compared is None else compared.not_compared,
        "files": [] if compared is None else compared.files,
        "notes": found.notes,
        "gaps": found.gaps,
        "folder": found.folder,
        "tests": found.tests,
        "until": found.until,
        "environment": found.environment,
        "denied": found.denied,
        "apart": found.apart,
        "killed": found.killed,
        "cut": found.cut,
    }


def _print(store: Store, found: replay.Replayed, cause: why.Why | None, rest: dict[str, Any]) -> None:
    """Print what was found, the verdict last: that is where one looks in a terminal."""
    if found.comparison is not None and found.comparison.only_metric:
        common.echo(f"  {found.reason}")
    if found.run_id is not None:
        common.echo(f"  {found.run_id} replays {found.replay_of}")
    if found.cut is not None:
        common.echo(f"  {found.cut}")
    if found.comparison is not None:
        _print_comparison(store, found, found.comparison)
    for line in _reasons(found):
        common.echo(f"  {line}")
    for test in found.tests:
        common.echo(f"  {_test(test)}")
    if found.hint:
        common.echo(f"  hint: {found.hint}")
    for title, lines in _lists(found):
        common.print_list(title, lines)
    if found.folder:
        common.echo(f"  kept: {found.folder}")
    _print_others(cause, rest)
    end = "" if found.until is None else f" up to step {found.until}"
    common.echo(found.verdict + end, fg=common.VERDICT_STYLE.get(found.verdict), bold=True)


def _lists(found: replay.Replayed) -> Iterator[tuple[str, list[str]]]:
    """Yield title and lines of each list of a replay."""
    yield "differences between then and now, likely causes first", [*map(_line, found.differences)]
    if (compared := found.comparison) is not None:
        yield "not compared (they measure time or memory)", compared.not_compared
        if compared.frames or compared.points or compared.artifacts:  # else they decided
            yield "files that differ (they decide nothing)", [item["path"] for item in compared.files]
    yield "the run itself", found.notes if found.verdict == "DIFFERENT" else []
    yield "denied", found.denied
    yield "not there as when the run began", found.apart if found.verdict != "IDENTICAL" else []
    yield "gaps", found.gaps


def _print_comparison(store: Store, found: replay.Replayed, compared: Any) -> None:
    common.echo(f"  compared: {_counts(compared)}")
    if compared.pooled:
        trainings = common.count(compared.pooled, "training")
        common.echo(f"  {trainings} of a pool's workers: paired by their parameters; generators are not compared there")
    if compared.output is not None:
        common.echo(f"  standard output, line {compared.output.line}:")
        common.echo(f"    then: {'(no more lines)' if compared.output.before is None else compared.output.before}")
        common.echo(f"    now:  {'(no more lines)' if compared.output.after is None else compared.output.after}")
    if compared.first_difference is not None:
        common.echo(f"  first difference: {_place(compared.first_difference)}")
    _print_metrics(compared)
    if found.run_id is not None and compared.metrics:
        folders = store.run_folder(found.replay_of), store.run_folder(found.run_id)
        before, after = (
            {name: metrics.by_step(points) for name, points in metrics.series(folder).items()} for folder in folders
        )
        for line in plot.parting(before, after, names=list(compared.metrics)):
            common.echo(f"  {line}")


def _counts(compared: Any) -> str:
    """Say how much was compared; what counts only where there is no trail is named where there is some."""
    counts = [(compared.frames, "step"), (compared.points, "metric point"), (compared.artifacts, "artifact")]
    more = [(compared.lines, "line"), (compared.equal_files, "file")]
    words = [common.count(*item) for item in counts if item[0] or not any(number for number, _ in more)]
    words += [f"{common.count(*item)}{' of output' * (item[1] == 'line')}" for item in more if item[0]]
    return ", ".join([*words, *([] if compared.failure is None else [f"the failure ({compared.failure})"])])


def _test(test: dict[str, Any]) -> str:
    """Say what COMPATIBLE rests on."""
    if "p" not in test:
        return f"{test['metric']}: {test['n']} values of other seeds, too few to tell"
    where = "in" if test["compatible"] else "outside"
    return (
        f"{test['metric']}: {test['value']:.6g} lies {where} the 95% prediction interval [{test['low']:.6g},"
        f" {test['high']:.6g}] of {test['n']} runs that differ in their seed alone (Student's t, p = {test['p']:.2g})"
    )


def _print_times(rest: dict[str, Any]) -> None:
    verdicts = [item["verdict"] for item in rest["times"]]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    agree = "agree with one another" if rest["agree"] else "do not agree with one another"
    common.echo(f"  {len(verdicts)} replays: {counts}; they {agree}")
    for test in rest["worse"]:
        common.echo(
            f"  {test['metric']}: worse than {test['n']} runs of other seeds with p = {test['p']:.2g} (one-sided Welch)"
        )


def _print_others(cause: why.Why | None, rest: dict[str, Any]) -> None:
    """Print what other replays than the one have found."""
    if rest.get("narrowed"):
        _print_narrowed(rest["narrowed"])
    if rest.get("times"):
        _print_times(rest)
    if cause is not None:
        _print_cause(cause)


def _print_narrowed(found: narrow.Narrowed) -> None:
    if found.first_difference is None:
        common.echo(f"  not narrowed: {found.reason}")
        return
    made = common.count(len(found.replays), "more replay")
    common.echo(f"  narrowed by {made}, every frame full: {_place(found.first_difference)}")
    if found.distance is not None:
        common.echo(f"  how far there: {_distance(found.distance)}")
    elif found.reason is not None:
        common.echo(f"  how far there: {found.reason}")


def _distance(far: ulp.Distance) -> str:
    relative = "" if far.relative is None else f", {far.relative:.2g} relative to the largest"
    verb = "differs" if far.unequal == 1 else "differ"
    return f"{far.unequal} of {common.count(far.elements, 'element')} {verb}, by at most {far.ulp:,} ULP{relative}"


def _print_cause(found: why.Why) -> None:
    if found.cause is None:
        common.echo(f"  cause: none proved after {common.count(found.replays, 'replay')}: {found.reason}")
        common.print_list("cannot be undone here", [*map(_line, found.not_undone)])
    else:
        title = f"cause, proved by {found.replays} replays ({found.reason})"
        common.print_list(title, [*map(_line, found.cause.differences)])
    if found.hint:
        common.echo(f"  hint: {found.hint}")


def _reasons(found: replay.Replayed) -> list[str]:
    """Return the reasons in words, less those that are printed in full below."""
    if found.comparison is not None and found.comparison.only_metric:
        return []  # it was the first line
    shown = {f"metric {name} differs" for name in (found.comparison.metrics if found.comparison is not None else ())}
    return [reason for reason in (found.reason or "").split("; ") if reason and reason not in shown]


def _place(first: Any) -> str:
    tensor = f", tensor {first.tensor}" if first.tensor else ""
    back = (
        ""
        if first.since is None or first.since >= first.step - 1
        else f" (equal at step {first.since}; not looked at between)"
    )
    process = "" if first.process == "rank 0" else f", {first.process}"
    made = first.loader
    loader = "" if made is None else f"; {made.worker} of its loader made it: {made.column} of its batch {made.batch}"
    return f"step {first.step}, {first.column}{tensor}{process}{back}{loader}"


def _print_metrics(compared: Any) -> None:
    for name, fault in compared.metrics.items():
        where = "" if fault["step"] is None else f" at step {fault['step']}"
        last = "" if not fault["last"] else f"; last {fault['last'][0]!r} -> {fault['last'][1]!r}"
        common.echo(
            f"  metric {name}: first differs{where}: {fault['before']!r} -> {fault['after']!r}{_far(fault)}{last}"
        )


def _far(fault: dict[str, Any]) -> str:
    """Say how far two values lie apart."""
    far = [] if fault.get("ulp") is None else [f"{fault['ulp']:,} ULP"]
    far += [] if fault.get("relative") is None else [f"{fault['relative']:.1e} relative"]
    return f" ({', '.join(far)})" if far else ""


def _line(item: Any) -> str:
    return f"{item.kind}: {item.path}: {common.change(item.before, item.after)}"
