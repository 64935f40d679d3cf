"""Networks by the user's module, its `build(run)` and `evaluate(model, run, split)`: each call is as the first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from repro.worker import predictions, streams
from repro.worker.averaging_predictions import LARGER_IS_BETTER, Refused, scores
from repro.worker.checkpoint import OWN
from repro.worker.modules import imported_from
from repro.worker.predictions import Arrays
from repro.worker.session import Params, Run
from repro.worker.sources import Sources

_TIMES = 3
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_RETURNS = (
    "evaluate(model, run, split) calls run.predictions(split, ids, probabilities, targets), or returns"
    " (probabilities, targets), or a mapping with accuracy or rmse"
)


class Evaluation(NamedTuple):
    """What a network does on a split: its scores, and its predictions where the module gave them."""

    scores: dict[str, float]
    predictions: Arrays | None


class MemberRun(Run):
    """The run that `build` and `evaluate` get: parameters and seeds of a member; what they log is left aside."""

    def __init__(self, params: Mapping[str, Any], seeds: Mapping[str, Any]) -> None:
        self._master = int(seeds["master"])
        super().__init__()
        self.params = Params(params)
        self._sources = Sources(self._master, seeds["replicates"], None)
        self.caught: dict[str, Arrays] = {}

    @property
    def seed(self) -> int:
        """The member's master seed."""
        return self._master

    @property
    def streams_used(self) -> set[str]:
        """The streams that were asked for."""
        return self._sources.used

    def predictions(self, split: str, ids: Any, probabilities: Any, targets: Any) -> None:
        """Catch predictions, in place of saving them."""
        self.caught[split] = predictions.checked(split, ids, probabilities, targets)


class UserModule:
    """The user's module; every call finds the same streams and global generators, and so the same split."""

    def __init__(self, path: str, params: Mapping[str, Any], seeds: Sequence[Mapping[str, Any]]) -> None:
        sys.argv = [path]
        sys.path.insert(0, os.path.dirname(path))
        module = imported_from(path)
        self._build: Callable[..., Any] = _function(module, path, "build", "build(run) -> torch.nn.Module")
        self._evaluate: Callable[..., Any] = _function(module, path, "evaluate", "evaluate(model, run, split)")
        self._params = params
        self._seeds = seeds
        self._generators = streams.get_all()

    def _run(self) -> MemberRun:
        streams.set_all(self._generators)
        return MemberRun(self._params, self._seeds[0])

    def build(self) -> torch.nn.Module:
        """Return a new network. Raises TypeError for what is none."""
        model = self._build(self._run())
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"build(run) returned {type(model).__name__}; a torch.nn.Module is expected")
        return model

    def evaluate(self, model: torch.nn.Module, split: str) -> Evaluation:
        """Return what a network does on a split.

        Raises:
            Refused: where the split is another one for each member.
            TypeError: where nothing that can be used came back.
        """
        run = self._run()
        with torch.no_grad():
            returned = self._evaluate(model, run, split)
        self._check_split(run, split)
        named = run.caught.get(split) or (next(iter(run.caught.values())) if len(run.caught) == 1 else None)
        found = named or _arrays(split, returned)
        if found is not None:
            return Evaluation(scores(found), found)
        return Evaluation(_numbers(returned), None)

    def _check_split(self, run: MemberRun, split: str) -> None:
        own = {(seeds["master"], seeds["replicates"].get("split", 0)) for seeds in self._seeds}
        if "split" in run.streams_used and len(own) > 1:
            hint = "hold the split for all members: repro seeds --vary init,order, or a split that no seed decides"
            raise Refused(f"{split!r} is drawn from the stream 'split', which is another one for each member", hint)

    def seconds(self, model: torch.nn.Module, split: str) -> float:
        """Return the time that a network takes for all examples of a split: its own calls, the least of three."""
        times = []
        for _ in range(_TIMES):
            clock = _Clock(model)
            try:
                self.evaluate(model, split)
            finally:
                clock.remove()
            times.append(clock.seconds)
        return min(times)


