"""What is seen of a study while its runs go on: a table in a terminal, a line for each run elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from repro.cli import common
from repro.seeds import report
from repro.seeds.plan import Replicate
from repro.seeds.study import Watcher

_MOST_METRICS = 4


@contextlib.contextmanager
def watcher(workers: int) -> Iterator[Watcher]:
    """Yield what shows on standard error how a study gets on, so many runs at once."""
    if not sys.stderr.isatty() or os.environ.get("TERM") in (None, "dumb"):
        lines = _Lines()
        yield lines
        lines.end()
        return
    from rich.console import Console
    from rich.live import Live

    # No thread of its own: the runs' supervisors are forked from this process.
    with Live(console=Console(stderr=True, highlight=False), auto_refresh=False) as live:
        yield _Table(live, workers)


class _Progress:
    """Which runs are wanted, which of them have to be made, and what came of each."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.missing: list[str] = []
        self.found: dict[str, Replicate] = {}
        self.run_now: set[str] = set()

    def said(self, text: str) -> None:
        common.say(f"repro: {text}")

    def begin(self, names: Sequence[str], missing: Sequence[str]) -> None:
        self.names += names
        self.missing += missing

    def over(self, name: str, found: Replicate, *, run_now: bool) -> None:
        self.found[name] = found
        if run_now:
            self.run_now.add(name)

    def count(self) -> str:
        """Return how many runs are over, and what is bad about them."""
        found = self.found.values()
        diverged = sum(bool(report.diverged(item)) for item in found)
        bad = [*report.ended_badly(found), *[f"{diverged} diverged"] * bool(diverged)]
        return ", ".join([f"{len(found)} of {len(self.names)} runs are over", *bad])


class _Lines(_Progress):
    """A line for each run that is over."""

    def over(self, name: str, found: Replicate, *, run_now: bool) -> None:
        super().over(name, found, run_now=run_now)
        how = found.run_id if run_now else f"{found.run_id} (there already)"
        line = f"[{len(self.found)}/{len(self.names)}] {name}: {_end(found)} · {_values(found)} · {how}"
        common.say(f"repro: {line}", dim=True)

    def end(self) -> None:
        """Say what ended badly."""
        if "," in self.count():
            common.say(f"repro: {self.count()}")


class _Table(_Progress):
    """A table that is drawn again whenever a run is over."""

    def __init__(self, live: Any, workers: int) -> None:
        super().__init__()
        self._live = live
        self._workers = workers

    def begin(self, names: Sequence[str], missing: Sequence[str]) -> None:
        super().begin(names, missing)
        self._draw()

    def over(self, name: str, found: Replicate, *, run_now: bool) -> None:
        super().over(name, found, run_now=run_now)
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        waiting = [name for name in self.missing if name not in self.found]
        running = waiting[: self._workers]
        table = Table(box=None, pad_edge=False, header_style="bold", caption=Text(self.count()), caption_justify="left")
        for head in ("run", "state", "metrics", "id"):
            table.add_column(head, no_wrap=head != "metrics", overflow="fold")
        for name in self.names:
            found = self.found.get(name)
            if found is None:
                table.add_row(
                    Text(common.visible(name)),
                    Text("running", "cyan") if name in running else Text("waiting", "dim"),
                    "",
                    "",
                )
                continue
            how = found.run_id + ("" if name in self.run_now else " (there already)")
            cells = [(name, ""), (_end(found), _style(found)), (_values(found), ""), (how, "dim")]
            table.add_row(*(Text(common.visible(text), style) for text, style in cells))
        self._live.update(table, refresh=True)


def _end(found: Replicate) -> str:
    off = report.diverged(found)
    return found.state + (f", {', '.join(off)} diverged" if off else "")


def _style(found: Replicate) -> str:
    return "red" if report.diverged(found) else common.STATE_STYLE.get(found.state, "")


def _values(found: Replicate) -> str:
    values = [f"{name} {value:.4g}" for name, value in sorted(found.metrics.items())]
    return " · ".join(values[:_MOST_METRICS]) or "no metric"
