"""What a study says, as lines for people: no ids of runs where none are needed, no durations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from repro.tune.brackets import Shape
from repro.tune.scheduler import Limits
from repro.tune.search import Amount, plain

_NAMES = {
    "random_full": "random in full, at equal cost",
    "first_then_top": "one first evaluation each, then the top in full",
    "random_full_at_classical_cost": "random in full, at the cost of the classical rungs",
    "first_then_top_at_classical_cost": "one first evaluation each, then the top in full, at that cost",
}
#: What budgets of these axes are counted in, for people: one of it, and several.
_UNITS = {"model": ("unit of cost", "units of cost"), "data": ("of the data", "of the data")}
#: Names of one of something, as a table has them for its budget.
_SINGULAR = ("step", "epoch", "iteration", "second", "minute", "hour", "run")
#: Controls that are random search: what a verdict on the search is about.
RANDOM = ("random_full", "random_full_at_classical_cost")


def number(value: float | None) -> str:
    """Return a value for people."""
    return "diverged" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def amount(value: Amount) -> str:
    """Return an amount of budget for people."""
    return number(plain(value))


def _words(unit: str) -> tuple[str, str]:
    """Return a unit in words, of one and of several; what is no word that can be counted is as it is."""
    is_word = len(unit) > 2 and unit.endswith(("s", *_SINGULAR))  # noqa: PLR2004  (no "s" for seconds)
    one = unit.removesuffix("s")
    return _UNITS.get(unit) or ((one, f"{one}s") if is_word else (unit, unit))


def counted(value: float, unit: str) -> str:
    """Return so many of a unit for people: ``1 epoch``, ``25 epochs``, ``41 units of cost``, ``10% of the data``."""
    one, several = _words(unit)
    if unit == "data":
        if value > 1:
            return f"{number(value)} times the data"
        return f"{'all' if value == 1 else f'{100 * value:.6g}%'} {several}"
    return f"{number(value)} {one if value == 1 else several}"


def amounts(budgets: Iterable[str], unit: str) -> str:
    """Return budgets from rung to rung for people, the unit once."""
    return f"{' > '.join(budgets)} {_words(unit)[1]}"


def heading(unit: str) -> str:
    """Return the head of a column of budgets."""
    return "cost" if unit == "model" else unit


def point(found: Mapping[str, Any]) -> str:
    """Return what a rung of several axes has of each, for people; nothing of one axis."""
    words = [counted(found[axis], axis) for axis in ("epochs", "data") if axis in found]
    if "model" in found:
        words.append(f"model {found['model']}")
    return ", ".join(words)


def rungs(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a rung of several axes has of each, and what is planned at it; of one axis nothing."""
    for rung in found.get("rungs", ()):
        more = ""
        if "trials" in rung:
            more = f"; {counted(rung['trials'], 'trials')} for {counted(rung['cost'], found['budget_unit'])}"
        yield f"  at {number(rung['budget'])}: {point(rung)}{more}"


def open_plan(budgets: Sequence[Amount], limits: Limits, unit: str) -> Iterator[str]:
    """Yield the rungs of a study without brackets before it begins, and where it ends."""
    ends = [] if limits.trials is None else [counted(limits.trials, "trials")]
    ends += [] if limits.budget is None else [counted(plain(limits.budget), unit)]
    yield f"  rungs at {amounts(map(amount, budgets), unit)}, as many trials at each as are promoted"
    yield f"  {' and '.join(ends)} at most"


def plan(shapes: Sequence[Shape], unit: str) -> Iterator[str]:
    """Yield the brackets of a study before it begins, equal ones once, and what they cost."""
    count: dict[str, int] = {}
    for shape in shapes:
        pairs = zip(shape.sizes, shape.budgets, strict=True)
        rungs = amounts((f"{size} at {amount(budget)}" for size, budget in pairs), unit)
        count[rungs] = count.get(rungs, 0) + 1
    if shapes and shapes[0].sizes == (1,):
        yield f"  {counted(len(shapes), 'trials')} in full, at {counted(plain(shapes[0].budgets[-1]), unit)} each"
    else:
        for rungs, times in count.items():
            yield f"  {times} x {rungs}"
    trials = sum(shape.sizes[0] for shape in shapes)
    cost, anew = (sum((getattr(shape, name) for shape in shapes), Amount(0)) for name in ("cost", "retrained"))
    more = "" if cost == anew else f" where promoted trials go on ({amount(anew)} if each began anew)"
    yield f"  {counted(trials, 'trials')}, {counted(plain(cost), unit)}{more}"


