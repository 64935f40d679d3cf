"""Is every sealed file what it was when it was sealed? The journal's chain, then each file, then what it names."""

from __future__ import annotations

import os
import stat
from typing import Any, NamedTuple

from repro.base import digest, journal
from repro.base.files import disk_errors
from repro.errors import StoreDamagedError, UnsafeRecordError
from repro.record.values import KEPT, Outcome
from repro.store import signatures
from repro.store.store import RUN_FOLDERS, Store

#: What no chain can tell by itself; said with every verification.
LIMIT = (
    "a journal that was cut short at its end, or computed anew, can only be told by a signature or by a head kept"
    " elsewhere"
)


class Report(NamedTuple):
    """What a verification found: counts, faults of files, faults of the journal, and the chain's head.

    ``unsafe`` names sealed files that are as they were sealed, and are not used for what they name.
    """

    files: int
    entries: int
    faults: list[str]
    journal_faults: list[str]
    recovered: list[str]
    head: str
    signatures: list[str]
    unsafe: list[str]


class _Needed(NamedTuple):
    """What the sealed files name that lies elsewhere in the store: trees of code, objects; and those not used."""

    trees: set[str]
    objects: set[str]
    unsafe: list[str]


def verify(store: Store, run_id: str | None = None) -> Report:
    """Check the whole store, or one run of it; nothing is written.

    Raises:
        StoreError: when the journal cannot be read.
    """
    entries, journal_faults = _journal(store)
    wanted = [entry for entry in entries if run_id in (None, entry.get("run"))]
    needed = _Needed(set(), set(), [])
    faults: list[str] = []
    checked = 0
    for entry in wanted:
        count, found = _entry(store, entry, needed)
        checked += count
        faults += found
    faults += _strangers(store, entries, run_id)
    faults += store.objects.check(needed.objects, only=run_id is not None)
    faults += store.code.check(needed.trees, only=run_id is not None)
    recovered = [str(entry["path"]) for entry in wanted if entry.get("recovered")]
    signed, unsigned = signatures.check(store)
    broken = [*journal_faults, *unsigned]
    return Report(checked, len(entries), faults, broken, recovered, _head(store), signed, needed.unsafe)


def _journal(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    with disk_errors("read", store.journal):
        return journal.check(store.journal)


def _entry(store: Store, entry: dict[str, Any], needed: _Needed) -> tuple[int, list[str]]:
    """Check the file of one line of the journal and what it names; return how many files, and their faults."""
    run_id, place = str(entry.get("run")), str(entry.get("path"))
    fault = _fault(store, place, str(entry.get("digest")))
    if fault is not None:
        return 1, [fault]
    try:
        if entry.get("kind") == "record":
            record = store.record(run_id)
            needed.trees.update([record.recipe.code, *record.recipe.sources.values()])
            head = record.circumstances.get("head")
            needed.trees.update([head["tree"]] if head else [])
            listing = record.circumstances.get("project", {}).get("beside")
            needed.objects.update([listing] if str(listing).startswith("sha256:") else [])
            wheels = record.circumstances.get("environment", {}).get("wheels", {})
            needed.objects.update(str(item["digest"]) for item in wheels.values())
        outcome = store.outcome(run_id) if entry.get("kind") == "outcome" else None
    except UnsafeRecordError as error:
        needed.unsafe.append(str(error))
        return 1, []
    except StoreDamagedError as error:
        return 1, [str(error)]
    return (1, []) if outcome is None else _outcome(store, run_id, outcome, needed)


def _outcome(store: Store, run_id: str, outcome: Outcome, needed: _Needed) -> tuple[int, list[str]]:
    """Check the files that an outcome names."""
    needed.objects.update(_objects(outcome))
    found = [_fault(store, f"runs/{run_id}/{name}", wanted) for name, wanted in outcome.files.items()]
    faults = [item for item in found if item is not None]
    return 1 + len(found), faults + _added(store, run_id, outcome)


def _fault(store: Store, place: str, wanted: str) -> str | None:
    if os.path.isabs(place) or ".." in place.split("/"):
        return f"{place!r} is no place in this store"
    try:
        if not stat.S_ISREG(os.stat(store.folder / place).st_mode):
            return f"{place} cannot be read: it is no file"
        found = digest.of_file(store.folder / place)
    except FileNotFoundError:
        return f"{place} is missing"
    except OSError as error:
        return f"{place} cannot be read: {error.strerror}"
    return None if found == wanted else f"{place} was changed after it was sealed"


def _objects(outcome: Outcome) -> list[str]:
    kept = [item.digest for item in outcome.inputs if item.note == KEPT]
    return [name for name in [*(item.digest for item in outcome.artifacts), *kept] if name is not None]


def _added(store: Store, run_id: str, outcome: Outcome) -> list[str]:
    """Name files in a run's folders that its outcome does not know: they would be read as metrics or trail."""
    folder = store.run_folder(run_id)
    found = [path.relative_to(folder).as_posix() for part in RUN_FOLDERS for path in (folder / part).rglob("*")]
    return [
        f"runs/{run_id}/{name} was added after the run was sealed"
        for name in sorted(found)
        if name not in outcome.files and not (folder / name).is_dir()
    ]


def _strangers(store: Store, entries: list[dict[str, Any]], run_id: str | None) -> list[str]:
    """Name sealed files that no journal line knows, of runs that are over: lines were taken out of the journal."""
    names = ("record.json", "outcome.json", "attachments/*.json")
    found = sorted(path for name in names for path in store.runs.glob(f"{run_id or '*'}/{name}"))
    if run_id is None:
        studies = ("specification.json", "ends/*.json", "answers/*.json")
        found += sorted(path for name in studies for path in store.folder.glob(f"studies/*/{name}"))
    places = _unknown([path.relative_to(store.folder).as_posix() for path in found], entries)
    if places:  # some may have been sealed while we looked
        with store.at_rest():
            places = _unknown(places, journal.check(store.journal)[0])
    return [
        f"{place} is in no line of the journal" for place in places if not (store.open / place.split("/")[1]).exists()
    ]


def _unknown(places: list[str], entries: list[dict[str, Any]]) -> list[str]:
    known = {entry.get("path") for entry in entries}
    return [place for place in places if place not in known]


def _head(store: Store) -> str:
    last = b""
    for _, last in journal.read(store.journal):  # noqa: B007
        pass
    return digest.of_bytes(last) if last else journal.GENESIS
