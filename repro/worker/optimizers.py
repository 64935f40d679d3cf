"""What is known of one optimizer: its parameters, their names, and how its columns of the trail are read."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xxhash

from repro.record import trail as form
from repro.worker import bits, names
from repro.worker.job import Job

_gradient = operator.attrgetter("grad")
_AHEAD = 16
_FIXED = (float, int, bool, str, type(None))


class Known:
    """What is known of one optimizer: its parameters, their names, and how often a frame is full."""

    def __init__(
        self, number: int, optimizer: torch.optim.Optimizer, roots: Sequence[torch.nn.Module], job: Job
    ) -> None:
        self.number = number
        self.step = 0
        self.table = 0
        #: The flags of so many steps' frames, from one that is divided by their number: found out together.
        self._kinds = [-1] * _AHEAD
        #: Of a step that has begun: flags, the generators' digest, the digests of parameters and gradients.
        self.pending: tuple[int, int, list[Any]] | None = None
        self.groups = [group["params"] for group in optimizer.param_groups]
        self.parameters = [parameter for group in self.groups for parameter in group]
        self.settings = 0
        self._seen: list[dict[str, Any]] | None = None
        self._look_at_settings(optimizer)
        found = names.of(self.groups, roots)
        self.bank = bits.Bank(self.parameters, found.parameters)
        self._buffers = found.buffers
        self._alike = False
        self.skipped = False
        self.kept = bits.Bank([tensor for tensor in self.buffers() if tensor is not None], found.buffer_names)
        #: Of a detail entry, where its parts end: parameters before, gradients, parameters after, state.
        self.ends = [8 + (i + 1) * 8 * len(self.parameters) for i in range(4)]
        size = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        self.every = form.stride(4 * len(self.parameters), 5 * size, budget_us=job.trail["budget_us"])

        self.line = self.table_line(optimizer)

    def kind(self, schedule: Any) -> int:
        """Return what the frame of this step is, FULL and DEEP or neither, as flags."""
        at = self.step % _AHEAD
        if not at or self._kinds[at] < 0:
            first = self.step - at
            self._kinds = [form.kind(step, self.every, schedule) for step in range(first, first + _AHEAD)]
        return self._kinds[at]

    def is_still(self, optimizer: torch.optim.Optimizer) -> bool:
        """Say whether the optimizer has the parameters that are known of it; `settings` is up to date then."""
        try:
            if self._seen is not None and optimizer.param_groups == self._seen:
                return True
        except RuntimeError:  # two lists of parameters that are not the same were compared
            pass
        now = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if len(now) != len(self.parameters) or any(map(operator.is_not, now, self.parameters)):
            return False
        self._look_at_settings(optimizer)
        return True

    def _look_at_settings(self, optimizer: torch.optim.Optimizer) -> None:
        """Digest every group's settings, and keep a copy to compare with if what they are is seen by comparing."""
        groups = [{**group, "params": [*group["params"]]} for group in optimizer.param_groups]
        values = [[value for name, value in group.items() if name != "params"] for group in groups]
        self.settings = xxhash.xxh3_64_intdigest(
            repr([[_plain(value) for value in group] for group in values]).encode()
        )
        self._seen = groups if all(_is_fixed(value) for group in values for value in group) else None

    def buffers(self) -> list[torch.Tensor | None]:
        """Return the buffers that the networks have now; None for one that is gone."""
        modules = ((reference(), name) for reference, name in self._buffers)
        return [None if module is None else module._buffers.get(name) for module, name in modules]

    def parameters_now(self, *, deep: bool) -> list[Any]:
        """Return one digest for each parameter; ``deep`` looks at each one anew."""
        return self.bank.anew(self.parameters) if deep else self.bank.again(self.parameters)

    def gradients(self, *, deep: bool) -> list[Any]:
        """Return one digest for each parameter's gradient, 0 where there is none."""
        gradients = [*map(_gradient, self.parameters)]
        self.skipped = gradients[0] is None and all(gradient is None for gradient in gradients)
        if deep:
            self._alike = self.bank.are_like(gradients)
        return self.bank.like(gradients) if self._alike and not deep else self.bank.digests(gradients)

    def table_line(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return what the trail's table says of the optimizer, without the table's number."""
        kind = type(optimizer).__name__
        return {
            "optimizer": self.number,
            "kind": kind,
            "names": self.bank.names,
            "buffers": self.kept.names,
            "every": self.every,
        }

    def position(self, optimizer: torch.optim.Optimizer, part: Sequence[Any] | None) -> dict[str, Any]:
        """Return how far the optimizer is; ``part`` is its place in a checkpoint, if it is in it."""
        place = None if part is None else [*part]
        line = self.table_line(optimizer)
        return {"number": self.number, "step": self.step, "table": self.table, "line": line, "part": place}

    def state(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """Return one digest for each parameter's optimizer state (momenta, step counts), 0 where it has none."""
        states = (optimizer.state.get(parameter) for parameter in self.parameters)
        return [bits.combine([*_digests(state)]) if state else 0 for state in states]


class Earlier:
    """The optimizers of the run that this one goes on from, until they step here."""

    def __init__(self, found: Sequence[Mapping[str, Any]], parts: Mapping[Any, Any]) -> None:
        self._found = [(parts.get(tuple(item["part"] or ())), item) for item in found]

    def claim(self, optimizer: torch.optim.Optimizer, known: Known) -> Mapping[str, Any] | None:
        """Return the earlier one that this optimizer is: the one whose state it was given, else the first like it."""
        line = known.table_line(optimizer)
        loaded = (index for index, (part, _) in enumerate(self._found) if part is optimizer)
        alike = (
            index
            for index, (part, item) in enumerate(self._found)
            if part is None and all(item["line"][key] == line[key] for key in ("kind", "names"))
        )
        index = next(loaded, next(alike, None))
        return None if index is None else self._found.pop(index)[1]

    def waiting(self, parts: Mapping[int, Any]) -> list[dict[str, Any]]:
        """Return those that have not stepped yet, with their places in a new checkpoint."""
        places = ((item, None if part is None else parts.get(id(part))) for part, item in self._found)
        return [{**item, "part": None if place is None else [*place]} for item, place in places]


def optimizer_of(part: Any) -> torch.optim.Optimizer | None:
    """Return the optimizer that a part of a checkpoint is, or that it wraps, as some libraries do; else None."""
    inner = getattr(part, "optimizer", None) if hasattr(part, "param_groups") else None
    return next((item for item in (part, inner) if isinstance(item, torch.optim.Optimizer)), None)


def _digests(value: Any) -> Iterator[Any]:
    """Yield a digest for each part of an optimizer's state, also those in its lists (LBFGS)."""
    if isinstance(value, torch.Tensor):
        yield bits.digest(value, bits.salt(value, ""))
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _digests(item)
    else:
        yield xxhash.xxh3_64_intdigest(repr(value).encode()[:10_000])


def _is_fixed(value: Any) -> bool:
    """Say whether a setting cannot be changed in place."""
    return isinstance(value, _FIXED) or (type(value) is tuple and all(_is_fixed(item) for item in value))


def _plain(value: Any) -> Any:
    """Return a setting by its value."""
    return value.tolist() if isinstance(value, torch.Tensor) else value
