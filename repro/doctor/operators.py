"""Calls of operators that have no deterministic kernel, as torch 2.13 documents them.

Source: the docstring of ``torch.use_deterministic_algorithms``. Those in its first list have a deterministic kernel
that must be asked for: they count where nobody asks (profile ``off``).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from repro.doctor.finding import Finding, found
from repro.doctor.module import Module, argument, is_nothing

_BACKWARD = "its backward on CUDA"
_CUDA = "it on CUDA"
_BOTH = "it on CPU and CUDA"
Condition = Callable[[Module, ast.Call, bool], bool]


def _always(_module: Module, _call: ast.Call, _is_method: bool) -> bool:
    return True


class _Operator(NamedTuple):
    """Where an operator has no deterministic kernel, and when a call is of that kind."""

    where: str
    condition: Condition = _always


def look(module: Module, *, switched_on: bool) -> Iterator[Finding]:
    """Yield the calls; ``switched_on`` says that the profile asks torch for deterministic kernels."""
    kinds = {} if switched_on else _SWITCHED
    for call in module.each(ast.Call):
        name, operator, is_method = _operator(module, call, kinds)
        if operator is None or (is_method and _is_own(call)) or not operator.condition(module, call, is_method):
            continue
        word = name.rpartition(".")[2]
        if word.rstrip("_") in kinds:
            what = f"{word}: --determinism off does not ask for the deterministic kernel of {operator.where}"
            yield found("nondeterministic-operator", module.file, call.lineno, what, "--determinism strict or warn")
        else:
            what = f"{word}: torch has no deterministic kernel of {operator.where}"
            yield found("nondeterministic-operator", module.file, call.lineno, what)


def _operator(module: Module, call: ast.Call, kinds: Mapping[str, _Operator]) -> tuple[str, _Operator | None, bool]:
    name = module.dotted(call.func)
    tensors = {**_TENSORS, **kinds}
    if name is not None:
        room, _, word = name.rpartition(".")
        if room == "torch.nn" or room.startswith("torch.nn.modules."):
            return name, _CLASSES.get(word), False
        if room == "torch.nn.functional":
            return name, _FUNCTIONS.get(word), False
        if room in ("torch", "torch.Tensor"):
            return name, tensors.get(word) or tensors.get(word.rstrip("_")), room != "torch"
        return name, None, False
    if isinstance(call.func, ast.Attribute):
        word = call.func.attr
        return word, tensors.get(word) or tensors.get(word.rstrip("_")), True
    return "", None, False


def _first(call: ast.Call, name: str, is_method: bool) -> ast.expr | None:
    """Return the argument after the tensor itself."""
    return argument(call, name, 0 if is_method else 1)


def _mode(*modes: str, place: int) -> Condition:
    """Return the condition that an argument ``mode`` is one of these; one that is not written there may be."""

    def is_one(module: Module, call: ast.Call, _is_method: bool) -> bool:
        mode = argument(call, "mode", place)
        if is_nothing(mode) or mode is None:
            return False
        value = module.value(mode)
        return not isinstance(value, ast.Constant) or value.value in modes

    return is_one


def _is_pooling(name: str, place: int) -> Condition:
    """Return the condition that an adaptive average has more than one output: one alone is torch's ``mean``."""

    def is_more(module: Module, call: ast.Call, _is_method: bool) -> bool:
        size = argument(call, name, place)
        value = None if size is None else module.value(size)
        sizes = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
        return not all(isinstance(item, ast.Constant) and item.value == 1 for item in sizes)

    return is_more


def _has(name: str) -> Condition:
    return lambda _module, call, is_method: not is_nothing(_first(call, name, is_method))


def _reduces(*words: str) -> Condition:
    def is_one(module: Module, call: ast.Call, is_method: bool) -> bool:
        given = argument(call, "reduce", 3 if is_method else 4)
        value = None if given is None else module.value(given)
        return isinstance(value, ast.Constant) and value.value in words

    return is_one


def _accumulates(_module: Module, call: ast.Call, is_method: bool) -> bool:
    given = argument(call, "accumulate", 2 if is_method else 3)
    return not (is_nothing(given) or (isinstance(given, ast.Constant) and not given.value))


def _is_tensors(module: Module, call: ast.Call, is_method: bool) -> bool:
    """Say whether a call along a dimension is torch's: numpy and pandas have methods of the same names."""
    first = _first(call, "dim", is_method)
    if is_nothing(first):
        return False
    if not is_method or argument(call, "dim") is not None:
        return True
    if not isinstance(first, ast.Constant | ast.UnaryOp):
        return False
    if _is_in_network(module, call):
        return True
    rooms = {name.partition(".")[0] for scope in module.scopes.values() for name in scope.imports.values()}
    return "torch" in rooms and not {"numpy", "pandas"} & rooms and argument(call, "axis") is None


