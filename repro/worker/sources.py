"""The named sources of randomness of one process of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

#: Names that stand for one stream whether it is drawn from by `rng` or by `block`.
_SHARED = ("init", "order")


class Sources:
    """Makes each stream once, and has all that were made, in order."""

    def __init__(self, master: int, replicates: Mapping[str, int]) -> None:
        self._master = master
        self._replicates = replicates
        self.streams: dict[str, Any] = {}
        self.swaps: dict[str, Any] = {}

    def rng(self, name: str, *at: int) -> Any:
        """Return the stream of this name; with indices, a new counter-based one."""
        from repro.worker import hook, streams

        replicate = self._replicates.get(name, 0)
        if at:
            return streams.make(self._master, name, replicate, at)
        if name not in self.streams:
            self.streams[name] = streams.make(self._master, name, replicate, ())
            hook.follow(self.streams[name])
        return self.streams[name]

    def swap(self, name: str) -> Any:
        """Return what exchanges the global generators for the stream's; the same on each call."""
        from repro.worker import streams

        if name not in self.swaps:
            full = name if name in _SHARED else f"global/{name}"
            self.swaps[name] = streams.Swap(self._master, full, self._replicates.get(name, 0))
        return self.swaps[name]

    def block(self, name: str) -> AbstractContextManager[None]:
        """Return a block in which the global generators draw from the named stream."""
        return self.swap(name)()  # type: ignore[no-any-return]
