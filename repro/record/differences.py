"""Typed differences between two runs: one comparison for `diff`, `replay` and the reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from repro.record import devices
from repro.record.values import Outcome, Package, Record

Kind = Literal[
    "code",
    "data",
    "package",
    "parameter",
    "seed",
    "settings",
    "threads",
    "environment",
    "hardware",
    "command",
    "metric",
]
Prior = Literal["certain", "probable", "unlikely"]
_ORDER: Mapping[str, int] = {"certain": 0, "probable": 1, "unlikely": 2}

#: Circumstances that may change the bits, and those that hardly do.
_HARDWARE: Mapping[str, tuple[str, Prior]] = {
    "processor.model": ("hardware", "probable"),
    "processor.flags": ("hardware", "probable"),
    "processor.usable": ("hardware", "unlikely"),
    "gpus": ("hardware", "certain"),
    "host.libc": ("hardware", "probable"),
    "host.machine": ("hardware", "certain"),
    "host.distribution": ("hardware", "unlikely"),
}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was; ``prior`` says how likely it is to change bits."""

    kind: Kind
    path: str
    before: Any
    after: Any
    prior: Prior


def compare(a: Record, b: Record) -> list[Difference]:
    """Return how two records differ, likely causes first."""
    before, after = a.recipe, b.recipe
    found = [
        *_field("code", "code", before.code, after.code, "probable"),
        *_mapping("code", "sources", before.sources, after.sources, "probable"),
        *_field("command", "cwd", before.cwd, after.cwd, "unlikely"),
        *_field("command", "command", before.command, after.command, "certain"),
        *_field("command", "entry", before.entry, after.entry, "certain"),
        *_mapping("parameter", "params", before.params, after.params, "certain"),
        *_field("package", "python", before.interpreter, after.interpreter, "probable"),
        *_mapping("package", "packages", _packages(before.packages), _packages(after.packages), "probable"),
        *_mapping("data", "data", before.data, after.data, "certain"),
        *_field("seed", "seed", before.seeds.master, after.seeds.master, "certain"),
        *_mapping("seed", "replicates", before.seeds.replicates, after.seeds.replicates, "certain"),
        *_field("settings", "determinism", before.profile, after.profile, "probable"),
        *_mapping("settings", "settings", before.settings, after.settings, "probable"),
        *_field("threads", "threads", before.threads, after.threads, "certain"),
        *_mapping("environment", "environment", before.environment, after.environment, "probable"),
        *_variables(a, b),
        *_hardware(a, b),
        *_devices(a, b),
    ]
    return ordered(found)


def compare_outcomes(a: Outcome, b: Outcome) -> list[Difference]:
    """Return how what two runs read differs: file by file."""
    return list(_mapping("data", "inputs", _inputs(a), _inputs(b), "certain"))


def compare_observed(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return how what the processes of two runs observed differs: numerics, software, data in memory.

    Variables are left to the recipes, and the state at import to the one at the first step where both have that.
    """
    found = [*_mapping("data", "data", a["data"], b["data"], "certain")]
    moment = next(
        (name for name in ("first step", "import") if a["numerics"].get(name) and b["numerics"].get(name)), ""
    )
    before, after = (
        {name: value for name, value in side["numerics"].get(moment, {}).items() if name.islower()} for side in (a, b)
    )
    for item in _mapping("settings", f"numerics.{moment}", before, after, "certain"):
        kind: Kind = "threads" if item.path.endswith("threads") else "settings"
        found.append(msgspec.structs.replace(item, kind=kind))
    old, new = ({name: value for name, value in side["software"].items() if name != "parallel"} for side in (a, b))
    return [*found, *(_mapping("package", "software", old, new, "probable") if old and new else ())]


def same(a: Any, b: Any) -> bool:
    """Say whether two values are one: of one type through and through, and NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def ordered(found: list[Difference]) -> list[Difference]:
    """Return differences with the likely causes first."""
    return sorted(found, key=lambda item: (_ORDER[item.prior], item.path))


def _field(kind: Kind, path: str, before: Any, after: Any, prior: Prior) -> Iterator[Difference]:
    if not same(before, after):
        yield Difference(kind=kind, path=path, before=before, after=after, prior=prior)


def _mapping(
    kind: Kind, path: str, before: Mapping[str, Any], after: Mapping[str, Any], prior: Prior
) -> Iterator[Difference]:
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _mapping(kind, f"{path}.{name}", one, other, prior)
        else:
            yield from _field(kind, f"{path}.{name}", one, other, prior)


def _packages(packages: list[Package]) -> dict[str, str]:
    return {item.name: f"{item.version} {item.digest[:19]}" for item in packages}


def _inputs(outcome: Outcome) -> dict[str, str | None]:
    return {item.path: item.digest for item in outcome.inputs}


def _variables(a: Record, b: Record) -> Iterator[Difference]:
    """Say which variables off the list changed: their values were never kept."""
    before, after = (record.circumstances.get("launch", {}).get("variables", {}) for record in (a, b))
    for item in _mapping("environment", "variables", before, after, "unlikely"):
        words = ("set" if item.before else None, ("changed" if item.before else "set") if item.after else None)
        yield msgspec.structs.replace(item, before=words[0], after=words[1])


def _hardware(a: Record, b: Record) -> Iterator[Difference]:
    for path, (kind, prior) in _HARDWARE.items():
        before, after = (_value(record, path) for record in (a, b))
        yield from _field(kind, path, before, after, prior)  # type: ignore[arg-type]


def _devices(a: Record, b: Record) -> Iterator[Difference]:
    """Say where two runs could see other GPUs of a machine: another model, or another number, may change the bits."""
    seen = [devices.seen(record) for record in (a, b)]
    models = [[device.model for device in found or []] for found in seen]
    before, after = ([str(device) for device in found or []] for found in seen)
    yield from _field(
        "hardware", "visible_devices", before, after, "unlikely" if models[0] == models[1] else "probable"
    )


def _value(record: Record, path: str) -> Any:
    name, _, key = path.partition(".")
    found = record.circumstances.get(name, {}).get("value")
    return found.get(key) if key and isinstance(found, dict) else found
