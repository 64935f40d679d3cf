"""Samplers of Optuna through ask and tell: the extra `tune`.

A sampler's state is rebuilt from what it was told: trial k is asked after exactly the trials 0 to k - lag were told, in
their order, whatever the number of workers. Its generators are seeded from the study's seed.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

from repro.errors import UsageError
from repro.record import seeds
from repro.tune.base import cast
from repro.tune.search import Mode, Score, Source, Suggestion
from repro.tune.space import Domain, Space, active, same
from repro.tune.specification import Study

_NAMES = {"tpe": "TPESampler", "cma_es": "CmaEsSampler", "gp": "GPSampler"}
#: Kinds whose values are a list in order: the place in it is what is suggested.
_ORDERED = ("ordinal", "power_of_two")
_HINT = "pip install 'repro-runner[tune]'"


def source(study: Study, first: Suggestion, params: Mapping[str, Any]) -> Source:
    """Return a sampler of Optuna's as a source; trial 0 is the baseline.

    Raises:
        UsageError: where Optuna, or what a sampler of its needs, is not installed.
    """
    assert study.objective is not None  # noqa: S101  (the file was checked for it)
    seed = seeds.integer(study.seed, study.method.name, 32, purpose="suggest")
    return _Sampler(
        study.method.name, study.space, study.objective[1], study.method.options["lag"], seed, first, params
    )


class _Sampler:
    """A source whose trial k depends on the scores of the trials 0 to k - lag."""

    def __init__(
        self, name: str, space: Space, mode: Mode, lag: int, seed: int, first: Suggestion, params: Mapping[str, Any]
    ) -> None:
        self._name = name
        self._space = space
        self._lag = lag
        self._params = params
        self._study = _study(name, mode, seed)
        self._worst = float("inf") if mode == "min" else float("-inf")
        self._first = first
        self._trials: list[Any] = []
        self._found: list[Suggestion] = []
        self._scores: dict[int, Score] = {}
        self._told = 0

    def ready(self, trial: int) -> bool:
        """Say whether the trials 0 to ``trial`` - lag were told."""
        return all(other in self._scores for other in range(self._told, trial - self._lag + 1))

    def suggest(self, trial: int) -> Suggestion:
        """Return the configuration of a trial."""
        while len(self._found) <= trial:
            self._ask(len(self._found))
        return self._found[trial]

    def tell(self, trial: int, score: Score) -> None:
        """Keep a score until its turn."""
        self._scores[trial] = score

    def _ask(self, trial: int) -> None:
        for other in range(self._told, max(self._told, trial - self._lag + 1)):
            value = self._scores[other].value
            self._study.tell(self._trials[other], self._worst if value is None else value)
            self._told = other + 1
        if trial == 0:
            places = (_place(name, self._space.domains[name], value) for name, value in self._first.params.items())
            self._study.enqueue_trial(dict(filter(None, places)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a baseline outside of its range, on experimental samplers
            asked = self._study.ask()
            found: dict[str, Any] = {}
            for name, domain in self._space.domains.items():
                if active(domain, found):
                    found[name] = _suggest(asked, name, domain)
        self._trials.append(asked)
        self._found.append(self._first if trial == 0 else cast(Suggestion(found, self._name, trial), self._params))


def _study(name: str, mode: Mode, seed: int) -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError(f"method {name} needs optuna, which is not installed", hint=_HINT) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            sampler = getattr(optuna.samplers, _NAMES[name])(seed=seed)
            if name == "cma_es":
                importlib.import_module("cmaes")
        except ImportError as error:
            raise UsageError(f"method {name} needs {error.name}, which is not installed", hint=_HINT) from None
    return optuna.create_study(direction="minimize" if mode == "min" else "maximize", sampler=sampler)


def _suggest(asked: Any, name: str, domain: Domain) -> Any:
    if domain.kind in _ORDERED and len(domain.values) > 1:
        return domain.values[asked.suggest_int(name, 0, len(domain.values) - 1)]
    if domain.values:
        return domain.values[asked.suggest_categorical(name, list(range(len(domain.values))))]
    if domain.kind == "int":
        return asked.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    return asked.suggest_float(name, float(domain.low), float(domain.high), log=domain.log)


def _place(name: str, domain: Domain, value: Any) -> tuple[str, Any] | None:
    """Return a value as Optuna knows it: a place in a list, or itself; None where it is not in the list."""
    if not domain.values:
        return name, value
    return next(((name, at) for at, other in enumerate(domain.values) if same(other, value)), None)
