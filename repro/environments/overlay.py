"""The current environment with some distributions of a recorded one laid over it: one difference undone at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from repro.capture import drift, packages
from repro.capture.interpreter import Interpreter
from repro.environments import cache
from repro.environments.recorded import Python


def make(folder: Path, base: Interpreter, recorded: Path, names: Collection[str]) -> Path:
    """Make an environment in ``folder``: the distributions ``names`` of ``recorded``, and all others of ``base``.

    Raises:
        EnvironmentMismatchError: when it cannot be made.
    """
    cache.make(Python(base.executable, base.version), folder)
    site = cache.site_of(folder)
    found = packages.scan([str(cache.site_of(recorded))])
    for item in found.distributions:
        if item.name in names:
            _lay(item.place, site)
    sites = [entry for entry in base.path if entry.endswith(("site-packages", "dist-packages"))]
    lines = [f"import site; site.addsitedir({entry!r})" for entry in sites]
    (site / "zz_base.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _lay(place: str, site: Path) -> None:
    """Link or copy the files of one distribution."""
    origin = Path(place).parent
    for line in drift.read(f"{place}/RECORD"):
        if line.path.startswith(("..", "/")):
            continue
        source, target = origin / line.path, site / line.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except (FileNotFoundError, FileExistsError):  # byte code of another installer; a file of two distributions
            continue
        except OSError:
            shutil.copy2(source, target)
