"""What went into the networks since the last step: the batch column and the loss column.

Every module call is seen; only outermost calls in training count. Of their arguments, tensors that need no gradient
are the batch: what needs one was computed here, and belongs to a later column.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash

from repro.worker import bits

_MOST_SALTS = 1_000


_is_compiling = torch.compiler.is_compiling
_transforms = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def out_of_sight() -> bool:
    """Say whether this call is being traced or transformed, when tensors have no bytes to read."""
    return _is_compiling() or _transforms() is not None or _tracing() is not None


class Batches:
    """Collects digests between two steps."""

    def __init__(self) -> None:
        self._inside = False
        self.batch: list[Any] = []
        self.loss: list[Any] = []
        self.hidden = False
        self.roots: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._salts: dict[Any, int] = {}

    def install(self) -> None:
        """Watch the calls of all modules, and the backward passes.

        Not by torch's global module hooks: with one of them, every call of every module takes torch's slow path, which
        cost 3 us a call and 4% of a step of the digits experiment (docs/adr/0007-module-calls.md). Calls from other
        threads than the main one (torch.nn.DataParallel) come in any order, and are not looked at.
        """
        original = torch.nn.Module.__call__
        main = threading.get_ident()

        @functools.wraps(original)
        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._inside or torch.compiler.is_compiling() or threading.get_ident() != main:
                return original(module, *args, **kwargs)
            self._inside = True
            try:
                if module.training:
                    _quietly(self._take, module, args, kwargs)
                return original(module, *args, **kwargs)
            finally:
                self._inside = False

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        _on_backward(self)

    def _take(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if out_of_sight():
            self.hidden = True
            return
        self.roots.add(module)
        for leaf in _leaves((args, kwargs)):
            if not isinstance(leaf, torch.Tensor):
                self.batch.append(xxhash.xxh3_64_intdigest(repr(leaf).encode()))
            elif not leaf.requires_grad:
                found = bits.digest(leaf, self._salt(leaf))
                self.hidden |= found is bits.UNREADABLE
                self.batch.append(found)

    def _salt(self, leaf: torch.Tensor) -> int:
        key = (leaf.dtype, leaf.shape)
        found = self._salts.get(key)
        if found is None:
            if len(self._salts) > _MOST_SALTS:
                self._salts.clear()
            found = self._salts[key] = bits.salt(leaf, "")
        return found

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
