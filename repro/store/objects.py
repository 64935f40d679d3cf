"""Objects: files kept by the SHA-256 of their bytes, and checked each time they are read."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from repro.base import digest, files, scratch
from repro.errors import StoreDamagedError


class Objects:
    """The content-addressed files of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the object of this digest lies, whether or not it is there."""
        value = name.removeprefix("sha256:")
        return self.folder / value[:2] / value[2:]

    def sweep(self) -> None:
        """Remove what killed commands left half kept."""
        scratch.sweep(self.folder)

    def take(self, source: Path) -> str:
        """Keep a file of the same disk, which is final from now on, as an object too; return its digest."""
        name = digest.of_file(source)
        place = self.path(name)
        files.make_final([source])
        with files.disk_errors("keep", source):
            place.parent.mkdir(parents=True, exist_ok=True)
            if not self._is_whole(name):
                self._put(source, place)
        return name

    @staticmethod
    def _put(source: Path, place: Path) -> None:
        if place.exists():
            place.unlink()  # damaged: what lies under a name is replaced only by what has that name
        with contextlib.suppress(FileExistsError):  # another run has kept the same bytes meanwhile
            os.link(source, place)
        files.sync_folder(place.parent)

    def add(self, data: bytes) -> str:
        """Keep bytes as an object; return their digest."""
        name = digest.of_bytes(data)
        if self.path(name).exists():
            return name
        with files.disk_errors("write", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with scratch.folder("keep", self.folder) as place:
                copy = place / "copy"
                copy.write_bytes(data)
                return self.take(copy)

    def keep(self, source: Path, name: str) -> bool:
        """Keep a copy of a user's file whose digest is ``name``; return False if it is another by now."""
        if self.path(name).exists():
            return True
        with files.disk_errors("keep", source):
            self.folder.mkdir(parents=True, exist_ok=True)
            with scratch.folder("keep", self.folder) as place:
                copy = place / "copy"
                shutil.copyfile(source, copy)
                return digest.of_file(copy) == name and self.take(copy) == name

    def _is_whole(self, name: str) -> bool:
        return self.path(name).exists() and digest.of_file(self.path(name)) == name

    def restore(self, name: str, target: Path) -> None:
        """Copy an object to ``target``, checking its bytes.

        Raises:
            StoreDamagedError: when it is missing or is not what its name says.
        """
        place = self.path(name)
        if not place.exists():
            raise StoreDamagedError(f"object {name} is missing from {self.folder}")
        with files.disk_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, target)
        if digest.of_file(target) != name:
            target.unlink()
            raise StoreDamagedError(f"object {place} is not what its name says", hint="repro verify")

    def check(self, names: Iterable[str], *, only: bool = False) -> list[str]:
        """Return a sentence for each object that is not what its name says, and for each of ``names`` that is missing.

        All objects are looked at; with ``only``, just those of ``names``.
        """
        wanted = {self.path(name) for name in names}
        there = wanted if only else wanted.union(path for path in self.folder.glob("??/*") if path.is_file())
        return [fault for path in sorted(there) if (fault := self._fault(path)) is not None]

    def _fault(self, path: Path) -> str | None:
        place = path.relative_to(self.folder.parent)
        try:
            found = digest.of_file(path)
        except OSError as error:
            return f"{place} is missing" if not path.exists() else f"{place} cannot be read: {error.strerror}"
        return None if found == f"sha256:{path.parent.name}{path.name}" else f"{place} is not what its name says"
