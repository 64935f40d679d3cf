"""Whether an environment that was built is what its wheels say: each file against its line in RECORD."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

from repro.capture import drift, packages
from repro.environments.locks import Pin


def faults(site: Path, pins: Sequence[Pin]) -> list[str]:
    """Return what of a site-packages folder is not as the wheels of its pins have it; nothing where all is.

    Byte code is left out, which has no hash. Of a path that two wheels bring the last one wins.
    """
    found = {packages.normalise(item.metadata["Name"] or "") for item in distributions(path=[str(site)])}
    wanted = {packages.normalise(pin.name) for pin in pins}
    names = [f"{name} is missing" for name in sorted(wanted - found)]
    names += [f"{name} is there, and in no lock" for name in sorted(found - wanted)]
    return names or list(_files(site))


def _files(site: Path) -> Iterator[str]:
    claims: dict[str, set[str]] = {}
    for info in sorted(site.glob("*.dist-info")):
        try:
            lines = drift.read(str(info / "RECORD"))
        except OSError as error:
            yield f"{info.name}/RECORD: {error.strerror}"
            continue
        for line in lines:
            claims.setdefault(os.path.normpath(site / line.path), set()).add(line.hash)
    for path, claimed in claims.items():
        fault = _fault(path, claimed)
        if fault is not None:
            yield f"{os.path.relpath(path, site)} {fault}"


def _fault(path: str, claimed: set[str]) -> str | None:
    """Return what is wrong with a file that is to have one of these hashes; an empty one claims that it is there."""
    try:
        kinds = {wanted.partition("=")[0] for wanted in claimed}
        hashes = {drift.hash_of(path, kind) for kind in kinds if kind}
    except OSError as error:
        return None if path.endswith(".pyc") else f"cannot be read: {error.strerror}"
    return None if "" in claimed or claimed & hashes else f"is not what its wheel has: {min(hashes)}"
