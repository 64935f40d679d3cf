"""What a checkpoint holds: parts of a run as tensors and plain values, and how they get back into their objects.

The file is read by ``torch.load(weights_only=True)``: no pickle of anything else. What numpy had is written as torch's
tensors and Python's numbers, and its places are noted, so that the same values come back.
"""

from __future__ import annotations

import copy
import io
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

#: Where a value lies within nested mappings and lists.
Path = tuple[Any, ...]
#: The key of what repro itself keeps in a checkpoint, beside the parts.
OWN = "repro"
SCHEMA = 2
_PLAIN = (int, float, str, bool, type(None))


class Found(NamedTuple):
    """A checkpoint that was read: its plain values, what repro keeps in it, the objects that were loaded.

    ``unequal`` names the first value that did not come back as it was, to the bit.
    """

    values: dict[str, Any]
    own: dict[str, Any]
    loaded: dict[Path, Any]
    unequal: str | None


def read(path: str, parts: dict[str, Any]) -> Found:
    """Read a checkpoint and load it into the parts, in place.

    Raises:
        KeyError, ValueError, TypeError: as `Run.resume` does.
    """
    state = torch.load(path, weights_only=True)
    own = state.pop(OWN)
    if own["schema"] != SCHEMA:
        msg = f"{path} is a checkpoint of form {own['schema']}; this version reads {SCHEMA}"
        raise ValueError(msg)
    own = restored({**state, OWN: own}, own["arrays"])[OWN]
    objects = {at[0] for at in own["objects"]}
    _check(parts, [*state], objects)
    loaded = dict(pair for name, part in parts.items() for pair in load(part, state[name], (name,)))
    back = Encoder()
    pairs = ((at, back.encode(part, at), Encoder().encode(_at(state, at))) for at, part in loaded.items())
    found = next((place((*at, *more)) for at, a, b in pairs if (more := unequal(a, b)) is not None), None)
    return Found({name: value for name, value in state.items() if name not in objects}, own, loaded, found)


def _at(state: Any, at: Path) -> Any:
    for key in at:
        state = state[key]
    return state


def _check(parts: dict[str, Any], names: list[str], objects: set[Any]) -> None:
    strange = next((name for name in parts if name not in names), None)
    if strange is not None:
        msg = f"the checkpoint has no part {strange!r}; it has: {', '.join(names) or 'none'}"
        raise KeyError(msg)
    missing = sorted(objects.difference(parts))
    if missing:
        names_ = ", ".join(f"{name}={name}" for name in missing)
        msg = f"run.checkpoint() saved more than run.resume() is given: run.resume({names_}, ...)"
        raise ValueError(msg)


class Encoder:
    """Turns values into what a checkpoint holds; `objects` are the places of those that are loaded in place."""

    def __init__(self) -> None:
        self.objects: dict[Path, Any] = {}
        self.arrays: list[list[Any]] = []

    def encode(self, value: Any, at: Path = ()) -> Any:
        """Return a value's plain form. Raises TypeError for one that a checkpoint cannot hold, with its place."""
        pair = _pair(value)
        if pair is not None:
            self.objects[at] = value
            value = pair[0](value)
        if isinstance(value, np.generic):
            return self._number(value, at)
        if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
            return value
        if type(value) in (dict, OrderedDict):
            return self._mapping(value, at)
        if type(value) in (list, tuple):
            return type(value)(self.encode(item, (*at, index)) for index, item in enumerate(value))
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.arrays.append([list(at), value.dtype.str])
            return torch.from_numpy(value.astype(_torchs(value.dtype)))
        return _known_to_torch(value, at)

    def _number(self, value: Any, at: Path) -> Any:
        self.arrays.append([list(at), value.dtype.str])
        return value.item()

    def _mapping(self, value: Any, at: Path) -> Any:
        found = {key: self.encode(item, (*at, key)) for key, item in value.items()}
        if type(value) is dict:
            return found
        ordered = copy.copy(value)  # a module's has the versions of its parts as an attribute
        ordered.update(found)
        return ordered


def restored(state: dict[str, Any], arrays: list[list[Any]]) -> dict[str, Any]:
    """Return a checkpoint's values with numpy's arrays and numbers where they were."""
    for at, dtype in arrays:
        state = _replaced(state, at, dtype)
    return state


def _replaced(value: Any, at: list[Any], dtype: str) -> Any:
    if not at:
        array = value.numpy() if isinstance(value, torch.Tensor) else np.array(value)
        array = array.astype(np.dtype(dtype))
        return array if isinstance(value, torch.Tensor) else array[()]
    if isinstance(value, tuple):
        return tuple(_replaced(item, at[1:], dtype) if index == at[0] else item for index, item in enumerate(value))
    value[at[0]] = _replaced(value[at[0]], at[1:], dtype)
    return value


def _torchs(dtype: Any) -> Any:
    """Return the kind of array that torch has for one of numpy's: the bits of an unsigned one as a signed one's."""
    return np.dtype(np.int64) if dtype.kind == "u" and dtype.itemsize > 1 else dtype.newbyteorder("=")


