"""The experiment file: read strictly, so that a typing error is an error and names its line."""

from __future__ import annotations

import ast
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from repro.capture.variables import is_secret_name
from repro.errors import ConfigError
from repro.record.values import Direction, MetricSpec, Profile, Tolerance
from repro.run import yaml12

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_KIND = re.compile(r"Expected `(.*?)`( .*?)?(?:, got `(.*)`)?")
_AT = re.compile(r" - at `(?:key in )?\$(.*)`$")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
#: What msgspec calls a kind of value, and what it is called here.
_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}

_EITHER = (("entry", "command"), ("command", "entry"))

Text = Annotated[str, msgspec.Meta(min_length=1)]
Parameter = bool | int | float | str | list[Any] | None


class ExperimentFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an ``experiment.yaml`` may hold."""

    name: Text
    entry: Text | None = None
    command: Text | None = None
    params: dict[str, Parameter] = {}
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
    one = [{"required": [name], "not": {"required": [other]}} for name, other in _EITHER]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "repro experiment",
        **found,
        "oneOf": one,
    }


def load(path: Path, changes: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply ``--set NAME=VALUE`` changes to its parameters.

    Raises:
        ConfigError: with the line, what was expected, and the nearest key.
    """
    document = yaml12.read(path)
    file = _convert(document, path)
    _check(file, document, path)
    params = dict(sorted(file.params.items()))  # the order in the file is in no recipe, so it must have no effect
    for change in changes:
        name, value = change_of(change, params)
        params[name] = value
    for name, value in params.items():
        if isinstance(value, str) and value and is_secret_name(name):
            hint = "let the code read it from an environment variable: of those only a keyed hash is kept"
            raise ConfigError(
                f"{path}: params.{name}: a secret must not be a parameter, which every record keeps", hint=hint
            )
    return Experiment(path=path.resolve(), file=file, params=params)


def _check(file: ExperimentFile, document: yaml12.Document, path: Path) -> None:
    """Check what the types of the keys do not say."""
    if file.entry is not None and file.command is not None:
        raise ConfigError(f"{path}:{document.line(('command',))}: `entry` and `command`: only one is expected")
    if file.entry is not None:
        _check_entry(file.entry, path, document.line(("entry",)))
    elif file.command is not None:
        _check_command(file.command, file.params, f"{path}:{document.line(('command',))}")
    else:
        hint = "entry: train.py:train, or command: python train.py --lr {lr}"
        raise ConfigError(f"{path}: one of `entry` and `command` is expected", hint=hint)
    for name, value in file.params.items():
        place = _mapping_in(value, ("params", name))
        if place is not None:
            where = ".".join(map(str, place))
            raise ConfigError(f"{path}:{document.line(place)}: {where}: a list in a parameter holds no mappings")


def _mapping_in(value: Any, place: yaml12.Place) -> yaml12.Place | None:
    """Return the place of a mapping within the lists of a parameter: there is no order in it that a record keeps."""
    if isinstance(value, dict):
        return place
    inner = (_mapping_in(item, (*place, index)) for index, item in enumerate(value if isinstance(value, list) else []))
    return next((found for found in inner if found is not None), None)


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
    hint = None
    if unknown := _UNKNOWN.match(message):
        place = (*place, unknown[1])
        message, hint = f"unknown key {unknown[1]!r}", nearest(unknown[1], _fields(place[:-1]))
    elif message.startswith("Invalid enum value"):
        value, known = _at(document.value, place), _CHOICES[str(place[-1])]
        message, hint = f"{value!r} is not known", nearest(str(value), known)
    else:
        message = _words(message)
    where = ".".join(map(str, place))
    return ConfigError(f"{path}:{document.line(place)}: {where}{': ' if where else ''}{message}", hint=hint)


def _words(message: str) -> str:
    """Return what msgspec found wrong in words of YAML."""
    if missing := _MISSING.match(message):
        return f"the key {missing[1]!r} is missing"
    found = _KIND.fullmatch(message)
    if found is None:
        return message
    wanted, limit, got = _kinds(found[1]), found[2] or "", found[3]
    if limit.startswith(" of length"):
        return f"{wanted} that is not empty is expected"
    return f"{wanted}{limit} is expected" + ("" if got in (None, "float") else f", not {_kinds(got)}")


