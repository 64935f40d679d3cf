"""Was the cheap worth it? What a table knows: the regret, controls of equal cost, how the cheap ranks like the dear.

Losses are oriented so that less is better; infinity stands for what diverged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repro.stats import clopper_pearson, t_interval
from repro.tune.search import Amount, plain

Floats = NDArray[np.float64]
#: With fewer configurations a rank correlation has no interval.
_LEAST = 4
_Z = 1.959963984540054


class Picked(NamedTuple):
    """What a search ended with: how many trainings in full it could have paid, its cost, the loss it found."""

    runs: int
    cost: Amount
    loss: float


def regret(losses: Floats, found: float) -> float:
    """Return where a loss lies between the best of all (0) and their median (1, and no more).

    Args:
        losses: of all configurations at the full budget, shape (n,). Those that diverged count as the worst in the
            median, but where it would be one of them it is that of the finite ones.
        found: the loss that a search ended with.
    """
    finite = losses[np.isfinite(losses)]
    if not len(finite) or found <= finite.min():
        return 0.0
    best, middle = float(finite.min()), float(np.median(np.where(np.isfinite(losses), losses, np.inf)))
    if not math.isfinite(middle):
        middle = float(np.median(finite))
    if not math.isfinite(found) or middle <= best:
        return 1.0
    return min(1.0, (found - best) / (middle - best))


def in_full(losses: Floats, runs: int, high: Amount) -> Picked:
    """Return what the first so many configurations come to, trained in full."""
    return Picked(runs, runs * high, float(losses[:runs].min()))


def first_then_top(losses: Floats, first: Floats, runs: int, low: Amount, rest: Amount) -> Picked:
    """Return what the best so many by their first evaluation come to, trained in full.

    ``low`` is what a first evaluation costs, ``rest`` what a training in full costs then.
    """
    order = np.argsort(first, kind="stable")[:runs]
    return Picked(runs, len(losses) * low + runs * rest, float(losses[order].min()))


def ranks(values: Floats) -> Floats:
    """Return the ranks from 1 on; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)


def rank_correlation(cheap: Floats, dear: Floats) -> dict[str, Any]:
    """Return Spearman's rank correlation with its 95% interval; None where all values of a side are equal.

    The interval is Fisher's z with the variance ``(1 + rho^2 / 2) / (n - 3)``. Source: Bonett and Wright,
    Psychometrika 65, 2000.
    """
    n, a, b = len(cheap), ranks(cheap), ranks(dear)
    if n < 2 or a.std() == 0 or b.std() == 0:  # noqa: PLR2004
        return {"rho": None, "interval": None, "n": n}
    rho = float(np.clip(np.corrcoef(a, b)[0, 1], -1.0, 1.0))
    if n < _LEAST:
        return {"rho": rho, "interval": None, "n": n}
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho)))
    reach = _Z * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return {"rho": rho, "interval": [math.tanh(z - reach), math.tanh(z + reach)], "n": n}


def correlations(cheap: Floats, dear: Floats) -> dict[str, Any]:
    """Return how a cheap evaluation ranks like the dear one: over all, and among the better half by the dear one."""
    better = np.argsort(dear, kind="stable")[: max(1, len(dear) // 2)]
    return {"all": rank_correlation(cheap, dear), "better_half": rank_correlation(cheap[better], dear[better])}


def described(picked: Picked, losses: Floats, sign: float) -> dict[str, Any]:
    """Return what a search or a control ended with, as a document has it."""
    return {
        "runs": picked.runs,
        "cost": plain(picked.cost),
        "best": sign * picked.loss if math.isfinite(picked.loss) else None,
        "regret": regret(losses, picked.loss),
        "found_best": bool(picked.loss <= losses.min()),
    }


def verdict(interval: Sequence[float]) -> str:
    """Return what a difference of regrets (search less control) says: won, lost, or undecided."""
    low, high = interval
    return "won" if high < 0 else "lost" if low > 0 else "undecided"


def over_repeats(regrets: Sequence[float], found: Sequence[bool]) -> dict[str, Any]:
    """Return the mean regret, and how often the best was found, with their 95% intervals."""
    share = clopper_pearson(sum(found), len(found))
    return {
        "regret": float(np.mean(regrets)),
        "regret_interval": [max(0.0, end) for end in t_interval(regrets)],
        "found_best": sum(found) / len(found),
        "found_best_interval": list(share),
    }


def against(search: Sequence[float], control: Sequence[float]) -> dict[str, Any]:
    """Return the mean difference of regrets, paired by repeat, its 95% interval, and who won."""
    differences = np.asarray(search) - np.asarray(control)
    interval = list(t_interval(differences))
    return {"difference": float(differences.mean()), "interval": interval, "verdict": verdict(interval)}