def runs(found: Mapping[str, int]) -> Iterator[str]:
    """Yield how the runs of a study came about."""
    if found["read"]:
        yield f"{found['read']} read, not run; {counted(found['files_checked'], 'input files')} checked"
    if found["continued"]:
        yield f"{found['continued']} of {found['run_now']} went on from a checkpoint, the others began anew"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report of a study."""
    unit, objective = found["budget_unit"], found["objective"]
    states = [trial["state"] for trial in found["trials"]]
    ends = ", ".join(
        f"{states.count(state)} {state}" for state in ("finished", "stopped", "diverged", "running") if state in states
    )
    yield f"study {found['study_id']} ({found['path']}): {found['method']}, {objective['metric']}: {objective['mode']}"
    yield f"  {counted(len(states), 'trials')}: {ends}"
    spent, anew = found["budget_spent"], found["budget_retrained"]
    more = "" if spent == anew else f", promoted trials going on ({number(anew)} if each began anew)"
    yield f"  budget {counted(spent, unit)}{more}"
    yield f"  {counted(found['decisions'], 'decisions')}, {found['decisions_digest']}"
    yield from rungs(found)
    for item in found.get("given_up", ()):
        yield f"  trial {item['trial']} was given up at {counted(item['budget'], unit)}: {item['reason']}"
    yield from _best(found)
    yield from _finalists(found)
    if found["controls"] is not None:
        yield from controls(found["controls"], unit)
    elif found.get("rung_correlation"):
        yield "between rungs, over the trials that reached both (controls: true in the file trains the others too):"
        for item in found["rung_correlation"]:
            at, then = (counted(item[name], unit) for name in ("budget", "next"))
            yield f"  rank correlation of {at} with {then}: {_rho(item)}, n = {item['n']}"


def _best(found: Mapping[str, Any]) -> Iterator[str]:
    best, unit = found["best"], found["budget_unit"]
    if best is None:
        yield "best: none: no trial came to the full budget without diverging"
        return
    metric = found["objective"]["metric"]
    run = "" if best["run_id"] is None else f", run {best['run_id']}"
    value = number(best["metrics"][metric])
    yield f"best: trial {best['trial']}, {metric} {value} at {counted(best['budget'], unit)}{run}"
    yield f"  {params(best)}"


def params(trial: Mapping[str, Any]) -> str:
    """Return a configuration in words."""
    named = [trial["name"]] if trial.get("name") else []
    return ", ".join([*named, *(f"{name} {_value(value)}" for name, value in trial["params"].items())])


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _finalists(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["finalists"]:
        return
    yield "finalists, on fresh seeds:"
    for item in found["finalists"]:
        low_high = item["interval"]
        within = "" if low_high is None else f", 95% interval [{low_high[0]:.6g}, {low_high[1]:.6g}]"
        tie = ", a tie with the first" if item["tie"] and item is not found["finalists"][0] else ""
        mean = "diverged" if item["mean"] is None else f"mean {number(item['mean'])}"
        yield f"  trial {item['trial']}: {mean}, {counted(len(item['values']), 'seeds')}{within}{tie}"


def controls(found: Mapping[str, Any], unit: str) -> Iterator[str]:
    """Yield what one study says of its controls. One study is one draw: no interval, and it is said."""
    search = found["search"]
    yield "controls (one study is one draw; over a table --repeats 200 gives intervals):"
    yield f"  the search: {_found(search, unit)}"
    for name, words in _NAMES.items():
        if name in found:
            item = found[name]
            less = item["regret"] - search["regret"]
            what = "the search lost" if less < 0 else "the search won" if less > 0 else "no difference"
            yield f"  {item['runs']} {words}: {_found(item, unit)}: {what}"
    yield from _correlations(found["rank_correlation"], unit, "")


def _found(item: Mapping[str, Any], unit: str) -> str:
    return f"best {number(item['best'])}, regret {item['regret']:.3f}, for {counted(item['cost'], unit)}"


def _correlations(found: Sequence[Mapping[str, Any]], unit: str, more: str) -> Iterator[str]:
    for item in found:
        every, half = (_rho(item[part]) for part in ("all", "better_half"))
        at = counted(item["budget"], unit)
        yield f"  rank correlation of {at} with the whole{more}: {every}; among the better half {half}"


def _rho(found: Mapping[str, Any]) -> str:
    if found["rho"] is None:
        return "unknown (all equal)"
    if found["interval"] is None:
        return f"{found['rho']:.2f} (too few for an interval)"
    low, high = found["interval"]
    return f"{found['rho']:.2f} [{low:.2f}, {high:.2f}]"


def verdict(found: Mapping[str, Any]) -> str:
    """Return ``lost`` where the search lost against random search, ``won`` where it won each time, or ``undecided``."""
    ends = [found[name]["verdict"] for name in RANDOM if name in found]
    return "lost" if "lost" in ends else "won" if set(ends) == {"won"} else "undecided"


def repeated(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the summary over many repeats."""
    unit, summary = found["budget_unit"], found["summary"]
    yield f"{found['method']} over {found['table']}, {found['repeats']} repeats (seeds {found['seed']} on)"
    yield f"  the search: {_figures(summary['search'], unit)}"
    for name, words in _NAMES.items():
        if name in summary:
            item = summary[name]
            low, high = item["interval"]
            yield f"  {item['runs']} {words}: {_figures(item, unit)}"
            less = f"its regret less this one's {item['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            yield f"    the search {_ENDS[item['verdict']]}: {less}"
    yield from _correlations(summary["rank_correlation"], unit, ", mean")
    lost = [words for name, words in _NAMES.items() if name in summary and summary[name]["verdict"] == "lost"]
    yield f"  against random search: {found['verdict']}"
    if lost:
        yield f"  the search lost against: {'; '.join(lost)}"


_ENDS = {"won": "won", "lost": "lost", "undecided": "neither won nor lost"}


def _figures(item: Mapping[str, Any], unit: str) -> str:
    (low, high), (least, most) = item["regret_interval"], item["found_best_interval"]
    return (
        f"regret {item['regret']:.3f} [{low:.3f}, {high:.3f}], the best found in {item['found_best']:.1%}"
        f" [{least:.1%}, {most:.1%}], for {counted(item['cost'], unit)}"
    )
