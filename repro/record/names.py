"""What records may name: a record travels, and its writer must not choose where files of ours are read or written.

A name is one part of a path; a place is a path that leads nowhere else: relative and downwards, or absolute and plain.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from repro.base import clock

_SEPARATOR = "\x1f"
_NO_NAME = re.compile(r"[\x00-\x1e/\\\x7f]")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|keyed:[0-9a-f]{16}|git:[0-9a-f]{40}")


def check_names(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name with a separator or a control character, for ``..`` and for an empty one."""
    joined = _SEPARATOR.join(["", *names, ""])
    wrong = (f"{_SEPARATOR}{name}{_SEPARATOR}" in joined for name in ("..", ".", ""))
    if joined != _SEPARATOR and (_NO_NAME.search(joined) or any(wrong)):
        bad = next((name for name in joined[1:-1].split(_SEPARATOR) if not _is_name(name)), joined)
        raise ValueError(f"{what}: {bad!r} is no name")


def _is_name(text: str) -> bool:
    return text not in ("", ".", "..") and _NO_NAME.search(text) is None


def check_run_id(what: str, text: str | None) -> None:
    """Raise ValueError for what is not the id of a run."""
    if text is not None and clock.RUN_ID.fullmatch(text) is None:
        raise ValueError(f"{what}: {text!r} is no id of a run")


def check_digests(what: str, texts: Iterable[str]) -> None:
    """Raise ValueError for what is no digest: files are found by them."""
    for text in texts:
        if _DIGEST.fullmatch(text) is None:
            raise ValueError(f"{what}: {text!r} is no digest")


def check_inside(what: str, paths: Iterable[str]) -> None:
    """Raise ValueError for a path that is not relative, or leads upwards."""
    for path in paths:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"{what}: {path!r} is no path below its folder")


def check_places(what: str, paths: Iterable[str]) -> None:
    """Raise ValueError for a path that is neither below its folder nor absolute and without ``..``."""
    for path in paths:
        if ".." in path.split("/") or "\0" in path:
            raise ValueError(f"{what}: {path!r} leads upwards")


def check_absolute(what: str, paths: Iterable[str]) -> None:
    """Raise ValueError for a path that is not absolute and plain."""
    for path in paths:
        if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path:
            raise ValueError(f"{what}: {path!r} is no absolute path")


def check(value: Any) -> None:
    """Raise ValueError for a value of a record, an outcome or an attachment that names what it must not."""
    _CHECKS[type(value).__name__](value)


def _record(value: Any) -> None:
    check_run_id("run_id", value.run_id)
    check_run_id("replay_of", value.replay_of)
    recipe = value.recipe
    check_digests("code", [recipe.code, *recipe.sources.values()])
    check_digests("data", recipe.data.values())
    check_names("sources", recipe.sources)
    check_names("packages", [text for item in recipe.packages for text in (item.name, item.version)])
    if recipe.cwd is not None:
        check_inside("cwd", [recipe.cwd])
    _project(value.circumstances.get("project") or {})
    _environment(value.circumstances.get("environment") or {})
    head = value.circumstances.get("head") or {}
    check_digests("head", [text for name, text in head.items() if name == "tree"])


def _project(project: Mapping[str, Any]) -> None:
    sources: Mapping[str, str] = project.get("sources", {})
    check_names("project.sources", sources)
    named = [str(project[name]) for name in ("root", "place", "folder", "store") if name in project]
    check_absolute("project", [*named, *map(str, sources.values())])
    check_inside("project.folders", project.get("folders", ()))
    check_inside("project.left_out", project.get("left_out", ()))
    beside = project.get("beside")
    if beside not in (None, "empty"):
        check_digests("project.beside", [str(beside)])


def _environment(environment: Mapping[str, Any]) -> None:
    wheels = environment.get("wheels", {})
    check_names("wheels", [*wheels, *(str(item["file"]) for item in wheels.values())])
    check_digests("wheels", [str(item["digest"]) for item in wheels.values()])
    editables = environment.get("editables", {})
    check_names("editables", editables)
    check_inside("editables", [path for files in editables.values() for path in files])


def _outcome(value: Any) -> None:
    check_run_id("run_id", value.run_id)
    check_inside("files", value.files)
    items = [*value.inputs, *value.outputs, *value.artifacts]
    check_places("files of the run", [item.path for item in items])
    check_digests("files of the run", [item.digest for item in items if item.digest is not None])


def _attachment(value: Any) -> None:
    check_run_id("run_id", value.run_id)
    check_names("kind", [value.kind])


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "Record": _record,
    "Outcome": _outcome,
    "Attachment": _attachment,
}
