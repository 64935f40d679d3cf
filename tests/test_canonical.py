"""Canonical JSON: one form for each value, nothing lost on the way, tags that cannot be mistaken."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repro.base import canonical, digest

#: Text of every kind: the halves of surrogate pairs stand for the bytes of file names that are not UTF-8.
TEXT = st.text(st.characters()) | st.text(st.sampled_from('a\\"$\n\x00é\ud800\udcff\udfff😀'))
KEYS = TEXT | st.sampled_from(["$int", "$float", "$map", "$utf8", "$pairs", "$other"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


def same(a: Any, b: Any) -> bool:
    """Say whether two values are the same to the bit: 1 is not 1.0, 0.0 is not -0.0, NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@given(VALUES)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    """Reading what was written gives the value again, types included."""
    assert same(canonical.loads(canonical.dumps(value)), value)


@given(VALUES)
def test_the_form_is_utf8_json_that_a_rewriting_does_not_change(value: Any) -> None:
    """The bytes are UTF-8 and JSON, without NaN, and canonical: written again they are the same."""
    data = canonical.dumps(value)
    json.loads(data.decode(), parse_constant=lambda text: pytest.fail(f"{text} in {data!r}"))
    assert canonical.dumps(canonical.loads(data)) == data


@given(VALUES, VALUES)
@example(1, 1.0)
@example(0.0, -0.0)
@example({"$int": "3"}, 3)
@example({"$float": "nan"}, math.nan)
@example({"$map": {"$int": "3"}}, {"$int": "3"})
@example("\udcff", {"$utf8": "edb3bf"})
@example({"\udcff": 1}, {"$pairs": [["\udcff", 1]]})
@example("😀", "\ud83d\ude00")
@example(2**53, float(2**53))
def test_different_values_have_different_forms(a: Any, b: Any) -> None:
    """Two values have equal bytes only where they are the same: no tag can be written by hand."""
    assert (canonical.dumps(a) == canonical.dumps(b)) == same(a, b)


@given(st.dictionaries(KEYS, st.integers(), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    """A mapping's bytes do not depend on the order in which its keys were put in."""
    assert canonical.dumps(dict(reversed(value.items()))) == canonical.dumps(value)


@given(st.binary() | st.sampled_from([b'{"$int":[]}', b'{"$float":{}}', b'{"$map":3}', b'{"$pairs":[[]]}', b"NaN"]))
@example(b'{"$utf8":3}')
@example(b'{"$utf8":"zz"}')
@example(b'{"$pairs":[[[],1]]}')
@example(b"[" * 100_000)
@example(b"1" * 5000)
def test_reading_anything_else_is_a_value_error(data: bytes) -> None:
    """Bytes that `dumps` never wrote are read, or refused with a ValueError: a damaged file is never a traceback."""
    try:
        canonical.loads(data)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        ([True, False], b"[true,false]"),
        ({"b": 1, "a": 2}, b'{"a":2,"b":1}'),
        ({"é": 1, "z": 2, "😀": 3, "\ufb33": 4}, '{"z":2,"é":1,"😀":3,"\ufb33":4}'.encode()),
        (0.1, b"0.1"),
        (1e-7, b"1e-7"),
        (1.0, b'{"$float":"1.0"}'),
        (-0.0, b'{"$float":"-0.0"}'),
        (1e22, b'{"$float":"1e+22"}'),
        (math.nan, b'{"$float":"nan"}'),
        (-math.inf, b'{"$float":"-inf"}'),
        (2**53 - 1, b"9007199254740991"),
        (2**53, b'{"$int":"9007199254740992"}'),
        (-(2**64), b'{"$int":"-18446744073709551616"}'),
        ({"$int": "3"}, b'{"$map":{"$int":"3"}}'),
        ({"$int": "3", "a": 1}, b'{"$int":"3","a":1}'),
        ((1, [2]), b"[1,[2]]"),
        ("a\n\u2028", '"a\\n\u2028"'.encode()),
        ("\udcff", b'{"$utf8":"edb3bf"}'),
        ({"\udcff": 1}, b'{"$pairs":[[{"$utf8":"edb3bf"},1]]}'),
    ],
)
def test_the_form_itself(value: Any, data: bytes) -> None:
    """Keys are in the order of UTF-16, as RFC 8785 says; what JSON cannot hold is tagged."""
    assert canonical.dumps(value) == data


@pytest.mark.parametrize("value", [{1: "a"}, {None: "a"}, {1, 2}, b"bytes", object()])
def test_other_types_are_refused(value: Any) -> None:
    """A type without a form is an error, not a guess."""
    with pytest.raises(TypeError, match="canonical JSON"):
        canonical.dumps(value)


def test_a_digest_says_what_it_is_about() -> None:
    """Equal values of two kinds have different digests; the digest of a kind is fixed for ever."""
    assert digest.of_value("recipe/1", {"a": 1}) != digest.of_value("recipe/2", {"a": 1})
    assert digest.of_value("x/1", {"a": 1.0}) == digest.of_bytes(b'repro:x/1\n{"a":{"$float":"1.0"}}')
    assert digest.of_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
