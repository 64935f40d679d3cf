"""What went into the networks since the last step: the batch column and the loss column.

Every module call is seen; only outermost calls that may train count: of a network in training mode, or with gradients
on (a network can be trained in eval mode). Of their arguments, tensors that need no gradient are the batch, and leaves
that do (the points of a physics-informed network, the images of an attack): what else needs one was computed here, and
belongs to a later column, as parameters do.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xxhash

from repro.worker import bits

#: More digests than these between two steps are chained into one.
_MOST_DIGESTS = 1_000
_DEPTH = 6


_is_compiling = torch.compiler.is_compiling


class Batches:
    """Collects digests between two steps."""

    def __init__(self) -> None:
        self._inside = False
        self.batch: list[Any] = []
        self.loss: list[Any] = []
        self.hidden = False
        self._roots: dict[int, weakref.ref[torch.nn.Module]] = {}

    def install(self) -> None:
        """Watch the calls of all modules.

        Not by torch's global module hooks: with one of them, every call of every module takes torch's slow path, which
        costs 3 us a call, some percent of a small network's step (docs/adr/0007-module-calls.md). Calls from other
        threads than the main one (torch.nn.DataParallel) come in any order, and are not looked at.
        """
        original = torch.nn.Module.__call__
        is_torchs = original is getattr(torch.nn.Module, "_wrapped_call_impl", None)
        get_ident = threading.get_ident
        main = get_ident()
        take, may_train = self._take, torch.is_grad_enabled

        @functools.wraps(original)
        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._inside or get_ident() != main:
                if is_torchs and module._compiled_call_impl is None:
                    # What `original` does itself: one frame of Python less for each layer.
                    return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]
                return original(module, *args, **kwargs)
            if _is_compiling():
                return original(module, *args, **kwargs)
            self._inside = True
            try:
                if module.training or may_train():
                    try:
                        take(module, args, kwargs)
                    except Exception:
                        self.hidden = True
                return original(module, *args, **kwargs)
            finally:
                self._inside = False

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]

    def roots(self) -> list[torch.nn.Module]:
        """Return the modules that were called from outside of any other, in the order of their first calls."""
        found = (reference() for reference in self._roots.values())
        return [module for module in found if module is not None]

    def _take(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        known = self._roots.get(id(module))
        if known is None or known() is not module:
            self._roots.pop(id(module), None)
            self._roots[id(module)] = weakref.ref(module, functools.partial(_forget, self._roots, id(module)))
        batch = self.batch
        simple = not kwargs and len(args) == 1 and isinstance(args[0], torch.Tensor)
        for leaf in args if simple else leaves((args, kwargs)):
            if not isinstance(leaf, torch.Tensor):
                batch.append(of_value(leaf))
            elif not leaf.requires_grad or (leaf.is_leaf and not isinstance(leaf, torch.nn.Parameter)):
                batch.append(bits.of_argument(leaf))
        if len(batch) > _MOST_DIGESTS:  # a script may call its networks for days and never step
            self.batch = [bits.combine(batch)]

    def backward(self, tensors: Any) -> None:
        """Take the bits of the losses that a backward pass starts from."""
        try:
            for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors):
                self.loss.append(bits.digest(tensor))
        except Exception:
            self.hidden = True
        if len(self.loss) > _MOST_DIGESTS:
            self.loss = [bits.combine(self.loss)]

    def clear(self) -> None:
        """Begin the next step."""
        if self.batch:
            self.batch = []
        if self.loss:
            self.loss = []
        self.hidden = False


def _forget(roots: dict[int, Any], key: int, reference: Any) -> None:
    if roots.get(key) is reference:
        del roots[key]


def of_value(leaf: str | bytes) -> int:
    """Return the digest of a leaf that is no tensor."""
    return xxhash.xxh3_64_intdigest(leaf.encode() if isinstance(leaf, str) else leaf)


def leaves(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Yield an argument's tensors, arrays (as bytes) and scalars (as text); no scalars of objects of unknown kinds."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (bool, int, float, complex, str, np.generic)):
        yield repr(value)
    elif isinstance(value, np.ndarray):
        yield repr((value.dtype, value.shape)).encode() + value.tobytes()
    elif depth == 0 or value is None or isinstance(value, (torch.nn.Module, type)):
        return
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(item, depth - 1)
    elif hasattr(value, "__dict__"):
        inside = (leaf for item in vars(value).values() for leaf in leaves(item, depth - 1))
        yield from (leaf for leaf in inside if not isinstance(leaf, str))
