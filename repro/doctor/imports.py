"""Which files of a project a program consists of: its script and the modules that it imports from the project."""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from repro.doctor.finding import Finding
from repro.doctor.module import Module, parse


class Project(NamedTuple):
    """A project's files, the folders that are imported from (both relative to its root), and how a file is read."""

    files: Collection[str]
    path: Sequence[str]
    read: Callable[[str], bytes]


def follow(scripts: Sequence[str], project: Project) -> tuple[list[Module], list[Finding]]:
    """Return the modules of a program that begins with ``scripts``, and a finding for each that cannot be parsed."""
    modules: list[Module] = []
    findings: list[Finding] = []
    seen: set[str] = set()
    pending = list(scripts)
    while pending:
        file = pending.pop(0)
        if file in seen:
            continue
        seen.add(file)
        found = parse(project.read(file), file)
        if isinstance(found, Finding):
            findings.append(found)
            continue
        modules.append(found)
        pending += imported(found, project)
    return modules, findings


def imported(module: Module, project: Project) -> list[str]:
    """Return the files of the project that a module imports, in the order of its text."""
    names = [name for node in module.nodes for name in _names(module, node)]
    return list(dict.fromkeys(file for name in names for file in _files(name, module.file, project)))


def find(name: str, project: Project) -> list[str]:
    """Return the files that ``import name`` runs: the packages on the way, and the module or ``__init__``."""
    for folder in project.path:
        found = _below(folder, name.split("."), project)
        if found:
            return found
    return []


def _names(module: Module, node: ast.AST) -> Iterator[str]:
    """Yield what a node may import, as dotted names; relative ones with their dots."""
    if isinstance(node, ast.Import | ast.ImportFrom) and _for_types_alone(module, node):
        return
    if isinstance(node, ast.Import):
        yield from (item.name for item in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        yield base
        joint = "" if base.endswith(".") else "."
        yield from (f"{base}{joint}{item.name}" for item in node.names if item.name != "*")
    elif module.called(node) in ("importlib.import_module", "__import__"):
        given = node.args[0] if isinstance(node, ast.Call) and node.args else None
        if isinstance(given, ast.Constant):
            yield str(given.value)


def _for_types_alone(module: Module, node: ast.AST) -> bool:
    inner = node
    for above in module.above(node):
        test = module.dotted(above.test) if isinstance(above, ast.If) and inner in above.body else None
        if test is not None and test.endswith("TYPE_CHECKING"):
            return True
        inner = above
    return False


def _files(name: str, file: str, project: Project) -> list[str]:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return find(name, project)
    folder = posixpath.dirname(file)
    for _ in range(level - 1):
        folder = posixpath.dirname(folder)
    words = [word for word in name[level:].split(".") if word]
    return _below(folder, words, project) if words else _init(folder, project)


def _below(folder: str, words: list[str], project: Project) -> list[str]:
    """Return the files along a dotted name from a folder on, as far as there are any."""
    found: list[str] = []
    for word in words:
        place = posixpath.join(folder, word)
        found += [f"{place}.py"] if f"{place}.py" in project.files else _init(place, project)
        folder = place
    return found


def _init(folder: str, project: Project) -> list[str]:
    file = posixpath.join(folder, "__init__.py")
    return [file] if file in project.files else []
