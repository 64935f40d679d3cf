"""A replay that is not IDENTICAL: close enough (WITHIN_TOLERANCE), or what another seed would give (COMPATIBLE)?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from repro.record.values import MetricSpec, Outcome, Record, study_of
from repro.replay.compare import Comparison
from repro.replay.series import same_bits
from repro.run import relevance
from repro.stats import prediction
from repro.store.store import Store


class Grade(NamedTuple):
    """A comparison with its final verdict; ``tests`` has what COMPATIBLE rests on, one item for each metric."""

    found: Comparison
    tests: list[dict[str, Any]]


def grade(found: Comparison, declared: Mapping[str, MetricSpec], others: Sequence[Mapping[str, float]]) -> Grade:
    """Return the verdict of a comparison of two whole runs; ``others`` has the metrics of runs of other seeds.

    WITHIN_TOLERANCE: of the last values of all compared metrics, each is equal or within its declared tolerance, and
    one is declared at least. COMPATIBLE: each that is not lies in the 95% prediction interval of at least five such
    runs. Both need runs that came to the same end, and something that explains other artifacts.
    """
    if found.verdict != "DIFFERENT" or not found.ended_alike or not found.last or found.only_artifacts:
        return Grade(found=found, tests=[])
    tolerant = {name for name in found.last if name in declared and declared[name].tolerance}
    off = [
        name
        for name, pair in found.last.items()
        if not is_within(*pair, declared.get(name)) or (_ran_away(pair) and (name in tolerant or name in found.metrics))
    ]
    if not off and tolerant:
        return Grade(found=msgspec.structs.replace(found, verdict="WITHIN_TOLERANCE"), tests=[])
    if not off or len(others) < 2:  # noqa: PLR2004
        return Grade(found=found, tests=[])
    if len(others) < prediction.LEAST:
        few = f"only {len(others)} runs differ in their seed alone; {prediction.LEAST} are needed to tell luck"
        return Grade(found=_because(found, few), tests=[])
    tests = [_test(name, found.last[name][1], others) for name in off]
    if not all(test["compatible"] for test in tests):
        failed = ", ".join(test["metric"] for test in tests if not test["compatible"])
        return Grade(found=_because(found, f"{failed}: not what another seed would give"), tests=tests)
    return Grade(found=msgspec.structs.replace(found, verdict="COMPATIBLE"), tests=tests)


def _ran_away(pair: tuple[float | None, float | None]) -> bool:
    """Say whether a metric ended in NaN or infinity on both sides: that they are equal does not make them near."""
    return not math.isfinite(pair[1] or 0.0)


def _because(found: Comparison, more: str) -> Comparison:
    return msgspec.structs.replace(found, reason="; ".join(filter(None, [found.reason, more])))


def is_within(before: float | None, after: float | None, spec: MetricSpec | None) -> bool:
    """Say whether a value is within tolerance: ``|after - before| <= max(abs, rel * |before|)``, else equal bits."""
    if before is None or after is None:
        return False
    if same_bits(before, after):
        return True
    tolerance = None if spec is None else spec.tolerance
    return tolerance is not None and abs(after - before) <= max(tolerance.abs, tolerance.rel * abs(before))


def _test(name: str, now: float | None, others: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return what Student's t says of one metric."""
    test: dict[str, Any] = {"metric": name, "value": now, "test": "prediction interval (Student's t)"}
    values = [run[name] for run in others if name in run]
    try:
        if now is None or len(values) < prediction.LEAST:
            return test | {"n": len(values), "compatible": False}
        found = prediction.predict(values, now)
    except ValueError:  # not finite
        return test | {"n": len(values), "compatible": False}
    return test | {
        "n": found.n,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "level": found.level,
        "p": found.p,
        "compatible": found.holds,
    }


def worse(
    declared: Mapping[str, MetricSpec], others: Sequence[Mapping[str, float]], ends: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return, for each metric with a declared direction, how surely several replays fall short of other seeds."""
    found = []
    for name, spec in declared.items():
        before = [run[name] for run in others if name in run]
        now = [end[name][1] for end in ends if name in end and end[name][1] is not None]
        if spec.direction is not None and len(before) >= prediction.LEAST and len(now) > 1:
            p = prediction.worse(before, now, larger_is_better=spec.direction == "maximize")
            found.append({"metric": name, "n": len(before), "replays": len(now), "p": p})
    return found


def other_seeds(store: Store, record: Record) -> list[dict[str, float]]:
    """Return the metrics of the completed runs whose recipes differ from this one's in the seed alone, itself included.

    Code that such a run did not read may differ as well. Each seed counts once; replays do not count.
    """
    code = record.recipe.code
    wanted = study_of(record.recipe)
    found: dict[str, dict[str, float]] = {}
    for run_id in store.run_ids():
        other = store.record(run_id)
        seed = other.recipe.seeds.master
        if other.replay_of is not None or seed in found:
            continue
        is_of_study = study_of(msgspec.structs.replace(other.recipe, code=code)) == wanted
        if is_of_study and not relevance.of_code(store, other, code):
            outcome: Outcome | None = store.outcome(run_id)
            if outcome is not None and outcome.state == "COMPLETED":
                found[seed] = outcome.metrics
    return list(found.values())
