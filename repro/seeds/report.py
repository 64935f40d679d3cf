"""What a study of seeds says, as values and as lines: no ids, dates or durations, so that bytes can be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from repro.record.values import MetricSpec
from repro.replay.series import is_compared
from repro.seeds.plan import Replicate
from repro.stats import Summary, compare_paired, holm, in_words, seeds_needed, summarize

#: Of every resampling in a report: it is the same in each.
_SEED = 0


def metrics(found: Sequence[Replicate]) -> dict[str, dict[str, Any]]:
    """Return, for each metric that two completed replicates have at least, its values by seed and what they say.

    A value that is not finite has diverged: it is counted, and left out of the figures.
    """
    return metrics_by_name({str(item.seed): item for item in found})


def metrics_by_name(found: Mapping[str, Replicate]) -> dict[str, dict[str, Any]]:
    """Return as `metrics` does what runs say whose names are no seeds."""
    done = {key: item for key, item in found.items() if item.state == "COMPLETED"}
    names = sorted({name for item in done.values() for name in item.metrics})
    return {
        name: _metric([(key, item.metrics[name]) for key, item in done.items() if name in item.metrics])
        for name in names
    }


def _metric(pairs: Sequence[tuple[str, float]]) -> dict[str, Any]:
    finite = [value for _, value in pairs if math.isfinite(value)]
    found: dict[str, Any] = {
        "values": dict(pairs),
        "diverged": len(pairs) - len(finite),
        "n": len(finite),
    }
    return found | (_figures(summarize(finite)) if len(finite) > 1 else {})


def _figures(summary: Summary) -> dict[str, Any]:
    return {
        "mean": summary.mean,
        "sd": summary.sd,
        "sd_interval": list(summary.sd_interval),
        "t_interval": list(summary.interval),
        "prediction_interval": list(summary.prediction),
        "median": summary.median,
        "iqm": summary.iqm,
        "min": summary.low,
        "max": summary.high,
        "minimum_detectable_effect": summary.detectable,
    }


def lines(found: Sequence[Replicate], declared: Mapping[str, MetricSpec], what: str = "seed") -> Iterator[str]:
    """Yield the report line by line; ``what`` is the word for what replicates differ in."""
    yield f"{len(found)} {what}s, {ended(found)}"
    known = metrics(found)
    for name in shown(known, declared):
        yield ""
        yield from _of_metric(name, known[name], declared.get(name), what)
    yield from not_shown(known, declared)


def shown(names: Iterable[str], declared: Mapping[str, MetricSpec]) -> list[str]:
    """Return the metrics that a report has: those of time or memory would make it another one each time."""
    return [name for name in names if is_compared(name, declared)]


def not_shown(names: Iterable[str], declared: Mapping[str, MetricSpec]) -> Iterator[str]:
    """Yield the line that names the others."""
    others = [name for name in names if not is_compared(name, declared)]
    if others:
        yield ""
        yield f"not shown, as they measure time or memory or are declared `compare: never`: {', '.join(others)}"


def ended(found: Sequence[Replicate]) -> str:
    """Return how many replicates came to their end, and how the others ended."""
    completed = sum(item.state == "COMPLETED" for item in found)
    return ", ".join([f"{completed} completed", *ended_badly(found)])


def ended_badly(found: Iterable[Replicate]) -> list[str]:
    """Return how many replicates ended in each state other than COMPLETED, in words."""
    ends = Counter(item.state for item in found)
    return [f"{count} {state}" for state, count in sorted(ends.items()) if state != "COMPLETED"]


def diverged(found: Replicate) -> list[str]:
    """Return the names of the metrics that ended in no finite number."""
    return sorted(name for name, value in found.metrics.items() if not math.isfinite(value))


def _of_metric(name: str, found: dict[str, Any], spec: MetricSpec | None, what: str) -> Iterator[str]:
    best = _best(found["values"], spec)
    yield name + (f" ({found['diverged']} diverged)" if found["diverged"] else "")
    for seed, value in found["values"].items():
        yield f"  {what} {seed:>4}  {value:.6g}" + ("  (the best of them: luck, not a result)" if seed == best else "")
    if "mean" not in found:
        return
    (low, high), (least, most), (next_low, next_high) = (
        found[key] for key in ("t_interval", "sd_interval", "prediction_interval")
    )
    yield f"  mean {found['mean']:.6g}, 95% interval [{low:.6g}, {high:.6g}] (Student's t, n = {found['n']})"
    yield f"  sd {found['sd']:.3g}, 95% interval [{least:.3g}, {most:.3g}] (chi-square)"
    middle = f"  median {found['median']:.6g}"
    yield middle + ("" if found["iqm"] is None else f", interquartile mean {found['iqm']:.6g}")
    yield f"  the next seed lies in [{next_low:.6g}, {next_high:.6g}] (95% prediction interval)"
    unseen = found["minimum_detectable_effect"]
    yield f"  with {found['n']} seeds a side, a difference under {unseen:.3g} goes unseen (power 80%)"


def _best(values: Mapping[str, float], spec: MetricSpec | None) -> str | None:
    if spec is None or spec.direction is None:
        return None
    finite = {seed: value for seed, value in values.items() if math.isfinite(value)}
    choose = max if spec.direction == "maximize" else min
    return choose(finite, key=lambda seed: finite[seed]) if finite else None


def unstable(found: Sequence[Replicate], limit: float, declared: Mapping[str, MetricSpec]) -> list[str]:
    """Return in words what spreads further than ``limit`` (standard deviation, in the metric's unit).

    Metrics with a declared direction count; where none has one, all that are `shown` do. What failed or diverged is not
    stable.
    """
    known = metrics(found)
    directed = [name for name in known if name in declared and declared[name].direction]
    wanted = directed or shown(known, declared)
    words = [f"seed {item.seed} {item.state}" for item in found if item.state != "COMPLETED"]
    words += [f"{name}: {known[name]['diverged']} diverged" for name in wanted if known[name]["diverged"]]
    return words + [
        f"{name}: sd {known[name]['sd']:.3g} is above {limit:g}"
        for name in wanted
        if known[name].get("sd", 0.0) > limit
    ]


def compare(
    a: Sequence[Replicate], b: Sequence[Replicate], declared: Mapping[str, MetricSpec], names: tuple[str, str]
) -> dict[str, dict[str, Any]]:
    """Return, for each metric that both have on two common seeds at least, how B compares with A, paired by seed.

    The p-values (exact or Monte Carlo permutation of signs) come with Holm's correction over the metrics beside them.
    """
    one, other = ({item.seed: item.metrics for item in side if item.state == "COMPLETED"} for side in (a, b))
    seeds = [seed for seed in one if seed in other]
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({name for seed in seeds for name in one[seed]}):
        pairs = [(one[seed][name], other[seed][name]) for seed in seeds if name in one[seed] and name in other[seed]]
        pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
        if len(pairs) > 1:
            found[name] = _compared(pairs, declared.get(name), names)
    for item, p in zip(
        found.values(), holm([item["p_value"] for item in found.values()]) if found else (), strict=True
    ):
        item["p_holm"] = float(p)
    return found


def _compared(pairs: list[tuple[float, float]], spec: MetricSpec | None, names: tuple[str, str]) -> dict[str, Any]:
    larger = spec is None or spec.direction != "minimize"
    before, after = ([pair[side] for pair in pairs] for side in (0, 1))
    found = compare_paired(after, before, rng=np.random.default_rng(_SEED), larger_is_better=larger)
    return {
        "n": found.n,
        "difference": found.difference,
        "t_interval": list(found.interval),
        "p_value": found.permutation_p,
        "sign_test_p": found.sign_p,
        "probability_of_improvement": found.probability,
        "bootstrap_interval": list(found.bootstrap),
        "clopper_pearson_interval": list(found.exact),
        "claimed": found.claimed,
        "sentence": in_words(found, names[1], names[0]),
    }


def planned(found: Sequence[Replicate], effect: float) -> dict[str, dict[str, Any]]:
    """Return, for each metric, how many seeds a side see a difference of ``effect``, in its unit (power 80%)."""
    plans = {}
    for name, values in metrics(found).items():
        if values.get("sd"):
            size = effect / values["sd"]
            plans[name] = {"sd": values["sd"], "effect_in_sd": size, "per_arm": seeds_needed(size)}
    return plans
