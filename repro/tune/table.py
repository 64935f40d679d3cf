"""Trial tables: finished trainings, read strictly. ``docs/reference/tune.md`` describes the format."""

from __future__ import annotations

import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.base import digest
from repro.errors import ConfigError
from repro.record import seeds
from repro.tune.search import Amount, Mode, Score
from repro.tune.space import Params

_ARRAYS = ("param_names", "params", "budget", "budget_name", "metric", "metric_name", "mode")
_HINT = "docs/reference/tune.md describes the format"


class Table(NamedTuple):
    """A trial table: C configurations, B budgets, S seeds.

    ``metric`` has shape (C, B, S); ``budget`` is the cumulative budget of each column.
    """

    digest: str
    configurations: list[Params]
    names: list[str]
    budget: NDArray[np.int64]
    budget_name: str
    metric: NDArray[np.float64]
    metric_name: str
    mode: Mode
    source: str

    @property
    def low(self) -> Amount:
        """The first budget above 0: the first evaluation of something that was trained."""
        return Fraction(int(self.budget[self.budget > 0][0]))

    @property
    def high(self) -> Amount:
        """The whole budget."""
        return Fraction(int(self.budget[-1]))

    def column(self, budget: Amount) -> int:
        """Return the last column within a budget; the first one where the budget lies before it."""
        return max(0, int(np.searchsorted(self.budget, int(budget), side="right")) - 1)

    def first(self, seed: int) -> int:
        """Return which of the table's seeds a study begins with: its own seed decides."""
        return int(seeds.integer(seed, "table", 32, purpose="suggest") % self.metric.shape[2])

    def score(self, row: int, budget: Amount, columns: list[int]) -> Score:
        """Return the mean over some of the seeds; one that diverged has the trial diverge."""
        return score_of(self.metric[row, self.column(budget), columns])


def score_of(values: NDArray[np.float64]) -> Score:
    """Return the mean of values as a score; None where one of them is not finite."""
    if not np.isfinite(values).all():
        return Score(None, "NaN" if np.isnan(values).any() else "Infinity")
    return Score(float(values.mean()))


def read(path: Path) -> Table:
    """Return the table in a file.

    Raises:
        ConfigError: when it cannot be read, or is no trial table.
    """
    arrays = _load(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ConfigError(f"{path}: no trial table: the array {missing[0]!r} is missing", hint=_HINT)
    try:
        table = _table(arrays, digest.of_file(path))
        _check(table, arrays)
    except (ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{path}: no trial table: {error}", hint=_HINT) from error
    return table


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ConfigError(f"{path}: an .npz archive is expected", hint=_HINT)
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", hint="table: is relative to the study file's folder") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as an .npz archive without pickles: {error}", hint=_HINT) from error


def _table(arrays: dict[str, NDArray[Any]], found: str) -> Table:
    metric = np.asarray(arrays["metric"], dtype=np.float64)
    names = [str(name) for name in arrays["param_names"]]
    params = np.asarray(arrays["params"], dtype=np.float64)
    if params.ndim != 2 or params.shape[1] != len(names):  # noqa: PLR2004
        raise ValueError(f"params: shape (C, {len(names)}) is expected, not {params.shape}")
    return Table(
        digest=found,
        configurations=[dict(zip(names, map(float, row), strict=True)) for row in params],
        names=[str(name) for name in arrays.get("config_names", ())],
        budget=np.asarray(arrays["budget"]),
        budget_name=str(arrays["budget_name"]),
        metric=metric[:, :, np.newaxis] if metric.ndim == 2 else metric,  # noqa: PLR2004
        metric_name=str(arrays["metric_name"]),
        mode="max" if str(arrays["mode"]) == "max" else "min",
        source=str(arrays.get("source", "")),
    )


def _check(table: Table, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError for what does not fit together."""
    budget, metric, count = table.budget, table.metric, len(table.configurations)
    if str(arrays["mode"]) not in ("min", "max"):
        raise ValueError(f"mode: min or max is expected, not {arrays['mode']}")
    if budget.ndim != 1 or not len(budget) or budget.dtype.kind not in "iu":
        raise ValueError("budget: whole numbers, shape (B,), are expected")
    if (np.diff(budget) <= 0).any() or budget[0] < 0 or budget[-1] == 0:
        raise ValueError("budget: increasing amounts from 0 on are expected")
    if metric.ndim != 3 or metric.shape[:2] != (count, len(budget)) or not metric.size:  # noqa: PLR2004
        raise ValueError(f"metric: shape ({count}, {len(budget)}) or ({count}, {len(budget)}, S) is expected")
    if table.names and len(table.names) != count:
        raise ValueError(f"config_names: {count} are expected, not {len(table.names)}")
