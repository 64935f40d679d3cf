"""The Python that will run: this one, or another that is asked once and remembered."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from repro.base import process
from repro.errors import CaptureError, UsageError

_PYTHON = re.compile(r"python(\d+(\.\d+)?t?)?$")
_ASK = (
    "import sys, json, platform; print(json.dumps([sys.executable, platform.python_implementation(),"
    " platform.python_version(), sys.prefix, [p for p in sys.path if p]]))"
)
#: The file in site-packages that starts the hooks in each interpreter of a run.
HOOK = "repro_hook.pth"
_OPTIONS_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


class Interpreter(NamedTuple):
    """A Python: its program, name and version, prefix, the folders it imports from, and whether the hooks reach it."""

    executable: str
    version: str
    prefix: str
    path: list[str]
    hooked: bool


def own() -> Interpreter:
    """Return the interpreter of this process."""
    version = f"{platform.python_implementation()} {platform.python_version()}"
    path = [entry for entry in sys.path if entry and os.path.isdir(entry)]
    return Interpreter(sys.executable, version, sys.prefix, path, _is_hooked(path))


def _is_hooked(path: Sequence[str]) -> bool:
    """Say whether a Python that imports from ``path`` starts the hooks: no other `repro` may lie before ours there."""
    if not any(os.path.exists(os.path.join(entry, HOOK)) for entry in path):
        return False
    found = (os.path.join(entry, "repro") for entry in path)
    first = next((place for place in found if os.path.isdir(place) or os.path.isfile(f"{place}.py")), None)
    return first is not None and os.path.isfile(os.path.join(first, "worker", "hook.py"))


def is_python(program: str) -> bool:
    """Say whether a command's first word is a Python interpreter, by its name."""
    return _PYTHON.match(os.path.basename(program)) is not None


def locate(program: str, path: str | None, cwd: Path) -> str:
    """Return the file of a program as a shell would find it.

    Raises:
        UsageError: when there is none.
    """
    found = shutil.which(program, path=path) if os.sep not in program else shutil.which(str(cwd / program))
    if found is None:
        hint = (
            "is it spelled right, and on PATH?" if os.sep not in program else "is it there, and executable (chmod +x)?"
        )
        raise UsageError(f"cannot find the program {program!r}", hint=hint)
    return found


def of_program(program: str, environment: Mapping[str, str]) -> Interpreter:
    """Return the interpreter that ``program`` is.

    Raises:
        CaptureError: when it does not answer.
    """
    if _same(program):
        return own()
    try:
        said = process.output([program, "-c", _ASK], env={**environment, "REPRO_JOB": ""})
        answer = json.loads(said.splitlines()[-1])  # a sitecustomize may have said something before
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        raise CaptureError(f"{program} does not run as a Python interpreter: {error}") from error
    executable, name, version, prefix, path = answer
    return Interpreter(executable, f"{name} {version}", prefix, path, _is_hooked(path))


def _same(program: str) -> bool:
    """Say whether a program is the interpreter of this process, in the same environment."""
    here = Path(program)
    return (
        here.parent.resolve() == Path(sys.executable).parent.resolve()
        and here.resolve() == Path(sys.executable).resolve()
    )


def default_program(environment: Mapping[str, str]) -> str | None:
    """Return the Python that a shell script would start, or None."""
    path = environment.get("PATH")
    return shutil.which("python", path=path) or shutil.which("python3", path=path)


def script_of(arguments: Sequence[str]) -> str | None:
    """Return the script in the arguments of a Python, or None for ``-m``, ``-c`` and standard input."""
    rest = iter(arguments)
    for text in rest:
        if text in ("-m", "-c", "-") or text.startswith(("-m", "-c")):
            return None
        if text in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not text.startswith("-"):
            return text
    return None


def skips_site(arguments: Sequence[str]) -> bool:
    """Say whether Python is told not to read site-packages (``-S``), or not the user's (``-s``, ``-I``).

    The hooks may not reach it then, so it must not be started before the seal.
    """
    rest = iter(arguments)
    for text in rest:
        if not text.startswith("-") or text in ("-m", "-c", "-"):
            return False
        if text in _OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not text.startswith("--") and not {"S", "s", "I"}.isdisjoint(text[1:]):
            return True
    return False
