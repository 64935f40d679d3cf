"""Backward passes of a script that has no optimizer: each leaves a frame, as an optimizer's step does.

As soon as an optimizer is made, its steps are the frames, and nothing is done here any more: a pass that a step follows
belongs to that step (docs/adr/0029-runs-without-a-trail.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

_is_compiling = torch.compiler.is_compiling


class ManualUpdate:
    """Stands in the trail for the optimizer that a script does without: its parameters are the leaves of a pass."""

    def __init__(self) -> None:
        #: A setting that may change in place has the parameters compared by identity: new leaves are other ones.
        self.param_groups: list[dict[str, Any]] = [{"params": [], "settings": []}]
        self.state: dict[Any, Any] = {}


class Passes:
    """Calls ``tell`` after every backward pass while no optimizer was made; ``loss`` takes what a pass starts from."""

    def __init__(self, loss: Callable[[Any], None], tell: Callable[[ManualUpdate], None]) -> None:
        self._loss = loss
        self._tell = tell
        self._update = ManualUpdate()
        self._is_on = True

    def install(self) -> None:
        """Watch backward passes, and wait for the first optimizer."""
        optimizer: Any = torch.optim.Optimizer
        self._wrap_optimizer(optimizer, optimizer.__init__)
        self._wrap(torch.autograd, "backward", of_gradients=False)
        self._wrap(torch.autograd, "grad", of_gradients=True)

    def _wrap_optimizer(self, optimizer: Any, original: Callable[..., None]) -> None:
        @functools.wraps(original)
        def init(this: Any, *args: Any, **kwargs: Any) -> None:
            self._is_on = False
            original(this, *args, **kwargs)

        optimizer.__init__ = init

    def _wrap(self, owner: Any, name: str, *, of_gradients: bool) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if _is_compiling():
                return original(tensors, *args, **kwargs)
            if not of_gradients or self._is_on:
                self._loss(tensors)
            leaves = self._leaves(tensors) if self._is_on else []
            result = original(tensors, *args, **kwargs)
            if leaves and self._is_on:
                self._update.param_groups[0]["params"] = leaves
                self._tell(self._update)
            return result

        setattr(owner, name, call)

    def _leaves(self, tensors: Any) -> list[torch.Tensor]:
        """Return the leaves that a pass reaches, in the order of the graph."""
        try:
            roots = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
            return [*_leaves([root.grad_fn for root in roots if isinstance(root, torch.Tensor)])]
        except Exception:  # no graph as torch documents it
            return []


def _leaves(nodes: list[Any]) -> Iterator[torch.Tensor]:
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of an AccumulateGrad, where a graph ends
        if variable is not None:
            yield variable
        nodes += [following for following, _ in reversed(node.next_functions)]
