"""Objects: files kept by the SHA-256 of their bytes, and checked each time they are read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from repro.base import digest, files
from repro.errors import StoreDamagedError


class Objects:
    """The content-addressed files of one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the object of this digest lies, whether or not it is there."""
        value = name.removeprefix("sha256:")
        return self.folder / value[:2] / value[2:]

    def take(self, source: Path) -> str:
        """Move a file of the same disk into the store; return its digest."""
        name = digest.of_file(source)
        place = self.path(name)
        with files.disk_errors("keep", source):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                source.unlink()
            else:
                os.chmod(source, 0o444)
                source.rename(place)
                files.sync_folder(place.parent)
        return name

    def restore(self, name: str, target: Path) -> None:
        """Copy an object to ``target``, checking its bytes.

        Raises:
            StoreDamagedError: when it is missing or is not what its name says.
        """
        place = self.path(name)
        if not place.exists():
            raise StoreDamagedError(f"object {name} is missing from {self.folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, target)
        if digest.of_file(target) != name:
            target.unlink()
            raise StoreDamagedError(f"object {place} is not what its name says", hint="repro verify")

    def check(self) -> list[str]:
        """Return a sentence for each object that is not what its name says."""
        found = (path for path in sorted(self.folder.glob("??/*")) if path.is_file())
        return [
            f"{path.relative_to(self.folder.parent)} is not what its name says"
            for path in found
            if digest.of_file(path) != f"sha256:{path.parent.name}{path.name}"
        ]
