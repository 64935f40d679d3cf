"""YAML with the scalars of version 1.2 (``off`` is text, ``1e-4`` a number), lines kept, duplicate keys refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from repro.errors import ConfigError

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Document(NamedTuple):
    """A YAML file's value, and the line (from 1) of each place in it: ``("params", "lr")``."""

    value: Any
    lines: dict[tuple[str | int, ...], int]


def read(path: Path) -> Document:
    """Return the document of a file.

    Raises:
        ConfigError: when it cannot be read, is no YAML, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file", hint="repro run takes an experiment.yaml, or `-- python train.py`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    lines: dict[tuple[str | int, ...], int] = {}
    return Document(None if node is None else _value(node, (), lines, path), lines)


def scalar(text: str) -> Any:
    """Return the value of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _value(node: yaml.Node, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], path: Path) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, index), lines, path) for index, item in enumerate(node.value)]
    text = str(node.value)
    return scalar(text) if getattr(node, "style", None) is None else text


def _mapping(
    node: yaml.MappingNode, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], path: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in found:
            where = ".".join(map(str, (*place, name)))
            raise ConfigError(f"{path}:{line}: the key {where} is there twice (first on line {lines[(*place, name)]})")
        lines[(*place, name)] = line
        found[name] = _value(item, (*place, name), lines, path)
    return found
