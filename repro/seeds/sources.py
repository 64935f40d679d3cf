"""What a design over streams says, as values and as lines, which have no ids, dates or durations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from repro.record.values import MetricSpec
from repro.replay.series import is_compared, same_bits
from repro.seeds import plan, report
from repro.seeds.fork import Forked
from repro.seeds.plan import Replicate
from repro.seeds.vary import Varied
from repro.stats import crossed, vary_alone

UNUSED = "not used by the run"
_IDLE = "used, but changes nothing"
#: Of a crossed design in JSON: the two streams, and what they do together.
_TOGETHER = " x ".join(plan.CROSSED)


def twice(one: Replicate, other: Replicate, declared: Mapping[str, MetricSpec]) -> dict[str, Any]:
    """Return how far two runs of one seed are apart: in a run that can be repeated, 0 for each metric.

    Metrics of time or memory are not compared, as in a replay; `trail` is None where there is none.
    """
    names = sorted({*one.metrics, *other.metrics})
    metrics = {name: _apart(one, other, name) for name in names if is_compared(name, declared)}
    trail = None if one.trail is None and other.trail is None else one.trail == other.trail
    return {
        "run_ids": [one.run_id, other.run_id],
        "metrics": metrics,
        "not_compared": [name for name in names if name not in metrics],
        "state": one.state == other.state,
        "trail": trail,
        "equal": one.state == other.state and trail is not False and all(found == 0 for found in metrics.values()),
    }


def _apart(one: Replicate, other: Replicate, name: str) -> float:
    """Return the difference of a metric; 0 where both are equal to the bit, NaN where there is no number for it."""
    a, b = one.metrics.get(name, math.nan), other.metrics.get(name, math.nan)
    return 0.0 if name in one.metrics and name in other.metrics and same_bits(a, b) else b - a


def distrust(found: Mapping[str, Any]) -> list[str]:
    """Return in words, loudly, that nothing of a report can be trusted; no lines where one seed twice is one result."""
    if found["equal"]:
        return []
    off = [f"{name} is {value:.3g} apart" for name, value in found["metrics"].items() if value != 0]
    off = off or ["the trails differ"]
    off = off if found["state"] else ["one of the two did not end as the other did"]
    return [
        f"THESE NUMBERS ARE NOT TO BE TRUSTED: the same seed twice is not the same result ({', '.join(off)}).",
        "Something that no seed controls moves them; `repro diagnose` names the operator.",
    ]


def values(found: Varied, declared: Mapping[str, MetricSpec]) -> dict[str, dict[str, Any]]:
    """Return, for each stream, whether it is used, and what each metric does when it alone varies."""
    sources = {name: _source(group, declared) for name, group in found.sources.items()}
    for metric in _metrics(found):
        groups = {name: _finite(group, metric) for name, group in found.sources.items()}
        several = {name: group for name, group in groups.items() if len(group) > 1}
        for name, item in (vary_alone(several) if several else {}).items():
            more = {"mean": item.mean, "sd": item.sd, "sd_interval": list(item.interval), "share": item.share}
            sources[name]["metrics"][metric] |= more
    return sources


def values_of(group: Sequence[Replicate], declared: Mapping[str, MetricSpec]) -> dict[str, Any]:
    """Return what a fork says of its one source, the order."""
    metrics = report.metrics(group)
    keys = ("values", "n", "diverged", "mean", "sd", "sd_interval")
    alone = {name: {key: item[key] for key in keys if key in item} for name, item in metrics.items()}
    return _source(group, declared) | {"metrics": alone}


def _source(group: Sequence[Replicate], declared: Mapping[str, MetricSpec]) -> dict[str, Any]:
    note = UNUSED if not group else _IDLE + _seeded(group) if _is_idle(group, declared) else None
    failed = sum(item.state != "COMPLETED" for item in group)
    alone = {
        name: {key: item[key] for key in ("values", "n", "diverged")} for name, item in report.metrics(group).items()
    }
    return {"used": bool(group), "note": note, "n": len(group), "failed": failed, "metrics": alone}


def _is_idle(group: Sequence[Replicate], declared: Mapping[str, MetricSpec]) -> bool:
    """Say whether all replicates are one run: what comes of a stream that is asked for and not drawn from."""
    first = group[0]
    return first.trail is not None and all(twice(first, item, declared)["equal"] for item in group[1:])


def _seeded(group: Sequence[Replicate]) -> str:
    return f" ({group[0].seeded[0]})" if group[0].seeded else ""


def _metrics(found: Varied) -> list[str]:
    return sorted({name for run in found.runs.values() for name in run.metrics})


def _finite(group: Sequence[Replicate], metric: str) -> list[float]:
    done = (item.metrics[metric] for item in group if item.state == "COMPLETED" and metric in item.metrics)
    return [value for value in done if math.isfinite(value)]


def components(found: Varied) -> dict[str, dict[str, Any]]:
    """Return the variances of a crossed design for each metric that all its runs have; an estimate may be below 0."""
    known = {}
    for metric in _metrics(found):
        table = [_finite(row, metric) for row in found.crossed]
        if table and all(len(row) == len(table) for row in table):
            parts = crossed(table)
            variances = {plan.CROSSED[0]: parts.a, plan.CROSSED[1]: parts.b, _TOGETHER: parts.interaction}
            known[metric] = {"n": len(table) ** 2, "values": table, "variance": variances, "total": parts.total}
    return known


def lines(found: Varied, declared: Mapping[str, MetricSpec], document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report line by line; ``document`` has what `twice`, `values` and `components` found."""
    again, sources = document["same_seed_twice"], document["sources"]
    yield from distrust(again)
    runs = [*found.runs.values(), found.again]
    yield f"{len(runs)} runs of one master seed, {report.ended(runs)}"
    yield f"the run's streams: {', '.join(sorted(found.again.streams)) or 'none'}"
    for metric in report.shown(_metrics(found), declared):
        yield ""
        yield metric
        yield f"  {'varied alone':<16} {'n':>3} {'mean':>12} {'sd':>10}   {'95% interval of sd':<22} share of variance"
        for name, source in sources.items():
            yield _row(name, source, source["metrics"].get(metric, {}))
        yield _row_twice(metric, again)
        if found.crossed:
            yield from _of_crossed(document["crossed"].get(metric))
    yield from report.not_shown(_metrics(found), declared)
    yield from distrust(again)


