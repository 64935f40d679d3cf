"""Several tests at once: Holm's correction."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from repro.stats import checks


def holm(p: ArrayLike) -> checks.Floats:
    """Return p-values corrected for their number, in the order given; one metric each.

    The i-th smallest of m becomes the largest of ``(m - j + 1) p_j`` for j up to i, at most 1: whoever rejects at
    alpha errs in any of them with probability alpha at most, whatever they have in common. Source: Holm, Scandinavian
    Journal of Statistics 6, 1979.

    Args:
        p: p-values, shape (m,).

    Raises:
        ValueError: for none, or a value outside [0, 1].
    """
    values = checks.sample(p, least=1, name="p")
    if values.min() < 0 or values.max() > 1:
        raise ValueError("p: p-values from 0 to 1 are expected")
    order = np.argsort(values, kind="stable")
    steps = np.arange(len(values), 0, -1) * values[order]
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected
