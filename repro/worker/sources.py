"""The named sources of randomness of one process of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from repro.worker.job import Lines

#: Names that stand for one stream whether it is drawn from by `rng` or by `block`.
_SHARED = ("init", "order")


class Sources:
    """Makes each stream once, and has all that were made, in order; ``used`` are the names that were asked for."""

    def __init__(self, master: int, replicates: Mapping[str, int], observed: Lines | None) -> None:
        self.master = master
        self.replicates = dict(replicates)
        self.streams: dict[str, Any] = {}
        self.swaps: dict[str, Any] = {}
        self.used: set[str] = set()
        self._observed = observed

    def rng(self, name: str, *at: int) -> Any:
        """Return the stream of this name; with indices, a new counter-based one."""
        from repro.worker import hook, streams

        self._use(name)
        replicate = self.replicates.get(name, 0)
        if at:
            return streams.make(self.master, name, replicate, at)
        if name not in self.streams:
            self.streams[name] = streams.make(self.master, name, replicate, ())
            hook.follow(self.streams[name])
        return self.streams[name]

    def _use(self, name: str) -> None:
        """Take note of a name that is asked for the first time: a study must know what there is to vary."""
        if name not in self.used:
            self.used.add(name)
            if self._observed is not None:
                self._observed.event("stream", name=name)

    def swap(self, name: str) -> Any:
        """Return what exchanges the global generators for the stream's; the same on each call."""
        from repro.worker import streams

        self._use(name)
        if name not in self.swaps:
            self.swaps[name] = streams.Swap(self.master, _full(name), self.replicates.get(name, 0))
        return self.swaps[name]

    def block(self, name: str) -> AbstractContextManager[None]:
        """Return a block in which the global generators draw from the named stream."""
        return self.swap(name)()  # type: ignore[no-any-return]

    def restart(self, name: str, replicate: int) -> None:
        """Let a stream begin anew under another replicate index, in place: a DataLoader may hold it."""
        from repro.worker import streams

        self.replicates[name] = replicate
        if name in self.streams:
            streams.copy(streams.make(self.master, name, replicate, ()), self.streams[name])
        if name in self.swaps:
            self.swaps[name].restart(self.master, _full(name), replicate)


def _full(name: str) -> str:
    return name if name in _SHARED else f"global/{name}"
