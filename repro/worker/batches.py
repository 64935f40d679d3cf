"""What went into the networks since the last step: the batch column and the loss column.

Hooks see every module call; only outermost calls in training count. Of their arguments, tensors that need no gradient
are the batch: what needs one was computed here, and belongs to a later column.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch.nn.modules import module as nn_module

from repro.worker import bits


def out_of_sight() -> bool:
    """Say whether this call is being traced or transformed, when tensors have no bytes to read."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    )


class Batches:
    """Collects digests between two steps."""

    def __init__(self) -> None:
        self._depth = 0
        self.batch: list[Any] = []
        self.loss: list[Any] = []
        self.hidden = False
        self.roots: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    def install(self) -> None:
        """Register the process-wide hooks."""
        nn_module.register_module_forward_pre_hook(self._enter)
        nn_module.register_module_forward_hook(self._leave, with_kwargs=True, always_call=True)
        _on_backward(self)

    def _enter(self, module: torch.nn.Module, args: Any) -> None:  # noqa: ARG002
        if torch.compiler.is_compiling():
            return
        self._depth += 1

    def _leave(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG002
        if torch.compiler.is_compiling():
            return
        self._depth -= 1
        if self._depth <= 0 and module.training:
            self._depth = 0
            self._take(module, args, kwargs)

    def _take(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if out_of_sight():
            self.hidden = True
            return
        self.roots.add(module)
        for leaf in _leaves((args, kwargs)):
            if not isinstance(leaf, torch.Tensor):
                self.batch.append(xxhash.xxh3_64_intdigest(repr(leaf).encode()))
            elif not leaf.requires_grad:
                found = bits.digest(leaf, bits.salt(leaf, ""))
                self.hidden |= found is bits.UNREADABLE
                self.batch.append(found)

    def backward(self, tensors: Any) -> None:
        """Take the bits of the losses that a backward pass starts from."""
        if not out_of_sight():
            for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors):
                self.loss.append(bits.digest(tensor))

    def clear(self) -> None:
        """Begin the next step."""
        if self.batch:
            self.batch = []
        if self.loss:
            self.loss = []
        self.hidden = False


def _on_backward(batches: Batches) -> None:
    original = torch.autograd.backward

    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            _quietly(batches.backward, tensors)
        original(tensors, *args, **kwargs)

    torch.autograd.backward = backward


def _quietly(action: Any, *args: Any) -> None:
    try:
        action(*args)
    except Exception:
        pass


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (torch.Tensor, int, float, str)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
