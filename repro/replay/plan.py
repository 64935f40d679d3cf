"""What a replay does as it was recorded, and what it does otherwise on purpose; and the steps that lead back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from repro.errors import UsageError
from repro.record.differences import Difference, same
from repro.record.values import Profile, Record
from repro.run import config
from repro.run.request import is_seed

_EXAMPLES = "threads=1, seed=1, determinism=off, params.lr=0.1, env.NAME=VALUE (env.NAME alone unsets it)"


@dataclass(frozen=True)
class Plan:
    """How a run is made again. ``variables`` are set, or unset with None, whatever the profile says.

    ``inputs`` says whether a file that changed since has the bytes that the run read (``recorded``, where the store
    kept them) or those of today (``current``); of the latter those of the names ``put_back`` get the recorded ones.
    ``environment`` is where it runs: current, locked or container; of the current one, ``packages`` are taken from the
    recorded one.
    """

    code: str
    params: Mapping[str, Any]
    seed: int
    profile: Profile
    threads: int | None
    variables: Mapping[str, str | None] = field(default_factory=dict)
    inputs: Literal["recorded", "current"] = "recorded"
    put_back: frozenset[str] = frozenset()
    environment: Literal["current", "locked", "container"] = "current"
    packages: frozenset[str] = frozenset()


class Step(NamedTuple):
    """One difference between then and now, and what takes it out of a plan."""

    difference: Difference
    undo: Callable[[Plan], Plan]


def as_recorded(record: Record) -> Plan:
    """Return the plan of a replay that changes nothing."""
    recipe = record.recipe
    return Plan(recipe.code, recipe.params, int(recipe.seeds.master), recipe.profile, recipe.threads)


def changed(plan: Plan, record: Record, words: Sequence[str]) -> Plan:
    """Return a plan with each of ``words`` (``threads=1``, ``env.NAME=value``) applied.

    Raises:
        UsageError, ConfigError: for a word that is none, or has a value of the wrong kind.
    """
    for word in words:
        name, equals, value = word.partition("=")
        plan = _changed(plan, record, word, name.strip(), value if equals else None)
    return plan


def _changed(plan: Plan, record: Record, word: str, name: str, value: str | None) -> Plan:
    if name.startswith("env.") and name != "env.":
        return replace(plan, variables={**plan.variables, name.removeprefix("env."): value})
    if value is None:
        raise UsageError(f"--with {word}: NAME=VALUE is expected", hint=_EXAMPLES)
    if name == "threads":
        if not (value.isascii() and value.isdigit() and int(value)):
            raise UsageError(f"--with {word}: a number of threads from 1 on is expected", hint="--with threads=1")
        return replace(plan, threads=int(value))
    if name == "determinism":
        if value not in get_args(Profile):
            raise UsageError(f"--with {word}: one of {', '.join(get_args(Profile))} is expected")
        return replace(plan, profile=value)  # type: ignore[arg-type]
    if name == "seed":
        if not is_seed(value):
            raise UsageError(f"--with {word}: a whole number from 0 on is expected", hint="--with seed=1")
        return replace(plan, seed=int(value))
    if name.startswith("params."):
        return replace(plan, params={**plan.params, **_parameter(plan, record, word, name, value)})
    known = ["threads", "determinism", "seed", *(f"params.{key}" for key in plan.params)]
    raise UsageError(f"--with {word}: {name} is nothing that a replay can change", hint=config.nearest(name, known))


def _parameter(plan: Plan, record: Record, word: str, name: str, value: str) -> dict[str, Any]:
    if record.recipe.command is not None and plan.params:
        hint = "repro run the experiment anew with --set, then repro diff"
        raise UsageError(f"--with {word}: the parameters are words of the recorded command already", hint=hint)
    if not plan.params:
        raise UsageError(f"--with {word}: the run has no parameters", hint=_EXAMPLES)
    key, fitted = config.change_of(f"{name}={value}", dict(plan.params), "--with")
    return {key: fitted}


def steps(then: Plan, now: Plan, seen: Mapping[str, str | None]) -> list[Step]:
    """Return what differs between two plans, one thing at a time, code excepted.

    ``seen`` are the values of the changed variables before, where they are known.
    """
    found = [
        *_field(then, now, "threads", "threads", "threads"),
        *_field(then, now, "settings", "determinism", "profile"),
        *_field(then, now, "seed", "seed", "seed"),
    ]
    for name, value in now.params.items():
        if not same(then.params.get(name), value):
            difference = _difference("parameter", f"params.{name}", then.params.get(name), value)
            found.append(Step(difference, _Parameter(name, then.params.get(name))))
    found += [
        Step(_difference("environment", f"environment.{name}", seen.get(name), value), _Variable(name))
        for name, value in now.variables.items()
        if seen.get(name) != value
    ]
    return found


def _difference(kind: Any, path: str, before: Any, after: Any) -> Difference:
    return Difference(kind=kind, path=path, before=before, after=after, prior="certain")


def _field(then: Plan, now: Plan, kind: str, path: str, name: str) -> Iterator[Step]:
    before, after = getattr(then, name), getattr(now, name)
    if before != after:
        yield Step(_difference(kind, path, before, after), lambda plan: replace(plan, **{name: before}))


@dataclass(frozen=True)
class _Parameter:
    name: str
    value: Any

    def __call__(self, plan: Plan) -> Plan:
        return replace(plan, params={**plan.params, self.name: self.value})


@dataclass(frozen=True)
class _Variable:
    """Undoes a change of a variable: what the recipe or the profile has for it counts again."""

    name: str

    def __call__(self, plan: Plan) -> Plan:
        return replace(plan, variables={name: value for name, value in plan.variables.items() if name != self.name})


@dataclass(frozen=True)
class Unset:
    """Undoes that a variable is set which was not: as an override, since it is the user's own."""

    name: str

    def __call__(self, plan: Plan) -> Plan:
        """Return the plan with the variable unset."""
        return replace(plan, variables={**plan.variables, self.name: None})


@dataclass(frozen=True)
class PutBack:
    """Undoes a change of a file, by the bytes that the store has kept."""

    name: str

    def __call__(self, plan: Plan) -> Plan:
        """Return the plan with the file as the run read it."""
        return replace(plan, put_back=plan.put_back | {self.name})


@dataclass(frozen=True)
class Repackage:
    """Undoes that a package is another one: it is taken from the recorded environment."""

    name: str

    def __call__(self, plan: Plan) -> Plan:
        """Return the plan with the package as it was."""
        return replace(plan, packages=plan.packages | {self.name})


def rebuild(plan: Plan) -> Plan:
    """Return the plan in the recorded environment: all packages as they were, and none beside them."""
    return replace(plan, environment="locked")
