"""The trail of a process: one row for each optimizer step, taken by torch's process-wide hooks.

The format is in `repro.record.trail`. Hooks return at once while torch traces, and never raise into user code: what
could not be read is counted and said in the observed list.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import xxhash
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from repro.record import trail as form
from repro.worker import bits, bounds
from repro.worker.backward import Passes
from repro.worker.batches import Batches
from repro.worker.determinism import numerics, threadpools
from repro.worker.generators import Generators
from repro.worker.imports import when_imported
from repro.worker.job import Job, Lines, place
from repro.worker.ledger import Ledger, copy_beginning
from repro.worker.losses import Losses
from repro.worker.memory import WHOLE
from repro.worker.optimizers import Earlier, Known

_hash = xxhash.xxh3_64_intdigest
_chained = xxhash.xxh3_128_digest
_pack, _pack_into = form.ROW.pack, form.ROW.pack_into
#: Of a frame that is not full: no place of an entry, and no column by tensor.
_NO_ENTRY = (0,) * 6

_is_compiling = torch.compiler.is_compiling
_NOBODY: Any = (lambda: None, None)


def _forget(optimizers: dict[int, Any], key: int, reference: Any) -> None:
    if optimizers.get(key, _NOBODY)[0] is reference:
        del optimizers[key]


class Trail:
    """Writes the rows of this process; a forked child that steps an optimizer begins a trail of its own."""

    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed
        self._lost = Losses(job.folder)
        self._schedule: Any = SimpleNamespace(**job.trail)
        self.generators = Generators()
        self._batches = Batches()
        self.failures = 0
        self._failure = ""
        self._compiled: set[str] = set()
        self._rows: Ledger | None = None
        self._details: Ledger | None = None
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        for ledger in (self._rows, self._details):
            if ledger is not None:
                ledger.close()
        self._rows = self._details = None
        # Several threads may step; a forked child must not wait for one of its parent's.
        self._lock = threading.RLock()
        self._bounds: bounds.Bounds | None = None
        self._tables = ""
        self._begun = False
        self._optimizers: dict[int, tuple[weakref.ref[Any], Known]] = {}
        self._earlier = Earlier([], {})
        self._count = 0
        self._made = 0
        self._pending = 0
        self._chain = form.NO_CHAIN
        self._unreadable = 0

    def install(self) -> None:
        """Register the hooks."""
        self._batches.install()
        Passes(self._batches.backward, self._after_pass).install()
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)
        when_imported("torch._dynamo.variables.optimizer", self._note_compiled)

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _is_compiling():
            return
        try:
            with self._lock:
                self._look_before(optimizer, args, kwargs)
        except Exception as error:
            self._failed(error)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        if not self._pending or _is_compiling():
            return
        try:
            with self._lock:
                known = self._known(optimizer)
                if known is not None and known.pending is not None:
                    flags, generators, entry = known.pending
                    self._drop(known)
                    self._look_after(optimizer, known, flags, generators, entry)
        except Exception as error:
            self._failed(error)

    def _after_pass(self, update: Any) -> None:
        """Write the row of a backward pass that no optimizer's step follows; its update shows in the next row.

        ``update`` (`ManualUpdate`) has what is read of an optimizer.
        """
        self._before(update, (), {})
        self._after(update, (), {})

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if isinstance(error, OSError):
            self._lost.note("trail")
        if self.failures == 1:
            self._tell_failure(f"{type(error).__name__}: {error}"[:300])

    def _tell_failure(self, text: str) -> None:
        self._failure = text
        self._observed.event("trail-failure", error=text)

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
        known = self._known(optimizer)
        if known is not None and known.pending is not None:  # a step that has begun and never ended
            self._drop(known)
        if bits.is_transformed():
            self._batches.hidden = True
            return
        if known is None or not known.is_still(optimizer):
            known = self._meet(optimizer, known)
        flags = known.kind(self._schedule)
        if (args[1] if len(args) > 1 else kwargs.get("closure")) is not None:
            flags |= form.CLOSURE
        entry = []
        if flags & form.FULL:
            deep = bool(flags & form.DEEP)
            entry = known.parameters_now(deep=deep)
            if not flags & form.CLOSURE:
                entry += known.gradients(deep=deep)
        generators = self.generators.digest()
        if flags & (form.CLOSURE | form.DEEP):  # the rest of the row is there when the step is over
            known.pending = flags, generators, entry
            self._pending += 1
        else:
            self._finish(known, flags, generators, entry)

    def _drop(self, known: Known) -> None:
        known.pending = None
        self._pending -= 1

    def _known(self, optimizer: torch.optim.Optimizer) -> Known | None:
        reference, known = self._optimizers.get(id(optimizer), _NOBODY)
        return known if reference() is optimizer else None

    def _look_after(
        self, optimizer: torch.optim.Optimizer, known: Known, flags: int, generators: int, entry: list[Any]
    ) -> None:
        if flags & form.FULL:
            deep = bool(flags & form.DEEP)
            if flags & form.CLOSURE:
                entry += known.gradients(deep=deep)
            if deep:
                entry += known.parameters_now(deep=True)
                entry += known.state(optimizer)
                entry += known.kept.digests(known.buffers())
        self._finish(known, flags, generators, entry)

    def _finish(self, known: Known, flags: int, generators: int, entry: list[Any]) -> None:
        """Write the row of a step, and begin the next one."""
        if self._bounds is not None:
            self._bounds.before(known.step)
        if known.skipped and flags & form.FULL:
            flags |= form.SKIPPED
        batches = self._batches
        if batches.batch:
            flags |= form.BATCH_SEEN
        if batches.loss:
            flags |= form.LOSS_SEEN
        if batches.hidden or bits.unreadable != self._unreadable:
            flags |= form.HIDDEN
            self._unreadable = bits.unreadable
        seen = generators, bits.combine(batches.batch), known.settings, bits.combine(batches.loss)
        step, number = known.step, known.number
        detail, before, *after = self._write_entry(known, entry) if entry else _NO_ENTRY
        columns = before, *seen, *after
        assert self._rows is not None  # noqa: S101
        chain = self._chain = _chained(_pack(step, number, flags, 0, *columns, self._chain))
        _pack_into(WHOLE, self._rows.reserve(form.ROW.size), step, number, flags, detail, *columns, chain)
        if self._bounds is not None:
            self._bounds.check(step, number, chain)
        known.step += 1
        batches.clear()

    def _write_entry(self, known: Known, entry: list[Any]) -> list[int]:
        """Write a detail entry where it is to lie, and return its place plus 1 and the columns by tensor over it."""
        assert self._details is not None  # noqa: S101
        digests = bits.read_back(entry)
        layout = bits.struct_of(1 + len(digests))
        place = self._details.size + 1
        start = self._details.reserve(layout.size)
        layout.pack_into(WHOLE, start, known.table, *digests)
        ends = [start + 8, *(start + min(end, layout.size) for end in known.ends), start + layout.size]
        before, gradients, after, state, buffers = map(_over, ends, ends[1:])
        return [place, before, gradients, state, after, buffers]

    def _meet(self, optimizer: torch.optim.Optimizer, known: Known | None) -> Known:
        if not self._begun:
            self._begin()
        fresh = Known(self._count if known is None else known.number, optimizer, self._batches.roots(), self._job)
        fresh.step = 0 if known is None else known.step
        earlier = self._earlier.claim(optimizer, fresh) if known is None else None
        if earlier is not None:
            fresh.number, fresh.step = earlier["number"], earlier["step"]
        self._count += known is None and earlier is None
        key = id(optimizer)
        self._optimizers[key] = weakref.ref(optimizer, functools.partial(_forget, self._optimizers, key)), fresh
        line = fresh.table_line(optimizer)
        if earlier is not None and line == earlier["line"]:
            fresh.table = earlier["table"]
        elif known is not None and line == known.line:  # a manual update may make new leaves at each step
            fresh.table = known.table
        else:
            self._write_table(fresh, optimizer)
        return fresh

    def _write_table(self, known: Known, optimizer: torch.optim.Optimizer) -> None:
        known.table = self._made
        self._made += 1
        with open(self._tables, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"table": known.table} | known.table_line(optimizer)) + "\n")

    def _begin(self) -> None:
        """Open the files at the first step, unless they are those of a run that goes on."""
        self._begun = True
        if not self._tables:
            self._open()
        state = numerics(torch) | {"threadpools": threadpools()}
        self._observed.event("numerics", at="first step", pid=os.getpid(), state=state)

    def _open(self, begin: tuple[str, Mapping[str, int]] | None = None) -> None:
        """Make this process's files, with the beginnings of those in a folder where ``begin`` names it and sizes."""
        distributed = torch.distributed
        number = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else None
        stem = os.path.join(self._job.folder, "trail", f"{place(number)}-{time.time_ns():019d}-{os.getpid()}")
        folder, sizes = begin if begin is not None else ("", {})
        self._rows, self._details = (
            Ledger(f"{stem}.{name}", (f"{folder}/{name}", sizes[name]) if sizes else None)
            for name in ("rows", "details")
        )
        self._tables = f"{stem}.tables"
        if sizes:
            copy_beginning(f"{folder}/tables", self._tables, sizes["tables"])
        self._bounds = bounds.of(self._job, self._observed, self._rows.path)

    def moment(self) -> tuple[Any, ...]:
        """Return what says whether the training has moved on: the last row, calls since, and the generators."""
        batches = self._batches
        return self._chain, bits.pack(batches.batch), bits.pack(batches.loss), self.generators.digest()

    def sizes(self) -> dict[str, Any]:
        """Return the common name of this process's files (None where it made no step), and their sizes."""
        if self._rows is None or self._details is None:
            return {"trail": None}
        sizes = {"rows": self._rows.size, "details": self._details.size, "tables": os.path.getsize(self._tables)}
        return {"trail": os.path.basename(self._tables).removesuffix(".tables"), **sizes}

    def state(self, parts: Mapping[int, Any]) -> dict[str, Any]:
        """Return what a trail that goes on from here begins with.

        ``parts`` has the places of optimizers in the checkpoint, by their id.
        """
        optimizers = [
            known.position(optimizer, parts.get(id(optimizer)))
            for reference, known in self._optimizers.values()
            if (optimizer := reference()) is not None
        ]
        return {
            "chain": self._chain.hex(),
            "failure": self._failure,
            "count": self._count,
            "tables": self._made,
            "batch": [*self._batches.batch],
            "loss": [*self._batches.loss],
            "hidden": self._batches.hidden or bits.unreadable != self._unreadable,
            "optimizers": [*optimizers, *self._earlier.waiting(parts)],
        }

    def go_on(self, state: Mapping[str, Any], folder: str, sizes: Mapping[str, Any], parts: Mapping[Any, Any]) -> None:
        """Go on where the trail in ``folder`` was, in place of what this process has written so far.

        ``state`` is what `state` returned there and ``sizes`` how far its files were; ``parts`` has the optimizers that
        were loaded, by their places in the checkpoint.
        """
        ledgers = (self._rows, self._details)
        mine = [self._tables, *(ledger.path for ledger in ledgers if ledger)] if self._tables else []
        self._reset()
        for path in mine:
            os.unlink(path)
        if sizes["trail"] is not None:
            self._open((folder, sizes))
        if state["failure"] and not self._failure:
            self._tell_failure(state["failure"])
        self._chain = bytes.fromhex(state["chain"])
        self._count, self._made = state["count"], state["tables"]
        self._batches.batch, self._batches.loss = [*state["batch"]], [*state["loss"]]
        self._batches.hidden = state["hidden"]
        self._unreadable = bits.unreadable
        self._earlier = Earlier(state["optimizers"], parts)


def _over(start: int, end: int) -> int:
    """Return the column over a part of a detail entry, by its addresses; 0 if nothing is there."""
    return _hash(WHOLE[start:end]) if end > start else 0
