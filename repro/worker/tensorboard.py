"""TensorBoard's ``add_scalar`` taken in as metrics, so that an unchanged script has some."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from repro.worker.imports import when_imported


def install() -> None:
    """Watch the writers of torch and of tensorboardX as they are imported."""
    when_imported("torch.utils.tensorboard.writer", _watch)
    when_imported("tensorboardX.writer", _watch)


def _watch(module: ModuleType) -> None:
    writer: Any = module.SummaryWriter
    add_scalar, add_scalars = writer.add_scalar, writer.add_scalars

    @functools.wraps(add_scalar)
    def scalar(self: Any, tag: str, scalar_value: Any, global_step: Any = None, *args: Any, **kwargs: Any) -> Any:
        _log({tag: scalar_value}, global_step)
        return add_scalar(self, tag, scalar_value, global_step, *args, **kwargs)

    @functools.wraps(add_scalars)
    def scalars(
        self: Any, main_tag: str, values: dict[str, Any], global_step: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        _log({f"{main_tag}/{tag}": value for tag, value in values.items()}, global_step)
        return add_scalars(self, main_tag, values, global_step, *args, **kwargs)

    writer.add_scalar, writer.add_scalars = scalar, scalars


def _log(values: dict[str, Any], step: Any) -> None:
    from repro.worker.session import current

    try:
        current().log(values, step=None if step is None else int(step))
    except (TypeError, ValueError):  # a value that is no number: TensorBoard has its own word for it
        return
