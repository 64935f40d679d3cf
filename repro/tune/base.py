"""The experiment that a study varies: its own parameters, the space held against them, the request of each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from repro.errors import ConfigError
from repro.record.values import Recipe
from repro.run import config
from repro.run import request as requests
from repro.run.config import nearest
from repro.run.request import Request
from repro.tune import draws
from repro.tune.draws import Draws
from repro.tune.search import Amount, Job, Source, Suggestion
from repro.tune.space import Domain, Params, Space
from repro.tune.specification import Axis, Study

_EPOCHS = "epochs"
_CONTINUOUS = ("uniform", "log")


class Base(NamedTuple):
    """An experiment as a study sees it. ``command`` is the text with its ``{name}`` places, None with an entry."""

    request: Request
    command: str | None
    axis: Axis
    #: Whether the study file names the fidelity.
    given: bool

    @property
    def params(self) -> Mapping[str, Any]:
        """The experiment's own parameters."""
        return self.request.params

    def seed(self, replicate: int) -> int:
        """Return the master seed of a replicate: equal for all configurations and rungs."""
        return self.request.seed + replicate

    def of(self, params: Params, job: Job, replicate: int) -> Request:
        """Return the request of one training: a trial's parameters, a budget, a replicate.

        With an entry the parameter ``epochs`` is the horizon, the study's largest; the budget is apart. A command has
        no other way to be told its budget than the parameter.
        """
        values, seed = {**self.params, **params}, self.seed(replicate)
        epochs = int(job.budget) if self.axis.name == _EPOCHS else None
        if epochs is not None:
            values[_EPOCHS] = int(self.axis.high) if self.command is None else epochs
        values = dict(sorted(values.items()))
        if self.command is not None:
            words = config.words_of(self.command, {**values, "seed": requests.integer_seed(seed)})
            return replace(self.request, params=values, seed=seed, command=words)
        shorter = epochs is not None and epochs != values[_EPOCHS]
        return replace(self.request, params=values, seed=seed, epochs=epochs if shorter else None)


def read(study: Study) -> Base:
    """Return the experiment of a study file, the space held against its parameters.

    Raises:
        ConfigError: for unknown parameters, values of another type, a fidelity that the experiment has not.
    """
    path = study.path.parent / str(study.experiment)
    request = requests.of_experiment(path, (), (), None, None, study.threads)
    command = config.load(path).file.command
    for name, domain in study.space.domains.items():
        _check(study, name, domain, request.params)
    base = Base(request, command, _axis(study, request.params), bool(study.fidelity))
    if command is not None and base.axis.name == _EPOCHS and study.fidelity and "{epochs}" not in command:
        raise ConfigError(
            f"{study.path}: fidelity.epochs: the command of {path.name} has no {{epochs}}, so it cannot be told",
            hint=f"command: {command} --epochs {{epochs}}",
        )
    return base


def _axis(study: Study, params: Mapping[str, Any]) -> Axis:
    epochs = params.get(_EPOCHS)
    known = isinstance(epochs, int) and not isinstance(epochs, bool)
    if not study.fidelity:
        whole = Amount(epochs) if known and epochs is not None else Amount(1)
        return Axis(_EPOCHS if known else "run", whole, whole)
    axis = study.fidelity[0]
    if len(study.fidelity) > 1 or axis.name != _EPOCHS:
        name = next(item.name for item in study.fidelity if item.name != _EPOCHS)
        raise ConfigError(
            f"{study.path}: fidelity.{name}: only epochs are there yet", hint="fidelity: {epochs: [25, 100]}"
        )
    if not known:
        raise ConfigError(
            f"{study.path}: fidelity.epochs: the experiment has no parameter epochs",
            hint="params: {epochs: 100} in the experiment, and `for epoch in run.epochs():` in its entry",
        )
    if _EPOCHS in study.space.domains:
        raise ConfigError(f"{study.path}: space.epochs: it is the fidelity already", hint="take one of the two out")
    return axis


def _check(study: Study, name: str, domain: Domain, params: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a domain's values are of the type that the parameter has in the experiment."""
    if name not in params:
        raise ConfigError(
            f"{study.path}: space.{name}: {study.experiment} has no such parameter", hint=nearest(name, params)
        )
    old = params[name]
    if old is None or isinstance(old, list):
        return
    if domain.kind in _CONTINUOUS and not domain.values and not isinstance(old, float):
        what = "int: [1, 10]" if isinstance(old, int) and not isinstance(old, bool) else "choice: [...]"
        raise ConfigError(f"{study.path}: space.{name}: it is {old!r} in the experiment, not a number", hint=what)
    strange = next((value for value in domain.values or (domain.low,) if not _fits(value, old)), _FITS)
    if strange is not _FITS:
        raise ConfigError(
            f"{study.path}: space.{name}: {strange!r} is not of the type that it has in the experiment ({old!r})"
        )


_FITS = object()


def _fits(value: Any, old: Any) -> bool:
    if isinstance(old, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(old)


def cast(found: Suggestion, params: Mapping[str, Any]) -> Suggestion:
    """Return a suggestion with whole numbers as the floats that the experiment has."""
    values = {
        name: float(value) if isinstance(params[name], float) and isinstance(value, int) else value
        for name, value in found.params.items()
    }
    return found._replace(params=values)


def baseline(space: Space, params: Mapping[str, Any]) -> Suggestion:
    """Return trial 0: the experiment's own parameters, as far as they are in the space."""
    return Suggestion(space.only_active({name: params[name] for name in space.domains}), "baseline")


def source(study: Study, base: Base) -> Source:
    """Return where a study's configurations come from: the baseline first, then what the method draws."""
    if study.method.name in ("tpe", "cma_es", "gp"):
        from repro.tune import samplers

        return samplers.source(study, baseline(study.space, base.params), base.params)
    return Draws(cast(item, base.params) for item in _suggestions(study, base))


def _suggestions(study: Study, base: Base) -> Iterator[Suggestion]:
    yield baseline(study.space, base.params)
    name, options, space = study.method.name, study.method.options, study.space
    draw = options.get("draw", name)
    if draw == "one_at_a_time":
        yield from draws.one_at_a_time(space, base.params, options["points"])
    elif draw == "quasi_random":
        yield from draws.quasi_random(space, study.seed)
    elif draw == "grid":
        in_order = name == "grid"
        yield from (
            draws.grid(space, options["points"])
            if in_order
            else draws.random_grid(space, options["points"], study.seed)
        )
    else:
        yield from draws.random(space, study.seed)


def available(study: Study) -> int | None:
    """Return how many configurations there can be at most; None where there is no end."""
    options = study.method.options
    if study.method.name in ("grid", "one_at_a_time") or options.get("draw") == "grid":
        return study.space.bound(options["points"]) + 1
    if study.space.finite:
        return study.space.bound(max(2, *(domain.count or 0 for domain in study.space.domains.values()))) + 1
    return None


def sealed(study: Study, recipe: Recipe, experiment: Mapping[str, Any], root: Path) -> Base:
    """Return the experiment of a study as it was sealed with it; nothing of the project is read."""
    request = Request(
        root=root,
        place=root,
        cwd=recipe.cwd,
        outside=None,
        name="",
        command=recipe.command,
        entry=recipe.entry,
        params=dict(experiment["params"]),
        seed=int(experiment["seed"]),
        profile=recipe.profile,
        threads=recipe.threads,
        trail=recipe.trail,
    )
    return Base(request, experiment["command"], _axis(study, request.params), bool(study.fidelity))
