"""Git Re-Basin by weight matching, for MLPs: the hidden units of one member put in the order of another's.

Source: Ainsworth, Hayase, Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR 2023,
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from repro.worker.averaging_predictions import Refused

_MOST_ROUNDS = 100
#: Modules without weights of their own that treat each unit alike, so that units may change places.
_UNITWISE = (
    nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Dropout, nn.AlphaDropout, nn.Identity, nn.Flatten,
)  # fmt: skip


class Layer(NamedTuple):
    """The names of a linear layer's weight (out, in) and bias (out,), None where it has none."""

    weight: str
    bias: str | None


def layers(model: nn.Module) -> list[Layer]:
    """Return the linear layers of an MLP, in order.

    Raises:
        Refused: for a network that is no chain of linear layers.
    """
    found: list[tuple[Layer, nn.Linear]] = []
    for name, part in model.named_modules():
        if type(part) is nn.Linear:
            found.append((Layer(f"{name}.weight", None if part.bias is None else f"{name}.bias"), part))
        elif not list(part.children()) and type(part) not in _UNITWISE:
            kind = type(part).__name__
            raise Refused(f"--rebasin is for MLPs: {name or 'the network'} is a {kind}", "--method ensemble")
    if not found or any(one.out_features != other.in_features for (_, one), (_, other) in pairwise(found)):
        raise Refused("--rebasin is for MLPs: linear layers of which each feeds the next", "--method ensemble")
    own = {name for layer, _ in found for name in layer if name is not None}
    other = sorted(set(model.state_dict()) - own)
    if other:
        raise Refused(f"--rebasin is for MLPs: {other[0]} is no weight of a linear layer", "--method ensemble")
    return [layer for layer, _ in found]


def matched(chain: list[Layer], target: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a member's weights with its hidden units in the order in which they are most like the target's.

    Coordinate descent: one hidden layer after the other is matched by a linear assignment, the others held, until
    nothing moves. It is the same function as before, but for the order of sums.
    """
    from scipy.optimize import linear_sum_assignment

    found = dict(state)
    for _ in range(_MOST_ROUNDS):
        moved = False
        for layer, after in pairwise(chain):
            order = torch.from_numpy(linear_sum_assignment(_likeness(layer, after, target, found), maximize=True)[1])
            moved = moved or not torch.equal(order, torch.arange(len(order)))
            found |= _permuted(layer, after, found, order)
        if not moved:
            break
    return found


def _likeness(layer: Layer, after: Layer, target: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
    """Return how alike each unit of the target (rows) is to each of the member's (columns): inner products."""
    names = [layer.weight] + ([] if layer.bias is None else [layer.bias])
    incoming = sum(_rows(target[name]) @ _rows(state[name]).T for name in names)
    return incoming + _rows(target[after.weight]).T @ _rows(state[after.weight])


def _rows(values: torch.Tensor) -> Any:
    array = values.detach().double().numpy()
    return array[:, np.newaxis] if array.ndim == 1 else array


def _permuted(layer: Layer, after: Layer, state: Mapping[str, Any], order: torch.Tensor) -> dict[str, Any]:
    own = {name: state[name][order] for name in layer if name is not None}
    return own | {after.weight: state[after.weight][:, order]}
