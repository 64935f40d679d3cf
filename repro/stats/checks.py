"""What the functions of this room ask of their input, with messages that name it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

#: Rows of probabilities may sum to one give or take this much: softmax in bfloat16 is off by up to 0.004.
SUM_TOLERANCE = 5e-3


def sample(x: ArrayLike, least: int = 2, name: str = "x") -> Floats:
    """Return a sample, shape (n,), as float64.

    Raises:
        ValueError: if it is not one-dimensional, has fewer than ``least`` values, or one that is not finite.
    """
    values = _floats(x, name, dimensions=1)
    if len(values) < least:
        raise ValueError(f"{name}: {least} values are expected at least, and there are {len(values)}")
    return values


def pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Return two paired samples, shape (n,) each.

    Raises:
        ValueError: as ``sample``, and for unequal lengths.
    """
    first, second = sample(a, name="a"), sample(b, name="b")
    if len(first) != len(second):
        raise ValueError(f"pairs are expected: a has {len(first)} values and b has {len(second)}")
    return first, second


def table(x: ArrayLike, name: str, least: tuple[int, int]) -> Floats:
    """Return a table of finite numbers as float64, with ``least`` rows and columns at least.

    Raises:
        ValueError: for another number of dimensions, fewer rows or columns, or a value that is not finite.
    """
    values = _floats(x, name, dimensions=2)
    if values.shape[0] < least[0] or values.shape[1] < least[1]:
        raise ValueError(f"{name}: {least[0]} x {least[1]} values are expected at least, its shape is {values.shape}")
    return values


def zero_one(correct: ArrayLike, least: tuple[int, int]) -> Floats:
    """Return a table of zeros and ones (or booleans), shape (seeds, examples), as float64.

    Raises:
        ValueError: as ``table``, and for any other value.
    """
    values = table(correct, "correct", least)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("correct: only 0 and 1 are expected (1: this seed had this example right)")
    return values


def whole(x: ArrayLike, name: str, dimensions: int) -> Whole:
    """Return an array of whole numbers, such as labels, as int64; floating-point types are refused.

    Raises:
        ValueError: for another type or number of dimensions, or if it is empty.
    """
    values = np.asarray(x)
    if values.dtype.kind not in "biu":
        raise ValueError(f"{name}: whole numbers are expected, not {values.dtype}")
    _dimensions(values, name, dimensions)
    return values.astype(np.int64)


def probabilities(x: ArrayLike, name: str, dimensions: int) -> Floats:
    """Return probabilities as float64, classes on the last axis.

    Raises:
        ValueError: for another number of dimensions, a negative value, or a row whose sum is not 1.
    """
    values = _floats(x, name, dimensions)
    if (values < 0).any() or (np.abs(values.sum(axis=-1) - 1) > SUM_TOLERANCE).any():
        raise ValueError(
            f"{name}: probabilities are expected, classes on the last axis: none below 0, each row sums to 1"
        )
    return values


def labels_of(labels: ArrayLike, examples: int, classes: int) -> Whole:
    """Return the true class of each example, shape (examples,).

    Raises:
        ValueError: as ``whole``, for another length, or for a label outside 0..classes - 1.
    """
    values = whole(labels, "labels", 1)
    if len(values) != examples:
        raise ValueError(f"labels: one for each of the {examples} examples is expected, and there are {len(values)}")
    if values.min() < 0 or values.max() >= classes:
        raise ValueError(f"labels: 0 to {classes - 1} are expected, and there are {values.min()} to {values.max()}")
    return values


def inside(value: float, name: str, low: float = 0.0, high: float = 1.0) -> float:
    """Return a number that lies strictly between two others.

    Raises:
        ValueError: if it does not; NaN does not.
    """
    if not low < value < high:
        raise ValueError(f"{name}: a number above {low:g} and below {high:g} is expected, not {value}")
    return float(value)


def count(value: int, name: str, least: int) -> int:
    """Return a whole number of ``least`` or more.

    Raises:
        ValueError: if it is less, or not whole.
    """
    if value != int(value) or value < least:
        raise ValueError(f"{name}: a whole number of {least} or more is expected, not {value}")
    return int(value)


def _floats(x: ArrayLike, name: str, dimensions: int) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    _dimensions(values, name, dimensions)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: only finite numbers are expected; drop failed runs, and say how many")
    return values


def _dimensions(values: NDArray[np.generic], name: str, dimensions: int) -> None:
    if values.ndim != dimensions or not values.size:
        shape = f"{dimensions} dimension{'s' * (dimensions > 1)}"
        raise ValueError(f"{name}: an array of {shape} with something in it is expected, its shape is {values.shape}")
