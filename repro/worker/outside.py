"""What a traced process gets from outside of torch: seeds, draws, the order of folders, the clock (`repro diagnose`).

Functions are wrapped where their modules keep them, and return what they always did; generators of the user's own are
watched by `own_generators`.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Self

from repro.worker import own_generators
from repro.worker.imports import when_imported
from repro.worker.telling import Teller, state_of
from repro.worker.tracing import Log, digest, users_line

_DRAWS = (
    "random uniform randint choice randrange sample shuffle choices normalvariate gauss betavariate expovariate"
    " getrandbits randbytes triangular lognormvariate vonmisesvariate gammavariate paretovariate weibullvariate"
).split()
_NO_DRAWS = ("seed", "get_state", "set_state", "default_rng", "get_bit_generator", "set_bit_generator")


def install(log: Log) -> None:
    """Watch all that can be watched; each module once it is imported, after repro has seeded it."""
    watched = _Outside(log)
    watched.folders()
    watched.clocks()
    when_imported("random", watched.python)
    when_imported("numpy.random", watched.numpy)
    when_imported("torch", watched.torch)


class _Outside:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._teller = Teller(log)

    def _wrap(self, owner: Any, name: str, tell: Callable[..., None]) -> None:
        """Have ``tell`` called with result, arguments and keywords of each call."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._log.quietly(tell, result, args, kwargs)
            return result

        setattr(owner, name, call)

    def folders(self) -> None:
        """Watch the order in which folders are listed."""
        self._wrap(os, "listdir", lambda result, args, _kwargs: self._listed("os.listdir", args, result))
        original = os.scandir

        @functools.wraps(original)
        def scandir(*args: Any) -> Any:
            found = users_line(sys._getframe(), outside=True)
            entries = original(*args)
            if found is None:
                return entries
            return _Entries(
                entries, functools.partial(self._log.quietly, self._listed, "os.scandir", args, found=found)
            )

        setattr(os, "scandir", scandir)  # noqa: B010  (it is several functions in one, to the type checker)

    def _listed(self, name: str, args: Any, names: Any, found: Any = None) -> None:
        found = found or users_line(sys._getframe(), outside=True)
        if found is not None and not (args and isinstance(args[0], int)):
            fields = {"v": _digest(names), "u": _digest(sorted(map(os.fsdecode, names)))}
            self._log.note("listing", "order", name, found, **fields)

    def clocks(self) -> None:
        """Watch what differs each time, where the user's own code asks for it.

        The clock and the process's number explain, and accuse nobody; entropy is suspected where nothing else is.
        """
        for owner, name in ((time, "time"), (time, "time_ns"), (os, "getpid")):
            self._wrap(owner, name, functools.partial(self._told, f"{owner.__name__}.{name}"))
        self._wrap(os, "urandom", lambda result, _args, _kwargs: self._teller.read("os.urandom", result))

    def _told(self, name: str, result: Any, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        found = users_line(sys._getframe())
        if found is not None and found[2]:
            self._log.note("context", "context", name, found, v=digest(repr(result)))

    def python(self, module: ModuleType) -> None:
        """Watch Python's global generator, and the generators of the user's own."""
        self._wrap(module, "seed", lambda _result, args, kwargs: self._seeded("python", "random.seed", args, kwargs))
        for name in _DRAWS:
            self._wrap(module, name, functools.partial(self._drawn, "python", f"random.{name}", _python_state))
        own_generators.pythons(module.Random, module.SystemRandom, _DRAWS, self._teller, _python_state)

    def numpy(self, module: ModuleType) -> None:
        """Watch numpy's global generator, the generators that it makes, and the entropy that seeds them."""
        self._wrap(
            module, "seed", lambda _result, args, kwargs: self._seeded("numpy", "numpy.random.seed", args, kwargs)
        )
        for name in module.__all__:
            function = getattr(module, name)
            if name not in _NO_DRAWS and callable(function) and not isinstance(function, type):
                self._wrap(module, name, functools.partial(self._drawn, "numpy", f"numpy.random.{name}", _numpy_state))
        own_generators.numpys(module, self._teller)

    def torch(self, module: ModuleType) -> None:
        """Watch the seeding of torch's generators; what they draw is in the operators."""
        for name, owners in (
            ("manual_seed", (module, module.random)),
            ("seed", (module, module.random)),
            ("manual_seed", (module.cuda, module.cuda.random)),
            ("manual_seed_all", (module.cuda, module.cuda.random)),
        ):
            self._torch_seeding(owners[0], name)
            setattr(owners[1], name, getattr(owners[0], name))
        own_generators.torchs(module, self._teller)

    def _torch_seeding(self, owner: Any, name: str) -> None:
        """Watch one of torch's functions that seed; they call one another."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def seed(*args: Any, **kwargs: Any) -> Any:
            result = self._teller.silently(original, *args, **kwargs)
            if not self._teller.silent:
                state = str(result) if isinstance(result, int) else None
                self._log.quietly(self._seeded, "torch", f"{owner.__name__}.{name}", args, kwargs, state)
            return result

        setattr(owner, name, seed)

    def _seeded(self, stream: str, name: str, args: Any, kwargs: Any, state: str | None = None) -> None:
        given = self._teller.given(args, kwargs)
        if state is None:
            state = {"python": _python_state, "numpy": _numpy_state}.get(stream, lambda: repr(given))()
        self._teller.seeded(stream, name, given, state)

    def _drawn(self, stream: str, name: str, state: Callable[[], str], result: Any, *_: Any) -> None:
        self._teller.drawn(stream, name, state, result)


def _digest(names: Any) -> str:
    return digest("\0".join(map(os.fsdecode, names)))


def _python_state(generator: Any = None) -> str:
    found = sys.modules["random"]._inst if generator is None else generator
    return str(hash(found.getstate()[1]))


def _numpy_state() -> str:
    return state_of(sys.modules["numpy"].random.mtrand._rand._bit_generator)


class _Entries:
    """What `os.scandir` returns, telling of the names when it comes to its end."""

    def __init__(self, entries: Any, tell: Callable[[list[str]], None]) -> None:
        self._entries = entries
        self._names: list[str] = []
        self._tell: Callable[[list[str]], None] | None = tell

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            entry = next(self._entries)
        except StopIteration:
            self._end()
            raise
        self._names.append(entry.name)
        return entry

    def __enter__(self) -> Self:
        self._entries.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._entries.__exit__(*args)
        self._end()

    def close(self) -> None:
        """Close the folder."""
        self._entries.close()
        self._end()

    def _end(self) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(self._names)