def _row(name: str, source: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    begin = f"  {name:<16} "
    counts = {"not completed": source["failed"], "diverged": item.get("diverged", 0)}
    notes = "; ".join([*filter(None, [source["note"]]), *(f"{n} {what}" for what, n in counts.items() if n)])
    if not source["used"]:
        return f"{begin}{0:>3} {'':>12} {0:>10}   {notes}"
    if "sd" not in item:
        return f"{begin}{item.get('n', 0):>3}   too few values{'; ' * bool(notes)}{notes}"
    low, high = item["sd_interval"]
    interval = f"[{low:.3g}, {high:.3g}]"
    row = f"{begin}{item['n']:>3} {item['mean']:>12.6g} {item['sd']:>10.3g}   {interval:<22} {item['share']:>4.0%}"
    return row + (f"  {notes}" if notes else "")


def _row_twice(metric: str, again: Mapping[str, Any]) -> str:
    apart = again["metrics"][metric]
    found = "exactly 0" if apart == 0 else f"{apart:.6g}: NOT EQUAL"
    return f"  {'same seed twice':<16}   2   difference {found}"


def _of_crossed(item: Mapping[str, Any] | None) -> Iterator[str]:
    if item is None:
        yield f"  {_TOGETHER} crossed: a run has no finite value, no variances"
        return
    yield f"  {_TOGETHER} crossed, {item['n']} runs: variance of"
    seen = sum(max(variance, 0.0) for variance in item["variance"].values())
    for name, variance in item["variance"].items():
        share = f"{max(variance, 0.0) / seen:>4.0%}" if seen else ""
        below = "  below 0: none is seen" if variance < 0 else ""
        yield f"    {name:<14} {variance:>10.3g}   {share}{below}"


def of_fork(found: Forked, declared: Mapping[str, MetricSpec], again: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the report of a fork line by line; ``again`` is what `gone_on` found."""
    loud = [] if again is None else distrust(again)
    yield from loud
    shared = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    yield f"one run forked after {shared}; its order begins anew there: {began_anew(found)}"
    if again is not None and not loud:
        yield "order 0 goes on as the run that was forked, and ends with difference exactly 0 in each metric"
    yield from report.lines(found.members, declared, "order")
    yield from loud


def gone_on(found: Forked, declared: Mapping[str, MetricSpec]) -> dict[str, Any] | None:
    """Return how far member 0 is from the run that was forked: it is the same run; None where it is no member."""
    return next((twice(found.parent, item, declared) for item in found.members if item.seed == 0), None)


def began_anew(found: Forked) -> str:
    """Return in words what draws the order of the examples in a fork."""
    events = [event for member in found.members for event in member.restarted]
    if not events:
        return "nothing"
    first = events[0]
    words = [f"stream {name}" for name in first["streams"]] + [f"generator {name}" for name in first["parts"]]
    return ", ".join(words + ["the global generators"] * bool(first["is_global"])) or "nothing"


def unstable(found: Varied, limit: float, declared: Mapping[str, MetricSpec], again: Mapping[str, Any]) -> list[str]:
    """Return in words which stream spreads a metric further than ``limit``; what cannot be trusted is not stable."""
    words = [
        f"{name} varied: {line}"
        for name, group in found.sources.items()
        for line in report.unstable(group, limit, declared)
    ]
    return words + (["the same seed twice is not the same result"] if not again["equal"] else [])
