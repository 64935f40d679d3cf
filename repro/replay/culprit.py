"""What is to blame where two traced runs part. Nothing is run here.

It is an operator, or what came from outside of torch before it, or else the line where that came in.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from repro.replay import ulp
from repro.replay.traces import OWN, Event, Fork, Side, Stream, call, read

Kind = Literal["operator", "seed", "draw", "order", "input", "control"]
#: What was read so few lines before a seed, or a tensor, is taken to have made its value.
_NEAR = 5
#: What took entropy for numpy, and tells of it as of its own seed: some of it is thrown away.
_NUMPY = "numpy, without a seed,"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What differs first: ``kind`` says what it is, ``text`` says it in words.

    ``step`` counts the optimizer steps of the process before it. ``shapes`` are those of an operator's inputs, then of
    its results; ``unequal`` says how many elements of its results differ, ``ulp`` by how much at most. ``forward`` is
    the line of the forward pass that an operator of a backward pass belongs to. ``others`` also differ before it.
    """

    kind: Kind
    text: str
    file: str
    line: int
    step: int
    process: str
    operator: str | None = None
    shapes: list[list[list[int]]] | None = None
    dtype: list[str] | None = None
    ulp: int | None = None
    unequal: int | None = None
    backward: str | None = None
    forward: dict[str, Any] | None = None
    others: list[dict[str, Any]] = []


def find(a: Side, b: Side, *, blind: bool = False) -> Finding | None:
    """Return what differs first between two traced runs, or None where nothing does that could change a result.

    Where nothing but the logs could differ (``blind``), a seed that nothing is drawn from is no fault.
    """
    forks, streams = read(a, b)
    if forks:
        process, fork = min(forks, key=lambda item: float(item[1].event["t"]))
        return _Case(process, fork, streams, a, b).finding()
    ranks = _ranked(streams)
    for suspects in ranks[:1] if blind else ranks:
        found = [(stream, parting) for stream in suspects if (parting := stream.first())]
        direct = [item for item in found if item[1][1].event["direct"]]
        if found:
            stream, (_, fork) = min(direct or found, key=lambda item: item[1][0])
            return _of_outside(stream.process, fork, None, [])
    return None


def _ranked(streams: list[Stream], before: float = math.inf) -> list[list[Stream]]:
    """Return what is suspected, the likeliest first: what was seen to differ before a moment in more than its seed.

    Then seeds of generators of which something may have been drawn unseen, and entropy. Of torch's each draw shows in
    an operator: their seeds come last.
    """
    accused = [stream for stream in streams if _kind(stream) not in ("context", "source")]
    used = [stream for stream in accused if stream.is_used_otherwise(before)]
    rest = [stream for stream in accused if not stream.is_used_otherwise(before)]
    return [
        used,
        [stream for stream in rest if not stream.name.startswith(OWN) and not _is_of_torch(stream)],
        _sources(streams),
        [stream for stream in rest if _is_of_torch(stream)],
    ]


def _kind(stream: Stream) -> str:
    return str((stream.one or stream.other)[0]["k"])


def _is_of_torch(stream: Stream) -> bool:
    return bool((stream.one or stream.other)[0]["n"].startswith("torch."))


def _sources(streams: list[Stream]) -> list[Stream]:
    """Return where the operating system's entropy was read, and became no generator that was watched."""
    sides = [side for stream in streams for side in (stream.one, stream.other)]
    taken = {event["taken"] for side in sides for event in side if "taken" in event}
    return [
        stream
        for stream in streams
        if _kind(stream) == "source" and not any(event["v"] in taken for event in (*stream.one, *stream.other))
    ]


