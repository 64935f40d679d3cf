"""The same lock as PEP 751 has it: for each pin the very file that pip takes here, with its place and its hash."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from repro.base import scratch
from repro.environments import locks, pip


def convert(pins: Sequence[locks.Pin]) -> str:
    """Return a lock as the text of a ``pylock.toml``.

    Raises:
        EnvironmentMismatchError: when a pin is no longer on the index.
    """
    with scratch.folder("lock") as place:
        path = place / "lock.txt"
        path.write_text(locks.render(pins), encoding="utf-8")
        words = ("--dry-run", "--ignore-installed", "--no-deps", "--require-hashes", "--quiet", "--report", "-")
        report = json.loads(pip.run(["install", *words, "-r", str(path)]))
    found = sorted((_package(item) for item in report["install"]), key=lambda package: package.name)
    major, minor = sys.version_info[:2]
    lock = Pylock(
        lock_version=Version("1.0"),
        created_by="repro",
        requires_python=SpecifierSet(f"=={major}.{minor}.*"),
        packages=found,
    )
    return _toml(lock.to_dict())


def _toml(table: Mapping[str, Any]) -> str:
    """Return a lock's mapping as TOML: scalars, and lists of packages, whose own tables are written in line."""
    head = [f"{name} = {_inline(value)}" for name, value in table.items() if name != "packages"]
    packages = [
        "\n".join(["[[packages]]", *(f"{name} = {_inline(value)}" for name, value in package.items())])
        for package in table["packages"]
    ]
    return "\n\n".join(["\n".join(head), *packages]) + "\n"


def _inline(value: Any) -> str:
    """Return a value in one line; a text of JSON is one of TOML as well."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_inline(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _package(item: dict[str, Any]) -> Package:
    info = item["download_info"]
    name = canonicalize_name(item["metadata"]["name"])
    version, hashes = Version(item["metadata"]["version"]), dict(info["archive_info"]["hashes"])
    if info["url"].endswith(".whl"):
        return Package(name=name, version=version, wheels=[PackageWheel(url=info["url"], hashes=hashes)])
    return Package(name=name, version=version, sdist=PackageSdist(url=info["url"], hashes=hashes))
