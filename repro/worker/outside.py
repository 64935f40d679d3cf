"""What a traced process gets from outside of torch: seeds, draws, the order of folders, the clock (`repro diagnose`).

Functions are wrapped where their modules keep them, and return what they always did. A generator of numpy's comes from
`default_rng` as one of a subclass that tells of its draws.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Self

from repro.worker.imports import when_imported
from repro.worker.tracing import Log, digest, users_line

_DRAWS = (
    "random uniform randint choice randrange sample shuffle choices normalvariate gauss betavariate expovariate"
    " getrandbits randbytes triangular lognormvariate vonmisesvariate gammavariate paretovariate weibullvariate"
).split()
_NO_DRAWS = ("seed", "get_state", "set_state", "default_rng", "get_bit_generator", "set_bit_generator")
_PLAIN = (int, float, str, bytes, bool)
_MOST_SHOWN = 60


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
        """Watch what differs each time, where the user's own code asks for it; this explains, and accuses nobody."""
        for owner, name in ((time, "time"), (time, "time_ns"), (os, "getpid"), (os, "urandom")):
            self._wrap(owner, name, functools.partial(self._told, f"{owner.__name__}.{name}"))

    def _told(self, name: str, result: Any, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        found = users_line(sys._getframe())
        if found is not None and found[2]:
            self._log.note("context", "context", name, found, v=digest(repr(result)))

    def python(self, module: ModuleType) -> None:
        """Watch Python's global generator, and the generators of the user's own."""
        self._wrap(module, "seed", lambda _result, args, kwargs: self._seeded("python", "random.seed", args, kwargs))
        for name in _DRAWS:
            self._wrap(module, name, functools.partial(self._drawn, "python", f"random.{name}", _python_state))
        self._own_generators(module.Random)

    def _own_generators(self, kind: type) -> None:
        inside: set[int] = set()
        names: dict[int, str] = {}

        def watch(name: str, tell: Callable[..., None]) -> None:
            original = getattr(kind, name)

            @functools.wraps(original)
            def call(generator: Any, *args: Any, **kwargs: Any) -> Any:
                if id(generator) in inside:
                    return original(generator, *args, **kwargs)
                inside.add(id(generator))
                try:
                    result = original(generator, *args, **kwargs)
                finally:
                    inside.discard(id(generator))
                self._log.quietly(tell, generator, result, args, kwargs)
                return result

            setattr(kind, name, call)

        def seeded(generator: Any, _result: Any, args: Any, kwargs: Any) -> None:
            names[id(generator)] = self._log.new_generator()
            state = _python_state(generator)
            self._seeded(names[id(generator)], type(generator).__name__, args, kwargs, state)

        def drawn(label: str, generator: Any, result: Any, _args: Any, _kwargs: Any) -> None:
            key = names.get(id(generator), "python generators")
            self._drawn(key, label, lambda: _python_state(generator), result)

        watch("seed", seeded)
        for name in _DRAWS:
            watch(name, functools.partial(drawn, f"Random.{name}"))

    def numpy(self, module: ModuleType) -> None:
        """Watch numpy's global generator, the generators that it makes, and the entropy that seeds them."""
        self._wrap(
            module, "seed", lambda _result, args, kwargs: self._seeded("numpy", "numpy.random.seed", args, kwargs)
        )
        for name in module.__all__:
            function = getattr(module, name)
            if name not in _NO_DRAWS and callable(function) and not isinstance(function, type):
                self._wrap(module, name, functools.partial(self._drawn, "numpy", f"numpy.random.{name}", _numpy_state))
        entropy = sys.modules.get("numpy.random.bit_generator")
        if hasattr(entropy, "randbits"):
            self._wrap(entropy, "randbits", self._entropy)
        self._default_rng(module)

    def _entropy(self, result: Any, *_: Any) -> None:
        fields = {"v": digest(str(result)), "shown": None, "entropy": True}
        self._log.outside("entropy of numpy", "seed", "a generator of numpy", **fields)

    def _default_rng(self, module: ModuleType) -> None:
        original = module.default_rng
        kind = _generator_class(module.Generator, functools.partial(self._log.quietly, self._drawn))

        @functools.wraps(original)
        def default_rng(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            if any(found is given for given in (*args, *kwargs.values())):
                return found
            generator = kind(found.bit_generator)
            self._log.quietly(self._made, generator, args, kwargs)
            return generator

        setattr(module, "default_rng", default_rng)  # noqa: B010  (a module, to the type checker)

    def _made(self, generator: Any, args: Any, kwargs: Any) -> None:
        generator._repro_name = self._log.new_generator()
        state = repr(generator.bit_generator.state)
        self._seeded(generator._repro_name, "numpy.random.default_rng", args, kwargs, state)

    def torch(self, module: ModuleType) -> None:
        """Watch the seeding of torch's generators; what they draw is in the operators."""
        for name, owners in (
            ("manual_seed", (module, module.random)),
            ("seed", (module, module.random)),
            ("manual_seed", (module.cuda, module.cuda.random)),
            ("manual_seed_all", (module.cuda, module.cuda.random)),
        ):
            label = f"{owners[0].__name__}.{name}"
            self._wrap(owners[0], name, functools.partial(self._torch_seeded, label))
            setattr(owners[1], name, getattr(owners[0], name))

    def _torch_seeded(self, label: str, result: Any, args: Any, kwargs: Any) -> None:
        state = str(result) if isinstance(result, int) else None
        self._seeded("torch", label, args, kwargs, state)

    def _seeded(self, stream: str, name: str, args: Any, kwargs: Any, state: Any = None) -> None:
        given = next((value for value in (*args, *kwargs.values()) if value is not None), None)
        if state is None:
            state = {"python": _python_state, "numpy": _numpy_state}.get(stream, lambda: repr(given))()
        shown = None if given is None else repr(given)[:_MOST_SHOWN]
        fields = {"v": digest(str(state)), "shown": shown, "entropy": given is None}
        self._log.outside(stream, "seed", name, **fields)

    def _drawn(self, stream: str, name: str, state: Callable[[], str], result: Any, *_: Any) -> None:
        self._log.outside(stream, "draw", name, v=_value(result) or digest(str(state())))


def _digest(names: Any) -> str:
    return digest("\0".join(map(os.fsdecode, names)))


def _value(result: Any) -> str | None:
    """Return the digest of what was drawn, None where it has no value of its own."""
    if isinstance(result, _PLAIN):
        return digest(repr(result))
    if hasattr(result, "tobytes") and str(getattr(result, "dtype", "")) != "object":
        return digest(result.tobytes())
    return None


def _python_state(generator: Any = None) -> str:
    found = sys.modules["random"]._inst if generator is None else generator
    return str(hash(found.getstate()[1]))


def _numpy_state() -> str:
    state = sys.modules["numpy"].random.mtrand._rand._bit_generator.state["state"]
    return digest(state["key"].tobytes()) + str(state["pos"])


def _generator_class(base: Any, drawn: Callable[..., None]) -> Any:
    """Return a class like numpy's Generator whose objects tell of each draw; their pickles are of numpy's own class."""
    kind = type("Generator", (base,), {"__module__": base.__module__})
    for name in dir(base):
        original = getattr(base, name)
        if not name.startswith("_") and name not in ("bit_generator", "spawn") and callable(original):
            setattr(kind, name, _telling(original, name, drawn))
    return kind


def _telling(original: Any, name: str, drawn: Callable[..., None]) -> Any:
    @functools.wraps(original)
    def call(generator: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(generator, *args, **kwargs)
        stream = getattr(generator, "_repro_name", "numpy generators")
        drawn(stream, f"Generator.{name}", lambda: repr(generator.bit_generator.state), result)
        return result

    return call


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
