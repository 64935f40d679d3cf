"""What a run predicted for each example of a split: checked, put in order, and saved without a pickle."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

import numpy as np

#: Of a run's folder: one file for each split.
FOLDER = "predictions"
#: How far the probabilities of one example may be from 1 in all: softmax in bfloat16 is off by up to 0.004.
TOLERANCE = 5e-3
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_TABLE = 2  # dimensions


class NotFinite(ValueError):  # noqa: N818  (to the script it is a ValueError as the others)
    """Predictions with a NaN or an infinity among them: the network has diverged."""


class Arrays(NamedTuple):
    """The predictions of one split, sorted by id: ids (n,), probabilities (n, k) or values (n,), targets (n,)."""

    ids: Any
    probabilities: Any
    targets: Any


def save(folder: str, split: str, found: Arrays) -> None:
    """Put the predictions of a split into a run's folder, whole, in place of earlier ones.

    The file is an uncompressed ``.npz``: its bytes depend on the arrays alone, not on a version of zlib.
    """
    temporary = os.path.join(folder, f"predictions-{os.getpid()}.tmp")
    with open(temporary, "wb") as handle:
        np.savez(handle, **found._asdict())
    os.replace(temporary, os.path.join(folder, FOLDER, f"{split}.npz"))


def checked(split: str, ids: Any, probabilities: Any, targets: Any) -> Arrays:
    """Return the predictions of a split in the form in which they are saved.

    Raises:
        TypeError: for a split that is no text, or values of the wrong type.
        ValueError: for shapes that do not match, an id that is there twice, NaN, and rows that are no probabilities.
    """
    if not isinstance(split, str):
        raise TypeError(f"run.predictions: the split is a name like 'test', not {split!r}")
    if not _SPLIT.fullmatch(split):
        raise ValueError(f"run.predictions: {split!r} is no name of a split: letters, digits, '_', '-' and '.'")
    where = f"run.predictions({split!r})"
    names, values = _ids(array(ids), where), _floats(array(probabilities), where)
    truth = array(targets)
    if not len(names):
        raise ValueError(f"{where}: there are no examples")
    if len(values) != len(names) or truth.shape != names.shape:
        shapes = f"ids {names.shape}, probabilities {values.shape}, targets {truth.shape}"
        raise ValueError(f"{where}: ids (n,), probabilities (n, k) and targets (n,) are expected, not {shapes}")
    _check_finite(values, names, where, "probabilities")
    if values.ndim == _TABLE:
        _check_rows(values, names, where)
        truth = _classes(truth, names, values.shape[1], where)
    else:
        truth = _floats(truth, where, "targets")
        _check_finite(truth, names, where, "targets")
    order = np.argsort(names, kind="stable")
    _check_once(names[order], where)
    return Arrays(names[order], values[order].astype(np.float32), truth[order])


def array(values: Any) -> Any:
    """Return a tensor, an array or a list as an array of numpy."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        values = tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor  # noqa: PLR2004
    return np.asarray(values)


def _ids(names: Any, where: str) -> Any:
    if names.ndim != 1 or (names.size and names.dtype.kind not in "iuUS"):
        raise TypeError(f"{where}: ids are whole numbers or texts, shape (n,), not {names.dtype} {names.shape}")
    return _narrow(names) if names.dtype.kind in "iu" else names


def _narrow(values: Any) -> Any:
    """Return whole numbers in the smallest type that holds them all."""
    if not values.size:
        return values.astype(np.int64)
    low, high = int(values.min()), int(values.max())
    kinds = ("u1", "u2", "u4", "u8") if low >= 0 else ("i1", "i2", "i4", "i8")
    return values.astype(next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))


def _floats(values: Any, where: str, what: str = "probabilities") -> Any:
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{where}: {what} are numbers, not {values.dtype}")
    if values.ndim not in (1, _TABLE):
        raise ValueError(f"{where}: {what} have shape (n, k), or (n,) for a regression, not {values.shape}")
    if values.ndim == _TABLE and values.shape[1] < 2:  # noqa: PLR2004
        shape = values.shape
        raise ValueError(f"{where}: {shape} is one class; give both of a binary task, or (n,) for a regression")
    return values.astype(np.float64)


def _check_rows(values: Any, names: Any, where: str) -> None:
    sums = values.sum(axis=1)
    bad = (values < 0).any(axis=1) | (np.abs(sums - 1) > TOLERANCE)
    if bad.any():
        at = int(bad.argmax())
        row = f"those of id {names[at]} sum to {sums[at]:.4g}, the least is {values[at].min():.4g}"
        raise ValueError(f"{where}: rows are no probabilities: {row} (logits? torch.softmax(logits, dim=1))")


def _check_finite(values: Any, names: Any, where: str, what: str) -> None:
    with np.errstate(over="ignore"):  # what a 32-bit float cannot hold is as good as infinite
        bad = ~np.isfinite(values.astype(np.float32).reshape(len(names), -1)).all(axis=1)
    if bad.any():
        raise NotFinite(f"{where}: {what} of id {names[int(bad.argmax())]} are not finite (NaN or infinite)")


def _classes(truth: Any, names: Any, count: int, where: str) -> Any:
    if truth.dtype.kind not in "iub" and not (truth.dtype.kind == "f" and (truth == np.floor(truth)).all()):
        raise TypeError(f"{where}: targets are classes 0 to {count - 1}, whole numbers, not {truth.dtype}")
    bad = (truth < 0) | (truth >= count)
    if bad.any():
        at = int(bad.argmax())
        raise ValueError(f"{where}: the target of id {names[at]} is {truth[at]}; classes are 0 to {count - 1}")
    return _narrow(truth.astype(np.int64))


def _check_once(names: Any, where: str) -> None:
    twice = names[1:] == names[:-1]
    if twice.any():
        raise ValueError(f"{where}: id {names[1:][int(twice.argmax())]} is there twice; each example has one id")
