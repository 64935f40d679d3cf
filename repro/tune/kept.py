"""A kept study, whatever it stands on: its document and its verification."""

from __future__ import annotations

from typing import Any

from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.tune import real, tabled
from repro.tune.tabled import Verified


def document_of(store: Store, folder: StudyFolder) -> dict[str, Any]:
    """Return the document of a study, derived again from its table or its records."""
    is_real = "experiment" in folder.specification()["identity"]
    return real.document_of(store, folder) if is_real else tabled.document_of(folder)


def verify(store: Store, folder: StudyFolder) -> Verified:
    """Derive every decision of a study again, and compare with its log."""
    is_real = "experiment" in folder.specification()["identity"]
    return real.verify(store, folder) if is_real else tabled.verify(folder)
