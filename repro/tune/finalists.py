"""The finalists of a study: the best few at the full budget, evaluated on fresh seeds, and which of them tie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from repro.stats import t_interval
from repro.tune.judging import sign_of
from repro.tune.search import Mode

#: How many of the best are trained again.
MOST = 3


def compared(values: Mapping[int, list[float]], mode: Mode) -> list[dict[str, Any]]:
    """Return the finalists, the best mean on fresh seeds first.

    One ties with the first where the t interval of their difference, paired by seed, holds 0. A finalist that
    diverged on a seed has no mean and comes last.
    """
    sign = sign_of(mode)
    whole = {at: bool(np.isfinite(found).all()) for at, found in values.items()}
    order = sorted(values, key=lambda at: (not whole[at], sign * float(np.mean(values[at])) if whole[at] else 0.0, at))
    return [_finalist(at, values[at], values[order[0]], whole[at], first=at == order[0]) for at in order]


def _finalist(at: int, values: list[float], best: list[float], whole: bool, *, first: bool) -> dict[str, Any]:
    several = whole and len(values) > 1
    difference = np.asarray(values) - np.asarray(best)
    low, high = t_interval(difference) if several and not first and np.isfinite(best).all() else (0.0, 0.0)
    return {
        "trial": at,
        "values": values,
        "mean": float(np.mean(values)) if whole else None,
        "interval": list(t_interval(values)) if several else None,
        "tie": None if not several else first or low <= 0.0 <= high,
    }
