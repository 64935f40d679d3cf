"""What is seen in the text to be a number: such elements have a fixed order in a set."""

from __future__ import annotations

import ast

from repro.doctor.module import Comprehension, Module, last, text

_NUMERIC_CALLS = frozenset("int float len ord round abs range bool item tolist size numel".split())
_ARITHMETIC = (ast.Sub, ast.FloorDiv, ast.Pow, ast.LShift, ast.RShift)
_DEEP = 25


def are_numbers(module: Module, node: ast.expr, depth: int = 0) -> bool:
    """Say whether an iterable is seen to hold numbers."""
    node = module.value(node)
    if depth > _DEEP:
        return False
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return all(is_number(module, item) for item in node.elts)
    if isinstance(node, Comprehension) and not isinstance(node, ast.DictComp):
        return is_number(module, node.elt) or any(
            isinstance(part.target, ast.Name)
            and text(part.target) == text(node.elt)
            and are_numbers(module, part.iter, depth + 1)
            for part in node.generators
        )
    if not isinstance(node, ast.Call):
        return False
    name = last(module, node)
    if name == "map":
        return bool(node.args) and module.dotted(node.args[0]) in ("int", "float", "len", "ord")
    inner = node.args[0] if node.args and name in ("list", "sorted") else None
    return name in ("range", "tolist") or (inner is not None and are_numbers(module, inner, depth + 1))


def is_number(module: Module, node: ast.expr, depth: int = 0) -> bool:
    """Say whether an expression is seen to be a number, or numbers."""
    node = module.value(node)
    if depth > _DEEP:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Tuple):
        return all(is_number(module, item, depth + 1) for item in node.elts)
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _ARITHMETIC) or _has_a_number(node)
    if isinstance(node, ast.Attribute):
        return node.attr in ("st_size", "st_mtime", "shape")
    return isinstance(node, ast.UnaryOp) or (isinstance(node, ast.Call) and last(module, node) in _NUMERIC_CALLS)


def _has_a_number(node: ast.BinOp) -> bool:
    """Say whether one side is a literal number, and the whole no text made with it (``"a" * 3``, ``"%d" % 3``)."""
    is_literal = any(
        isinstance(side, ast.Constant) and isinstance(side.value, int | float) for side in (node.left, node.right)
    )
    is_text = isinstance(node.left, ast.JoinedStr) or (
        isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
    )
    return is_literal and not is_text and not isinstance(node.op, ast.Mult)
