"""A part of a dataset: stratified by label, and nested, so that a smaller part lies within every larger one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

MILLION = 1_000_000
#: Where datasets keep their labels.
_NAMES = ("targets", "labels", "y")


def labels_of(dataset: Any) -> Sequence[Any] | None:
    """Return the labels of a dataset: ``targets``, ``labels`` or ``y`` of its own, or the last of each example."""
    for name in _NAMES:
        found = getattr(dataset, name, None)
        if found is not None and hasattr(found, "__len__") and len(found) == len(dataset):
            return list(_plain(found))
    if isinstance(dataset, range):
        return None
    example = dataset[0] if len(dataset) else None
    if not isinstance(example, (tuple, list)) or len(example) < 2:  # noqa: PLR2004
        return None
    return [_plain(dataset[at][-1]) for at in range(len(dataset))]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def indices(labels: Sequence[Any], share: int, order: Callable[[int], Sequence[int]]) -> list[int]:
    """Return which examples a share has, in ascending order: of each label so many, one at least.

    Of every label the first ``ceil(share * n)`` in an order that does not depend on the share: so parts are nested.

    Args:
        labels: of all examples, shape (n,).
        share: in millionths.
        order: returns 0 to n - 1 in a random order, which is a function of n.
    """
    groups: dict[Any, list[int]] = {}
    for at in order(len(labels)):
        groups.setdefault(labels[at], []).append(int(at))
    taken = (group[: math.ceil(len(group) * share / MILLION)] for group in groups.values())
    return sorted(at for group in taken for at in group)
