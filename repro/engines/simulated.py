"""Simulate jobs on a virtual clock: each lasts as long as it is said to last, and none takes any time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Simulated(Generic[Task, Result]):
    """So many virtual workers; tasks come back in the order in which they end on the virtual clock.

    Args:
        workers: how many tasks are under way at once.
        evaluate: what a task comes to.
        duration: how long it lasts, in the clock's unit.
    """

    def __init__(self, workers: int, evaluate: Callable[[Task], Result], duration: Callable[[Task], float]) -> None:
        self.now = 0.0
        self._workers = workers
        self._evaluate = evaluate
        self._duration = duration
        self._count = 0
        self._running: list[tuple[float, int, Task]] = []

    @property
    def free(self) -> bool:
        """Whether another task can begin now."""
        return len(self._running) < self._workers

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._running

    def submit(self, task: Task) -> None:
        """Begin a task."""
        self._count += 1
        heapq.heappush(self._running, (self.now + self._duration(task), self._count, task))

    def wait(self) -> tuple[Task, Result]:
        """Move the clock to the next end, and return the task and what it came to."""
        self.now, _, task = heapq.heappop(self._running)
        return task, self._evaluate(task)
