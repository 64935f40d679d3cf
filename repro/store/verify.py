"""Is every sealed file what it was when it was sealed? The journal's chain, then each file, then what it names."""

from __future__ import annotations

from typing import Any, NamedTuple

from repro.base import digest, journal
from repro.errors import StoreDamagedError
from repro.store.store import Store

#: What no chain can tell by itself; said with every verification.
LIMIT = (
    "a journal that was cut short at its end, or computed anew, can only be told by a signature or by a head kept"
    " elsewhere"
)


class Report(NamedTuple):
    """What a verification found: counts, faults of files, faults of the journal, and the chain's head."""

    files: int
    entries: int
    faults: list[str]
    journal_faults: list[str]
    recovered: list[str]
    head: str


def verify(store: Store, run_id: str | None = None) -> Report:
    """Check the whole store, or one run of it; nothing is written."""
    entries, journal_faults = journal.check(store.journal)
    wanted = [entry for entry in entries if run_id in (None, entry.get("run"))]
    faults: list[str] = []
    checked = 0
    for entry in wanted:
        checked += 1
        fault = _fault(store, entry)
        if fault:
            faults.append(fault)
        elif entry.get("kind") == "outcome":
            count, found = _named_files(store, str(entry["run"]))
            checked += count
            faults += found
    if run_id is None:
        faults += _strangers(store, entries) + store.objects.check() + store.code.check()
    recovered = [str(entry["path"]) for entry in wanted if entry.get("recovered")]
    return Report(checked, len(entries), faults, journal_faults, recovered, _head(store))


def _fault(store: Store, entry: dict[str, Any]) -> str | None:
    place = str(entry.get("path"))
    path = store.folder / place
    if not path.exists():
        return f"{place} is missing"
    return None if digest.of_file(path) == entry.get("digest") else f"{place} was changed after it was sealed"


def _named_files(store: Store, run_id: str) -> tuple[int, list[str]]:
    """Check the files that a run's outcome names."""
    try:
        outcome = store.outcome(run_id)
    except StoreDamagedError as error:
        return 0, [str(error)]
    if outcome is None:
        return 0, []
    faults = []
    for name, wanted in outcome.files.items():
        place = f"runs/{run_id}/{name}"
        path = store.folder / place
        if not path.exists():
            faults.append(f"{place} is missing")
        elif digest.of_file(path) != wanted:
            faults.append(f"{place} was changed after it was sealed")
    return len(outcome.files), faults


def _strangers(store: Store, entries: list[dict[str, Any]]) -> list[str]:
    """Name sealed files that no journal line knows, of runs that are over: lines were taken out of the journal."""
    known = {entry.get("path") for entry in entries}
    found = [
        *store.runs.glob("*/record.json"),
        *store.runs.glob("*/outcome.json"),
        *store.runs.glob("*/attachments/*.json"),
    ]
    places = [path.relative_to(store.folder).as_posix() for path in sorted(found)]
    return [
        f"{place} is in no line of the journal"
        for place in places
        if place not in known and not (store.open / place.split("/")[1]).exists()
    ]


def _head(store: Store) -> str:
    last = b""
    for _, last in journal.read(store.journal):  # noqa: B007
        pass
    return digest.of_bytes(last) if last else journal.GENESIS
