"""Which expressions are sets, and where one is iterated over."""

from __future__ import annotations

import ast

from repro.doctor import numbers
from repro.doctor.module import Module, last
from repro.doctor.settled import ITERATING

_SET_WORDS = frozenset("union intersection difference symmetric_difference copy".split())
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
_DEEP = 25


def is_iterated(module: Module, node: ast.expr) -> bool:
    """Say whether an expression stands where its elements are taken in their order."""
    above = module.parents.get(node)
    if isinstance(above, ast.For | ast.AsyncFor | ast.comprehension):
        return node is above.iter
    if isinstance(above, ast.Call) and node in above.args:
        return last(module, above) in ITERATING
    return isinstance(above, ast.Starred)


def is_set(module: Module, node: ast.expr, depth: int = 0) -> bool:
    """Say whether an expression is a set whose elements may be something else than numbers."""
    if depth > _DEEP:
        return False
    if isinstance(node, ast.Set | ast.SetComp):
        return not numbers.are_numbers(module, node)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _SET_OPERATORS) and is_set(module, node.left, depth + 1)
    if isinstance(node, ast.Call):
        return _makes_set(module, node, depth)
    if isinstance(node, ast.Name | ast.Attribute):
        values = module.values(node)
        sets = [value is not None and is_set(module, value, depth + 1) for value in values]
        return bool(sets) and all(sets) and not _holds_numbers(module, node)
    return False


def _makes_set(module: Module, call: ast.Call, depth: int) -> bool:
    if module.dotted(call.func) in ("set", "frozenset"):
        return not (call.args and numbers.are_numbers(module, call.args[0]))
    is_method = isinstance(call.func, ast.Attribute) and call.func.attr in _SET_WORDS
    return is_method and isinstance(call.func, ast.Attribute) and is_set(module, call.func.value, depth + 1)


def _holds_numbers(module: Module, node: ast.expr) -> bool:
    """Say whether a set that begins empty is seen to be given numbers alone."""
    if any(isinstance(value, ast.Call) and value.args for value in module.values(node)):
        return False
    methods = [module.parents[use] for use in module.uses(node)]
    calls = [module.parents[item] for item in methods if isinstance(item, ast.Attribute) and item.attr == "add"]
    given = [call.args[0] for call in calls if isinstance(call, ast.Call) and call.args]
    return bool(given) and all(numbers.is_number(module, item) for item in given)
