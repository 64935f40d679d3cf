"""Data loaders: orders drawn from the global generator, workers that stay, draws that change with their number."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from repro.doctor.finding import Finding, found
from repro.doctor.module import Module, argument, is_nothing, last

_LOADER = "torch.utils.data.DataLoader"
#: What draws an order or a split, and the place of its generator.
_SAMPLERS = {
    "torch.utils.data.RandomSampler": 3,
    "torch.utils.data.SubsetRandomSampler": 1,
    "torch.utils.data.WeightedRandomSampler": 3,
    "torch.utils.data.random_split": 2,
}
_PLACES = {"shuffle": 2, "num_workers": 5, "collate_fn": 6, "worker_init_fn": 10, "generator": 12}
_PYTHON_DRAWS = frozenset(
    "random randint randrange choice choices shuffle sample uniform gauss normalvariate lognormvariate triangular"
    " betavariate expovariate gammavariate paretovariate vonmisesvariate weibullvariate getrandbits randbytes".split()
)
_NO_DRAWS = frozenset(
    "default_rng Generator RandomState SeedSequence BitGenerator PCG64 PCG64DXSM MT19937 Philox SFC64 seed get_state"
    " set_state get_bit_generator set_bit_generator".split()
)
_ITEMS = frozenset("__getitem__ __getitems__ __iter__".split())
_TRANSFORMS = frozenset("transform transforms target_transform transform_fn".split())
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def look(module: Module) -> Iterator[Finding]:
    """Yield what a module's own loaders and samplers will not keep."""
    for call in module.each(ast.Call):
        name = module.dotted(call.func)
        if name == _LOADER:
            yield from _loader(module, _Options(module, call))
        elif name in _SAMPLERS:
            generator = argument(call, "generator", _SAMPLERS[name])
            if is_nothing(generator) and not _has_stars(call):
                what = f"{name.rpartition('.')[2]} draws from torch's global generator"
                yield found("loader-without-generator", module.file, call.lineno, what)


def _has_stars(call: ast.Call) -> bool:
    return any(isinstance(item, ast.Starred) for item in call.args) or any(item.arg is None for item in call.keywords)


def _loader(module: Module, options: _Options) -> Iterator[Finding]:
    line = options.call.lineno
    shuffle = options.get("shuffle")
    if shuffle is not None and _may_be_true(module, shuffle) and not options.may_have("generator"):
        words = "" if isinstance(shuffle, ast.Constant) else f" (where {ast.unparse(shuffle)} is true)"
        what = f"the order{words} is drawn from torch's global generator: one draw more before it changes it"
        yield found("loader-without-generator", module.file, line, what)
    stay = options.get("persistent_workers")
    if stay is not None and _is_true(module, stay):
        what = "persistent_workers changes the shuffle from the second epoch on"
        yield found("persistent-workers", module.file, line, what)
    in_order = options.get("in_order")
    if in_order is not None and _is_false(module, in_order):
        what = "in_order=False: batches come as workers finish"
        yield found("out-of-order-loader", module.file, line, what)


class _Options:
    """The options of one loader: those written in the call, and those of a mapping that it is given by ``**``."""

    def __init__(self, module: Module, call: ast.Call) -> None:
        self.call = call
        self.behind: dict[str, ast.expr] = {}
        self.is_all = not any(isinstance(item, ast.Starred) for item in call.args)
        for item in call.keywords:
            if item.arg is None:
                found_all = _entries(module, item.value, self.behind)
                self.is_all = self.is_all and found_all

    def get(self, name: str) -> ast.expr | None:
        """Return an option that is seen, or None; one that is None counts as absent."""
        value = argument(self.call, name, _PLACES.get(name))
        value = self.behind.get(name) if value is None else value
        return None if is_nothing(value) else value

    def may_have(self, name: str) -> bool:
        """Say whether an option is given, or may hide behind a star."""
        return self.get(name) is not None or not self.is_all


def _entries(module: Module, node: ast.expr, into: dict[str, ast.expr], depth: int = 0) -> bool:
    """Add the entries of a mapping made of literals, and what it is updated with; say whether those are all."""
    values = module.values(node) if isinstance(node, ast.Name | ast.Attribute) else [node]
    is_all = bool(values) and depth < len(_PLACES)
    for value in values if is_all else []:
        is_all = _literal(module, value, into, depth) and is_all
    for use in module.uses(node) if isinstance(node, ast.Name | ast.Attribute) else []:
        is_all = _changed(module, use, into, depth) and is_all
    return is_all


def _literal(module: Module, node: ast.expr | None, into: dict[str, ast.expr], depth: int) -> bool:
    is_all = True
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                into[str(key.value)] = value
            else:
                is_all = key is None and _entries(module, value, into, depth + 1) and is_all
        return is_all
    if isinstance(node, ast.IfExp):
        return _literal(module, node.orelse, into, depth) & _literal(module, node.body, into, depth)
    if not (isinstance(node, ast.Call) and module.dotted(node.func) == "dict" and not node.args):
        return False
    for item in node.keywords:
        if item.arg is not None:
            into[item.arg] = item.value
        else:
            is_all = _entries(module, item.value, into, depth + 1) and is_all
    return is_all


