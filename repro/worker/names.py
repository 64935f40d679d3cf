"""Names for an optimizer's parameters, and the buffers that go with them, from the networks that were called."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Names(NamedTuple):
    """A name for each parameter in the optimizer's order; where each buffer is to be found, and its name."""

    parameters: list[str]
    buffers: list[tuple[weakref.ref[torch.nn.Module], str]]
    buffer_names: list[str]


def of(groups: Sequence[Sequence[torch.Tensor]], roots: Sequence[torch.nn.Module]) -> Names:
    """Return the names that the outermost modules have for the parameters; ``group0.3`` for one that is in none.

    The largest network names what it shares with others; where two networks use one name, the later ones' names begin
    with their class and number: ``Decoder#2.0.weight``.
    """
    wanted = {id(parameter) for group in groups for parameter in group}
    known: dict[int, str] = {}
    buffers: dict[str, tuple[weakref.ref[torch.nn.Module], str]] = {}
    for number, root in enumerate(sorted(filter(_is_sound, roots), key=_size, reverse=True), 1):
        named = {id(parameter): name for name, parameter in root.named_parameters() if id(parameter) not in known}
        if wanted.isdisjoint(named):
            continue
        places = _buffers(root)
        taken = {*known.values(), *buffers}
        prefix = "" if taken.isdisjoint({*named.values(), *places}) else f"{type(root).__name__}#{number}."
        known |= {key: _clean(prefix + name) for key, name in named.items()}
        buffers |= {_clean(prefix + name): place for name, place in places.items()}
    names = [known.get(id(item), f"group{i}.{j}") for i, group in enumerate(groups) for j, item in enumerate(group)]
    return Names(names, list(buffers.values()), list(buffers))


def _is_sound(module: torch.nn.Module) -> bool:
    """Say whether torch can go through a module's parts: they must have a hash."""
    try:
        return all(True for _ in module.named_modules())
    except Exception:
        return False


def _size(module: torch.nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _buffers(root: torch.nn.Module) -> dict[str, tuple[weakref.ref[torch.nn.Module], str]]:
    found = {}
    for path, module in root.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                found[f"{path}.{name}" if path else name] = (weakref.ref(module), name)
    return found


def _clean(name: str) -> str:
    return name.replace("_orig_mod.", "")
