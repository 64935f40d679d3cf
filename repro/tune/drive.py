"""The loop that every study runs: ask while a worker is free, wait, tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from repro.tune.scheduler import Scheduler
from repro.tune.search import Job, Score


class Engine(Protocol):
    """Where jobs run: the virtual clock's, or real processes."""

    @property
    def free(self) -> bool:
        """Whether another job can begin now."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""

    def submit(self, task: Job) -> None:
        """Begin a job."""

    def wait(self) -> tuple[Job, Score]:
        """Return the next job that ends, and its score."""


def drive(scheduler: Scheduler, engine: Engine, told: Callable[[Job, Score], None] = lambda _job, _score: None) -> None:
    """Run a study to its end; ``told`` hears of each job that is over."""
    while True:
        while engine.free and (job := scheduler.ask()) is not None:
            engine.submit(job)
        if engine.idle:
            return
        ended, score = engine.wait()
        scheduler.tell(ended, score)
        told(ended, score)
