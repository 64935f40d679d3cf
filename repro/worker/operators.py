"""Every operator of torch, logged: what went in, what came out, and the user's line (`repro diagnose`).

A dispatch mode of torch's public class sees each operator below autograd, where it has the tensors that the kernel
gets; the same kernels run. Views have no bytes of their own to compare; what `empty` allocates has none yet.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from repro.worker import bits
from repro.worker.generators import mersenne
from repro.worker.own_generators import name_of
from repro.worker.tracing import Log, digest, users_line

#: These allocate: their results hold whatever lay there.
_ALLOCATE = ("empty", "new_empty", "resize_", "_efficientzerotensor")
#: These write all of their first argument, whatever it held.
_OVERWRITE = frozenset(
    "copy_ fill_ zero_ uniform_ normal_ random_ bernoulli_ exponential_ cauchy_ log_normal_ geometric_".split()
)
#: What makes a tensor of Python's values or of an array, and of bytes that were loaded.
_ENTER = ("lift_fresh", "set_")
#: What has the same words in each process; of others the type counts.
_PLAIN = (int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
#: Of these results the distance in ULP can be told.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MOST_SORTED = 1 << 20
_MOST_LINES = 200_000
_current_node = getattr(torch._C, "_current_autograd_node", lambda: None)
_sequence = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]


class _Kind(NamedTuple):
    """What is known of an operator: the arguments whose bytes it does not read, and those that it writes."""

    name: str
    enters: bool
    has_bytes: bool
    unread: frozenset[int | str]
    written: tuple[int | str, ...]
    draws: bool


def _kind_of(operator: Any) -> _Kind:
    schema = operator._schema
    name = schema.name.partition("::")[2]
    written = {
        (argument.name if argument.kwarg_only else place): argument
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }
    returns = [item.alias_info for item in schema.returns]
    is_view = any(info is not None and not info.is_write for info in returns) and not written
    overwrites = name in _OVERWRITE
    unread = {key for key in written if isinstance(key, str) or (overwrites and key == 0)}
    return _Kind(
        name=str(operator),
        enters=name in _ENTER,
        has_bytes=not is_view and not name.startswith(_ALLOCATE),
        unread=frozenset(unread),
        written=tuple(written),
        draws=torch.Tag.nondeterministic_seeded in operator.tags,
    )


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own is not typed
    """Logs the operators of the thread that it is entered in, and of backward passes that it starts."""

    def __init__(self, log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._log = log
        self._kinds: dict[Any, _Kind | None] = {}
        self._lines: dict[int, tuple[str, int]] = {}
        self._salts: dict[Any, int] = {}
        self._global = mersenne(torch.default_generator)

    def install(self) -> None:
        """Begin with the thread that imported torch."""
        register_optimizer_step_post_hook(self._stepped)
        self.__enter__()  # type: ignore[no-untyped-call]

    def _stepped(self, *_: Any) -> None:
        if not bits.out_of_sight():
            self._log.stepped()
            if len(self._lines) > _MOST_LINES:
                self._lines.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self._log.operators:
            return func(*args, **kwargs)
        event = self._quietly(self._before, func, args, kwargs)
        result = func(*args, **kwargs)
        if event is not None:
            self._quietly(self._after, func, args, kwargs, result, event)
        return result

    def _quietly(self, look: Any, *args: Any) -> Any:
        unreadable = bits.unreadable
        try:
            return self._log.quietly(look, *args)
        finally:
            bits.unreadable = unreadable  # it is the trail's count

    def _before(self, func: Any, args: Any, kwargs: Any) -> dict[str, Any] | None:
        if func not in self._kinds:
            is_known = hasattr(func, "_schema") and not func._schema.name.startswith("profiler::")
            self._kinds[func] = _kind_of(func) if is_known else None
        kind = self._kinds[func]
        place = users_line(sys._getframe(3)) if kind is not None and not bits.out_of_sight() else None
        if kind is None or place is None:
            return None
        read = [value for key, value in _items(args, kwargs) if key not in kind.unread]
        tensors, plain = _leaves(read)
        event: dict[str, Any] = {
            "n": kind.name,
            "at": place[:2],
            "p": digest(repr(plain)),
            "i": self._digests(tensors) if kind.has_bytes else [],
            "shapes": [list(tensor.shape) for tensor in tensors],
        }
        if kind.draws:
            event |= self._generator(args, kwargs)
        return event | self._in_autograd(place[:2])

    def _in_autograd(self, place: tuple[str, int]) -> dict[str, Any]:
        """Return the forward line of an operator in a backward pass; remember that of one which will have its own."""
        node = _current_node()
        if node is None:
            if torch.is_grad_enabled():
                self._lines.setdefault(_sequence() - 1, place)
            return {}
        return {"back": node.name(), "of": self._lines.get(node._sequence_nr())}

    def _after(self, func: Any, args: Any, kwargs: Any, result: Any, event: dict[str, Any]) -> None:
        kind = self._kinds[func]
        assert kind is not None  # noqa: S101
        items = dict(_items(args, kwargs))
        tensors, plain = _leaves([result])
        known = {id(tensor) for tensor in tensors}
        written = _leaves([items[key] for key in kind.written if key in items])[0]
        tensors += [tensor for tensor in written if id(tensor) not in known]
        event["results"] = [[list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for tensor in tensors]
        if kind.enters:
            event |= {"o": self._digests(tensors), "u": [_unordered(tensor) for tensor in tensors]}
        elif kind.has_bytes:
            event |= {"o": self._digests(tensors), "b": [self._kept(tensor) for tensor in tensors]}
        if plain:
            event["o"] = [*event.get("o", ()), digest(repr(plain))]
        self._log.operator(event)

    def _digests(self, tensors: list[torch.Tensor]) -> list[str]:
        return [f"{value:x}" for value in bits.read_back([bits.digest(item, self._salt(item)) for item in tensors])]

    def _salt(self, tensor: torch.Tensor) -> int:
        key = tensor.dtype, tensor.shape
        found = self._salts.get(key)
        if found is None:
            found = self._salts[key] = bits.salt(tensor, "")
        return found

    def _kept(self, tensor: torch.Tensor) -> Any:
        if tensor.dtype in _FLOATS and bits.is_plain(tensor):
            return self._log.keep(bits.raw(tensor))
        return None

    def _generator(self, args: Any, kwargs: Any) -> dict[str, str | None]:
        """Return the digest of the generator that an operator draws from; of one of the user's own also its name."""
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)), None)
        if given is not None:
            return {"g": digest(given.get_state().numpy()), "gen": name_of(given)}
        return {"g": digest(self._global() if callable(self._global) else b"".join(self._global))}


def _items(args: Any, kwargs: Any) -> list[tuple[int | str, Any]]:
    return [*enumerate(args), *kwargs.items()]


def _leaves(values: Any) -> tuple[list[torch.Tensor], list[Any]]:
    """Return the tensors in a value, and all else in it that has a value of its own."""
    tensors: list[torch.Tensor] = []
    plain: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple)):
            inner = _leaves(value)
            tensors += inner[0]
            plain += [inner[1]] if inner[1] else []
        elif value is not None and not isinstance(value, torch.Generator):
            plain.append(value if isinstance(value, _PLAIN) else type(value).__name__)
    return tensors, plain


def _unordered(tensor: torch.Tensor) -> str | None:
    """Return a digest of a tensor's elements that does not depend on their order."""
    if tensor.numel() > _MOST_SORTED or tensor.element_size() > 8 or not bits.is_plain(tensor):  # noqa: PLR2004
        return None
    elements = bits.view(tensor).view(f"u{tensor.element_size()}") if tensor.numel() else np.empty(0, np.uint8)
    return digest(np.sort(elements))