def _changed(module: Module, use: ast.expr, into: dict[str, ast.expr], depth: int) -> bool:
    """Take in ``x["shuffle"] = True`` and ``x.update(...)``."""
    above = module.parents[use]
    if isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Store):
        statement = module.parents[above]
        if isinstance(above.slice, ast.Constant) and isinstance(statement, ast.Assign):
            into[str(above.slice.value)] = statement.value
            return True
        return False
    call = module.parents[above] if isinstance(above, ast.Attribute) and above.attr == "update" else None
    if not isinstance(call, ast.Call):
        return True
    into.update({item.arg: item.value for item in call.keywords if item.arg is not None})
    known = [_entries(module, item, into, depth + 1) for item in call.args]  # all of them, whatever one says
    return all(known)


def _constant(module: Module, node: ast.expr) -> ast.Constant | None:
    value = module.value(node)
    return value if isinstance(value, ast.Constant) else None


def _may_be_true(module: Module, node: ast.expr) -> bool:
    known = _constant(module, node)
    return known is None or bool(known.value)


def _is_true(module: Module, node: ast.expr) -> bool:
    """Say whether an option is true, or is decided by a test written there (``num_workers > 0``)."""
    known = _constant(module, node)
    return (
        bool(known.value) if known is not None else isinstance(module.value(node), ast.Compare | ast.BoolOp | ast.Call)
    )


def _is_false(module: Module, node: ast.expr) -> bool:
    known = _constant(module, node)
    return known is not None and not known.value


def draws(modules: Sequence[Module]) -> Iterator[Finding]:
    """Yield the global draws in code that workers run, where a loader has workers and does not seed them itself."""
    if not any(_has_workers(module, call) for module in modules for call in module.each(ast.Call)):
        return
    collates, transforms = _handed(modules)
    for module in modules:
        yield from _draws(module, _reached(module, collates, transforms))


def _has_workers(module: Module, call: ast.Call) -> bool:
    if module.dotted(call.func) != _LOADER:
        return False
    options = _Options(module, call)
    workers = options.get("num_workers")
    return workers is not None and _may_be_true(module, workers) and options.get("worker_init_fn") is None


def _handed(modules: Sequence[Module]) -> tuple[set[str], set[str]]:
    """Return the names of functions handed over as ``collate_fn``, and of classes handed over as transforms."""
    collates, transforms = {"collate_fn"}, set()
    for module in modules:
        for call in module.each(ast.Call):
            if module.dotted(call.func) == _LOADER:
                collates.update(_names([_Options(module, call).get("collate_fn")]))
            given = [item.value for item in call.keywords if item.arg in _TRANSFORMS]
            if last(module, call) == "Compose":
                given += call.args
            transforms.update(_names(given))
    return collates, transforms


def _names(nodes: Sequence[ast.expr | None]) -> set[str]:
    """Return all names in expressions: ``Crop`` of ``[Crop(3), T.Flip()]``."""
    inner = [item for node in nodes if node is not None for item in ast.walk(node)]
    return {item.id for item in inner if isinstance(item, ast.Name)} | {
        item.attr for item in inner if isinstance(item, ast.Attribute)
    }


def _reached(module: Module, collates: set[str], transforms: set[str]) -> list[Definition]:
    """Return the functions of a module that workers run, and those that they call in it."""
    pending: list[Definition] = []
    for kind in module.each(ast.ClassDef):
        methods = {item.name: item for item in kind.body if isinstance(item, ast.FunctionDef)}
        wanted = _ITEMS if _is_dataset(module, kind, methods) else frozenset()
        if kind.name in transforms or kind.name in collates:
            wanted = wanted | {"__call__", "forward"}
        pending += [methods[name] for name in methods if name in wanted]
    pending += [item for name in sorted(collates) for item in module.function(name)]
    pending += [item for item in module.each(ast.Lambda) if _is_collate(module, item)]
    reached: list[Definition] = []
    while pending:
        one = pending.pop()
        if one not in reached:
            reached.append(one)
            pending += _called(module, one)
    return reached


def _is_dataset(module: Module, kind: ast.ClassDef, methods: dict[str, ast.FunctionDef]) -> bool:
    bases = [module.dotted(base) or "" for base in kind.bases] + [ast.unparse(base) for base in kind.bases]
    named = any(base.endswith("Dataset") or base.startswith("torchvision.datasets.") for base in bases)
    return named or {"__getitem__", "__len__"} <= methods.keys()


def _is_collate(module: Module, node: ast.Lambda) -> bool:
    above = module.parents[node]
    return isinstance(above, ast.keyword) and above.arg == "collate_fn"


def _called(module: Module, definition: Definition) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of the module that one calls: by name, or as methods of ``self``."""
    names = set()
    for call in ast.walk(definition):
        func = call.func if isinstance(call, ast.Call) else None
        if isinstance(func, ast.Name):
            names.add(func.id)
        elif isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "self":
            names.add(func.attr)
    return [item for name in sorted(names) for item in module.function(name)]


def _draws(module: Module, reached: Sequence[Definition]) -> Iterator[Finding]:
    calls = {call: None for item in reached for call in ast.walk(item) if isinstance(call, ast.Call)}
    names = {call: module.dotted(call.func) or "" for call in calls}
    seeded = {name.removesuffix(".seed") for call, name in names.items() if name.endswith(".seed") and call.args}
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        name = names[call]
        room, _, word = name.rpartition(".")
        if room in seeded:  # by the item itself
            continue
        if (room == "random" and word in _PYTHON_DRAWS) or (room == "numpy.random" and word not in _NO_DRAWS):
            what = f"{name} in a worker: its numbers change with num_workers"
            yield found("global-draw-in-worker", module.file, call.lineno, what)
