"""What the processes of a run observed, read back from their files and put in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Stat = tuple[int, int, int]


@dataclass
class Observed:
    """The observations of all processes of one run."""

    processes: list[dict[str, Any]] = field(default_factory=list)
    seeds: list[dict[str, Any]] = field(default_factory=list)
    numerics: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    software: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, Stat] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    fetched: set[str] = field(default_factory=set)
    caches: dict[str, str] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    live_modules: list[list[str]] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    missing: list[str] | None = None
    nondeterministic: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    loaders: list[dict[str, Any]] = field(default_factory=list)
    horizon_read: bool = False
    epochs_asked: bool = False
    subset_asked: bool = False
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[dict[str, Any]] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    restarted: list[dict[str, Any]] = field(default_factory=list)
    network: list[str] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    unplaced: list[dict[str, Any]] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    def unended(self, parent: int = 0) -> int:
        """Return how many interpreters began and did not come to their end, less what ``parent`` has started itself.

        Forked processes are no such: many end without a word.
        """
        began = {item["pid"] for item in self.processes if not item.get("forked") and item["parent"] != parent}
        return len(began - self.ended)

    def in_cache(self, path: str) -> bool:
        """Say whether a file lies in a cache that a process of the run used."""
        return path not in self.away and any(path.startswith(folder + os.sep) for folder in self.caches)

    def overridden(self) -> dict[str, list[Any]]:
        """Return the flags that a process changed after they were set: name, as set, as they were later."""
        found: dict[str, list[Any]] = {}
        for states in self.states.values():
            before = states.get("import", {})
            for later in (states.get("first step", {}), states.get("exit", {})):
                changed = (name for name, value in later.items() if name in before and before[name] != value)
                for name in changed:
                    found.setdefault(name, [before[name], later[name]])
        return found

    def document(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "processes": self.processes,
            "seeds": self.seeds,
            "numerics": self.numerics,
            "software": self.software,
            "overridden": self.overridden(),
            "reads": sorted(self.reads),
            "writes": sorted(set(self.writes)),
            "caches": self.caches,
            "refused": self.refused,
            "data": self.data,
            "blind": self.blind,
            "listed": sorted(set(self.listed)),
            "missing": self.missing,
            "nondeterministic": self.nondeterministic,
            "failures": self.failures,
            "loaders": self.loaders,
            "horizon_read": self.horizon_read,
            "checkpoints": self.checkpoints,
            "resumed": self.resumed,
            "streams": sorted(set(self.streams)),
            "restarted": self.restarted,
            "network": self.network,
            "unplaced": self.unplaced,
        }


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every whole JSON line of a file; torn lines are left out."""
    for line in path.read_bytes().split(b"\n"):
        try:
            found = json.loads(line) if line else None
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def read(folder: Path) -> Observed:
    """Return what the processes of the run in ``folder`` observed."""
    return read_files(sorted((folder / "observed").glob("*.jsonl")))


def read_files(paths: Iterable[Path]) -> Observed:
    """Return what processes observed, from their files, oldest first."""
    found = Observed()
    accesses = []
    for event in (event for path in paths for event in lines_of(path)):
        kind = event.pop("kind", "")
        if kind in ("read", "write", "touched"):
            accesses.append((event["t"], kind, event))
        else:
            _take(found, kind, event)
    written: set[str] = set()
    for _, kind, event in sorted(accesses, key=lambda item: item[0]):
        path = event["path"]
        if kind == "write":
            written.add(path)
            if event.get("away"):
                _touched(found, event)
        elif kind == "touched":
            _touched(found, event)
        elif path not in written or (event.get("fetched") and not _is_own(found, event)):
            found.reads.setdefault(path, tuple(event["stat"]))
            if event.get("kept"):
                found.kept.setdefault(path, event["kept"])
            if event.get("fetched"):
                found.fetched.add(path)
    found.writes = sorted(written)
    return found


def _take(found: Observed, kind: str, event: dict[str, Any]) -> None:
    take = _TAKERS.get(kind)
    if take is not None:
        take(found, event)


def _seed(found: Observed, event: dict[str, Any]) -> None:
    if event not in found.seeds:
        found.seeds.append(event)


def _is_own(found: Observed, event: dict[str, Any]) -> bool:
    """Say whether what a run wrote in a cache is its own: in that of all programs, and nothing was fetched."""
    return bool(event.get("shared")) and not found.network


def _touched(found: Observed, event: dict[str, Any]) -> None:
    """Take in a change outside of the run's folders.

    ``made`` has what was not there before it, ``lost`` what was and was not kept; ``loaded`` what lies in the cache of
    all programs and may have been fetched.
    """
    if event.get("shared") and not _is_own(found, event):
        found.loaded.add(event["path"])
        return
    if event["new"] and event["path"] not in found.away:
        found.made.add(event["path"])
    if event["lost"] and event["path"] not in found.made:
        found.lost.append(event["path"])
    found.away.add(event["path"])


def _numerics(found: Observed, event: dict[str, Any]) -> None:
    found.numerics.setdefault(event["at"], event["state"])
    found.states.setdefault(event["pid"], {}).setdefault(event["at"], event["state"])
    found.software = found.software or event.get("software", {})


def _modules(found: Observed, event: dict[str, Any]) -> None:
    found.ended.add(event["pid"])
    found.live_modules += event["live"]
    found.blind = sorted({*found.blind, *event["blind"]})
    found.missing = sorted({*(found.missing or ()), *event.get("missing", ())})


_TAKERS: Mapping[str, Callable[[Observed, dict[str, Any]], object]] = {
    "process": lambda found, event: found.processes.append(event),
    "seed": _seed,
    "unplaced": lambda found, event: found.unplaced.append(event),
    "numerics": _numerics,
    "cache": lambda found, event: found.caches.setdefault(event["folder"], event["holds"]),
    "refused": lambda found, event: found.refused.append(event["path"]),
    "data": lambda found, event: found.data.__setitem__(event["name"], event["digest"]),
    "modules": _modules,
    "nondeterministic": lambda found, event: found.nondeterministic.append(event),
    "loader": lambda found, event: found.loaders.append(event["settings"]),
    "trail-failure": lambda found, event: found.failures.append(event["error"]),
    "checkpoint": lambda found, event: found.checkpoints.append({"kind": "checkpoint", **event}),
    "epoch-end": lambda found, event: found.checkpoints.append({"kind": "epoch-end", **event}),
    "resumed": lambda found, event: found.resumed.append(event),
    "stream": lambda found, event: found.streams.append(event["name"]),
    "listed": lambda found, event: found.listed.append(event["path"]),
    "network": lambda found, event: found.network.append(f"{event['host']}:{event['port']}"),
    "restarted": lambda found, event: found.restarted.append(event),
    "killed": lambda found, event: found.killed.append(event["pid"]),
    "stopped": lambda found, event: found.stopped.append(event),
    "horizon-read": lambda found, _event: setattr(found, "horizon_read", True),
    "subset": lambda found, _event: setattr(found, "subset_asked", True),
    "epochs-asked": lambda found, _event: setattr(found, "epochs_asked", True),
}
