"""From a run that is asked for to the files that it begins with, as far as its words tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from repro.capture import interpreter
from repro.doctor import imports
from repro.run.request import Request

#: What a script given by ``python -c`` is called.
INLINE = "-c"


class Program(NamedTuple):
    """The files that a program begins with (relative to the root), the text of ``-c``, and what it imports from."""

    scripts: list[str]
    inline: str | None
    path: list[str]


def of_request(asked: Request, environment: dict[str, str], python_path: Sequence[str], files: set[str]) -> Program:
    """Return the program of a request; without scripts where its words name no Python."""
    words = _Words(asked, files, _others(asked, environment, python_path))
    if asked.entry is not None:
        return words.script(str(asked.root / asked.entry.rpartition(":")[0]))
    command = list(asked.command or [])
    if interpreter.is_python(command[0]):
        return words.python(command[1:])
    return words.program(command)


def _others(asked: Request, environment: dict[str, str], python_path: Sequence[str]) -> list[str]:
    """Return the folders of the project that every script of it may import from, relative to the root."""
    given = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    places = [*given, str(asked.root), str(asked.root / "src"), *python_path]
    absolute = (Path(os.path.normpath(asked.working_folder / place)) for place in places)
    return [_name(place, asked.root) for place in absolute if place.is_relative_to(asked.root)]


def _name(path: Path, root: Path) -> str:
    """Return a path relative to the root (empty for the root itself), absolute outside it."""
    if not path.is_relative_to(root):
        return str(path)
    name = path.relative_to(root).as_posix()
    return "" if name == "." else name


class _Words:
    """Reads the words of a command."""

    def __init__(self, asked: Request, files: set[str], others: list[str]) -> None:
        self.root = asked.root
        self.here = asked.working_folder
        self.files = files
        self.others = others

    def script(self, word: str) -> Program:
        """Return the program of a script; a folder's is its ``__main__.py``."""
        path = Path(os.path.normpath(self.here / word))
        path = path / "__main__.py" if path.is_dir() else path
        return Program([_name(path, self.root)], None, [_name(path.parent, self.root), *self.others])

    def python(self, words: list[str]) -> Program:
        """Return the program that the arguments of a Python name."""
        name = interpreter.script_of(words)
        if name is not None:
            return self.script(name)
        option, value = _option(words)
        if option == "-c":
            return Program([INLINE], value, [_name(self.here, self.root), *self.others])
        return self._module(value) or self._first_script(words)

    def program(self, words: list[str]) -> Program:
        """Return the program of a launcher: torchrun, accelerate, a script that is executable itself."""
        if self._is_script(words[0]):
            return self.script(words[0])
        after = [value for word, value in pairwise(words) if word in ("-m", "--module")]
        found = next((item for item in map(self._module, after) if item is not None), None)
        return found or self._first_script(words[1:])

    def _module(self, name: str) -> Program | None:
        """Return the program of ``python -m name``, if that is a module of the project."""
        path = [_name(self.here, self.root), *self.others]
        project = imports.Project(self.files, path, _nothing)
        scripts = imports.find(name, project)
        scripts += imports.find(f"{name}.__main__", project)
        return Program(list(dict.fromkeys(scripts)), None, path) if scripts else None

    def _first_script(self, words: list[str]) -> Program:
        script = next((word for word in words if word.endswith(".py") and (self.here / word).is_file()), None)
        return Program([], None, []) if script is None else self.script(script)

    def _is_script(self, word: str) -> bool:
        path = self.here / word
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return word.endswith(".py") or (file.read(2) == b"#!" and b"python" in file.readline())


def _option(words: list[str]) -> tuple[str, str]:
    """Return ``-m`` or ``-c`` of a Python's arguments with its value, or empty texts."""
    for index, word in enumerate(words):
        if word[:2] in ("-m", "-c"):
            return word[:2], word[2:] or " ".join(words[index + 1 : index + 2])
    return "", ""


def _nothing(_file: str) -> bytes:
    return b""
