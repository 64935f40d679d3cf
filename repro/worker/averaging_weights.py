"""`run.average`: averages of a network's weights over the steps of its optimizer, by torch's own AveragedModel."""

from __future__ import annotations

import atexit
import copy
import io
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import swa_utils
from torch.optim.optimizer import register_optimizer_step_post_hook

from repro.worker.job import lineage, rank

#: Of a run's folder: one file for each method.
FOLDER = "averages"
#: Where averages of one run can come from, by the name of the method.
METHODS = ("ema", "swa", "last")

_swa_utils: Any = swa_utils  # parts of it have no types

#: The epoch that a run is in and how many there are, None outside of `run.epochs`.
Where = Callable[[], tuple[int, int] | None]


class Averages:
    """The averages of one network: followed step by step, part of every checkpoint, saved when the process ends."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        ema: float | None,
        swa: bool,
        swa_start: int | None,
        last: int,
        where: Where,
    ) -> None:
        _check(model, ema, swa, swa_start, last)
        model = bare(model)
        self._model = model
        self._where = where
        self._swa_start = swa_start
        self._models: dict[str, swa_utils.AveragedModel] = {}
        if ema is not None:
            self._models["ema"] = swa_utils.AveragedModel(model, multi_avg_fn=_ema(ema))
        if swa:
            self._models["swa"] = swa_utils.AveragedModel(model)
        self._last: deque[dict[str, Any]] = deque(maxlen=last)
        self._own = {id(parameter) for parameter in model.parameters()}
        register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """Take the weights in after a step of an optimizer that has one of them."""
        if torch.compiler.is_compiling():
            return
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        if not any(id(parameter) in self._own for parameter in parameters):
            return
        for name, averaged in self._models.items():
            if name != "swa" or self._is_late():
                averaged.update_parameters(self._model)
        if self._last.maxlen:
            self._last.append({key: value.detach().clone() for key, value in self._model.state_dict().items()})

    def _is_late(self) -> bool:
        """Say whether SWA counts the weights of now: from its first epoch on, by default the last quarter's."""
        at = self._where()
        if at is None:
            return True
        epoch, total = at
        return epoch >= (total * 3 // 4 if self._swa_start is None else self._swa_start)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        models = {name: averaged.state_dict() for name, averaged in self._models.items()}
        return {"models": models, "last": list(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another process was."""
        for name, averaged in self._models.items():
            averaged.load_state_dict(state["models"][name])
        self._last.clear()
        self._last.extend(state["last"])

    def found(self) -> dict[str, tuple[int, Mapping[str, Any]]]:
        """Return, by method, how many steps went in and the averaged network's state; without those that saw none."""
        models = dict(self._models)
        if self._last:
            models["last"] = self._mean_of_last()
        counts = {name: int(averaged.n_averaged) for name, averaged in models.items()}
        return {name: (counts[name], averaged.module.state_dict()) for name, averaged in models.items() if counts[name]}

    def _mean_of_last(self) -> swa_utils.AveragedModel:
        return mean(copy.deepcopy(self._model), self._last)


def mean(model: torch.nn.Module, states: Any) -> swa_utils.AveragedModel:
    """Return the network whose weights are the mean of several states; its buffers are those of the last of them.

    ``model`` is loaded with each of them.
    """
    averaged = swa_utils.AveragedModel(model)
    for state in states:
        model.load_state_dict(state)
        averaged.update_parameters(model)
    return averaged


def bare(model: Any) -> Any:
    """Return the network itself, of one that is compiled or spread over devices."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _ema(decay: float) -> Callable[..., None]:
    """Return torch's exponential mean with a decay that grows to ``decay``: the first weights are soon forgotten."""

    def update(averaged: Any, current: Any, count: Any) -> None:
        steps = int(count)
        _swa_utils.get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averaged, current, count)

    return update


def _check(model: Any, ema: Any, swa: Any, swa_start: Any, last: Any) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"run.average: a torch.nn.Module is expected, not {type(model).__name__}")
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"run.average: ema is a decay above 0 and below 1, or None for none, not {ema}")
    if type(last) is not int or last < 0:
        raise ValueError(f"run.average: last is a number of steps, 0 for none, not {last!r}")
    if swa_start is not None and (not swa or type(swa_start) is not int or swa_start < 0):
        raise ValueError(f"run.average: swa_start is the first epoch that SWA counts, with swa=True, not {swa_start!r}")
    if ema is None and not swa and not last:
        raise ValueError("run.average: nothing is to be averaged; ema=0.999, swa=True or last=5 is expected")


def save_at_exit(averages: Averages, folder: str) -> None:
    """See to it that the averages are in the run's folder when this process has ended, by rank 0 alone."""
    if rank() == 0 and not lineage():
        atexit.register(_save, averages, folder, os.getpid())


def _save(averages: Averages, folder: str, process: int) -> None:
    if os.getpid() != process:  # a fork
        return
    for name, (steps, state) in averages.found().items():
        write(folder, name, steps, state)


def write(folder: str, name: str, steps: int, state: Mapping[str, Any]) -> None:
    """Put averaged weights into a run's folder, whole: ``steps`` is how many went in."""
    data = io.BytesIO()  # to a file, torch writes the file's name into it
    torch.save({"steps": steps, "state": {key: value.cpu() for key, value in state.items()}}, data)
    temporary = os.path.join(folder, f"average-{os.getpid()}.tmp")
    with open(temporary, "wb") as handle:
        handle.write(data.getbuffer())
    os.replace(temporary, os.path.join(folder, FOLDER, f"{name}.pt"))
