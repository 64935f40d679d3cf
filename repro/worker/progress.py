"""How far a run is: what a checkpoint holds beside its parts, and how a run that goes on gets there.

That is every generator, the named streams, counters that say where children draw from, and how far trail and metrics
are. A checkpoint that is made within `run.epochs()` is gone on from at the next epoch: so it has to be the last thing
in an epoch, and whether it was is seen when the epoch ends (docs/adr/0013-resume.md).
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from repro.record import seeds
from repro.worker import determinism, fork, obstacles, seeding, streams
from repro.worker.job import Job, Lines, place, rank
from repro.worker.sources import Sources

if TYPE_CHECKING:
    from repro.worker.checkpoint import Found

#: Of a run's folder: where the supervisor puts what a continuation begins with, by place.
FOLDER = "resume"


class Progress:
    """The progress of one process of a run."""

    def __init__(self, sources: Sources, job: Job, observed: Lines, metrics: Lines) -> None:
        self._sources = sources
        self._observed = observed
        self._metrics = metrics
        self._job = job
        self._from: Mapping[str, Any] = {}
        self._given: set[str] | None = None
        self._loops = 0
        self._open: list[tuple[int, int]] = []
        self._mark: tuple[dict[str, Any], Any, dict[str, Any]] | None = None
        self._parts: Mapping[Any, Any] = {}
        self._own: dict[str, Any] = {}
        self._loaded: dict[Any, Any] = {}
        self._order: tuple[fork.Drawn, Mapping[Any, Any]] = (fork.Drawn([], [], is_global=False), {})
        self._said = False
        self._total = 0
        self.averages: list[Any] = []

    def epochs(self, total: int) -> Iterator[int]:
        """Yield the epochs that are still to be done, and take note of each one's end."""
        loop, self._loops = self._loops, self._loops + 1
        self._total = total
        for epoch in range(self._first(loop, total), total):
            self._open.append((loop, epoch))
            if loop == 0:
                self._fork(epoch)
            try:
                yield epoch
                self._end()
            finally:
                self._open.pop()

    def _fork(self, epoch: int) -> None:
        """Let all that draws the order begin anew where the seed plan says so."""
        for name, index in seeds.restarts(self._job.replicates, epoch).items():
            drawn, objects = self._order
            fork.restart(drawn, objects, self._sources, index)
            parts = [".".join(map(str, at)) for at in drawn.parts]
            fields = {"epoch": epoch, "name": name, "streams": drawn.streams, "parts": parts}
            self._observed.event("restarted", **fields, is_global=drawn.is_global)

    def _first(self, loop: int, total: int) -> int:
        """Return the first epoch of a loop: a run that goes on begins behind the last one that was finished."""
        if not self._own or self._from["epoch"] is None or loop > self._from["loop"]:
            return 0
        if loop < self._from["loop"]:
            return total
        self._rewind()
        return int(self._from["epoch"]) + 1

    def where(self) -> tuple[int, int] | None:
        """Return the epoch that the run is in and how many there are, None outside of `epochs`."""
        return (self._open[-1][1], self._total) if self._open else None

    def state(self, encoder: Any) -> dict[str, Any]:
        """Return what a checkpoint holds of this process; ``encoder`` has taken the parts."""
        from repro.worker import hook
        from repro.worker.optimizers import optimizer_of

        found = ((at, optimizer_of(part)) for at, part in encoder.objects.items())
        places = {id(optimizer): at for at, optimizer in found if optimizer is not None}
        trail = hook.trail()
        drawn = fork.drawn_from(self._sources, encoder.objects, determinism.loaders)
        self._order = (drawn, {at: encoder.objects[at] for at in drawn.parts})
        return {
            "generators": streams.get_all(),
            "replicates": dict(self._sources.replicates),
            "order": [drawn.streams, [[*at] for at in drawn.parts], drawn.is_global],
            "streams": dict(self._sources.streams),
            "blocks": {name: swap.state() for name, swap in self._sources.swaps.items()},
            "forks": seeding.forks(),
            "children": _children(),
            "averages": [*self.averages],
            "trail": None if trail is None else trail.state(places),
        }

    def saved(self, name: str, objects: Mapping[Any, Any], own: Mapping[str, Any]) -> None:
        """Take note of a checkpoint that was published under ``name``."""
        loop, epoch = self._open[-1] if self._open else (self._loops, None)
        fields = {"checkpoint": name, "loop": loop, "epoch": epoch, "why": self._obstacle(objects, own)}
        self._observed.event("checkpoint", **fields, **self._position())
        self._mark = (fields, self._moment(), _plain_states(objects)) if self._open else None
        self._parts = objects

    def _obstacle(self, objects: Mapping[Any, Any], own: Mapping[str, Any]) -> str | None:
        """Return why no run can go on from a checkpoint, None where nothing speaks against it yet."""
        if len(self._open) > 1:
            return "it was made in a loop of run.epochs() within another"
        streams_, loaders = self._sources.streams.values(), determinism.loaders
        return obstacles.find(self._given, objects, own, streams_, loaders, determinism.iterators)

    def _end(self) -> None:
        """Take note of an epoch's end: whether its checkpoint was the last thing in it, and how far all is."""
        if self._mark is None:
            return
        fields, moment, states = self._mark
        moved = self._moment() != moment or _plain_states(self._parts) != states
        why = fields["why"] or ("run.checkpoint() was not the last thing in its epoch" if moved else None)
        told = why is not None and self._given is not None
        self._observed.event("epoch-end", **fields | {"why": why, "told": told}, **self._position())
        self._mark, self._parts = None, {}
        if told and not self._said:
            self._said = True
            os.write(2, f"repro: no run can go on from {fields['checkpoint']}: {why}\n".encode())

    def _moment(self) -> tuple[Any, ...]:
        from repro.worker import hook

        trail = hook.trail()
        uses = [swap.uses for swap in self._sources.swaps.values()]
        return uses, repr(streams.get_all()) if trail is None else trail.moment()

    def _position(self) -> dict[str, Any]:
        from repro.worker import hook

        trail = hook.trail()
        sizes = {"trail": None} if trail is None else trail.sizes()
        return {"place": place(), **sizes, "metrics": self._metrics.sizes(), "loader": self._of_workers()}

    def _of_workers(self) -> list[str]:
        """Return the files of the DataLoader workers that this rank has had: all are gone when an epoch is over."""
        try:
            names = os.listdir(os.path.join(self._job.folder, "loader"))
        except OSError:
            return []
        return sorted(name for name in names if name.startswith(f"{rank():05d}-"))

    @property
    def _folder(self) -> str:
        return os.path.join(self._job.folder, FOLDER, place())

    def goes_on(self, objects: set[str]) -> str | None:
        """Return the checkpoint to go on from, None in a run that begins; ``objects`` are the names that were given."""
        self._given = objects
        self._from = self._job.resume.get(place(), {})
        return os.path.join(self._folder, "checkpoint.pt") if self._from else None

    def resume(self, found: Found) -> None:
        """Get where the checkpoint was; what is drawn and logged before `run.epochs()` begins has no effect."""
        self._own, self._loaded = found.own, found.loaded
        self._observed.event("resumed", place=place(), epoch=self._from["epoch"], unequal=found.unequal)
        self._rewind()

    def _rewind(self) -> None:
        from repro.worker import hook
        from repro.worker.checkpoint import give
        from repro.worker.optimizers import optimizer_of

        own = self._own
        self._sources.replicates = dict(own["replicates"])
        seeding.set_replicate(own["replicates"].get(fork.GLOBAL, 0))
        names, parts, is_global = own["order"]
        self._order = (fork.Drawn(names, [tuple(at) for at in parts], is_global=is_global), self._loaded)
        for name, state in own["streams"].items():
            give(self._sources.rng(name), state)
        for name, state in own["blocks"].items():
            self._sources.swap(name).set_state(state)
        seeding.set_forks(own["forks"])
        _set_children(own["children"])
        streams.set_all(own["generators"])
        for averages, state in zip(self.averages, own["averages"], strict=False):
            averages.load_state_dict(state)
        trail = hook.trail()
        if trail is not None and own["trail"] is not None:
            parts = {at: optimizer_of(part) for at, part in self._loaded.items()}
            trail.go_on(own["trail"], self._folder, self._from, parts)
        with open(os.path.join(self._folder, "metrics"), "rb") as handle:
            self._metrics.begin_again(handle.read())


def _plain_states(objects: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the plain values of all parts but networks: what would show that a scheduler went on."""
    from repro.worker import checkpoint

    torch = sys.modules["torch"]
    found = {}
    for at, part in objects.items():
        if isinstance(part, torch.Generator):
            found[repr(at)] = bytes(part.get_state().numpy()).hex()
        elif not isinstance(part, torch.nn.Module):
            found[repr(at)] = repr(checkpoint.without_tensors(checkpoint.Encoder().encode(part)))
    return found


def _children() -> int:
    """Return the number that `multiprocessing` gives its next child: children draw and leave trails by it."""
    process = sys.modules.get("multiprocessing.process")
    return 1 if process is None else int(repr(process._process_counter)[6:-1])


def _set_children(number: int) -> None:
    import multiprocessing.process

    multiprocessing.process._process_counter = itertools.count(number)  # type: ignore[attr-defined]
