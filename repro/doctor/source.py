"""All that the text of a program's modules says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from repro.doctor import loaders, operators, order, seeding
from repro.doctor.finding import Finding, found
from repro.doctor.module import Module


def examine(modules: Sequence[Module], *, switched_on: bool = True) -> list[Finding]:
    """Return the findings of a program's modules, each once, by file and line.

    ``switched_on`` says that the profile asks torch for deterministic kernels.
    """
    every = [finding for module in modules for finding in _one(module, switched_on=switched_on)]
    every += loaders.draws(modules)
    return sorted(dict.fromkeys(every), key=lambda item: (item.file or "", item.line or 0, item.rule))


def _one(module: Module, *, switched_on: bool) -> Iterator[Finding]:
    looks: list[Callable[[], Iterator[Finding]]] = [
        lambda: loaders.look(module),
        lambda: seeding.look(module),
        lambda: order.look(module),
        lambda: operators.look(module, switched_on=switched_on),
    ]
    for look in looks:
        try:
            yield from look()
        except RecursionError:
            yield found("unparsable", module.file, None, "it is nested too deeply to be read")
