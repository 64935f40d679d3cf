"""What makes a comparison void (NOT_REPLAYABLE): code or data other than recorded; and where files are found."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from repro.base import digest
from repro.record.values import FileDigest
from repro.replay import aside, compare, restore
from repro.replay.restored import Restored
from repro.run.observed import Observed
from repro.store.store import Store


class Contents:
    """Finds the bytes of files that a run (where it stood, or in the store) and its replay (in its folder) left."""

    def __init__(self, store: Store, root: Path, place: Path, at: Callable[[str], str]) -> None:
        self._store, self._places = store, ((root, str), (place, at))

    def __call__(self, side: int, item: FileDigest) -> Path | None:
        """Return a file that has these bytes now."""
        kept = [] if item.digest is None else [self._store.objects.path(item.digest)]
        folder, at = self._places[side]
        for path in [Path(at(str(folder / item.path))), *kept]:
            with contextlib.suppress(OSError):
                if path.is_file() and digest.of_file(path) == item.digest:
                    return path
        return None


def overruled(found: compare.Comparison, then: Observed, now: Observed, restored: Restored) -> compare.Comparison:
    """Return the comparison with what makes it void; ``then`` is what the run observed, ``now`` what its replay did.

    What is IDENTICAL in spite of lost data or a refused write stays so; a module from the live tree voids all.
    """
    if now.live_modules:
        name, path = now.live_modules[0]
        reason: str | None = f"the module {name} was imported from {path}, not from the recorded code"
    else:
        reason = None if found.verdict == "IDENTICAL" else next(_reasons(then, now, restored), None)
    return found if reason is None else msgspec.structs.replace(found, verdict="NOT_REPLAYABLE", reason=reason)


def _reasons(then: Observed, now: Observed, restored: Restored) -> Iterator[str]:
    yield from (f"the run writes outside its folder: {path}" for path in now.refused)
    for path in restored.gone:
        if not os.path.exists(path):
            yield f"{path} is gone from its cache; the run read it, and the replay did not fetch it again"
    yield from (f"{path} is not what it was when the run read it, and nobody kept it" for path in restored.lost)
    for path in aside.unknown(then):
        yield f"{path} is not what it was when the run began: the run changed it, and nobody kept it"
    inputs = {item.source for item in restored.from_store}
    for path in restore.not_recorded(restored, now.reads.keys() - inputs):
        yield f"{path} was read by its absolute path, and is not what was recorded"
    for item in restored.unread(now.reads):
        if item.now is None:
            yield f"{item.source} is gone; what the store kept of it was not read in the replay's folder"


def hint(found: compare.Comparison, layer: aside.Aside) -> str | None:
    """Return the command that helps where a replay was not possible, None where none is known."""
    if found.verdict != "NOT_REPLAYABLE":
        return None
    if "writes outside" in (found.reason or ""):
        why = "" if layer.refusal is None else f"no overlay can keep its writes apart here ({layer.refusal}); "
        return f"{why}repro replay --allow-outside-writes lets it write there, over what lies there now"
    if found.reason == compare.NOTHING:
        return "log a metric (repro.current().log), or take one out of the output (repro run --metric acc)"
    return None
