"""One parsed file: where each node lies, what its names are bound to, and what they mean from outside."""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeVar

from repro.doctor.finding import Finding, found

#: Names under which torch has the same thing again.
_SAME = (
    ("torch.utils.data.dataloader.", "torch.utils.data."),
    ("torch.utils.data.dataset.", "torch.utils.data."),
    ("torch.utils.data.sampler.", "torch.utils.data."),
    ("torchdata.stateful_dataloader.StatefulDataLoader", "torch.utils.data.DataLoader"),
    ("numpy.random.mtrand.", "numpy.random."),
    ("torch.random.", "torch."),
)
_DEEP = 8  # so many names are followed from one to the next
#: Nodes of which ast has one object for all places.
_SHARED = (ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop)
_NAMING = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Node = TypeVar("_Node", bound=ast.AST)


class Scope:
    """A scope and its names: imported ones, and the values that the others are given (None: not one expression)."""

    def __init__(self, parent: Scope | None, *, is_class: bool = False) -> None:
        self.parent = parent
        self.is_class = is_class
        self.imports: dict[str, str] = {}
        self.values: dict[str, list[ast.expr | None]] = {}
        self.elsewhere: dict[str, Scope] = {}

    def bind(self, name: str, value: ast.expr | None) -> None:
        """Add one place where a name is given a value."""
        scope = self.elsewhere.get(name, self)
        scope.values.setdefault(name, []).append(value)

    def find(self, name: str) -> Scope | None:
        """Return the scope that a name read here belongs to, or None for a builtin."""
        scope: Scope | None = self.elsewhere.get(name, self)
        while scope is not None:
            if name in scope.imports or name in scope.values:
                return scope
            scope = scope.parent
            while scope is not None and scope.is_class:
                scope = scope.parent
        return None


class Module:
    """A parsed module."""

    def __init__(self, tree: ast.Module, file: str) -> None:
        self.tree = tree
        self.file = file
        self.parents: dict[ast.AST, ast.AST] = {}
        self.scopes: dict[ast.AST, Scope] = {}
        self.nodes: list[ast.AST] = []
        self.top = Scope(None)
        self.stars: list[str] = []
        self.attributes: dict[str, list[ast.expr]] = {}
        self.reads: dict[str, list[ast.expr]] = {}
        _Binder(self).visit_all(tree, self.top)

    def each(self, kind: type[_Node]) -> Iterator[_Node]:
        """Yield the nodes of a kind, in the order of the text."""
        return (node for node in self.nodes if isinstance(node, kind))

    def dotted(self, node: ast.AST, depth: int = 0) -> str | None:
        """Return what an expression names, as ``numpy.random.rand``; a builtin as itself; None for what is local."""
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value, depth)
            return None if base is None else _same(f"{base}.{node.attr}")
        if not isinstance(node, ast.Name) or depth > _DEEP:
            return None
        scope = self.scopes[node].find(node.id)
        if scope is None:
            return node.id if hasattr(builtins, node.id) or not self.stars else f"{self.stars[-1]}.{node.id}"
        if node.id in scope.imports:
            return _same(scope.imports[node.id])
        value = self.value(node)
        return None if value is node else self.dotted(value, depth + 1)

    def called(self, node: ast.AST) -> str | None:
        """Return what a call calls, or None for what is no call of something imported."""
        return self.dotted(node.func) if isinstance(node, ast.Call) else None

    def values(self, node: ast.AST) -> list[ast.expr | None]:
        """Return all that a name (in its scope) or an attribute (in the module) is given; nothing where unknown."""
        if isinstance(node, ast.Name):
            scope = self.scopes[node].find(node.id)
            return [] if scope is None or node.id in scope.imports else scope.values[node.id]
        return list(self.attributes.get(text(node), [])) if isinstance(node, ast.Attribute) else []

    def value(self, node: ast.expr) -> ast.expr:
        """Return the one expression that a name or an attribute is given, or the node itself."""
        values = self.values(node)
        return values[0] if len(values) == 1 and values[0] is not None else node

    def uses(self, target: ast.expr) -> list[ast.expr]:
        """Return the places that read a name (of the same scope) or an attribute (of the same text)."""
        reads = self.reads.get(text(target), [])
        if isinstance(target, ast.Name):
            own = self.scopes[target].find(target.id)
            return [node for node in reads if self.scopes[node].find(target.id) is own]
        return reads

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield what a node lies in, from the inside out."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, name: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Return the functions and methods of a name."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        return [node for node in self.nodes if isinstance(node, kinds) and node.name == name]


