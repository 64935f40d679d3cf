"""A kept study, whatever it stands on: its document and its verification."""

from __future__ import annotations

from typing import Any

from repro.errors import UsageError
from repro.run.request import Request
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import base as bases
from repro.tune import real, study, tabled
from repro.tune.search import Amount, Job
from repro.tune.study import Verified


def document_of(store: Store, folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a study, derived again from its table or its records."""
    is_real = "experiment" in folder.specification()["identity"]
    return real.document_of(store, folder) if is_real else tabled.document_of(folder)


def best_of(store: Store, folder: StudyFolder) -> dict[str, Any]:
    """Return the best trial of a study. Raises UsageError for a study without a best."""
    best: dict[str, Any] | None = document_of(store, folder)["best"]
    if best is None:
        raise UsageError(f"study {folder.study_id} has no best: no trial came to the full budget without diverging")
    return best


def best_request(store: Store, folder: StudyFolder) -> Request:
    """Return the request of a study's best configuration at the full budget, of the experiment as it is now.

    Raises:
        UsageError: for a study over a table, or one without a best.
        ConfigError: when the experiment no longer fits the study.
    """
    if "experiment" not in folder.specification()["identity"]:
        raise UsageError(f"study {folder.study_id} is over a table: it has no experiment to run")
    best = best_of(store, folder)
    base = bases.read(study.restored(folder))
    return base.of(best["params"], Job(best["trial"], 0, Amount(0), base.axis.high), 0)


def verify(store: Store, folder: StudyFolder) -> Verified:
    """Derive every decision of a study again, and compare with its log."""
    is_real = "experiment" in folder.specification()["identity"]
    return real.verify(store, folder) if is_real else tabled.verify(folder)
