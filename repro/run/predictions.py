"""The predictions that a run saved, read back: no pickle, and only bytes that are as they were sealed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.base import digest
from repro.errors import StoreDamagedError, UsageError
from repro.store.store import Store
from repro.worker.predictions import FOLDER


class Predictions(NamedTuple):
    """The predictions of one split, sorted by id.

    ``ids`` (n,); ``probabilities`` float32, (n, k), or (n,) the predicted values of a regression; ``targets`` (n,).
    """

    ids: NDArray[Any]
    probabilities: NDArray[np.float32]
    targets: NDArray[Any]

    @property
    def is_regression(self) -> bool:
        """Whether these are values and no probabilities."""
        return self.probabilities.ndim == 1


def splits(store: Store | str | os.PathLike[str], run_id: str) -> list[str]:
    """Return the names of the splits that a run saved predictions of, sorted."""
    folder = _store(store).run_folder(run_id) / FOLDER
    return sorted(path.stem for path in folder.glob("*.npz"))


def place(split: str) -> str:
    """Return where a split's predictions lie in a run's folder."""
    return f"{FOLDER}/{split}.npz"


def read(store: Store | str | os.PathLike[str], run_id: str, split: str) -> Predictions:
    """Return the predictions that a run saved of a split; ``store`` is a store or its folder.

    Raises:
        UsageError: when the run saved none; the hint has the line to add.
        StoreDamagedError: when the file is not what it was when the run's outcome was sealed.
    """
    found = _store(store)
    path = found.run_folder(run_id) / place(split)
    if not path.is_file():
        raise _missing(found, run_id, split)
    data = found.read(path)
    outcome = found.outcome(run_id)
    if outcome is not None and outcome.files.get(place(split)) != digest.of_bytes(data):
        raise StoreDamagedError(f"{path} is not what it was when it was sealed", hint=f"repro verify {run_id}")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Predictions(*(arrays[name] for name in Predictions._fields))
    except (ValueError, KeyError, OSError) as error:
        raise StoreDamagedError(f"{path} holds no predictions: {error}", hint=f"repro verify {run_id}") from error


def _missing(store: Store, run_id: str, split: str) -> UsageError:
    there = splits(store, run_id)
    has = f"it has those of: {', '.join(there)}" if there else "it has none at all"
    hint = f"add to the script: repro.current().predictions({split!r}, ids, probabilities, targets)"
    return UsageError(f"{run_id} saved no predictions of {split!r}; {has}", hint=hint)


def _store(given: Store | str | os.PathLike[str]) -> Store:
    return given if isinstance(given, Store) else Store(Path(given))
