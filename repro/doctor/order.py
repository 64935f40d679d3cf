"""Orders that the disk or the hash seed decides: listings of folders, and sets that are iterated over."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from repro.doctor import sets
from repro.doctor.finding import Finding, found
from repro.doctor.module import Module, argument, text
from repro.doctor.settled import Settled

#: Functions that give a listing; methods of any object that do, with the number of their arguments.
_LISTINGS = frozenset("os.listdir os.scandir glob.glob glob.iglob".split())
_METHODS = {"glob": 1, "rglob": 1, "iterdir": 0}
_LONG = 40


def look(module: Module) -> Iterator[Finding]:
    """Yield the listings that are not sorted and the sets whose order is taken."""
    settled = Settled(module)
    for call in module.each(ast.Call):
        name = _listing(module, call)
        if name is not None and not settled.is_so(call):
            yield found("unsorted-listing", module.file, call.lineno, f"{name} lists in the order of the disk")
    for node in module.each(ast.expr):
        if sets.is_iterated(module, node) and sets.is_set(module, node) and not settled.is_so(node):
            what = f"the order of {_short(node)} follows the hash seed"
            yield found("set-iteration", module.file, node.lineno, what)


def _short(node: ast.expr) -> str:
    words = text(node)
    return words if len(words) <= _LONG else f"{words[: _LONG - 3]}..."


def _listing(module: Module, call: ast.Call) -> str | None:
    """Return how a call that lists a folder is written, or None."""
    name = module.dotted(call.func)
    if name in _LISTINGS:
        return name
    if (name is not None and not name.startswith("pathlib.")) or not isinstance(call.func, ast.Attribute):
        return None
    wanted = _METHODS.get(call.func.attr)
    given = len(call.args) + (argument(call, "pattern") is not None)
    return f"Path.{call.func.attr}" if wanted is not None and given == wanted else None