def _known_to_torch(value: Any, at: Path) -> Any:
    """Return a value that torch's restricted reader takes (a Counter, a torch.Size). Raises TypeError for others."""
    file = io.BytesIO()
    try:
        torch.save(value, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:
        kind = type(value).__name__
        msg = f"{place(at)} is a {kind}: a checkpoint holds tensors, plain values, and what has state_dict()"
        raise TypeError(msg) from error
    return value


def place(at: Path) -> str:
    """Return a place as a person would write it: ``optimizer.state.0``."""
    return ".".join(map(str, at))


def _pair(value: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]] | None:
    """Return how a part's state is taken and given back, or None for a plain value."""
    if isinstance(value, torch.Generator):
        return _generator_state, _set_generator
    if isinstance(value, np.random.Generator):
        return lambda part: part.bit_generator.state, lambda part, state: setattr(part.bit_generator, "state", state)
    if isinstance(value, np.random.RandomState):
        return lambda part: part.get_state(legacy=False), lambda part, state: part.set_state(state)
    if isinstance(value, random.Random):
        return lambda part: part.getstate(), lambda part, state: part.setstate(state)
    if hasattr(value, "state_dict") and not isinstance(value, type):
        return lambda part: part.state_dict(), lambda part, state: part.load_state_dict(state)
    return None


def _generator_state(part: Any) -> dict[str, Any]:
    """Return the state of a torch generator, and of the numpy half that a stream has."""
    half = getattr(part, "__dict__", {}).get("numpy")
    return {"torch": part.get_state()} | ({} if half is None else {"numpy": half.bit_generator.state})


def _set_generator(part: Any, state: dict[str, Any]) -> None:
    if "torch" in state:  # not where the stream was made before torch was imported: it had numpy's half alone
        part.set_state(state["torch"])
        state = state.get("numpy", {})
    if state:
        part.numpy.bit_generator.state = state


def give(part: Any, state: Any) -> None:
    """Give an object its state back."""
    pair = _pair(part)
    assert pair is not None  # noqa: S101  (it was one when the state was taken)
    pair[1](part, state)


def loadable(parts: dict[str, Any]) -> set[str]:
    """Return the names of the parts that hold objects. Raises TypeError for one that cannot be changed in place."""
    found = set()
    for name, part in parts.items():
        if not _is_mutable(part):
            kind = type(part).__name__
            msg = f"{name} is a {kind}, which cannot be changed in place: take it from what run.resume() returns"
            raise TypeError(msg)
        if _holds_object(part):
            found.add(name)
    return found


def _is_mutable(part: Any) -> bool:
    return _pair(part) is not None or isinstance(part, (torch.Tensor, np.ndarray, dict, list))


def _holds_object(part: Any) -> bool:
    items = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
    return _pair(part) is not None or any(map(_holds_object, items))


def load(part: Any, state: Any, at: Path) -> Iterator[tuple[Path, Any]]:
    """Give a part (one that is `loadable`) its state back, in place; yield each object in it with its place."""
    if _pair(part) is not None:
        give(part, state)
        yield at, part
    elif isinstance(part, torch.Tensor):
        with torch.no_grad():
            part.copy_(state)
    elif isinstance(part, np.ndarray):
        part[...] = state
    else:
        yield from _load_items(part, state, at)


def _load_items(part: Any, state: Any, at: Path) -> Iterator[tuple[Path, Any]]:
    """Fill a mapping or a list in place; objects in it stay, and are loaded."""
    keys = [*state] if isinstance(state, dict) else [*range(len(state))]
    old = dict(part) if isinstance(part, dict) else dict(enumerate(part))
    part.clear()
    for key in keys:
        item = state[key]
        if _is_mutable(old.get(key)):
            yield from load(old[key], item, (*at, key))
            item = old[key]
        if isinstance(part, dict):
            part[key] = item
        else:
            part.append(item)


def unequal(a: Any, b: Any, at: Path = ()) -> Path | None:
    """Return the place of the first value that is not the same to the bit in two encoded states, or None."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return None if _same_tensors(a, b) else at
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b):
            return at
        pairs = ((key, a[key], b[key]) for key in a)
    elif isinstance(a, (list, tuple)) and type(a) is type(b):
        if len(a) != len(b):
            return at
        pairs = ((index, one, b[index]) for index, one in enumerate(a))
    else:
        return None if type(a) is type(b) and repr(a) == repr(b) else at
    return next((found for key, one, other in pairs if (found := unequal(one, other, (*at, key))) is not None), None)


def _same_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.layout is not torch.strided or a.is_quantized or a.is_nested:
        return True  # not looked at
    one, other = (item.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for item in (a, b))
    return torch.equal(one, other)


def without_tensors(value: Any) -> Any:
    """Return the plain values of an encoded state: what a scheduler counts, an optimizer's settings."""
    if isinstance(value, dict):
        return {key: without_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_tensors(item) for item in value]
    return None if isinstance(value, torch.Tensor) else value