class _Case:
    """The first operator that is not alike in two runs, and all that came from outside of torch before it."""

    def __init__(self, process: str, fork: Fork, streams: list[Stream], a: Side, b: Side) -> None:
        self.process = process
        self.fork = fork
        self.when = float(fork.event["t"])
        self.streams = streams
        self.sides = a, b

    def finding(self) -> Finding | None:
        """Return what is to blame: the operator itself, what came from outside before it, or where it came in."""
        one, other = self.fork.one, self.fork.other
        if one is None or other is None or call(one) != call(other):
            return self._blame(self._before(self.streams)) or self._parted()
        same = all(one.get(key) == other.get(key) for key in ("p", "i", "g", "shapes"))
        if same and "u" not in one:
            return self._operator(one, other)
        if _only(one, other, "g"):
            name = one.get("gen") or "torch"
            its_own = self._before([stream for stream in self.streams if stream.name.partition("@")[0] == name])
            rest = [item for item in self._before(self.streams) if item not in its_own]
            return self._blame([*its_own, *rest]) if its_own else self._state(one)
        return self._blame(self._before(self.streams, entropy=not _is_reordered(one, other))) or self._came_in(
            one, other
        )

    def _before(self, streams: list[Stream], *, entropy: bool = False) -> list[tuple[Stream, Fork]]:
        """Return what differs before, the likeliest first; what read ``entropy`` too."""
        used, seeds, sources, of_torch = _ranked(streams, self.when)
        ranks = used, seeds, sources if entropy else [], of_torch
        return [item for rank in ranks for item in self._last(rank)]

    def _last(self, streams: list[Stream]) -> list[tuple[Stream, Fork]]:
        """Return what differs before: what the user's own line asked for first, and what came last."""
        found = [(stream, *fork) for stream in streams if (fork := stream.fork(self.when))]
        found.sort(key=lambda item: (item[2].event["direct"] or item[2].event["k"] != "seed", item[1]), reverse=True)
        return [(stream, self._origin(stream, fork)) for stream, _, fork in found]

    def _origin(self, stream: Stream, fork: Fork) -> Fork:
        """Return where a generator's draws began to differ: it may be in the process that forked this one."""
        same = (item for item in self.streams if item.name == stream.name and item.process != stream.process)
        seeds = (found[1] for item in same if "/" in item.name and (found := item.first()))
        return next((seed for seed in seeds if seed.event["k"] == "seed"), fork)

    def _blame(self, found: list[tuple[Stream, Fork]]) -> Finding | None:
        if not found:
            return None
        stream, fork = _upstream(found)
        others = [_short(item.event) for _, item in found if item.event["at"] != fork.event["at"]]
        return _of_outside(stream.process, fork, self.fork.event, others, self._context(fork.event))

    def _context(self, event: Event) -> str:
        """Return what the user's code read near an event that differs in every run: the clock, the process's number."""
        events = (item for stream in self.streams if _kind(stream) in ("context", "source") for item in stream.one)
        near = [item["n"] for item in events if item["t"] <= event["t"] and _is_near(item["at"], event["at"])]
        near = [name for name in near if name != _NUMPY and not event.get("entropy") and event.get("k") != "source"]
        return f"; {near[-1]} was read there" if near else ""

    def _parted(self) -> Finding:
        event = self.fork.event
        if self.fork.more is not None and "g" in event:
            text = f"{_name(event)} draws one time more in one run than in the other"
            return self._new("draw", text, event)
        both = [f"{_name(item)} at {_line(item)}" if item else "its end" for item in (self.fork.one, self.fork.other)]
        return self._new("control", f"one run goes on with {both[0]}, the other with {both[1]}", event)

    def _state(self, event: Event) -> Finding:
        text = f"{_name(event)} draws from a generator that was seeded otherwise, or drawn from before"
        return self._new("seed", text, event)

    def _came_in(self, one: Event, other: Event) -> Finding:
        if "u" not in one:
            text = f"{_name(one)} gets other values, and no operator gave them: they came from outside of torch"
            return self._new("input", text, one)
        if _is_reordered(one, other):
            return self._new("order", "a tensor is made of the same values in another order", one)
        return self._new("input", "a tensor is made of other values, which came from outside of torch", one)

    def _operator(self, one: Event, other: Event) -> Finding:
        places = [index for index, pair in enumerate(zip(one["o"], other["o"], strict=False)) if pair[0] != pair[1]]
        far = ulp.of_results(self.sides, one, other, places)
        text = f"{_name(one)} gives another result from equal inputs"
        return msgspec.structs.replace(self._new("operator", text, one), ulp=far[0], unequal=far[1])

    def _new(self, kind: Kind, text: str, event: Event) -> Finding:
        line = event.get("of")
        return Finding(
            kind=kind,
            text=text + self._context(event),
            file=event["at"][0],
            line=event["at"][1],
            step=event["step"],
            process=self.process,
            operator=_name(event),
            shapes=[event.get("shapes", []), [shape for shape, _ in event.get("results", [])]],
            dtype=[dtype for _, dtype in event.get("results", [])],
            backward=event.get("back"),
            forward={"file": line[0], "line": line[1]} if line else None,
        )


def _is_reordered(one: Event, other: Event) -> bool:
    """Say whether a tensor was made of the same values in another order."""
    return "u" in one and one["u"] == other["u"] and one["u"] != [None] and bool(one["shapes"] == other["shapes"])


def _upstream(found: list[tuple[Stream, Fork]]) -> tuple[Stream, Fork]:
    """Return the first of what differs, and of a seed that was itself drawn, what it was drawn from."""
    stream, fork = found[0]
    event = fork.event
    if event["k"] != "seed" or event["entropy"]:
        return stream, fork
    drawn = (
        item
        for item in found[1:]
        for draw in item[0].one
        if draw["k"] == "draw" and draw["t"] <= event["t"] and _is_near(draw["at"], event["at"])
    )
    return next(drawn, (stream, fork))


def _is_near(place: list[Any], line: list[Any]) -> bool:
    return bool(place[0] == line[0] and 0 <= line[1] - place[1] <= _NEAR)


def _only(one: Event, other: Event, key: str) -> bool:
    return [name for name in ("p", "i", "g", "shapes") if one.get(name) != other.get(name)] == [key]


def _of_outside(process: str, fork: Fork, operator: Event | None, others: list[Any], context: str = "") -> Finding:
    event = fork.event
    return Finding(
        kind="draw" if event["k"] == "source" else event["k"],
        text=_words(fork) + context,
        file=event["at"][0],
        line=event["at"][1],
        step=event["step"],
        process=process,
        operator=None if operator is None else _name(operator),
        forward=None,
        others=others,
    )


def _words(fork: Fork) -> str:
    event, name = fork.event, fork.event["n"]
    if event["k"] == "order":
        same = fork.one is not None and fork.other is not None and fork.one["u"] == fork.other["u"]
        return f"{name} lists the same names in another order" if same else f"{name} lists other names"
    if event["k"] == "source":
        return f"{name} reads the operating system's entropy: something else each time"
    if event["k"] == "draw":
        more = fork.more is not None or fork.one is None or fork.other is None
        return f"{name} was called one time more in one run" if more else f"{name} draws another value"
    if event["entropy"]:
        return f"{name} takes its seed from the operating system: another one each time"
    seeds = [item["shown"] for item in (fork.one, fork.other) if item]
    if None in seeds:
        return f"{name} is seeded otherwise"
    return f"{name} is seeded with {' and with '.join(map(str, seeds))}"


def _short(event: Event) -> dict[str, Any]:
    return {"kind": event["k"], "name": event["n"], "file": event["at"][0], "line": event["at"][1]}


def _name(event: Event) -> str:
    return str(event["n"])


def _line(event: Event) -> str:
    return f"{event['at'][0]}:{event['at'][1]}"
