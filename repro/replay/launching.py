"""What a replay is launched with: the words of its command, its variables, and what is said before it begins."""

from __future__ import annotations

import os
from collections.abc import Callable

from repro.capture import variables
from repro.record import differences
from repro.record.values import Record
from repro.replay.plan import Plan
from repro.replay.restored import Restored
from repro.run import profiles, resume

_SHOWN = 5


class Teller:
    """Says, before user code runs, which packages are not those of the record."""

    def __init__(self, record: Record, plan: Plan, say: Callable[[str], None]) -> None:
        self._record, self._plan, self._say = record, plan, say

    def __call__(self, now: Record, _said: list[str]) -> None:
        """Compare the record of a replay, as it is sealed, with that of its run."""
        found = [item for item in differences.compare(self._record, now) if item.kind == "package"]
        if not found:
            return
        names = [item.path.removeprefix("packages.") for item in found]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        way = "; --env locked has the recorded ones" if self._plan.environment == "current" else ""
        self._say(f"repro: not as recorded: {', '.join(names[:_SHOWN])}{more}{way}")


def moved(word: str, restored: Restored) -> str:
    """Return a word of the command with an absolute path into a live source pointing into its copy."""
    before, equals, tail = word.partition("=") if word.startswith("-") and "=" in word else ("", "", word)
    for live, copy in restored.live:
        if tail == live or tail.startswith(live + os.sep):
            place = copy + tail[len(live) :]
            return before + equals + (place if os.path.exists(place) or not os.path.exists(tail) else tail)
    return word


def environment_of(record: Record, plan: Plan, restored: Restored, say: Callable[[str], None]) -> dict[str, str]:
    """Return the environment of a run's recipe (`resume.environment_of`).

    What the recorded profile set goes where another profile is to set its own. A hub is offline unless something has to
    be fetched again.
    """
    now = resume.environment_of(record, say)
    if plan.profile != record.recipe.profile:
        for name in profiles.settle(record.recipe.profile, {}, record.recipe.threads).variables:
            now.pop(name, None)
    for name, value in variables.OFFLINE.items():
        if name != variables.HUB_OFFLINE or not restored.gone:
            now.setdefault(name, value)
    return now