class _Clock:
    """Adds up the time that a network is called for."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds = 0.0
        self._begin = 0.0
        self._hooks = [model.register_forward_pre_hook(self._before), model.register_forward_hook(self._after)]

    def _before(self, *_: Any) -> None:
        self._begin = _now()

    def _after(self, *_: Any) -> None:
        self.seconds += _now() - self._begin

    def remove(self) -> None:
        """Take the clock off."""
        for item in self._hooks:
            item.remove()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _function(module: Any, path: str, name: str, form: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise TypeError(f"{path} has no function {name!r}; expected: def {form}")
    return found  # type: ignore[no-any-return]


def _arrays(split: str, returned: Any) -> Arrays | None:
    """Return predictions that came back: (probabilities, targets), (ids, probabilities, targets), or by these names."""
    if isinstance(returned, Mapping) and {"probabilities", "targets"} <= returned.keys():
        returned = (returned.get("ids"), returned["probabilities"], returned["targets"])
    if not isinstance(returned, (tuple, list)) or len(returned) not in (2, 3) or not hasattr(returned[-1], "__len__"):
        return None
    ids, probabilities, targets = returned if len(returned) == 3 else (None, *returned)  # noqa: PLR2004
    return predictions.checked(split, np.arange(len(targets)) if ids is None else ids, probabilities, targets)


def _numbers(returned: Any) -> dict[str, float]:
    """Return scores that came back: a mapping with accuracy or rmse, or a number, which is taken for the accuracy."""
    found = returned if isinstance(returned, Mapping) else {"accuracy": returned}
    try:
        numbers = {name: float(value) for name, value in found.items() if value is not None}
    except (TypeError, ValueError):
        numbers = {}
    if not any(name in numbers for name in LARGER_IS_BETTER):
        raise TypeError(f"evaluate returned {type(returned).__name__}: {_RETURNS}")
    return {name: value for name, value in numbers.items() if name in (*LARGER_IS_BETTER, "nll", "ece")}


def read(path: str) -> Any:
    """Return what a checkpoint or a file of averaged weights holds; no pickle of anything but tensors is loaded."""
    return torch.load(path, map_location="cpu", weights_only=True)


def state_of(found: Mapping[str, Any], model: torch.nn.Module, number: int) -> dict[str, Any]:
    """Return the part of a member's checkpoint that fits the network: ``model``, else the only one that does.

    Raises:
        Refused: where none fits.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    parts = {name: _bare(part) for name, part in found.items() if name != OWN and isinstance(part, Mapping)}
    fitting = [
        name
        for name, part in parts.items()
        if {key: getattr(value, "shape", None) for key, value in part.items()} == wanted
    ]
    if not fitting:
        hint = "save it in the script: run.checkpoint(model=model), where build(run) makes a network like model"
        has = ", ".join(parts) or "none"
        raise Refused(
            f"no part of the last checkpoint of member {number} fits what build(run) makes (parts: {has})", hint
        )
    return dict(parts["model" if "model" in fitting else fitting[0]])


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state without what compiling a network, or spreading it over devices, puts before all names."""
    found = dict(part)
    for prefix in ("module.", "_orig_mod.") * 2:
        if found and all(str(name).startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def loaded(model: torch.nn.Module, state: Mapping[str, Any]) -> torch.nn.Module:
    """Give a network its weights, and return it."""
    model.load_state_dict(state)
    return model


def parameters_in(found: Mapping[str, Any]) -> int | None:
    """Return the number of weights in a checkpoint: of the part ``model``, else of the only one that has tensors."""
    parts = {name: part for name, part in found.items() if name != OWN and isinstance(part, Mapping)}
    tensors = {name: count for name, part in parts.items() if (count := count_of(part))}
    return tensors.get("model", next(iter(tensors.values())) if len(tensors) == 1 else None)


def count_of(state: Mapping[str, Any]) -> int:
    """Return the number of weights in a network's state, the statistics of batch norm left out."""
    return sum(
        value.numel()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not str(name).endswith(_STATISTICS)
    )
