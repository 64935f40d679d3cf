"""The experiment file: read strictly, so that a typing error is an error and names its line."""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from repro.errors import ConfigError
from repro.record.values import MetricSpec, Profile
from repro.run import yaml12

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_AT = re.compile(r" - at `(?:key in )?\$(.*)`$")


class ExperimentFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an ``experiment.yaml`` may hold."""

    name: str
    entry: str | None = None
    command: str | None = None
    params: dict[str, bool | int | float | str | list[Any] | None] = {}
    metrics: dict[str, MetricSpec] = {}
    data: dict[str, str] = {}
    determinism: Profile = "strict"
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment file that was read and found right, with its place."""

    path: Path
    file: ExperimentFile
    params: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of the file, where the experiment runs."""
        return self.path.parent


def schema() -> dict[str, Any]:
    """Return the JSON Schema of an experiment file, for editors."""
    found = msgspec.json.schema(ExperimentFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "repro experiment", **found}


def load(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply ``--set NAME=VALUE`` changes to its parameters.

    Raises:
        ConfigError: with the line, what was expected, and the nearest key.
    """
    document = yaml12.read(path)
    file = _convert(document, path)
    if (file.entry is None) == (file.command is None):
        raise ConfigError(f"{path}: one of `entry` and `command` is expected", hint="entry: train.py:train")
    if file.entry is not None:
        _check_entry(file.entry, path, document.lines.get(("entry",), 1))
    params = dict(sorted(file.params.items()))  # the order in the file is in no recipe, so it must have no effect
    for change in changes:
        name, value = _change(change, params)
        params[name] = value
    return Experiment(path=path.resolve(), file=file, params=params)


def _convert(document: yaml12.Document, path: Path) -> ExperimentFile:
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}: a mapping is expected", hint="name: ..., entry: train.py:train; see `repro schema`")
    try:
        return msgspec.convert(document.value, ExperimentFile)
    except msgspec.ValidationError as error:
        raise _explain(str(error), document, path) from None


def _explain(text: str, document: yaml12.Document, path: Path) -> ConfigError:
    at = _AT.search(text)
    place = _place(at[1] if at else "", document.value)
    message = text[: at.start()] if at else text
    unknown = _UNKNOWN.match(message)
    hint = None
    if unknown:
        place = (*place, unknown[1])
        message = f"unknown key {unknown[1]!r}"
        hint = nearest(unknown[1], _fields(place[:-1]))
    else:
        message = message[0].lower() + message[1:].replace("`", "")
    where = ".".join(map(str, place))
    line = next((document.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in document.lines), 1)
    return ConfigError(f"{path}:{line}: {where}: {message}" if where else f"{path}:{line}: {message}", hint=hint)


def _place(text: str, value: Any) -> tuple[str | int, ...]:
    """Return msgspec's path as keys; its ``[...]`` stands for some key of a mapping: the one that fits is unknown."""
    found: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", text):
        if name:
            found.append(name)
        elif index.isdigit():
            found.append(int(index))
        else:
            key = _culprit(value, tuple(found))
            if key is None:
                break
            found.append(key)
    return tuple(found)


def _culprit(value: Any, place: tuple[str | int, ...]) -> str | None:
    """Return the key of the mapping at ``place`` whose value is the one that does not fit."""
    for step in place:
        value = value[step]
    kinds = {"metrics": MetricSpec, "data": str}
    kind = kinds.get(str(place[0])) if place else None
    for key, item in value.items():
        try:
            msgspec.convert(item, kind or ExperimentFile.__annotations__.get("params", Any))
        except msgspec.ValidationError:
            return str(key)
    return None


def _fields(place: tuple[str | int, ...]) -> Iterable[str]:
    if not place:
        return ExperimentFile.__struct_fields__
    if place[0] == "metrics":
        return ("abs", "rel") if place[-1] == "tolerance" else MetricSpec.__struct_fields__
    return ()


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest of the known keys, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    every = f"expected: {', '.join(known)}" if known else "none is expected here"
    return f"did you mean {close[0]!r}? {every}" if close else every


def _check_entry(entry: str, path: Path, line: int) -> None:
    file, colon, name = entry.rpartition(":")
    if not colon or not name.isidentifier():
        raise ConfigError(f"{path}:{line}: entry: {entry!r} is not FILE:FUNCTION", hint="entry: train.py:train")
    script = path.parent / file
    if not script.is_file():
        here = [item.name for item in path.parent.glob("*.py")]
        raise ConfigError(f"{path}:{line}: entry: there is no file {script}", hint=nearest(file, here))
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError):
        return  # Python itself says it best when the run starts
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assigned = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    names |= {target.id for target in assigned if isinstance(target, ast.Name)}
    if name not in names and "*" not in names:
        raise ConfigError(f"{path}:{line}: entry: {file} has no function {name!r}", hint=nearest(name, sorted(names)))


def _change(text: str, params: dict[str, Any]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: NAME=VALUE is expected", hint="--set lr=0.05")
    name = name.removeprefix("params.")
    if name not in params:
        raise ConfigError(f"--set {text}: params.{name}: no such parameter", hint=nearest(name, params))
    return name, _fit(text, name, _parse(value), params[name])


def _parse(text: str) -> Any:
    import yaml

    if not text.startswith(("[", '"', "'")):
        return yaml12.scalar(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _fit(text: str, name: str, value: Any, old: Any) -> Any:
    """Return a value of the parameter's own type."""
    if old is None or value is None:
        return value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, str) and not isinstance(value, list):
        return text.partition("=")[2] if not isinstance(value, str) else value
    if type(value) is not type(old):
        kinds = f"{type(old).__name__} is expected, as in the file ({old!r}), not {type(value).__name__}"
        raise ConfigError(f"--set {text}: params.{name}: {kinds}")
    return value


def command_of(experiment: Experiment, seed: int) -> list[str]:
    """Return the words of an experiment's command with ``{name}`` replaced by parameters, and ``{seed}``.

    Raises:
        ConfigError: when a name is no parameter.
    """
    names = {**experiment.params, "seed": seed}
    try:
        words = shlex.split(experiment.file.command or "")
        return [re.sub(r"\{([A-Za-z_]\w*)\}", lambda found: str(names[found[1]]), word) for word in words]
    except KeyError as error:
        name = str(error.args[0])
        raise ConfigError(
            f"{experiment.path}: command: {{{name}}} is no parameter", hint=nearest(name, names)
        ) from error
    except ValueError as error:
        raise ConfigError(f"{experiment.path}: command: {error}") from error
