"""Code outside the project: folders that PYTHONPATH or the scripts themselves put on the search path for modules.

What a script adds is read from its source, without running it: `sys.path.append("../common")`, `site.addsitedir`,
`runpy.run_path`, with paths made of constants, ``__file__``, `os.path` and `pathlib`. What is made in other ways is not
known before the run: the modules are inputs of it then.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from repro.capture.walk import CACHES, is_secret_folder

#: What a source has to hold to be looked at, and how much is looked at.
_WORDS = (b"sys.path", b"run_path", b"spec_from_file_location", b"addsitedir", b"SourceFileLoader")
_MOST_FILES = 2_000
_LARGEST = 1_000_000
_DEEP = 30
#: A folder of so many parts is one of the disk's topmost; one with more files than that is no folder of code.
_TOPMOST = 2
_MOST_BELOW = 5_000
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/bin/", "/etc/", "/proc/", "/sys/", "/dev/", "/run/", "/boot/")
#: Where this very package lies: it watches runs, and is none of their code.
_OURS = Path(__file__).resolve().parents[2]
_INSTALLED = ("site-packages", "dist-packages")
#: Calls that take a folder of modules, and calls that take one file of code: the place of the path among the arguments.
_FOLDERS = {"append": 0, "insert": 1, "addsitedir": 0}
_FILES = {"run_path": 0, "spec_from_file_location": 1, "SourceFileLoader": 1}
_SAME = frozenset("abspath realpath normpath resolve absolute Path PurePath fspath str as_posix".split())


class Outside(NamedTuple):
    """The folders to be captured, by a name for each, and those that cannot be: folder and reason."""

    folders: dict[str, Path]
    left: dict[str, str]


def find(
    root: Path,
    cwd: Path,
    store: Path,
    scripts: Iterable[str],
    words: Iterable[str],
    pythonpath: str,
    taken: Mapping[str, Path],
) -> Outside:
    """Return the folders outside ``root`` from which a run in ``cwd`` takes code.

    ``scripts`` are the captured files of the project, relative to it, ``words`` those of the command; ``taken`` are the
    sources that are known already, by name.
    """
    search = _Search(root, cwd, store, taken)
    for entry in pythonpath.split(os.pathsep) if pythonpath else []:
        search.add(os.path.join(cwd, entry))
    for word in words:
        path = os.path.normpath(os.path.join(cwd, word))
        if word.endswith(".py") and os.path.isfile(path):
            search.add(os.path.dirname(path))
    search.scan(root / name for name in scripts if name.endswith(".py"))
    return Outside(search.folders, search.left)


class _Search:
    def __init__(self, root: Path, cwd: Path, store: Path, taken: Mapping[str, Path]) -> None:
        self.root, self.cwd, self.store = root, cwd, store
        self.taken = dict(taken)
        self.folders: dict[str, Path] = {}
        self.left: dict[str, str] = {}

    def scan(self, files: Iterable[Path]) -> None:
        """Look through sources, and through those of the folders that they add."""
        for number, path in enumerate(files):
            if number >= _MOST_FILES:
                return
            for folder in _added(path, self.cwd):
                self.add(folder)

    def add(self, folder: str) -> None:
        """Take a folder, if it is one from which code of the user's comes."""
        path = Path(folder)  # as the script will name it, links and all
        if (
            not path.is_dir()
            or self._is_known(path)
            or self._is_known(path.resolve())
            or _is_installed(path.resolve())
            or not _has_code(path)
        ):
            return
        reason = self._obstacle(path)
        if reason is not None:
            self.left[str(path)] = reason
            return
        self.folders[_free_name(path.name, {*self.folders, *self.taken})] = path
        self.scan(sorted(path.glob("*.py")))

    def _is_known(self, path: Path) -> bool:
        return any(path.is_relative_to(place) for place in (self.root, *self.taken.values(), *self.folders.values()))

    def _obstacle(self, path: Path) -> str | None:
        if self.root.is_relative_to(path):
            return "holds the project"
        if self.store.is_relative_to(path):
            return "holds the store"
        if Path.home().is_relative_to(path):
            return "holds the home folder"
        if len(path.parts) <= _TOPMOST or path == Path(tempfile.gettempdir()):
            return "is for everybody's files"
        if any(map(is_secret_folder, path.parts)):
            return "is hidden"
        return f"holds more than {_MOST_BELOW:,} files" if _is_large(path) else None


def _is_large(path: Path) -> bool:
    count = 0
    for here, folders, names in os.walk(path):
        entered = (name for name in folders if name not in CACHES and name != ".git")
        folders[:] = [name for name in entered if not os.path.exists(f"{here}/{name}/pyvenv.cfg")]
        count += len(names)
        if count > _MOST_BELOW:
            return True
    return False


def _is_installed(path: Path) -> bool:
    text = f"{path}{os.sep}"
    prefixes = {os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix) if prefix != "/usr"}
    return text.startswith((*_SYSTEM, *prefixes)) or not {*_INSTALLED}.isdisjoint(path.parts) or path == _OURS


