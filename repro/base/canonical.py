"""Canonical JSON (RFC 8785) that keeps what plain JSON loses.

RFC 8785 writes ``1.0`` as ``1`` and has no NaN and no integer beyond 2**53. A learning rate of ``1`` and one of
``1.0`` are different Python values, so such scalars are tagged: ``{"$float": "1.0"}``, ``{"$int": "9007199254740993"}``
Everything that `dumps` writes, `loads` reads back as it was; tuples become lists.
"""

from __future__ import annotations

import json
import math
from typing import Any

import rfc8785

_SAFE = 2**53 - 1


def _tag(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
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


def _tag_mapping(value: dict[Any, Any]) -> dict[str, Any]:
    for key in value:
        if not isinstance(key, str):
            msg = f"canonical JSON wants text as keys, not {key!r}"
            raise TypeError(msg)
    tagged = {key: _tag(item) for key, item in value.items()}
    # A mapping that looks like a tag is wrapped, so that the tags stay unambiguous.
    return {"$map": tagged} if len(tagged) == 1 and next(iter(tagged)) in _TAGS else tagged


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, item),) = value.items()
        if key in _TAGS:
            return _TAGS[key](item)
    return {key: _untag(item) for key, item in value.items()}


_TAGS: dict[str, Any] = {
    "$int": int,
    "$float": float,
    "$map": lambda item: {key: _untag(inner) for key, inner in item.items()},
}


def dumps(value: Any) -> bytes:
    """Return the canonical bytes of ``value``: str, int, float, bool, None, lists, and mappings with text keys.

    Raises:
        TypeError: for any other type.
    """
    return rfc8785.dumps(_tag(value))


def loads(data: bytes | str) -> Any:
    """Return the value whose canonical bytes are ``data``; the inverse of `dumps`.

    Raises:
        ValueError: when ``data`` is not JSON.
    """
    return _untag(json.loads(data))
