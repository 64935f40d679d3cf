"""Generators that take the operating system's entropy, and seeds that change from run to run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from repro.doctor.finding import Finding, found
from repro.doctor.module import Module, argument, is_nothing, last, text

_BITS = frozenset("PCG64 PCG64DXSM MT19937 Philox SFC64".split())
#: Without a seed these take the system's entropy; by what they are called with instead of a seed.
_UNSEEDED = frozenset(
    [
        "random.Random",
        "random.seed",
        *(f"numpy.random.{name}" for name in ("default_rng", "RandomState", "seed", "SeedSequence", *_BITS)),
    ]
)
_NEVER_SEEDED = frozenset("random.SystemRandom torch.seed torch.cuda.seed torch.cuda.seed_all".split())
#: Methods that seed an object, or give it a state, later.
_LATER = frozenset("seed setstate set_state".split())
#: Seeding calls by the last word of their name, beside every function with the word "seed" in it.
_SEEDING = _BITS | frozenset(
    "manual_seed manual_seed_all seed default_rng Random RandomState SeedSequence seed_everything set_seed"
    " PRNGKey".split()
)
_WORDS = re.compile(r"(?:^|_)(?:seed|seeds)(?:_|$)")
_KEYWORDS = ("seed", "random_state")
_CLOCKS = frozenset(
    "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today os.getpid os.getppid"
    " os.urandom os.times uuid.uuid1 uuid.uuid4 uuid.getnode id".split()
)
_MOST = 2000  # expressions behind one seed


def look(module: Module) -> Iterator[Finding]:
    """Yield generators without a seed and seeds that change."""
    for call in module.each(ast.Call):
        name = module.dotted(call.func)
        if _is_unseeded(module, call, name):
            what = f"{text(call.func)}() takes the operating system's entropy"
            yield found("unseeded-generator", module.file, call.lineno, what)
        source = next((item for item in map(_Source(module).of, _seeds(module, call)) if item is not None), None)
        if source is not None:
            what = f"{text(call.func)} gets a seed from {source}, which is another one each time"
            yield found("changing-seed", module.file, call.lineno, what)


def _is_unseeded(module: Module, call: ast.Call, name: str | None) -> bool:
    if name in _NEVER_SEEDED:
        return True
    if name in _UNSEEDED:
        return _has_no_seed(call) and not _seeded_later(module, call)
    func = call.func
    is_method = isinstance(func, ast.Attribute) and func.attr == "seed" and not call.args
    return (
        is_method and isinstance(func, ast.Attribute) and module.called(module.value(func.value)) == "torch.Generator"
    )


def _has_no_seed(call: ast.Call) -> bool:
    if call.args:
        return len(call.args) == 1 and is_nothing(call.args[0])
    return all(item.arg in ("seed", "x", "a", "entropy") and is_nothing(item.value) for item in call.keywords)


def _seeded_later(module: Module, call: ast.Call) -> bool:
    """Say whether what is made here is given a seed or a state later in the module."""
    above = module.parents[call]
    targets = (
        above.targets if isinstance(above, ast.Assign) else [above.target] if isinstance(above, ast.AnnAssign) else []
    )
    uses = [use for target in targets for use in module.uses(target)]
    return any(_is_seeded(module, use) for use in uses)


def _is_seeded(module: Module, use: ast.expr) -> bool:
    method = module.parents[use]
    if not isinstance(method, ast.Attribute):
        return False
    above = module.parents[method]
    if isinstance(above, ast.Call) and above.func is method:
        return method.attr in _LATER and not _has_no_seed(above)
    state = above if isinstance(above, ast.Attribute) else method
    return state.attr == "state" and isinstance(state.ctx, ast.Store)


def _seeds(module: Module, call: ast.Call) -> list[ast.expr]:
    """Return the arguments of a call that seed something."""
    name = last(module, call)
    if name in _SEEDING or _WORDS.search(name):
        return [*call.args, *(item.value for item in call.keywords)]
    return [value for key in _KEYWORDS if (value := argument(call, key)) is not None]


class _Source:
    """Finds in an expression, and behind the names in it, what changes from run to run."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def of(self, node: ast.AST) -> str | None:
        """Return how what changes is written, or None; each expression is looked at once."""
        pending: list[ast.AST] = [node]
        seen: set[ast.AST] = set()
        while pending and len(seen) < _MOST:
            item = pending.pop()
            if item in seen:
                continue
            seen.add(item)
            if isinstance(item, ast.Call) and self._changes(item):
                return text(item)
            pending += self._behind(item)
            pending += (inner for inner in ast.iter_child_nodes(item) if not _is_owner(item, inner))
        return None

    def _behind(self, node: ast.AST) -> list[ast.expr]:
        """Return all that a name or an entry is given, and all that a function of the module returns."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            inner = [item for function in self.module.function(node.func.id) for item in ast.walk(function)]
            return [item.value for item in inner if isinstance(item, ast.Return) and item.value is not None]
        if isinstance(node, ast.Subscript):
            return self._entries(node)
        return [value for value in self.module.values(node) if value is not None]

    def _entries(self, node: ast.Subscript) -> list[ast.expr]:
        """Return what a literal mapping has under a literal key."""
        mapping = self.module.value(node.value)
        if not isinstance(mapping, ast.Dict):
            return []
        pairs = zip(mapping.keys, mapping.values, strict=True)
        return [value for key, value in pairs if key is not None and ast.dump(key) == ast.dump(node.slice)]

    def _changes(self, call: ast.Call) -> bool:
        name = self.module.dotted(call.func) or ""
        if name == "hash":
            return bool(call.args) and _may_be_text(call.args[0])
        return name in _CLOCKS or (name.startswith(("time.", "secrets.")) and name != "time.sleep")


def _is_owner(node: ast.AST, item: ast.AST) -> bool:
    """Say whether ``item`` is the name before a dot or a bracket: what else it holds does not matter."""
    is_part = isinstance(node, ast.Attribute | ast.Subscript) and item is node.value
    return is_part and isinstance(item, ast.Name | ast.Attribute | ast.Subscript)


def _may_be_text(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_text(item) for item in node.elts)
    return _is_text(node) or isinstance(node, ast.Name | ast.Attribute | ast.Subscript)


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("str", "repr")
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