def _has_code(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return any(entry.name.endswith(".py") or os.path.isfile(f"{entry.path}/__init__.py") for entry in entries)
    except OSError:
        return False


def _free_name(name: str, taken: Container[str]) -> str:
    numbered = (f"{name}-{number}" for number in range(2, sys.maxsize))
    return name if name not in taken else next(item for item in numbered if item not in taken)


def _added(path: Path, cwd: Path) -> Iterator[str]:
    """Yield the folders that a source adds to the search path, or takes files of code from."""
    try:
        text = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        tree = ast.parse(text) if any(word in text for word in _WORDS) else None
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    if tree is None:
        return
    paths = _Paths(str(path), dict(_assignments(tree)))
    for node, is_file in _additions(tree):
        found = paths.of(node)
        if found is not None:
            place = os.path.normpath(os.path.join(cwd, found))
            yield os.path.dirname(place) if is_file else place


def _assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _additions(tree: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Yield the expressions of paths that are added, and whether they are of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _last(node.func)
            if name in _FILES and len(node.args) > _FILES[name]:
                yield node.args[_FILES[name]], True
            elif name in _FOLDERS and len(node.args) > _FOLDERS[name] and _is_path_of_sys(node.func, name):
                yield node.args[_FOLDERS[name]], False
            elif name == "extend" and node.args and _is_path_of_sys(node.func, name):
                yield from ((item, False) for item in _items(node.args[0]))
        elif isinstance(node, ast.AugAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AugAssign) else node.targets
            yield from ((item, False) for item in _items(node.value) if any(map(_is_sys_path, targets)))


def _items(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [*_items(node.left), *_items(node.right)]
    return list(node.elts) if isinstance(node, ast.List | ast.Tuple) else []


def _is_path_of_sys(function: ast.expr, name: str) -> bool:
    return name == "addsitedir" or (isinstance(function, ast.Attribute) and _is_sys_path(function.value))


def _is_sys_path(node: ast.expr) -> bool:
    if isinstance(node, ast.Subscript):  # sys.path[:0] = [...]
        return _is_sys_path(node.value)
    return isinstance(node, ast.Attribute) and node.attr == "path" and _last(node.value) == "sys"


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Paths:
    """Works out the paths that expressions of one source stand for, as far as they are known before the run."""

    def __init__(self, file: str, names: dict[str, ast.expr]) -> None:
        self._file, self._names = file, names
        self._ways: dict[type, Callable[[Any, int], str | None]] = {
            ast.Constant: lambda node, _: node.value if isinstance(node.value, str) else None,
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Call: self._call,
            ast.BinOp: self._joined,
            ast.Subscript: self._subscript,
            ast.JoinedStr: self._formatted,
        }

    def of(self, node: ast.expr, depth: int = 0) -> str | None:
        """Return the path, absolute or relative to the working folder; None where it is not known."""
        way = self._ways.get(type(node))
        return None if way is None or depth > _DEEP else way(node, depth + 1)

    def _name(self, node: ast.Name, depth: int) -> str | None:
        if node.id == "__file__":
            return self._file
        return self.of(self._names[node.id], depth) if node.id in self._names else None

    def _attribute(self, node: ast.Attribute, depth: int) -> str | None:
        if node.attr == "pardir":
            return ".."
        return self._parent(node.value, 1, depth) if node.attr == "parent" else None

    def _subscript(self, node: ast.Subscript, depth: int) -> str | None:
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(node.value, ast.Attribute) and node.value.attr == "parents" and isinstance(index, int):
            return self._parent(node.value.value, index + 1, depth)
        return None

    def _parent(self, node: ast.expr, levels: int, depth: int) -> str | None:
        path = self.of(node, depth)
        for _ in range(levels):
            path = None if path is None else os.path.dirname(path)
        return path

    def _call(self, node: ast.Call, depth: int) -> str | None:
        name = _last(node.func)
        if name in ("getcwd", "cwd"):
            return "."
        method = isinstance(node.func, ast.Attribute) and not node.args
        arguments = [node.func.value] if method and isinstance(node.func, ast.Attribute) else node.args
        if name == "joinpath" and isinstance(node.func, ast.Attribute):
            arguments = [node.func.value, *node.args]
        parts = [self.of(item, depth) for item in arguments]
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        if name == "dirname":
            return os.path.dirname(known[0])
        if name == "expanduser":
            return os.path.expanduser(known[0])
        if name in ("join", "joinpath") or (name in ("Path", "PurePath") and len(known) > 1):
            return os.path.join(*known)
        return os.path.normpath(known[0]) if name in _SAME else None

    def _joined(self, node: ast.BinOp, depth: int) -> str | None:
        left, right = self.of(node.left, depth), self.of(node.right, depth)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            return os.path.join(left, right)
        return left + right if isinstance(node.op, ast.Add) else None

    def _formatted(self, node: ast.JoinedStr, depth: int) -> str | None:
        parts = [self.of(item.value if isinstance(item, ast.FormattedValue) else item, depth) for item in node.values]
        return None if None in parts else "".join(part for part in parts if part is not None)
