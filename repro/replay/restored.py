"""What a restoration has made of a run: where it lies, and what is not as the run had it."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import NamedTuple


class FromStore(NamedTuple):
    """An input whose recorded bytes the store kept: where it lies today, its copy here, its digest then and today's.

    ``now`` is None for one that is gone.
    """

    path: str
    source: str
    copy: str
    then: str
    now: str | None

    def __str__(self) -> str:
        """Say what became of it."""
        state = f"{self.source} is gone" if self.now is None else f"{self.path} has changed since the run"
        return f"{state}; the replay has the bytes that the run read, from the store"


class Restored(NamedTuple):
    """The project's place in the replay, where the user stood, the live places with their copies, and what is amiss.

    ``changed`` has (file, digest before, digest now); ``lost`` names files whose content then is not known any more,
    ``gone`` (as absolute paths) those that a program is to fetch again; ``apart`` says of files beside the code which
    are not there as they were. ``from_store`` are inputs that are gone or changed and came from the store.
    """

    place: Path
    stand: Path
    live: tuple[tuple[str, str], ...]
    changed: list[tuple[str, str | None, str | None]]
    lost: list[str]
    gone: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    from_store: tuple[FromStore, ...] = ()

    def unread(self, reads: Container[str]) -> list[FromStore]:
        """Return those from the store that a replay, which read the files ``reads``, did not read where they lie."""
        return [item for item in self.from_store if item.copy not in reads]
