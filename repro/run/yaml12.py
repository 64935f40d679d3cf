"""YAML with the scalars of version 1.2 (``off`` is text, ``1e-4`` a number), lines kept, duplicate keys refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from repro.errors import ConfigError

Place = tuple[str | int, ...]

_BEGINS = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
_ENDS = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
#: Far beyond what people write: an alias in an alias multiplies values, and every level takes room on the stack.
_DEEPEST = 100
_MOST_VALUES = 100_000

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
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest one around it."""
        return next((self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines), 1)


def read(path: Path) -> Document:
    """Return the document of a file.

    Raises:
        ConfigError: when it cannot be read, is no YAML, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "repro run takes an experiment.yaml, or `-- python train.py`"
        raise ConfigError(f"{path}: no such file", hint=hint) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Document:
    """Return the document of a text; ``where`` names it in errors.

    Raises:
        ConfigError: as `read`.
    """
    try:
        _check(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        words = ", ".join(filter(None, [error.context, error.problem]))
        raise ConfigError(f"{where}{line}: not valid YAML: {words}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error
    reader = _Reader(where)
    return Document(None if node is None else reader.value(node, ()), reader.lines)


def _check(text: str, where: str) -> None:
    """Go through the tokens, before anything is made of them: no tags, and no deeper than anybody writes.

    Raises:
        ConfigError: for a tag, or for what is nested too deeply to be read.
        yaml.YAMLError: for what is no YAML.
    """
    depth = 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.TagToken):
            raise ConfigError(f"{where}:{token.start_mark.line + 1}: tags (!!{token.value[1]}) are not read here")
        depth += isinstance(token, _BEGINS) - isinstance(token, _ENDS)
        if depth > _DEEPEST:
            raise ConfigError(f"{where}:{token.start_mark.line + 1}: nested more than {_DEEPEST} levels deep")


def scalar(text: str) -> Any:
    """Return the value of a plain scalar. Raises ValueError for an integer of more digits than Python reads."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Reader:
    """Makes values of nodes, and keeps their lines."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._around: list[yaml.Node] = []
        self._count = 0
        self.lines: dict[Place, int] = {}

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            self._fail(node, place[:1], f"more than {_MOST_VALUES:,} values, aliases written out")
        self.lines.setdefault(place, node.start_mark.line + 1)
        if any(node is outer for outer in self._around):
            self._fail(node, place, "an alias to what it stands in")
        self._around.append(node)
        try:
            return self._value(node, place)
        finally:
            self._around.pop()

    def _value(self, node: yaml.Node, place: Place) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        text = str(node.value)
        if getattr(node, "style", None) is not None:
            return text
        try:
            return scalar(text)
        except ValueError:
            self._fail(node, place, f"a number of {len(text):,} digits")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fail(key, place, "a key that is no text")
            name = str(key.value)
            if name == "<<" and key.style is None:
                self._fail(key, place, "<< is no merge key in YAML 1.2: write the keys out")
            if name in found:
                first = self.lines[(*place, name)]
                self._fail(key, (*place, name), f"the key is there twice (first on line {first})")
            self.lines[(*place, name)] = key.start_mark.line + 1
            found[name] = self.value(item, (*place, name))
        return found

    def _fail(self, node: yaml.Node, place: Place, what: str) -> NoReturn:
        where = ".".join(map(str, place))
        raise ConfigError(f"{self._where}:{node.start_mark.line + 1}: {f'{where}: ' if where else ''}{what}")
