"""Whether an order matters: what becomes of a value, from the inside out, to where it is sorted, counted or tested."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from repro.doctor import numbers
from repro.doctor.module import Module, last, text

#: What takes things in any order, or puts them into one.
_SETTLING = frozenset(
    "sorted natsorted os_sorted humansorted sort unique len any all sum min max bool set frozenset add update"
    " union intersection difference symmetric_difference issubset issuperset isdisjoint warn debug info warning".split()
)
#: What hands on the order that it is given.
_THROUGH = frozenset(
    "list tuple map filter chain from_iterable iter reversed enumerate zip tqdm track join fromkeys str repr format"
    " deque array asarray".split()
)
#: Of those, what takes the elements of what it is given.
ITERATING = _THROUGH - {"str", "repr", "format", "iter"}
#: Calls as statements of a loop that may come in any order.
_ANY_ORDER = frozenset(
    "unlink remove rmtree rmdir discard add debug info warning warn mkdir makedirs chmod touch".split()
)
_ADDING = frozenset("append extend insert".split())
_CHANGING = _ADDING | frozenset("remove clear add discard update".split())
_HANDING_ON = (
    ast.List | ast.Tuple | ast.Starred | ast.BoolOp | ast.BinOp | ast.Await | ast.JoinedStr | ast.FormattedValue
)
_INDIFFERENT = ast.Compare | ast.Assert | ast.UnaryOp | ast.If | ast.While | ast.Set | ast.Delete
_DEEP = 25


class Settled:
    """Says of a value whose order is arbitrary whether the script settles it, or does not mind."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self._known: dict[ast.AST, bool] = {}
        #: Whom to ask about a value, by what it lies in.
        self._asks: list[tuple[Any, Callable[[Any, Any, int], bool]]] = [
            (ast.Call, self._call),
            (ast.comprehension, self._comprehension),
            (ast.For | ast.AsyncFor, self._for),
            (ast.Return, self._returned),
            (ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr, self._assigned),
            (ast.withitem, self._entered),
            (ast.IfExp, self._choice),
            (_HANDING_ON, self._outwards),
        ]
        #: And which statements of a loop may come in any order.
        self._statements: list[tuple[Any, Callable[[Any, ast.AST, int], bool]]] = [
            (ast.If | ast.For, lambda node, loop, depth: self._loop([*node.body, *node.orelse], loop, depth)),
            (ast.Try, self._try),
            (ast.Expr, lambda node, _loop, depth: self._expression(node.value, depth)),
            (ast.AugAssign, lambda node, _loop, _depth: numbers.is_number(module, node.value)),
            (ast.Assign, self._kept_within),
            (ast.Return, lambda node, _loop, _depth: node.value is None or isinstance(node.value, ast.Constant)),
            (ast.Pass | ast.Continue | ast.Raise | ast.Assert | ast.Delete, lambda *_: True),
        ]

    def is_so(self, node: ast.AST, depth: int = 0) -> bool:
        """Say whether what becomes of a value does not depend on its order."""
        if depth > _DEEP:
            return False
        if node not in self._known:
            self._known[node] = True  # what comes back to where it came from adds nothing
            above = self.module.parents[node]
            ask = next((ask for kinds, ask in self._asks if isinstance(above, kinds)), None)
            self._known[node] = isinstance(above, _INDIFFERENT) if ask is None else ask(node, above, depth)
        return self._known[node]

    def _outwards(self, _node: ast.AST, above: ast.AST, depth: int) -> bool:
        return self.is_so(above, depth + 1)

    def _choice(self, node: ast.AST, above: ast.IfExp, depth: int) -> bool:
        return node is above.test or self.is_so(above, depth + 1)

    def _call(self, node: ast.AST, call: ast.Call, depth: int) -> bool:
        if node is call.func:
            return False
        name = last(self.module, call)
        if name == "next":  # is there one?
            return isinstance(self.module.parents[call], ast.Compare | ast.UnaryOp | ast.If | ast.While | ast.Assert)
        if name in _SETTLING or name.endswith(("Error", "Exception", "Warning")):
            return True
        if name in _THROUGH:
            return self.is_so(call, depth + 1)
        if name in _ADDING and isinstance(call.func, ast.Attribute):
            return self._target(call.func.value, depth)
        return False

    def _comprehension(self, _node: ast.AST, above: ast.comprehension, depth: int) -> bool:
        whole = self.module.parents[above]
        if isinstance(whole, ast.DictComp):
            return False
        return isinstance(whole, ast.SetComp) or self.is_so(whole, depth + 1)

    def _for(self, _node: ast.AST, above: ast.For | ast.AsyncFor, depth: int) -> bool:
        return self._loop([*above.body, *above.orelse], above, depth)

    def _returned(self, _node: ast.AST, above: ast.Return, depth: int) -> bool:
        """Say whether all calls of the function that returns it, in this module, settle it; there must be one."""
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        within = next((item for item in self.module.above(above) if isinstance(item, functions)), None)
        calls = [] if within is None else [c for c in self.module.each(ast.Call) if _calls(c, within.name)]
        return bool(calls) and all(self.is_so(call, depth + 1) for call in calls)

    def _entered(self, _node: ast.AST, above: ast.withitem, depth: int) -> bool:
        return above.optional_vars is None or self._target(above.optional_vars, depth)

    def _assigned(
        self, _node: ast.AST, above: ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr, depth: int
    ) -> bool:
        targets = above.targets if isinstance(above, ast.Assign) else [above.target]
        if all(_takes_the_only_one(target) for target in targets):
            return True
        if isinstance(above, ast.NamedExpr) and not self.is_so(above, depth + 1):
            return False
        return all(self._target(target, depth) for target in targets)

    def _target(self, target: ast.expr, depth: int) -> bool:
        """Say whether a name is sorted somewhere, or never used where its order matters."""
        if not isinstance(target, ast.Name | ast.Attribute):
            return False
        uses = [use for use in self.module.uses(target) if not self._changes(use)]
        if any(self._sorts(use, target) for use in uses):
            return True
        uses = [use for use in uses if not self._is_method(use, _ADDING)]
        return bool(uses) and all(self.is_so(use, depth + 1) for use in uses)

    def _changes(self, use: ast.expr) -> bool:
        return self._is_method(use, _CHANGING)

    def _is_method(self, use: ast.expr, names: frozenset[str]) -> bool:
        above = self.module.parents[use]
        return isinstance(above, ast.Attribute) and above.attr in names

    def _sorts(self, use: ast.expr, target: ast.expr) -> bool:
        """Say whether a use is ``x.sort()``, or the one in ``x = sorted(x)``."""
        if self._is_method(use, frozenset({"sort"})):
            return True
        call = self.module.parents[use]
        if not (isinstance(call, ast.Call) and last(self.module, call) == "sorted"):
            return False
        above = self.module.parents[call]
        return isinstance(above, ast.Assign) and any(text(item) == text(target) for item in above.targets)

    def _loop(self, body: list[ast.stmt], loop: ast.AST, depth: int) -> bool:
        return all(self._statement(node, loop, depth) for node in body)

    def _statement(self, node: ast.stmt, loop: ast.AST, depth: int) -> bool:
        ask = next((ask for kinds, ask in self._statements if isinstance(node, kinds)), None)
        return ask is not None and ask(node, loop, depth)

    def _try(self, node: ast.Try, loop: ast.AST, depth: int) -> bool:
        handled = [item for handler in node.handlers for item in handler.body]
        return self._loop([*node.body, *handled, *node.orelse, *node.finalbody], loop, depth)

    def _kept_within(self, node: ast.Assign, loop: ast.AST, _depth: int) -> bool:
        return all(isinstance(target, ast.Name) and self._is_within(target, loop) for target in node.targets)

    def _expression(self, node: ast.expr, depth: int) -> bool:
        if not isinstance(node, ast.Call):
            return isinstance(node, ast.Constant)
        name = last(self.module, node)
        if name in _ADDING and isinstance(node.func, ast.Attribute):
            return self._target(node.func.value, depth + 1)
        return name in _ANY_ORDER

    def _is_within(self, target: ast.expr, loop: ast.AST) -> bool:
        return all(any(item is loop for item in self.module.above(use)) for use in self.module.uses(target))


def _takes_the_only_one(target: ast.expr) -> bool:
    """Say whether a target is that of ``(one,) = ...``, which fails where there are more."""
    is_one = isinstance(target, ast.Tuple | ast.List) and len(target.elts) == 1
    return is_one and isinstance(target, ast.Tuple | ast.List) and not isinstance(target.elts[0], ast.Starred)


def _calls(call: ast.Call, name: str) -> bool:
    func = call.func
    return (isinstance(func, ast.Name) and func.id == name) or (isinstance(func, ast.Attribute) and func.attr == name)
