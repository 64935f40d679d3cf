"""How a study gets on, on standard error: a live table of rungs in a terminal, a line for each run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from repro.cli import common
from repro.tune.method import Ladder
from repro.tune.real import Watcher
from repro.tune.report import amount, counted, heading, number, point
from repro.tune.scheduler import Scheduler
from repro.tune.search import Amount, plain
from repro.tune.trainings import Told


class Progress:
    """Shows a study while it runs."""

    def __init__(self) -> None:
        self._live: Any = None
        self._unit = ""
        self._has: Callable[[Amount], Mapping[str, Any]] = lambda _budget: {}
        self._since = time.monotonic()
        self._trained = Amount(0)
        self._runs: Counter[str] = Counter()

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, no_color=common.colour() is False)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def watcher(self, said: Callable[[str], None]) -> Watcher:
        """Return what a study tells its progress to."""
        return Watcher(self._began, self._told, said)

    def _began(self, ladder: Ladder, workers: int) -> None:
        self._unit, self._has = ladder.axis.name, ladder.values
        common.say(f"repro: {common.count(workers, 'worker')}", dim=True)

    def _told(self, found: Told, scheduler: Scheduler) -> None:
        job = found.work.job
        if found.failed is not None:
            self._say(f"{found.work}: {found.failed}: run {found.run_id} is made again, alone")
            return
        self._runs["run" if found.run_now else "read"] += 1
        if found.run_now:
            self._trained += scheduler.trials.cost(job) if found.went_on_from else job.budget
        how = "replayed from" if not found.run_now else "run"
        what = self._has(job.budget)
        of = f" ({point(what)})" if what else ""
        on = f", on from {counted(found.went_on_from, 'epochs')}" if found.went_on_from else ""
        if self._live is None:
            self._say(f"{found.work}{of}{on}: {how} {found.run_id}")
        else:
            self._live.update(self._table(scheduler))

    def _say(self, words: str) -> None:
        """Print a line, above the table where there is one."""
        if self._live is None:
            common.say(f"repro: {words}", dim=True)
        else:
            self._live.console.print(
                common.visible(f"repro: {words}"), style="dim", markup=False, highlight=False, soft_wrap=True
            )

    def _table(self, scheduler: Scheduler) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in (heading(self._unit), "asked", "over", "best"):
            table.add_column(name, justify="right")
        table.add_column("")
        trials = scheduler.trials
        for budget in sorted({budget for trial in trials.all for budget in trial.asked}):
            asked = sum(budget in trial.asked for trial in trials.all)
            scores = [(at, trial.scores[budget]) for at, trial in enumerate(trials.all) if budget in trial.scores]
            order = trials.ranking.order(scores)
            best = number(dict(scores)[order[0]].value) if order else ""
            row = (amount(budget), str(asked), str(len(scores)), best, point(self._has(budget)))
            table.add_row(*(Text(common.visible(text)) for text in row))
        return Group(
            table, Text(common.visible(self._caption(scheduler)), style="dim", no_wrap=True, overflow="ellipsis")
        )

    def _caption(self, scheduler: Scheduler) -> str:
        seconds = time.monotonic() - self._since
        spent = counted(plain(scheduler.trials.spent), self._unit)
        left = scheduler.trials.left
        speed = float(self._trained) / seconds if seconds else 0.0
        rest = f", about {float(left) / speed:,.0f} s of what is begun left" if speed and left else ""
        return f"{self._runs['run']} run, {self._runs['read']} read; {spent} asked for{rest}"
