"""The trail of a process: one row for each optimizer step, taken by torch's process-wide hooks.

The format is in `repro.record.trail`. Hooks return at once while torch traces, and never raise into user code: what
could not be read is counted and said in the observed list.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import xxhash
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from repro.record import trail as form
from repro.worker import bits
from repro.worker.batches import Batches, out_of_sight
from repro.worker.determinism import numerics
from repro.worker.generators import Generators
from repro.worker.job import Job, Lines, rank


class _Optimizer:
    """What is known of one optimizer: its parameters, their names, and how often a frame is full."""

    def __init__(self, number: int, optimizer: torch.optim.Optimizer, batches: Batches, job: Job) -> None:
        self.number = number
        self.step = 0
        self.table = 0
        self.parameters = _parameters(optimizer)
        self._settings: Any = None
        self._settings_digest = 0
        self._state: bits.Bank | None = None
        names, self.buffers, buffer_names = _names(optimizer, batches)
        self.values = bits.Bank(self.parameters, names)
        self.gradients = bits.Bank(self.parameters, names)
        self.none = [0] * len(self.parameters)
        self.kept = bits.Bank(self.buffers, buffer_names)
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        self.every = form.stride(4 * len(self.parameters), 5 * size, budget_us=job.trail["budget_us"])

    def settings(self, optimizer: torch.optim.Optimizer) -> int:
        """Return the digest of every group's settings; computed again only when one of them changed."""
        now = [[value for key, value in group.items() if key != "params"] for group in optimizer.param_groups]
        if not _same(now, self._settings):
            self._settings = now
            text = repr([[_plain(value) for value in group] for group in now])
            self._settings_digest = xxhash.xxh3_64_intdigest(text.encode())
        return self._settings_digest

    def state(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Return one digest for each parameter's optimizer state (momenta, step counts)."""
        states = [optimizer.state.get(parameter) or {} for parameter in self.parameters]
        tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
        if self._state is None or len(self._state.names) != len(tensors):
            self._state = bits.Bank(tensors, [""] * len(tensors))
        digests = iter(self._state.digests(tensors))
        return [bits.combine([_part(value, digests) for value in state.values()]) if state else 0 for state in states]


def _part(value: Any, digests: Iterator[Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return next(digests)
    return xxhash.xxh3_64_intdigest(repr(value).encode()[:10_000])


class Trail:
    """Writes the rows of this process; a forked child that steps an optimizer begins a trail of its own."""

    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed
        self._schedule: Any = SimpleNamespace(**job.trail)
        self.generators = Generators()
        self._batches = Batches()
        self.failures = 0
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._optimizers: weakref.WeakKeyDictionary[Any, _Optimizer] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self._tables = itertools.count()
        self._chain = bytes(16)
        self._files: list[int] = []
        self._details = 0
        self._pending: Any = None

    def install(self) -> None:
        """Register the hooks."""
        self._batches.install()
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        try:
            self._pending = self._look_before(optimizer, args, kwargs)
        except Exception as error:
            self._failed(error)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if torch.compiler.is_compiling() or self._pending is None:
            return
        try:
            self._look_after(optimizer, *self._pending)
        except Exception as error:
            self._failed(error)
        self._pending = None
        self._batches.clear()

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._pending = None
        if self.failures == 1:
            self._observed.event("trail-failure", error=f"{type(error).__name__}: {error}"[:300])

    def _look_before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        if out_of_sight():
            self._batches.hidden = True
            return None
        known = self._optimizers.get(optimizer)
        if known is None or len(known.parameters) != _count(optimizer):
            known = self._meet(optimizer, known)
        full = form.is_full(known.step, known.every, self._schedule)
        closure = (args[1] if len(args) > 1 else kwargs.get("closure")) is not None
        flags = (form.FULL if full else 0) | (form.CLOSURE if closure else 0)
        before = known.values.digests(known.parameters) if full else None
        gradients = _gradients(known) if full and not closure else None
        return known, flags, self.generators.digest(), known.settings(optimizer), before, gradients

    def _look_after(
        self,
        optimizer: torch.optim.Optimizer,
        known: _Optimizer,
        flags: int,
        generators: int,
        settings: int,
        before: list[Any] | None,
        gradients: list[Any] | None,
    ) -> None:
        batches = self._batches
        entry = b""
        if before is not None:
            gradients = _gradients(known) if gradients is None else gradients
            state = known.state(optimizer) if form.has_state(known.step, self._schedule) else known.none
            after = known.values.digests(known.parameters)
            entry = bits.pack([known.table, *before, *gradients, *state, *after, *known.kept.digests(known.buffers)])
            flags |= 0 if any(gradients) else form.SKIPPED
        flags |= (form.BATCH_SEEN if batches.batch else 0) | (form.LOSS_SEEN if batches.loss else 0)
        flags |= form.HIDDEN if batches.hidden else 0
        seen = (generators, bits.combine(batches.batch), settings, bits.combine(batches.loss))
        self._write(known, flags, seen, entry)
        known.step += 1

    def _meet(self, optimizer: torch.optim.Optimizer, known: _Optimizer | None) -> _Optimizer:
        if not self._files:
            self._open()
            self._observed.event("numerics", at="first step", state=numerics(torch))
        number = next(self._numbers) if known is None else known.number
        fresh = _Optimizer(number, optimizer, self._batches, self._job)
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
        number = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else rank()
        stem = os.path.join(self._job.folder, "trail", f"{number:05d}-{time.time_ns():019d}-{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._files = [os.open(f"{stem}.{kind}", flags, 0o644) for kind in ("rows", "details", "tables")]

    def _write(self, known: _Optimizer, flags: int, seen: tuple[int, int, int, int], entry: bytes) -> None:
        before, gradients, state, after, buffers = _columns(known, entry)
        columns = (before, *seen, gradients, state, after, buffers)
        self._chain = xxhash.xxh3_128_digest(form.ROW.pack(known.step, known.number, flags, 0, *columns, self._chain))
        detail = self._details + 1 if entry else 0
        if entry:
            self._details += os.write(self._files[1], entry)
        os.write(self._files[0], form.ROW.pack(known.step, known.number, flags, detail, *columns, self._chain))


def _columns(known: _Optimizer, entry: bytes) -> list[int]:
    """Return the digests of the columns whose tensors are in a detail entry: the parts of it, digested; 0 for none."""
    if not entry:
        return [0] * 5
    length = 8 * len(known.parameters)
    view = memoryview(entry)
    parts = [view[8 + k * length : 8 + (k + 1) * length] for k in range(4)]
    found = [xxhash.xxh3_64_intdigest(part) for part in parts]
    if not any(parts[2]):
        found[2] = 0
    rest = view[8 + 4 * length :]
    return [*found, xxhash.xxh3_64_intdigest(rest) if rest else 0]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _count(optimizer: torch.optim.Optimizer) -> int:
    count = 0
    for group in optimizer.param_groups:
        count += len(group["params"])
    return count


def _gradients(known: _Optimizer) -> list[Any]:
    return known.gradients.digests([parameter.grad for parameter in known.parameters])


def _names(optimizer: torch.optim.Optimizer, batches: Batches) -> tuple[list[str], list[torch.Tensor], list[str]]:
    """Return the parameters' names, and the buffers of the networks that they belong to with theirs."""
    known: dict[int, str] = {}
    buffers: dict[str, torch.Tensor] = {}
    wanted = {id(parameter) for parameter in _parameters(optimizer)}
    for root in sorted(batches.roots, key=lambda module: -sum(1 for _ in module.modules())):
        named = {id(parameter): _clean(name) for name, parameter in root.named_parameters()}
        if wanted.isdisjoint(named) or not named.keys().isdisjoint(known):
            continue
        known |= named
        buffers |= {_clean(name): buffer for name, buffer in root.named_buffers()}
    names = [
        known.get(id(parameter), f"group{index}.{place}")
        for index, group in enumerate(optimizer.param_groups)
        for place, parameter in enumerate(group["params"])
    ]
    return names, list(buffers.values()), list(buffers)


def _clean(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except RuntimeError:  # a tensor of several values has no truth
        return False