def _kinds(text: str) -> str:
    *first, last = [_KINDS.get(kind, kind) for kind in text.split(" | ") if kind != "null" or text == "null"]
    return f"{', '.join(first)} or {last}" if first else last


def _at(value: Any, place: yaml12.Place) -> Any:
    for step in place:
        value = value[step]
    return value


def _place(text: str, value: Any) -> yaml12.Place:
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


def _culprit(value: Any, place: yaml12.Place) -> str | None:
    """Return the key of the mapping at ``place`` whose value is the one that does not fit."""
    kind: Any = {"metrics": MetricSpec, "data": str, "params": Parameter}[str(place[0])]
    for key, item in _at(value, place).items():
        try:
            msgspec.convert(item, kind)
        except msgspec.ValidationError:
            return str(key)
    return None


def _fields(place: yaml12.Place) -> Iterable[str]:
    if not place:
        return ExperimentFile.__struct_fields__
    if place[0] == "metrics":
        return Tolerance.__struct_fields__ if place[2:] == ("tolerance",) else MetricSpec.__struct_fields__
    return ()


_CHOICES = {"determinism": get_args(Profile), "direction": get_args(Direction), "compare": ("always", "never")}


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
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names = functions | {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assigned = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    names |= {target.id for target in assigned if isinstance(target, ast.Name)}
    if name not in names and "*" not in names:
        raise ConfigError(
            f"{path}:{line}: entry: {file} has no function {name!r}", hint=nearest(name, sorted(functions))
        )


def change_of(text: str, params: dict[str, Any], option: str = "--set") -> tuple[str, Any]:
    """Return name and value of one ``NAME=VALUE``; the value is of the parameter's own type. Raises ConfigError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} {text}: NAME=VALUE is expected", hint=f"{option} lr=0.05")
    name = name.removeprefix("params.")
    if name not in params:
        raise ConfigError(f"{option} {text}: params.{name}: no such parameter", hint=nearest(name, params))
    try:
        return name, _fit(value, _parse(value), params[name])
    except ConfigError as error:
        hint = None if value else f"{option} {name}=null"
        raise ConfigError(f"{option} {text}: params.{name}: {error}", hint=hint) from None


def _parse(text: str) -> Any:
    """Return the value that a text after ``--set NAME=`` stands for: as in the file."""
    try:
        return yaml12.parse(text, "--set").value if text.startswith(("[", '"', "'")) else yaml12.scalar(text)
    except (ConfigError, ValueError):
        return text


def _fit(given: str, value: Any, old: Any) -> Any:
    """Return a value of the parameter's own type."""
    if isinstance(old, str) and not isinstance(value, (str, list)) and given not in ("null", "~"):
        return given
    if given == "":
        raise ConfigError("a value is expected after =")
    if _mapping_in(value, ()) is not None:
        raise ConfigError("a list in a parameter holds no mappings")
    if old is None or value is None:
        return value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(old):
        wanted = _KINDS[_NAMES.get(type(old), "str")]
        raise ConfigError(f"{wanted} is expected, as in the file ({old!r})")
    return value


_NAMES = {bool: "bool", int: "int", float: "float", list: "array"}


def _check_command(command: str, params: Mapping[str, Any], where: str) -> None:
    try:
        shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{where}: command: {str(error).lower()}: {command}") from error
    if "seed" in params:
        hint = "`seed: N` beside params sets the master seed; {seed} in the command is drawn from it"
        raise ConfigError(f"{where}: command: a parameter named seed would hide {{seed}}", hint=hint)
    known = (*params, "seed")
    for name in _PLACEHOLDER.findall(command):
        if name not in known:
            raise ConfigError(f"{where}: command: {{{name}}} is no parameter", hint=nearest(name, known))


def command_of(experiment: Experiment, seed: int) -> list[str]:
    """Return the words of an experiment's command with ``{name}`` replaced by parameters, and ``{seed}``."""
    return words_of(experiment.file.command or "", {**experiment.params, "seed": seed})


def words_of(command: str, values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with each ``{name}`` replaced by its value."""
    return [_PLACEHOLDER.sub(lambda found: str(values[found[1]]), word) for word in shlex.split(command)]
