"""Acting on a module the moment it has been imported, without importing it: scripts pay only for what they use."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Action = Callable[[ModuleType], None]
_waiting: dict[str, list[Action]] = {}

#: Imported without the garbage collector. The second one is imported by the first optimizer that is made.
_LARGE = ("torch", "torch._dynamo")


#: Told of an action that failed: it is never raised into the import of the user's code.
on_failure: list[Callable[[str, Exception], None]] = []


def when_imported(name: str, action: Action) -> None:
    """Run ``action`` with the module once it is imported: now, if it already is."""
    if name in sys.modules:
        _run(action, sys.modules[name])
        return
    _waiting.setdefault(name, []).append(action)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Import torch here: thousands of modules and little garbage take a fifth less time so (2.0 s, then 1.6)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Finder:
    """Finds nothing itself: it lets the others find, and puts the actions behind the module's own code."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name not in _waiting and name not in _LARGE:
            return None
        spec = find_after(self, name, path, target)
        if spec is not None:
            _watch(spec)
        return spec


def find_after(finder: Any, name: str, path: Sequence[str] | None, target: Any) -> ModuleSpec | None:
    """Return what the finders behind ``finder`` find: those before it have been asked already."""
    for other in sys.meta_path[sys.meta_path.index(finder) + 1 :]:
        spec = other.find_spec(name, path, target) if hasattr(other, "find_spec") else None
        if spec is not None:
            return spec
    return None


def _watch(spec: ModuleSpec) -> None:
    loader = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module: ModuleType) -> None:
        with without_collector() if spec.name in _LARGE else contextlib.nullcontext():
            execute(module)
        for action in _waiting.pop(spec.name, ()):
            _run(action, module)

    try:
        loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
    except AttributeError:  # a loader written in C: its module is not watched
        return


def _run(action: Action, module: ModuleType) -> None:
    try:
        action(module)
    except Exception as error:
        for tell in on_failure:
            tell(module.__name__, error)


_FINDER: Any = _Finder()
