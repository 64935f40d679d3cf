"""The trail of a process: one row for each optimizer step, taken by torch's process-wide hooks.

The format is in `repro.record.trail`. Hooks return at once while torch traces, and never raise into user code: what
could not be read is counted and said in the observed list.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import xxhash
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from repro.record import trail as form
from repro.worker import bits, names
from repro.worker.batches import Batches, out_of_sight
from repro.worker.determinism import numerics, threadpools
from repro.worker.generators import Generators
from repro.worker.imports import when_imported
from repro.worker.job import Job, Lines, close_quietly, open_to_append, place

_FIXED = (float, int, bool, str, type(None))


class _Optimizer:
    """What is known of one optimizer: its parameters, their names, and how often a frame is full."""

    def __init__(
        self, number: int, optimizer: torch.optim.Optimizer, roots: Sequence[torch.nn.Module], job: Job
    ) -> None:
        self.number = number
        self.step = 0
        self.table = 0
        self.pending: tuple[int, int, int, list[Any], list[Any]] | None = None
        self.groups = [group["params"] for group in optimizer.param_groups]
        self.parameters = [parameter for group in self.groups for parameter in group]
        self._settings: Any = None
        self._settings_digest = 0
        self._state = bits.Bank([], [])
        found = names.of(self.groups, roots)
        self.values = bits.Bank(self.parameters, found.parameters)
        self.gradients = bits.Bank(self.parameters, found.parameters)
        self._buffers = found.buffers
        self.kept = bits.Bank([tensor for tensor in self.buffers() if tensor is not None], found.buffer_names)
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        self.every = form.stride(4 * len(self.parameters), 5 * size, budget_us=job.trail["budget_us"])

    def is_still(self, optimizer: torch.optim.Optimizer) -> bool:
        """Say whether the optimizer has the parameters that are known of it."""
        now = optimizer.param_groups
        if len(now) != len(self.groups):
            return False
        count = 0
        for group, known in zip(now, self.groups, strict=True):
            if group["params"] is not known:
                return False
            count += len(known)
        return count == len(self.parameters)

    def buffers(self) -> list[torch.Tensor | None]:
        """Return the buffers that the networks have now; None for one that is gone."""
        modules = ((reference(), name) for reference, name in self._buffers)
        return [None if module is None else module._buffers.get(name) for module, name in modules]

    def settings(self, optimizer: torch.optim.Optimizer) -> int:
        """Return the digest of every group's settings; computed again only when one of them changed."""
        now = [
            [value if type(value) in _FIXED else _plain(value) for name, value in group.items() if name != "params"]
            for group in optimizer.param_groups
        ]
        if now != self._settings:
            self._settings = now
            self._settings_digest = xxhash.xxh3_64_intdigest(repr(now).encode())
        return self._settings_digest

    def state(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Return one digest for each parameter's optimizer state (momenta, step counts)."""
        states = [optimizer.state.get(parameter) or {} for parameter in self.parameters]
        tensors = [value for state in states for value in _tensors(state)]
        if len(self._state.names) != len(tensors):
            self._state = bits.Bank(tensors, [""] * len(tensors))
        digests = iter(self._state.digests(tensors))
        return [bits.combine([*_parts(state, digests)]) if state else 0 for state in states]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of an optimizer's state, also those in its lists (LBFGS)."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _parts(value: Any, digests: Iterator[Any]) -> Iterator[Any]:
    """Yield a digest for each part of an optimizer's state, those of the tensors from ``digests``."""
    if isinstance(value, torch.Tensor):
        yield next(digests)
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item, digests)
    else:
        yield xxhash.xxh3_64_intdigest(repr(value).encode()[:10_000])


