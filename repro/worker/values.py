"""The values of one tensor of one frame, for how far it is from what it was: a replay that narrows asks for them.

`Job.values` says which: optimizer, step, column, name. They are left in a file beside the trail's folder, ``values/``
and the name of the trail's: for each tensor a JSON line with its dtype and size in bytes, and these bytes.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from repro.record import trail as form
from repro.worker import bits
from repro.worker.job import Job, Lines
from repro.worker.optimizers import Known
from repro.worker.trail import Trail

#: Columns that are there when a step begins, and those that it makes; a closure makes the gradients as well.
_BEFORE = (form.PARAMETERS_IN, form.GRADIENTS)
_AFTER = (form.LOSS, form.STATE, form.PARAMETERS_OUT, form.BUFFERS)


class Keeping(Trail):
    """A trail whose frames are all deep, and that keeps the values of one tensor."""

    def __init__(self, job: Job, observed: Lines) -> None:
        super().__init__(job, observed)
        self._folder = job.folder
        self._wanted: Any = job.values
        self._losses: list[torch.Tensor] = []
        take = self._batches.backward

        def backward(tensors: Any) -> None:
            tensors = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
            take(tensors)
            with contextlib.suppress(Exception):
                self._losses += [tensor.detach().clone() for tensor in tensors]

        self._batches.backward = backward  # type: ignore[method-assign]

    def _look_before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        super()._look_before(optimizer, args, kwargs)
        known = self._known(optimizer)
        if known is not None and known.pending is not None:
            self._keep(known, optimizer, _BEFORE)

    def _look_after(
        self, optimizer: torch.optim.Optimizer, known: Known, flags: int, generators: int, entry: list[Any]
    ) -> None:
        self._keep(known, optimizer, (*_AFTER, form.GRADIENTS) if flags & form.CLOSURE else _AFTER)
        self._losses = []
        super()._look_after(optimizer, known, flags, generators, entry)

    def _keep(self, known: Known, optimizer: torch.optim.Optimizer, columns: tuple[int, ...]) -> None:
        column, wanted = self._wanted["column"], self._wanted
        if column not in columns or (known.number, known.step) != (wanted["optimizer"], wanted["step"]):
            return
        with contextlib.suppress(Exception):  # a tensor without bytes has no distance
            found = self._losses if column == form.LOSS else _tensors(known, optimizer, column, wanted["tensor"])
            _write(Path(self._folder, "values", Path(self._tables).stem), found)


def _tensors(known: Known, optimizer: torch.optim.Optimizer, column: int, name: str) -> list[torch.Tensor]:
    """Return the tensors of a column that go by one name: several of an optimizer's state."""
    if column == form.BUFFERS:
        there = [buffer for buffer in known.buffers() if buffer is not None]
        return [there[known.kept.names.index(name)]]
    parameter = known.parameters[known.bank.names.index(name)]
    if column == form.STATE:
        return [value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)]
    found = parameter.grad if column == form.GRADIENTS else parameter
    return [] if found is None else [found]


def _write(path: Path, tensors: list[torch.Tensor]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as handle:
        for tensor in tensors:
            data = bits.view(tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()).tobytes()
            head = {"dtype": str(tensor.dtype).removeprefix("torch."), "size": len(data)}
            handle.write(json.dumps(head).encode() + b"\n" + data)
