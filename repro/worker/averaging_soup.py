"""Means of weights: the barrier between members, soups, and batch-norm statistics estimated anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from repro.worker.averaging_models import Evaluation, UserModule
from repro.worker.averaging_predictions import Refused, loss, rank
from repro.worker.averaging_weights import mean
from repro.worker.predictions import NotFinite

State = Mapping[str, Any]
#: Points on the line between two members, both ends included.
POINTS = 11
#: The split that batch-norm statistics are estimated on.
TRAINING = "train"


class Kitchen:
    """Makes networks of weights and evaluates them, batch-norm statistics estimated anew for each mean of weights."""

    def __init__(self, module: UserModule) -> None:
        self._module = module
        self._model = module.build()
        self._inputs: list[Any] | None = None
        self.has_statistics = any(isinstance(part, _BatchNorm) for part in self._model.modules())

    def member(self, state: State) -> torch.nn.Module:
        """Return the network with a member's own weights."""
        self._model.load_state_dict(state)
        return self._model

    def averaged(self, state: State) -> torch.nn.Module:
        """Return the network with averaged weights and batch-norm statistics of its own."""
        self._model.load_state_dict(state)
        if self.has_statistics:
            update_bn(self._training_inputs(), _Caller(self._model))
        return self._model

    def evaluate(self, state: State, split: str) -> Evaluation:
        """Evaluate averaged weights."""
        return self._module.evaluate(self.averaged(state), split)

    def mean(self, states: Sequence[State]) -> State:
        """Return the mean of several states, by torch's AveragedModel."""
        return dict(mean(self._model, states).module.state_dict())

    def _training_inputs(self) -> list[Any]:
        """Return what the module's evaluation on the training split calls the network with.

        Raises:
            Refused: where it calls the network not at all.
        """
        if self._inputs is None:
            found: list[Any] = []
            hook = self._model.register_forward_pre_hook(
                lambda _model, args, kwargs: found.append(((args, kwargs),)), with_kwargs=True
            )
            try:
                self._module.evaluate(self._model, TRAINING)
            finally:
                hook.remove()
            if not found:
                hint = f"evaluate(model, run, {TRAINING!r}) calls model(x) with the training data"
                raise Refused("the batch-norm statistics of a mean of weights have to be estimated anew", hint)
            self._inputs = found
        return self._inputs


class _Caller(torch.nn.Module):
    """Calls a network with the arguments that are given as one."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, call: Any) -> Any:
        args, kwargs = call
        return self._model(*args, **kwargs)


def barrier(kitchen: Kitchen, a: State, b: State, ends: tuple[float, float], split: str) -> float:
    """Return how far the loss rises above the straight line between two members: 11 points of their weights.

    ``max over t of L((1 - t) a + t b) - ((1 - t) L(a) + t L(b))``, 0 at least. Source: Frankle et al., Linear Mode
    Connectivity and the Lottery Ticket Hypothesis, ICML 2020; the linear baseline as in Ainsworth et al., 2023.
    """
    found = [0.0]
    for step in range(1, POINTS - 1):
        t = step / (POINTS - 1)
        try:
            between = loss(kitchen.evaluate(_between(a, b, t), split).scores)
        except NotFinite:
            return math.inf
        found.append(between - ((1 - t) * ends[0] + t * ends[1]))
    return max(found, key=lambda value: (value != value, value))  # NaN is no low barrier  # noqa: PLR0124


def _between(a: State, b: State, t: float) -> State:
    return {name: torch.lerp(value, b[name], t) if value.is_floating_point() else value for name, value in a.items()}


def barriers(kitchen: Kitchen, states: Sequence[State], losses: Sequence[float], split: str) -> list[float]:
    """Return the barrier of every pair of members, in order."""
    pairs = combinations(range(len(states)), 2)
    return [barrier(kitchen, states[i], states[j], (losses[i], losses[j]), split) for i, j in pairs]


def check_barrier(highest: float, limit: float, *, shared: bool) -> None:
    """Raise Refused where members do not share an initialisation and the barrier between two is above the limit."""
    if not shared and not highest <= limit:
        hint = "--method ensemble needs no common weights; --rebasin for MLPs; --max-barrier sets another limit"
        raise Refused(
            f"the loss rises by {highest:.4g} between two members, and they go on from no common checkpoint;"
            f" their weights may be averaged up to a barrier of {limit:g}",
            hint,
        )


def greedy(kitchen: Kitchen, states: Sequence[State], found: Sequence[Evaluation], split: str) -> list[int]:
    """Return the members of a greedy soup: the best first, each taken that does not make the soup worse.

    On the validation split, by the metric. Source: Wortsman et al., Model soups, ICML 2022, recipe 1.
    """
    order = sorted(range(len(states)), key=lambda index: rank(found[index].scores))
    taken = [order[0]]
    best = rank(found[order[0]].scores)[0]
    for index in order[1:]:
        now = rank(kitchen.evaluate(kitchen.mean([states[i] for i in (*taken, index)]), split).scores)[0]
        if now <= best:
            taken, best = [*taken, index], now
    return taken
