"""Generators of the user's own in a traced process: of numpy, of torch, of Python's `random` (`repro diagnose`).

Each is a source by itself: it tells to what state it was seeded, and what it draws. The classes are replaced by
subclasses, which take numpy's and torch's own objects for theirs; what is drawn is what it always was.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from repro.worker.telling import STATE, Teller, state_of
from repro.worker.tracing import digest

#: Methods of numpy's generators that draw nothing.
_QUIET = ("bit_generator", "spawn", "seed", "get_state", "set_state")
#: numpy makes a generator anew, and then gives it the state that was kept.
_UNPICKLING = "/numpy/random/_pickle.py"


def numpys(module: ModuleType, teller: Teller) -> None:
    """Watch what is made by `RandomState`, `Generator` and `default_rng`, and the entropy that seeds it."""
    watched = _Numpys(teller)
    states = watched.kind(module.RandomState)
    watched.replace("RandomState", states, module, "numpy.random.mtrand", "numpy.random._pickle")
    base = module.Generator
    generators = watched.kind(base)
    original = module.default_rng

    @functools.wraps(original)
    def default_rng(*args: Any, **kwargs: Any) -> Any:
        made = teller.silently(original, *args, **kwargs)
        if any(made is given for given in (*args, *kwargs.values())):
            return made
        generator = generators.__new__(generators, made.bit_generator)
        base.__init__(generator, made.bit_generator)
        watched.tell(generator, "numpy.random.default_rng", teller.given(args, kwargs))
        return generator

    setattr(module, "default_rng", default_rng)  # noqa: B010  (a module, to the type checker)
    watched.replace("Generator", generators, module, "numpy.random._generator", "numpy.random._pickle")
    watched.entropy()


class _Numpys:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller

    def replace(self, name: str, kind: type, module: ModuleType, *others: str) -> None:
        """Have a class in the place of the one that numpy has under this name."""
        for owner in (module, *(sys.modules[other] for other in others if other in sys.modules)):
            setattr(owner, name, kind)

    def kind(self, base: Any) -> type:
        """Return a class like numpy's ``base``; pickles of its objects are of numpy's own."""
        watched = self

        def initialise(generator: Any, *args: Any, **kwargs: Any) -> None:
            watched._teller.silently(base.__init__, generator, *args, **kwargs)
            watched.tell(generator, f"numpy.random.{base.__name__}", watched._teller.given(args, kwargs))

        body: dict[str, Any] = {"__module__": base.__module__, "__init__": initialise}
        for name in dir(base):
            method = getattr(base, name)
            if not name.startswith("_") and callable(method) and name not in _QUIET:
                body[name] = self._drawing(base, method, name)
        if hasattr(base, "seed"):
            body |= {name: self._seeding(getattr(base, name), name) for name in ("seed", "set_state")}
        return _like(base, body)

    def tell(self, generator: Any, name: str, given: Any) -> None:
        """Give a new generator its name, and tell how it was seeded."""
        self._teller.log.quietly(self._tell, generator, name, given)

    def _tell(self, generator: Any, name: str, given: Any) -> None:
        generator._repro_name = self._teller.log.new_generator()
        bits = generator._bit_generator
        entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
        more: dict[str, Any] = {}
        if isinstance(entropy, int) and entropy in self._teller.taken:
            more = {"taken": digest(str(entropy)), "at": self._teller.taken[entropy] if given is not None else None}
        seed = STATE if given is bits else given  # a bit generator: it says nothing by its looks
        self._teller.seeded(generator._repro_name, name, None if more else seed, state_of(bits), **more)

    def _drawing(self, base: Any, original: Any, name: str) -> Any:
        teller = self._teller

        @functools.wraps(original)
        def draw(generator: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(generator, *args, **kwargs)
            stream = getattr(generator, "_repro_name", "numpy generators")
            state = functools.partial(state_of, generator._bit_generator)
            teller.log.quietly(teller.drawn, stream, f"{base.__name__}.{name}", state, result)
            return result

        return draw

    def _seeding(self, original: Any, name: str) -> Any:
        teller = self._teller

        @functools.wraps(original)
        def seed(generator: Any, *args: Any, **kwargs: Any) -> Any:
            result = teller.silently(original, generator, *args, **kwargs)
            stream = getattr(generator, "_repro_name", "numpy generators")
            given = STATE if name == "set_state" else teller.given(args, kwargs)
            state = state_of(generator._bit_generator)
            teller.log.quietly(teller.seeded, stream, f"RandomState.{name}", given, state)
            return result

        return seed

    def entropy(self) -> None:
        """Watch what numpy takes from the operating system: a bit generator or a `SeedSequence` without a seed."""
        source = sys.modules.get("numpy.random.bit_generator")
        if source is None or not hasattr(source, "randbits"):
            return
        original = source.randbits

        @functools.wraps(original)
        def randbits(*args: Any) -> Any:
            result = self._teller.silently(original, *args)
            frame = sys._getframe(1)  # of the code that asked numpy
            if not frame.f_code.co_filename.endswith(_UNPICKLING):
                self._teller.log.quietly(self._teller.took, result, frame)
            return result

        source.randbits = randbits  # type: ignore[attr-defined]


def torchs(module: ModuleType, teller: Teller) -> None:
    """Watch the seeding of `torch.Generator`; what it draws is in the operators, which name it."""
    base = module.Generator

    def new(kind: Any, *args: Any, **kwargs: Any) -> Any:
        generator = base.__new__(kind, *args, **kwargs)
        _torch_names[generator._cdata] = teller.log.new_generator()
        return generator

    def telling(name: str) -> Any:
        original = getattr(base, name)

        @functools.wraps(original)
        def seed(generator: Any, *args: Any) -> Any:
            result = original(generator, *args)
            given = STATE if name == "set_state" else teller.given(args, {})
            state = _torch_state(generator)
            teller.log.quietly(teller.seeded, str(name_of(generator)), f"torch.Generator.{name}", given, state)
            return result

        return seed

    names = ("manual_seed", "seed", "set_state")
    body = {"__module__": base.__module__, "__new__": new} | {name: telling(name) for name in names}
    setattr(module, "Generator", _like(base, body))  # noqa: B010  (a module, to the type checker)


def _torch_state(generator: Any) -> str:
    return digest(generator.get_state().numpy().tobytes())


def name_of(generator: Any) -> str | None:
    """Return the name of one of torch's generators of the user's own in the log, None where it has none."""
    return _torch_names.get(getattr(generator, "_cdata", 0))


#: By the place in memory: an operator gets another object for the same generator.
_torch_names: dict[int, str] = {}


def _like(base: Any, body: dict[str, Any]) -> type:
    """Return a subclass that takes the objects of ``base`` for its own, as libraries ask for them by `isinstance`."""

    def is_one(kind: Any, value: Any) -> bool:
        return isinstance(value, base) if kind is made else bool(super(meta, kind).__instancecheck__(value))

    def is_kind(kind: Any, other: Any) -> bool:
        return issubclass(other, base) if kind is made else bool(super(meta, kind).__subclasscheck__(other))

    meta: Any = type("Watched", (type(base),), {"__instancecheck__": is_one, "__subclasscheck__": is_kind})
    made: type = meta(base.__name__, (base,), body)
    return made


def pythons(kind: type, system: type, draws: list[str], teller: Teller, state: Callable[[Any], str]) -> None:
    """Watch `random.Random`, and `random.SystemRandom`, whose draws are the operating system's."""
    inside: set[int] = set()
    names: dict[int, str] = {}

    def watch(owner: type, name: str, tell: Callable[..., None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(generator: Any, *args: Any, **kwargs: Any) -> Any:
            if id(generator) in inside:
                return original(generator, *args, **kwargs)
            inside.add(id(generator))
            try:
                result = original(generator, *args, **kwargs)
            finally:
                inside.discard(id(generator))
            teller.log.quietly(tell, generator, result, teller.given(args, kwargs))
            return result

        setattr(owner, name, call)

    def seeded(generator: Any, _result: Any, given: Any) -> None:
        names[id(generator)] = teller.log.new_generator()
        teller.seeded(names[id(generator)], type(generator).__name__, given, state(generator))

    def drawn(name: str, generator: Any, result: Any, _given: Any) -> None:
        if isinstance(generator, system):
            teller.read(f"random.SystemRandom.{name}", result)
        else:
            stream = names.get(id(generator), "python generators")
            teller.drawn(stream, f"Random.{name}", lambda: state(generator), result)

    watch(kind, "seed", seeded)
    for name in draws:
        watch(kind, name, functools.partial(drawn, name))
        if name in vars(system):
            watch(system, name, functools.partial(drawn, name))
