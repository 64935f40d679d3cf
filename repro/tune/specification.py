"""The study file: read strictly, so that a typing error is an error and names its line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec

from repro.engines.limits import RunLimits, seconds, size
from repro.errors import ConfigError
from repro.run import yaml12
from repro.run.config import nearest
from repro.tune import domains
from repro.tune.options import LADDERS, METHODS, REQUIRED, Option, above_zero, whole
from repro.tune.search import Amount, Mode
from repro.tune.space import Space

_KEYS = (
    "experiment",
    "table",
    "space",
    "method",
    "fidelity",
    "objective",
    "seeds",
    "seed",
    "trials",
    "budget",
    "controls",
    "threads",
    "limits",
)
_OF_EXPERIMENT = ("space", "threads", "limits")
_AXES = ("epochs", "data", "model")
_AMOUNT = above_zero("an amount")
_T = TypeVar("_T")


class Axis(NamedTuple):
    """What grows with the budget: from ``low`` to ``high``, or along a ladder of models with what each costs."""

    name: str
    low: Amount
    high: Amount
    ladder: dict[str, Amount] = {}  # noqa: RUF012  (never changed)


class Method(NamedTuple):
    """How to search: a name, and its options with the defaults filled in."""

    name: str
    options: dict[str, Any]


class Study(NamedTuple):
    """A study file that was read and found right.

    ``trials`` and ``budget`` limit the study, ``limits`` each of its trainings: they are no part of what is sealed.
    """

    path: Path
    experiment: str | None
    table: str | None
    space: Space
    method: Method
    fidelity: tuple[Axis, ...]
    objective: tuple[str, Mode] | None
    per_trial: int
    finalists: int
    seed: int
    trials: int | None
    budget: Amount | None
    controls: bool
    threads: int | None
    limits: RunLimits

    def sealed(self) -> dict[str, Any]:
        """Return the specification as plain values: what decides, without limits and places."""
        return {
            "space": msgspec.to_builtins(self.space.domains),
            "method": {self.method.name: {name: _plain(value) for name, value in self.method.options.items()}},
            "fidelity": {axis.name: _sealed(axis) for axis in self.fidelity},
            "objective": None if self.objective is None else dict([self.objective]),
            "seeds": {"per_trial": self.per_trial, "finalists": self.finalists},
            "seed": str(self.seed),
            "controls": self.controls,
            "threads": self.threads,
        }


def _sealed(axis: Axis) -> Any:
    if axis.ladder:
        return {name: str(cost) for name, cost in axis.ladder.items()}
    return [str(axis.low), str(axis.high)]


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def shown(path: Path) -> str:
    """Return a study file as a user would name it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def load(path: Path) -> Study:
    """Read a study file.

    Raises:
        ConfigError: with the line, what was expected, and the nearest key.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file", hint="repro tune takes a study file; docs/reference/tune.md")
    return _Reader(path, yaml12.read(path)).study()


def parse(text: str, path: Path) -> Study:
    """Return the study of a text that was read from a file at ``path``. Raises ConfigError as `load`."""
    return _Reader(path, yaml12.parse(text, str(path))).study()


class _Reader:
    """Makes a study of a document; every error names the line."""

    def __init__(self, path: Path, document: yaml12.Document) -> None:
        self._path = path
        self._document = document
        value = document.value
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: a mapping is expected", hint="experiment: ..., space: ..., method: ...")
        self._value: dict[str, Any] = value

    def study(self) -> Study:
        self._known(self._value, (), _KEYS)
        experiment, table = self._source()
        method = self._method()
        study = Study(
            path=self._path.resolve(),
            experiment=experiment,
            table=table,
            space=self._space() if experiment is not None else Space({}),
            method=method,
            fidelity=self._fidelity(),
            objective=self._objective(),
            per_trial=self._whole(("seeds", "per_trial"), 1, 1),
            finalists=self._whole(("seeds", "finalists"), 0, 0),
            seed=self._whole(("seed",), 0, 0),
            trials=self._optional(("trials",)),
            budget=self._budget(),
            controls=self._flag("controls"),
            threads=self._optional(("threads",)),
            limits=self._limits(),
        )
        self._complete(study)
        return study

    def fail(self, place: yaml12.Place, message: str, hint: str | None = None) -> NoReturn:
        where = ".".join(map(str, place))
        raise ConfigError(
            f"{self._path}:{self._document.line(place)}: {where}{': ' if where else ''}{message}", hint=hint
        )

    def _known(self, value: Mapping[str, Any], place: yaml12.Place, keys: Iterable[str]) -> None:
        keys = tuple(keys)
        for name in value:
            if name not in keys:
                self.fail((*place, name), f"unknown key {name!r}", nearest(name, keys))

    def _source(self) -> tuple[str | None, str | None]:
        given = [name for name in ("experiment", "table") if name in self._value]
        if len(given) != 1:
            what = "`experiment` and `table`: only one is expected" if given else "`experiment` or `table` is expected"
            self.fail((*given[1:],), what, "experiment: experiment.yaml, or table: FILE.npz")
        name = given[0]
        value = self._value[name]
        if not isinstance(value, str) or not value:
            self.fail((name,), "a file's name is expected")
        for other in _OF_EXPERIMENT if name == "table" else ():
            if other in self._value:
                self.fail((other,), "a table has its own configurations, and trains nothing", f"leave {other} out")
        return (value, None) if name == "experiment" else (None, value)

    def _space(self) -> Space:
        value = self._value.get("space")
        if not isinstance(value, dict) or not value:
            self.fail(("space",), "the parameters to vary are expected", "space: {lr: {log: [1.0e-4, 1.0]}}")
        return domains.read(value, self.fail)

    def _method(self) -> Method:
        place: yaml12.Place = ("method",)
        value = self._value.get("method")
        if isinstance(value, dict) and len(value) == 1:
            name, options = next(iter(value.items()))
            place = ("method", name)
        else:
            name, options = value, None
        if name == "portfolio":
            self.fail(place, "portfolio: there is no portfolio yet to try first", "method: random")
        if not isinstance(name, str) or name not in METHODS:
            what = "the method is missing" if value is None else "one method is expected"
            what = f"unknown method {name!r}" if isinstance(name, str) else what
            self.fail(place, what, nearest(str(name), METHODS))
        options = {} if options is None else options
        if not isinstance(options, dict):
            self.fail(place, "options by name are expected", f"method: {{{name}: {{}}}}")
        return Method(name, self._options(options, place, METHODS[name]))

    def _options(self, given: dict[str, Any], place: yaml12.Place, known: dict[str, Option]) -> dict[str, Any]:
        self._known(given, place, known)
        found = {}
        for name, option in known.items():
            if name in given:
                found[name] = self._read(option.read, given[name], (*place, name))
            elif option.default is REQUIRED:
                self.fail(place, f"the key {name!r} is missing", f"{name}: 16")
            else:
                found[name] = option.default
        return found

    def _read(self, read: Callable[[Any], _T], value: Any, place: yaml12.Place, hint: str | None = None) -> _T:
        try:
            return read(value)
        except ValueError as error:
            self.fail(place, f"{error}, not {value!r}", hint)

    def _fidelity(self) -> tuple[Axis, ...]:
        value = self._value.get("fidelity")
        if value is None:
            return ()
        if not isinstance(value, dict) or not value:
            self.fail(("fidelity",), "an axis and its range are expected", "fidelity: {epochs: [25, 100]}")
        if "table" in self._value and len(value) > 1:
            self.fail(("fidelity",), "a table has one axis")
        if "experiment" in self._value:
            self._known(value, ("fidelity",), _AXES)
        return tuple(self._axis(name, item) for name, item in value.items())

    def _axis(self, name: str, value: Any) -> Axis:
        place = ("fidelity", name)
        if name == "model" and "experiment" in self._value:
            return self._ladder(place, value)
        if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004
            self.fail(place, "two amounts are expected: the least and the whole", f"{name}: [25, 100]")
        low, high = (self._read(_AMOUNT, item, (*place, at)) for at, item in enumerate(value))
        if low > high:
            self.fail(place, f"the range is empty: {value[0]} is above {value[1]}")
        if name == "epochs" and any(isinstance(item, float) for item in value):
            self.fail(place, "whole numbers of epochs are expected")
        if name == "data" and "experiment" in self._value and high > 1:
            self.fail(place, "a fraction of the data is expected: 1.0 is all of it")
        return Axis(name, low, high)

    def _ladder(self, place: yaml12.Place, value: Any) -> Axis:
        """Read a ladder of models: a list counts its places, a mapping says what each costs."""
        given = {name: at for at, name in enumerate(value, 1)} if isinstance(value, list) else value
        hint = "model: [resnet18, resnet152], or what each costs: {resnet18: 1.8, resnet152: 11.5}"
        if not isinstance(given, dict) or len(given) < 2 or not all(isinstance(name, str) for name in given):  # noqa: PLR2004
            self.fail(place, "two models by name are expected at least, the smallest first", hint)
        costs = [self._read(above_zero("a cost"), cost, (*place, name), hint) for name, cost in given.items()]
        if any(b <= a for a, b in itertools.pairwise(costs)):
            self.fail(place, "costs that grow are expected", hint)
        return Axis("model", costs[0], costs[-1], dict(zip(given, costs, strict=True)))

    def _objective(self) -> tuple[str, Mode] | None:
        value = self._value.get("objective")
        if value is None:
            return None
        hint = "objective: {val_acc: max}"
        if not isinstance(value, dict) or len(value) != 1:
            self.fail(("objective",), "one metric is expected, and min or max", hint)
        name, mode = next(iter(value.items()))
        if mode not in ("min", "max"):
            self.fail(("objective", name), f"min or max is expected, not {mode!r}", hint)
        return name, mode

    def _at(self, place: yaml12.Place) -> Any:
        value: Any = self._value
        for at, step in enumerate(place):
            if value is None:
                return None
            if not isinstance(value, dict):
                self.fail(place[:at], "a mapping is expected")
            if at == 1:
                self._known(value, place[:at], ("per_trial", "finalists"))
            value = value.get(step)
        return value

    def _whole(self, place: yaml12.Place, least: int, default: int) -> int:
        value = self._at(place)
        return default if value is None else self._read(whole(least), value, place)

    def _optional(self, place: yaml12.Place) -> int | None:
        return None if self._at(place) is None else self._whole(place, 1, 1)

    def _budget(self) -> Amount | None:
        value = self._value.get("budget")
        return None if value is None else self._read(_AMOUNT, value, ("budget",))

    def _flag(self, name: str) -> bool:
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            self.fail((name,), f"true or false is expected, not {value!r}")
        return value

    def _limits(self) -> RunLimits:
        value = self._value.get("limits")
        if value is None:
            return RunLimits()
        hint = "limits: {time: 600, memory: 4GiB}"
        if not isinstance(value, dict) or not value:
            self.fail(("limits",), "the time or the memory that one training may have is expected", hint)
        self._known(value, ("limits",), RunLimits._fields)
        read: dict[str, Callable[[Any], Any]] = {"time": seconds, "memory": size}
        return RunLimits(**{name: self._read(read[name], item, ("limits", name), hint) for name, item in value.items()})

    def _complete(self, study: Study) -> None:
        """Check what keys ask of one another."""
        if study.experiment is not None and study.objective is None:
            self.fail((), "the objective is missing", "objective: {val_acc: max}")
        if study.experiment is not None and study.method.name in LADDERS and not study.fidelity:
            self.fail((), f"{study.method.name} needs a fidelity", "fidelity: {epochs: [25, 100]}")
        if study.table is not None and study.method.name not in ("grid", "random", *LADDERS):
            self.fail(("method",), f"{study.method.name} needs a space; a table has finished configurations alone")
        if study.table is not None and study.method.options.get("draw") == "quasi_random":
            self.fail(
                ("method", study.method.name, "draw"), "a table has no space to be quasi-random in", "draw: random"
            )
