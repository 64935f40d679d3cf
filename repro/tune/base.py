"""The experiment that a study varies: its own parameters, the space held against them, the request of each run."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from repro.errors import ConfigError
from repro.record.values import Recipe
from repro.run import config, yaml12
from repro.run import request as requests
from repro.run.config import nearest
from repro.run.request import MILLION, Request
from repro.tune import draws
from repro.tune.axes import joined, rungs
from repro.tune.draws import Draws
from repro.tune.search import Amount, Job, Point, Source, Suggestion
from repro.tune.space import Domain, Params, Space
from repro.tune.specification import Axis, Study, shown

_EPOCHS = "epochs"
_MODEL = "model"
_DATA = "data"
#: Up to so many points a grid is counted: conditions leave some out, and the baseline may be one of them.
_COUNTED = 10_000
_ENTRY = "entry: train.py:train, with run.subset(dataset) in it"
_CONTINUOUS = ("uniform", "log")


class Base(NamedTuple):
    """An experiment as a study sees it. ``command`` is the text with its ``{name}`` places, None with an entry."""

    request: Request
    command: str | None
    axes: tuple[Axis, ...]
    #: Whether the study file names the fidelity.
    given: bool
    #: Of several axes: the rungs, what each costs and what it has of each axis.
    points: Mapping[Amount, Point] = {}

    @property
    def axis(self) -> Axis:
        """What budgets are counted in."""
        return joined(self.points) if self.points else self.axes[0]

    @property
    def continues(self) -> bool:
        """Whether a trial can go on from a budget to another: by epochs, where an entry can be told."""
        return self.command is None and any(axis.name == _EPOCHS for axis in self.axes)

    def course(self, budget: Amount) -> Hashable:
        """Return what a trial goes on within: equal data and an equal model."""
        return self.point(budget)._replace(epochs=None) if self.continues else budget

    def point(self, budget: Amount) -> Point:
        """Return what a training at a budget has of each axis."""
        if self.points:
            return self.points[budget]
        axis = self.axes[0]
        if axis.ladder:
            return Point(model=next(model for model, cost in axis.ladder.items() if cost == budget))
        return Point(epochs=budget) if axis.name == _EPOCHS else Point(data=budget) if axis.name == _DATA else Point()

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
        point, horizon = self.point(job.budget), self.point(self.axis.high).epochs
        if point.epochs is not None:
            values[_EPOCHS] = int(point.epochs if horizon is None or self.command is not None else horizon)
        if point.model is not None:
            values[_MODEL] = point.model
        values = dict(sorted(values.items()))
        found = replace(self.request, params=values, seed=seed)
        if self.command is not None:
            words = config.words_of(self.command, {**values, "seed": requests.integer_seed(seed)})
            return replace(found, command=words)
        if point.data is not None and point.data != 1:
            found = replace(found, data_share=_share(point.data))
        is_whole = point.epochs is None or point.epochs == horizon
        return found if is_whole else replace(found, epochs=int(point.epochs or 0))


def _wrong(study: Study, place: yaml12.Place, message: str, hint: str | None = None) -> ConfigError:
    """Return the error that names a place in the study file: the file as a user would, the line, the key."""
    line = yaml12.read(study.path).line(place)
    return ConfigError(f"{shown(study.path)}:{line}: {'.'.join(map(str, place))}: {message}", hint=hint)


def _share(amount: Amount) -> int:
    """Return a share of the data in millionths, rounded to the nearest."""
    return max(1, round(amount * MILLION))


def read(study: Study, patterns: Sequence[str] = ()) -> Base:
    """Return the experiment of a study file, the space held against its parameters.

    ``patterns`` take metrics out of a command's output, as ``repro run --metric``.

    Raises:
        ConfigError: for unknown parameters, values of another type, a fidelity that the experiment has not.
    """
    path = study.path.parent / str(study.experiment)
    request = requests.of_experiment(path, requests.Choices(patterns=patterns, threads=study.threads))
    command = config.load(path).file.command
    for name, domain in study.space.domains.items():
        _check(study, name, domain, request.params)
    base = _base(study, request, command)
    names = {axis.name for axis in study.fidelity}
    if command is not None and _DATA in names:
        raise _wrong(study, ("fidelity", "data"), f"{path.name} is a command, which has no run.subset", hint=_ENTRY)
    untold = next((name for name in (_EPOCHS, _MODEL) if name in names and f"{{{name}}}" not in (command or "")), None)
    if command is not None and untold is not None:
        raise _wrong(
            study,
            ("fidelity", untold),
            f"the command of {path.name} has no {{{untold}}}, so it cannot be told",
            hint=f"command: {command} --{untold} {{{untold}}}",
        )
    return base


def _base(study: Study, request: Request, command: str | None) -> Base:
    """Return the experiment with the fidelity of a study."""
    epochs = request.params.get(_EPOCHS)
    known = isinstance(epochs, int) and not isinstance(epochs, bool)
    if not study.fidelity:
        whole = Amount(epochs) if known and epochs is not None else Amount(1)
        return Base(request, command, (Axis(_EPOCHS if known else "run", whole, whole),), given=False)
    for axis in study.fidelity:
        _check_axis(study, axis, request.params, known=known)
    points = rungs(study.fidelity, study.method) if len(study.fidelity) > 1 else {}
    return Base(request, command, study.fidelity, given=True, points=points)


def _check_axis(study: Study, axis: Axis, params: Mapping[str, Any], *, known: bool) -> None:
    """Raise ConfigError where the experiment cannot be told an amount of an axis; ``known``: it has epochs."""
    if axis.name == _EPOCHS and not known:
        raise _wrong(
            study,
            ("fidelity", "epochs"),
            "the experiment has no parameter epochs",
            hint="params: {epochs: 100} in the experiment, and `for epoch in run.epochs():` in its entry",
        )
    if axis.name == _MODEL and not isinstance(params.get(_MODEL), str):
        raise _wrong(
            study,
            ("fidelity", "model"),
            "the experiment has no parameter model, a text",
            hint="params: {model: resnet18} in the experiment",
        )
    if axis.name in study.space.domains:
        raise _wrong(study, ("space", axis.name), "it is the fidelity already", hint="take one of the two out")


def _check(study: Study, name: str, domain: Domain, params: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a domain's values are of the type that the parameter has in the experiment."""
    if name not in params:
        raise _wrong(study, ("space", name), f"{study.experiment} has no such parameter", hint=nearest(name, params))
    old = params[name]
    if old is None or isinstance(old, list):
        return
    if domain.kind in _CONTINUOUS and not domain.values and not isinstance(old, float):
        what = "int: [1, 10]" if isinstance(old, int) and not isinstance(old, bool) else "choice: [...]"
        said = f"{domain.kind} draws numbers with a fraction; in the experiment it is {old!r}"
        raise _wrong(study, ("space", name), said, hint=what)
    strange = next((value for value in domain.values or (domain.low,) if not _fits(value, old)), _FITS)
    if strange is not _FITS:
        raise _wrong(study, ("space", name), f"{strange!r} is not of the type that it has in the experiment ({old!r})")


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


def available(study: Study, base: Base) -> int | None:
    """Return how many configurations there are (at most, where they are many); None where there is no end."""
    options = study.method.options
    is_listed = study.method.name in ("grid", "one_at_a_time") or options.get("draw") == "grid"
    if not is_listed and not study.space.finite:
        return None
    points = options["points"] if is_listed else max(2, *(item.count or 0 for item in study.space.domains.values()))
    bound = study.space.bound(points) + 1
    if not is_listed or bound > _COUNTED:
        return bound
    found = source(study, base)
    return next(at for at in itertools.count() if found.suggest(at) is None)


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
    return _base(study, request, experiment["command"])
