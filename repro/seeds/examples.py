"""What seeds do to single examples: how often two of them disagree, on which classes, and how much is the test set.

From the predictions that runs saved (`run.predictions`); probabilities alone count, not values of a regression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from repro.run import predictions
from repro.run.predictions import Predictions
from repro.seeds.plan import Replicate
from repro.stats import churn, class_spread, split_variance
from repro.store.store import Store

_MOST_CLASSES = 20


def values(store: Store, found: Sequence[Replicate]) -> dict[str, dict[str, Any]]:
    """Return, for each split that all completed replicates saved predictions of, what they say; {} without any.

    Of each split: ``n`` replicates, ``examples``, ``churn``, ``variance`` (``observed``, ``test_set``, ``real``: of the
    error, estimates that may be below 0), ``sentence``, and ``classes`` (label → ``examples``, ``mean``, ``sd``). A
    split whose examples differ from replicate to replicate has a ``note`` in their place.
    """
    done = [item.run_id for item in found if item.state == "COMPLETED"]
    if len(done) < 2:  # noqa: PLR2004
        return {}
    common = set.intersection(*(set(predictions.splits(store, run_id)) for run_id in done))
    read = {split: [predictions.read(store, run_id, split) for run_id in done] for split in sorted(common)}
    return {split: _of(several) for split, several in read.items() if not any(one.is_regression for one in several)}


def _of(found: Sequence[Predictions]) -> dict[str, Any]:
    first = found[0]
    if any(not _same_examples(first, other) for other in found[1:]):
        return {"n": len(found), "note": "each seed has other examples here: they cannot be compared one by one"}
    if len(first.ids) < 2:  # noqa: PLR2004
        return {"n": len(found), "note": "a single example has nothing to compare"}
    labels = np.array([one.probabilities.argmax(axis=1) for one in found])
    correct = labels == first.targets
    variance = split_variance(correct)
    spread = class_spread(correct, first.targets)
    rows = zip(*(column.tolist() for column in spread), strict=True)
    return {
        "n": len(found),
        "examples": len(first.ids),
        "churn": churn(labels),
        "variance": {"observed": variance.observed, "test_set": variance.test_set, "real": variance.real},
        "sentence": variance.in_words(),
        "classes": {str(label): {"examples": n, "mean": mean, "sd": sd} for label, n, mean, sd in rows},
    }


def _same_examples(one: Predictions, other: Predictions) -> bool:
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.targets, other.targets)


def lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the report says of single examples line by line."""
    for split, item in found.items():
        yield ""
        if "note" in item:
            yield f"predictions of {split!r}: {item['note']}"
            continue
        yield f"predictions of {split!r}: {item['examples']} examples, {item['n']} replicates"
        yield f"  two of them disagree on {item['churn']:.2%} of the examples (churn)"
        yield f"  {item['sentence']}"
        classes = sorted(item["classes"].items(), key=lambda pair: -pair[1]["sd"])
        yield "  accuracy by class, the most unsteady first:"
        for label, one in classes[:_MOST_CLASSES]:
            yield f"    class {label:>4}  {one['mean']:>7.2%}  sd {one['sd']:.2%}  ({one['examples']} examples)"
        if len(classes) > _MOST_CLASSES:
            yield f"    and {len(classes) - _MOST_CLASSES} more classes (--json has all)"