class Trail:
    """Writes the rows of this process; a forked child that steps an optimizer begins a trail of its own."""

    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed
        self._schedule: Any = SimpleNamespace(**job.trail)
        self.generators = Generators()
        self._batches = Batches()
        self.failures = 0
        self._compiled: set[str] = set()
        self._files: list[int] = []
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        for descriptor in self._files:
            close_quietly(descriptor)
        self._optimizers: weakref.WeakKeyDictionary[Any, _Optimizer] = weakref.WeakKeyDictionary()
        self._count = 0
        self._tables = itertools.count()
        self._chain = bytes(16)
        self._files = []
        self._details = 0
        self._unreadable = 0

    def install(self) -> None:
        """Register the hooks."""
        self._batches.install()
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)
        when_imported("torch._dynamo.variables.optimizer", self._note_compiled)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        try:
            self._look_before(optimizer, args, kwargs)
        except Exception as error:
            self._failed(error)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if torch.compiler.is_compiling():
            return
        try:
            known = self._optimizers.get(optimizer)
            if known is not None and known.pending is not None:
                self._look_after(optimizer, known, *known.pending)
                known.pending = None
                self._batches.clear()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            self._observed.event("trail-failure", error=f"{type(error).__name__}: {error}"[:300])

    def _note_compiled(self, module: Any) -> None:
        """Tell of optimizers whose step torch.compile takes in: no hook is called in what it makes of them."""
        variable = module.OptimizerVariable
        original = variable.call_method

        @functools.wraps(original)
        def call_method(this: Any, tx: Any, name: str, *args: Any, **kwargs: Any) -> Any:
            kind = type(getattr(this, "value", None)).__name__
            if name in ("step", "_init_group") and kind not in self._compiled:
                self._compiled.add(kind)
                self._observed.event("trail-failure", error=f"{kind}.step was compiled, and leaves no frames then")
            return original(this, tx, name, *args, **kwargs)

        variable.call_method = call_method

    def _look_before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        known = self._optimizers.get(optimizer)
        if out_of_sight():
            self._batches.hidden = True
            if known is not None:
                known.pending = None
            return
        if known is None or not known.is_still(optimizer):
            known = self._meet(optimizer, known)
        full = form.is_full(known.step, known.every, self._schedule)
        deep = full and form.is_deep(known.step, self._schedule)
        closure = (args[1] if len(args) > 1 else kwargs.get("closure")) is not None
        flags = (form.FULL if full else 0) | (form.DEEP if deep else 0) | (form.CLOSURE if closure else 0)
        before = known.values.digests(known.parameters) if deep else []
        gradients = _gradients(known) if full and not closure else []
        known.pending = flags, self.generators.digest(deep=deep), known.settings(optimizer), before, gradients

    def _look_after(
        self,
        optimizer: torch.optim.Optimizer,
        known: _Optimizer,
        flags: int,
        generators: int,
        settings: int,
        before: list[Any],
        gradients: list[Any],
    ) -> None:
        batches = self._batches
        entry = b""
        if flags & form.FULL:
            gradients = gradients or _gradients(known)
            deep = _deep(known, optimizer) if flags & form.DEEP else []
            entry = bits.pack([known.table, *gradients, *before, *deep])
            flags |= form.SKIPPED if all(parameter.grad is None for parameter in known.parameters) else 0
        flags |= (form.BATCH_SEEN if batches.batch else 0) | (form.LOSS_SEEN if batches.loss else 0)
        flags |= form.HIDDEN if batches.hidden or bits.unreadable != self._unreadable else 0
        self._unreadable = bits.unreadable
        seen = (generators, bits.combine(batches.batch), settings, bits.combine(batches.loss))
        self._write(known, flags, seen, entry)
        known.step += 1

    def _meet(self, optimizer: torch.optim.Optimizer, known: _Optimizer | None) -> _Optimizer:
        if not self._files:
            self._open()
            self._observed.event(
                "numerics", at="first step", pid=os.getpid(), state=numerics(torch) | {"threadpools": threadpools()}
            )
        number = self._count if known is None else known.number
        fresh = _Optimizer(number, optimizer, self._batches.roots(), self._job)
        self._count += known is None
        fresh.step = 0 if known is None else known.step
        fresh.table = next(self._tables)
        self._optimizers[optimizer] = fresh
        table = {
            "table": fresh.table,
            "optimizer": number,
            "kind": type(optimizer).__name__,
            "names": fresh.values.names,
            "buffers": fresh.kept.names,
            "every": fresh.every,
        }
        os.write(self._files[2], json.dumps(table).encode() + b"\n")
        return fresh

    def _open(self) -> None:
        distributed = torch.distributed
        number = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else None
        stem = os.path.join(self._job.folder, "trail", f"{place(number)}-{time.time_ns():019d}-{os.getpid()}")
        self._files = [open_to_append(f"{stem}.{kind}", os.O_EXCL) for kind in ("rows", "details", "tables")]

    def _write(self, known: _Optimizer, flags: int, seen: tuple[int, int, int, int], entry: bytes) -> None:
        gradients, before, *rest = _columns(len(known.parameters), entry)
        columns = (before, *seen, gradients, *rest)
        self._chain = xxhash.xxh3_128_digest(form.ROW.pack(known.step, known.number, flags, 0, *columns, self._chain))
        detail = self._details + 1 if entry else 0
        if entry:
            self._details += os.write(self._files[1], entry)
        os.write(self._files[0], form.ROW.pack(known.step, known.number, flags, detail, *columns, self._chain))


def _columns(count: int, entry: bytes) -> list[int]:
    """Return the digests of the columns by tensor in the order of a detail entry: of its parts, 0 for an empty one."""
    view = memoryview(entry)
    starts = [8 + 8 * count * part for part in range(len(form.BY_PARAMETER))]
    parts = [view[start : start + 8 * count] for start in starts]
    parts.append(view[8 + 8 * count * len(form.BY_PARAMETER) :])
    return [xxhash.xxh3_64_intdigest(part) if part else 0 for part in parts]


def _deep(known: _Optimizer, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return the digests of the optimizer's state, the parameters and the buffers after a step."""
    state, after = known.state(optimizer), known.values.digests(known.parameters)
    return [*state, *after, *known.kept.digests(known.buffers())]


def _gradients(known: _Optimizer) -> list[Any]:
    return known.gradients.digests([parameter.grad for parameter in known.parameters])


def _plain(value: Any) -> Any:
    """Return a setting as it is now: what can be changed in place is copied."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if type(value) is list else value