def _is_in_network(module: Module, call: ast.Call) -> bool:
    """Say whether a call stands in a class made from ``torch.nn.Module``."""
    kinds = (item for item in module.above(call) if isinstance(item, ast.ClassDef))
    return any(module.dotted(base) == "torch.nn.Module" for kind in kinds for base in kind.bases)


def _is_own(call: ast.Call) -> bool:
    """Say whether a method is one of the class that calls it."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def _is_float_sum(module: Module, call: ast.Call, is_method: bool) -> bool:
    return _is_tensors(module, call, is_method) and not _is_whole(module, call, is_method)


def _is_whole(module: Module, call: ast.Call, is_method: bool) -> bool:
    """Say whether a tensor is seen to hold whole numbers."""
    kind = argument(call, "dtype")
    if kind is not None and (module.dotted(kind) or "").endswith(("int", "long", "int64", "int32", "short", "int16")):
        return True
    given = (
        call.func.value if is_method and isinstance(call.func, ast.Attribute) else call.args[0] if call.args else None
    )
    value = None if given is None else module.value(given)
    if isinstance(value, ast.Compare):
        return True
    func = value.func if isinstance(value, ast.Call) else None
    return isinstance(func, ast.Attribute) and func.attr in _WHOLE


#: What gives a tensor of whole numbers.
_WHOLE = frozenset("long int bool short eq ne gt lt ge le isnan arange bincount argmax argmin argsort".split())
_LINEAR = ("linear", "bilinear", "bicubic", "trilinear")
_CLASSES: dict[str, _Operator] = {
    **{f"MaxUnpool{n}d": _Operator(_BOTH) for n in (1, 2, 3)},
    **{f"ReflectionPad{n}d": _Operator(_BACKWARD) for n in (1, 2, 3)},
    **{f"FractionalMaxPool{n}d": _Operator(_BACKWARD) for n in (2, 3)},
    **{f"AdaptiveAvgPool{n}d": _Operator(_BACKWARD, _is_pooling("output_size", 0)) for n in (2, 3)},
    "AdaptiveMaxPool2d": _Operator(_BACKWARD),
    "AvgPool3d": _Operator(_BACKWARD),
    "Upsample": _Operator(_BACKWARD, _mode(*_LINEAR, place=2)),
    "UpsamplingBilinear2d": _Operator(_BACKWARD),
    "CTCLoss": _Operator(_BACKWARD),
    "NLLLoss2d": _Operator(_CUDA),
    "EmbeddingBag": _Operator(_BACKWARD, _mode("max", place=5)),
}
_FUNCTIONS: dict[str, _Operator] = {
    **{f"max_unpool{n}d": _Operator(_BOTH) for n in (1, 2, 3)},
    **{f"fractional_max_pool{n}d": _Operator(_BACKWARD) for n in (2, 3)},
    **{f"adaptive_avg_pool{n}d": _Operator(_BACKWARD, _is_pooling("output_size", 1)) for n in (2, 3)},
    "adaptive_max_pool2d": _Operator(_BACKWARD),
    "avg_pool3d": _Operator(_BACKWARD),
    "interpolate": _Operator(_BACKWARD, _mode(*_LINEAR, place=3)),
    "upsample": _Operator(_BACKWARD, _mode(*_LINEAR, place=3)),
    "upsample_bilinear": _Operator(_BACKWARD),
    "pad": _Operator(_BACKWARD, _mode("reflect", place=2)),
    "ctc_loss": _Operator(_BACKWARD),
    "embedding_bag": _Operator(_BACKWARD, _mode("max", place=6)),
    "grid_sample": _Operator(_BACKWARD),
}
#: Functions of torch and methods of its tensors, without the underscore of those in place.
_TENSORS: dict[str, _Operator] = {
    "put_": _Operator("it on CPU and CUDA (with accumulate=True on CUDA alone)"),
    "histc": _Operator(_CUDA),
    "bincount": _Operator(_CUDA, _has("weights")),
    "median": _Operator(_CUDA, _is_tensors),
    "cumsum": _Operator(_CUDA, _is_float_sum),
    "scatter_reduce": _Operator(_CUDA, _reduces("prod")),
    "ctc_loss": _Operator(_BACKWARD),
}
#: What has a deterministic kernel that must be asked for.
_SWITCHED: dict[str, _Operator] = {
    **{name: _Operator(_CUDA) for name in "index_add index_copy scatter_add".split()},
    **{name: _Operator(_BACKWARD) for name in "index_select gather repeat_interleave".split()},
    "index_put": _Operator(_CUDA, _accumulates),
    "scatter_reduce": _Operator(_CUDA, _reduces("prod", "sum", "mean")),
}
