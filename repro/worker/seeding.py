"""Seeds of the global generators, and the user's own seeding: left alone, and recorded with the line that made it."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from repro.record import seeds
from repro.worker.imports import when_imported
from repro.worker.job import Job, Lines

#: Seeding that these make is part of how they work, not the user's.
_LIBRARY = ("/torch/", "/numpy/", "/random.py", "/repro/worker/")


def rank() -> int:
    """Return this process's rank as torchrun and its like tell it, else 0."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0


def install(job: Job, observed: Lines) -> None:
    """Seed ``random``, ``numpy.random`` and ``torch`` as each is imported, and watch the calls that seed again."""
    seeder = _Seeder(job, observed)
    when_imported("random", seeder.python)
    when_imported("numpy.random", seeder.numpy)
    when_imported("torch", seeder.torch)


class _Seeder:
    def __init__(self, job: Job, observed: Lines) -> None:
        self._job = job
        self._observed = observed

    def _seed(self, library: str, bits: int) -> int:
        return seeds.integer(self._job.seed, f"global.{library}", bits, rank=rank())

    def python(self, module: ModuleType) -> None:
        module.seed(self._seed("python", 64))
        self._watch(module, "seed", "random.seed")

    def numpy(self, module: ModuleType) -> None:
        module.seed(self._seed("numpy", 32))
        self._watch(module, "seed", "numpy.random.seed")

    def torch(self, module: ModuleType) -> None:
        module.manual_seed(self._seed("torch", 64) >> 1)
        self._watch(module, "manual_seed", "torch.manual_seed")
        self._watch(module.random, "manual_seed", "torch.manual_seed")
        self._watch(module.cuda, "manual_seed", "torch.cuda.manual_seed")
        self._watch(module.cuda, "manual_seed_all", "torch.cuda.manual_seed_all")

    def _watch(self, module: ModuleType, name: str, label: str) -> None:
        original: Callable[..., Any] = getattr(module, name)
        observed = self._observed

        @functools.wraps(original)
        def seed(*args: Any, **kwargs: Any) -> Any:
            where = caller()
            if not any(part in where[0] for part in _LIBRARY):
                value = repr(args[0])[:80] if args else next((repr(v)[:80] for v in kwargs.values()), "")
                observed.event("seed", call=label, value=value, file=where[0], line=where[1])
            return original(*args, **kwargs)

        setattr(module, name, seed)


def caller(depth: int = 2) -> tuple[str, int]:
    """Return file and line of the code that called the function ``depth`` frames up."""
    frame = sys._getframe(depth)
    return frame.f_code.co_filename, frame.f_lineno