def parse(source: bytes | str, file: str) -> Module | Finding:
    """Return a module, or the finding that its text is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Module(ast.parse(source), file)
    except SyntaxError as error:
        return found("unparsable", file, error.lineno or None, f"Python cannot parse it: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return found("unparsable", file, None, f"Python cannot parse it: {error}")


def last(module: Module, call: ast.Call) -> str:
    """Return the last word of what a call calls: of a method its name; aliases of functions are seen through."""
    name = module.dotted(call.func)
    if name is None and isinstance(call.func, ast.Attribute):
        return call.func.attr
    return (name or (call.func.id if isinstance(call.func, ast.Name) else "")).rpartition(".")[2]


def argument(call: ast.Call, name: str, place: int | None = None) -> ast.expr | None:
    """Return an argument by name or place; None where it is not given, or not visible behind a star."""
    by_name = next((item.value for item in call.keywords if item.arg == name), None)
    if by_name is not None or place is None or len(call.args) <= place:
        return by_name
    before = call.args[: place + 1]
    return None if any(isinstance(item, ast.Starred) for item in before) else before[-1]


def text(node: ast.expr) -> str:
    """Return an expression as it is written."""
    return node.id if isinstance(node, ast.Name) else ast.unparse(node)


def is_nothing(node: ast.AST | None) -> bool:
    """Say whether an argument is missing or None."""
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _same(name: str) -> str:
    for start, other in _SAME:
        if name.startswith(start):
            return other + name[len(start) :]
    return name


class _Binder:
    """Walks a tree once and notes for each node its parent, its scope, and what it binds."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def visit_all(self, tree: ast.AST, top: Scope) -> None:
        pending: list[tuple[ast.AST, Scope]] = [(tree, top)]
        while pending:
            node, scope = pending.pop()
            if isinstance(node, _SHARED):
                continue
            self.module.nodes.append(node)
            self.module.scopes[node] = scope
            self._bind(node, scope)
            inner = list(self._children(node, scope))
            for child, _ in inner:
                self.module.parents[child] = node
            pending.extend(reversed(inner))

    def _children(self, node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        """Yield what lies directly in a node, with its scope: what is evaluated outside stays outside."""
        if isinstance(node, Function):
            own = self._parameters(node.args, scope)
            body = [node.body] if isinstance(node, ast.Lambda) else node.body
            yield from _each(set(ast.iter_child_nodes(node)) - set(body), node, scope)
            yield from ((child, own) for child in body)
        elif isinstance(node, ast.ClassDef):
            own = Scope(scope, is_class=True)
            yield from _each(set(ast.iter_child_nodes(node)) - set(node.body), node, scope)
            yield from ((child, own) for child in node.body)
        elif isinstance(node, Comprehension):
            own = Scope(scope)
            yield from ((child, own) for child in node.generators)
            others = set(ast.iter_child_nodes(node)) - set(node.generators)
            yield from _each(others, node, own)
        elif isinstance(node, ast.comprehension):
            # The first iterable is evaluated outside; the others are read as if they were.
            yield from (
                (child, scope.parent if child is node.iter and scope.parent else scope) for child in _kids(node)
            )
        else:
            yield from ((child, scope) for child in ast.iter_child_nodes(node))

    @staticmethod
    def _parameters(arguments: ast.arguments, scope: Scope) -> Scope:
        own = Scope(scope)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        for item in every:
            if item is not None:
                own.bind(item.arg, None)
        by_place = [*arguments.posonlyargs, *arguments.args]
        defaults = [*zip(reversed(by_place), reversed(arguments.defaults), strict=False)]
        for item, value in [*defaults, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
            if value is not None:
                own.bind(item.arg, value)
        return own

    def _bind(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, scope)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer = self.module.top if isinstance(node, ast.Global) else scope.parent or scope
            scope.elsewhere.update((name, outer) for name in node.names)
        elif isinstance(node, _NAMING):
            if node.name is not None:
                scope.bind(node.name, None)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            self.module.reads.setdefault(text(node), []).append(node)
        else:
            for target, value in _given(node):
                self._assign(target, value, scope)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for item in node.names:
            if isinstance(node, ast.Import):
                top = item.name.partition(".")[0]
                scope.imports[item.asname or top] = item.name if item.asname else top
            elif item.name == "*":
                self.module.stars.append("." * node.level + (node.module or ""))
            else:
                scope.imports[item.asname or item.name] = f"{'.' * node.level}{node.module or ''}.{item.name}"

    def _assign(self, target: ast.expr, value: ast.expr | None, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            scope.bind(target.id, value)
        elif isinstance(target, ast.Attribute) and value is not None:
            self.module.attributes.setdefault(text(target), []).append(value)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, None, scope)
        elif isinstance(target, ast.Tuple | ast.List):
            values: Iterable[ast.expr | None] = [None] * len(target.elts)
            if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
                values = value.elts
            for item, one in zip(target.elts, values, strict=True):
                self._assign(item, one, scope)


def _given(node: ast.AST) -> list[tuple[ast.expr, ast.expr | None]]:
    """Return the targets that a node gives a value, each with it; None where the value is no one expression."""
    if isinstance(node, ast.Assign):
        return [(target, node.value) for target in node.targets]
    if isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        return [(node.target, node.value)]
    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        return [(node.target, None)]
    if isinstance(node, ast.withitem) and node.optional_vars is not None:
        return [(node.optional_vars, node.context_expr)]
    return []


def _each(wanted: set[ast.AST], node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
    """Yield some of a node's children in their order."""
    return ((child, scope) for child in _kids(node) if child in wanted)


def _kids(node: ast.AST) -> list[ast.AST]:
    return list(ast.iter_child_nodes(node))
