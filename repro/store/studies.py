"""Studies of the tuner on the disk: a sealed specification, the decision log, and what the study had come to.

``studies/ID/specification.json`` is sealed before anything is tried; ``decisions.jsonl`` and ``runs.jsonl`` (which runs
it has) only grow; each time the study reaches its limits with more decisions than before, ``ends/NNNN.json`` is sealed
with the log's digest. What the user answered when it stopped and asked is sealed as ``answers/NNNN.json``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repro.base import canonical, digest, files, journal, locks
from repro.errors import StoreDamagedError, UsageError
from repro.store import names
from repro.store.store import Store

_SHOWN = 5


class StudyFolder:
    """One study of a store."""

    def __init__(self, store: Store, study_id: str) -> None:
        self.study_id = study_id
        self.folder = store.folder / "studies" / study_id
        self._store = store
        self._sealed = self.folder / "specification.json"
        self._log = self.folder / "decisions.jsonl"
        self._runs = self.folder / "runs.jsonl"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study: no other process goes on with it meanwhile. What a crash left half sealed is entered.

        Raises:
            UsageError: when another process has it.
        """
        with files.disk_errors("make", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.sole(self.folder / "lock"))
            except BlockingIOError as error:
                said = f"study {self.study_id} is being run by {error}"
                raise UsageError(said, hint="wait for it, or end it: the same command goes on from there") from error
            kinds = {self._sealed: "study", **dict.fromkeys(self._all("ends"), "study-end")}
            self._store.enter(kinds | dict.fromkeys(self._all("answers"), "study-answer"))
            yield

    def begin(self, specification: dict[str, Any]) -> None:
        """Seal the specification, unless it is there."""
        if not self._sealed.exists():
            self._store.seal_file(self._sealed, "study", _line(specification))

    def specification(self) -> dict[str, Any]:
        """Return the sealed specification."""
        return self._read(self._sealed)

    def ends(self) -> list[dict[str, Any]]:
        """Return what the study had come to each time that it reached its limits, oldest first."""
        return [self._read(path) for path in self._all("ends")]

    def end(self, value: dict[str, Any]) -> None:
        """Seal what the study has come to."""
        self._add("ends", "study-end", value)

    def answers(self) -> list[dict[str, Any]]:
        """Return what the user answered when the study asked, oldest first."""
        return [self._read(path) for path in self._all("answers")]

    def answer(self, value: dict[str, Any]) -> None:
        """Seal an answer of the user's."""
        self._add("answers", "study-answer", value)

    def _all(self, part: str) -> list[Path]:
        return sorted((self.folder / part).glob("*.json"))

    def _add(self, part: str, kind: str, value: dict[str, Any]) -> None:
        folder = self.folder / part
        with files.disk_errors("make", folder):
            folder.mkdir(exist_ok=True)
        self._store.seal_file(folder / f"{len(self._all(part)):04}.json", kind, _line(value))

    def decisions(self) -> list[bytes]:
        """Return the lines of the decision log; a last one that was torn by a crash does not count."""
        return _lines(self._log)

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines to the decision log."""
        if lines:
            _append(self._log, b"".join(lines))

    def runs(self) -> list[bytes]:
        """Return the lines that say which runs the study has."""
        return _lines(self._runs)

    def use(self, line: bytes) -> None:
        """Add a line that says which run the study has."""
        _append(self._runs, line)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = canonical.loads(self._store.read(path))
        except ValueError as error:
            raise StoreDamagedError(f"{path} cannot be read: {error}", hint="repro verify") from error
        return found


def _lines(path: Path) -> list[bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(keepends=True)


def _append(path: Path, data: bytes) -> None:
    with files.disk_errors("append to", path), path.open("ab") as handle:
        handle.truncate(journal.end(path))
        handle.write(data)


def _line(value: dict[str, Any]) -> bytes:
    return canonical.dumps(value) + b"\n"


def all_of(store: Store) -> list[StudyFolder]:
    """Return the studies of a store whose specification is sealed, the first one begun first."""
    found = [StudyFolder(store, path.parent.name) for path in (store.folder / "studies").glob("*/specification.json")]
    return sorted(found, key=lambda study: (study.specification()["created"], study.study_id))


def find(store: Store, name: str) -> StudyFolder:
    """Return the study that ``name`` means: its id or a prefix, ``last``, or the path of its file (the latest).

    Raises:
        UsageError: when there is none, or more than one.
    """
    studies = all_of(store)
    if name == "last" and studies:
        return studies[-1]
    by_id = [study for study in studies if name and study.study_id.startswith(name)]
    place = Path(name).resolve()
    by_path = [study for study in studies if Path(study.specification()["file"]) == place]
    if len(by_id) == 1:
        return by_id[0]
    if not by_id and by_path:
        return by_path[-1]
    if by_id:
        said = names.several(name, [study.study_id for study in by_id], "studies")
        raise UsageError(said, hint="give more of the id")
    known = ", ".join(study.study_id for study in studies[-_SHOWN:])
    raise UsageError(
        f"no study {name!r}", hint=f"studies here: {known}" if known else "repro tune study.yaml makes one"
    )


def new_id(identity: dict[str, Any]) -> str:
    """Return the id of a study: the beginning of the digest of what it is."""
    return digest.of_value("study/1", identity).partition(":")[2][:16]
