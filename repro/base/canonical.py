"""Canonical JSON (RFC 8785) that keeps what plain JSON loses.

RFC 8785 writes ``1.0`` as ``1``, and has no NaN, no integer beyond 2**53 and no half of a surrogate pair (what Python
makes of a file name that is not UTF-8). A learning rate of ``1`` and one of ``1.0`` are different Python values, so
such values are tagged: ``{"$float": "1.0"}``, ``{"$int": "9007199254740993"}``, ``{"$utf8": "<hex>"}``; a mapping with
such a key is ``{"$pairs": [[key, value], ...]}``, and one that looks like a tag is ``{"$map": {...}}``.
Everything that `dumps` writes, `loads` reads back as it was; tuples become lists.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import rfc8785

_SAFE = 2**53 - 1
_NESTED = (dict, list)


def _tag(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return value if _is_unicode(value) else {"$utf8": value.encode("utf-8", "surrogatepass").hex()}
    if isinstance(value, int):
        return value if -_SAFE <= value <= _SAFE else {"$int": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) and not value.is_integer() else {"$float": repr(value)}
    if isinstance(value, dict):
        return _tag_mapping(value)
    if isinstance(value, (list, tuple)):
        return [_tag(item) for item in value]
    msg = f"canonical JSON has no form for {type(value).__name__}: {value!r}"
    raise TypeError(msg)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tag_mapping(value: dict[Any, Any]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            msg = f"canonical JSON wants text as keys, not {key!r}"
            raise TypeError(msg)
    if not all(map(_is_unicode, value)):
        return {"$pairs": [[_tag(key), _tag(value[key])] for key in sorted(value)]}
    tagged = {key: _tag(item) for key, item in value.items()}
    # A mapping that looks like a tag is wrapped, so that the tags stay unambiguous.
    return {"$map": tagged} if len(tagged) == 1 and next(iter(tagged)) in _TAGS else tagged


def _untag(value: Any) -> Any:
    # Most values are scalars: they are not worth a call.
    if isinstance(value, list):
        return [_untag(item) if isinstance(item, _NESTED) else item for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key in _TAGS:
            return _TAGS[key](item)
    return {key: _untag(item) if isinstance(item, _NESTED) else item for key, item in value.items()}


_TAGS: dict[str, Any] = {
    "$int": int,
    "$float": float,
    "$utf8": lambda item: bytes.fromhex(item).decode("utf-8", "surrogatepass"),
    "$map": lambda item: {key: _untag(inner) for key, inner in item.items()},
    "$pairs": lambda item: {_untag(key): _untag(inner) for key, inner in item},
}


def dumps(value: Any) -> bytes:
    """Return the canonical bytes of ``value``: str, int, float, bool, None, lists, and mappings with text keys.

    Raises:
        TypeError: for any other type.
        ValueError: for an integer of more digits than Python reads back (4,300).
    """
    return rfc8785.dumps(_tag(value))


def loads(data: bytes | str) -> Any:
    """Return the value whose canonical bytes are ``data``; the inverse of `dumps`.

    Raises:
        ValueError: when ``data`` is not JSON, or holds a tag that `dumps` does not write.
    """
    mark: Any = '"$' if isinstance(data, str) else b'"$'
    try:
        value = json.loads(data, parse_constant=_refuse)
        return _untag(value) if mark in data or _ESCAPED[type(mark)] in data else value
    except (TypeError, AttributeError, RecursionError) as error:
        msg = f"not canonical JSON: {error}"
        raise ValueError(msg) from error


#: A tag may be written with an escape where somebody else wrote it.
_ESCAPED: dict[type, Any] = {str: "\\u0024", bytes: b"\\u0024"}


def _refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)
