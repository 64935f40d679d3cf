"""What a lockfile pins for one interpreter on this platform: requirements files, uv, Poetry, PDM, PEP 751.

A lock may hold for all systems at once. Its environment markers (PEP 508) are evaluated for the interpreter of the run,
and dependencies are followed from the project on, so that what is pinned for Windows alone is not missed here.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from repro.capture.packages import normalise

_OPTION = re.compile(r"\s+(?:--hash|--config-settings|--global-option)[= ].*|\s+#.*")
#: Sources (uv, Poetry, PDM) that are code of the user's own: their version says nothing.
_OWN = ("virtual", "editable", "directory", "path", "workspace")


class Pins(NamedTuple):
    """The versions that a lock has for each distribution: those that have to be there, and those that may be."""

    required: dict[str, set[str]]
    optional: dict[str, set[str]]


class _Entry(NamedTuple):
    """One package of a lock, with what it needs here: always, and for an extra or a group.

    ``mentions`` are the names of all that it needs anywhere.
    """

    name: str
    version: str | None
    is_main: bool
    needs: list[tuple[str, str | None, tuple[str, ...]]]
    extras: dict[str, list[tuple[str, str | None, tuple[str, ...]]]]
    is_own: bool
    mentions: set[str]


def read(path: Path, interpreter: str) -> Pins | None:
    """Return what a lock pins for an interpreter (``CPython 3.11.7``); None for a file that is no lock.

    Raises:
        OSError: when it cannot be read.
    """
    from packaging.markers import InvalidMarker

    text = path.read_text(encoding="utf-8", errors="replace")
    markers = Markers(interpreter)
    try:
        if path.suffix not in {".toml", ".lock"} or path.name == "requirements.lock":
            return _of_requirements(text, markers)
        tables = tomllib.loads(text)
        if "packages" in tables:
            return _of_pylock(tables["packages"], markers)
        return _followed([_entry(item, markers) for item in _that_apply(tables.get("package", []), markers)])
    except (tomllib.TOMLDecodeError, InvalidMarker, AttributeError, KeyError, TypeError, ValueError):
        return None


class Markers:
    """Evaluates environment markers for one interpreter on this platform."""

    def __init__(self, interpreter: str) -> None:
        from packaging.markers import default_environment

        self._environment: dict[str, Any] = dict(default_environment())
        name, _, version = interpreter.partition(" ")
        if version:
            self._environment |= {
                "python_full_version": version,
                "python_version": ".".join(version.split(".")[:2]),
                "implementation_version": version,
                "implementation_name": name.lower(),
                "platform_python_implementation": name,
            }
        self._environment |= {"extra": "", "extras": set(), "dependency_groups": set()}

    def hold(self, marker: Any) -> bool:
        """Say whether a marker holds; none does. Of a table by group (Poetry) the main one counts."""
        from packaging.markers import Marker

        if isinstance(marker, Mapping):
            return any(map(self.hold, marker.values()))
        return not marker or Marker(str(marker)).evaluate(self._environment, context="lock_file")

    def takes(self, requirement: str) -> Any:
        """Return a requirement (PEP 508) if its marker holds, else None."""
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            found = Requirement(requirement)
        except InvalidRequirement:
            return None
        return found if self.hold(None if found.marker is None else str(found.marker)) else None

    def fits(self, specifier: str | None) -> bool:
        """Say whether the interpreter is among the versions of a specifier (``>=3.8,<4``)."""
        from packaging.specifiers import InvalidSpecifier, SpecifierSet

        try:
            return (
                not specifier or specifier == "*" or self._environment["python_full_version"] in SpecifierSet(specifier)
            )
        except InvalidSpecifier:  # Poetry's own: ^3.8
            return True


def _of_requirements(text: str, markers: Markers) -> Pins:
    required = defaultdict(set)
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        found = markers.takes(_OPTION.sub("", line.strip())) if line[:1] not in ("", "#", "-", " ") else None
        if found is not None:
            for item in found.specifier:
                if item.operator in ("==", "===") and not item.version.endswith(".*"):
                    required[normalise(found.name)].add(item.version)
    return Pins(dict(required), {})


def _of_pylock(packages: list[dict[str, Any]], markers: Markers) -> Pins:
    required = defaultdict(set)
    for item in packages:
        if "version" in item and markers.hold(item.get("marker")) and markers.fits(item.get("requires-python")):
            required[normalise(item["name"])].add(str(item["version"]))
    return Pins(dict(required), {})


def _that_apply(packages: Iterable[dict[str, Any]], markers: Markers) -> Iterator[dict[str, Any]]:
    for item in packages:
        forks = item.get("resolution-markers")  # uv: the package is taken where one of them holds
        if forks is not None and not any(map(markers.hold, forks)):
            continue
        if markers.hold(item.get("markers", item.get("marker"))) and markers.fits(
            item.get("python-versions", item.get("requires_python"))
        ):
            yield item


def _entry(item: dict[str, Any], markers: Markers) -> _Entry:
    source = item.get("source", {})
    kind = source.get("type", "") if isinstance(source, dict) else ""
    groups = item.get("groups", ["main" if item.get("category", "main") == "main" else item["category"]])
    extras = {**item.get("optional-dependencies", {}), **item.get("dev-dependencies", {}), **item.get("dev", {})}
    return _Entry(
        name=normalise(item["name"]),
        version=None if item.get("version") is None else str(item["version"]),
        is_main=not item.get("optional", False) and ("main" in groups or "default" in groups),
        needs=[*_needs(item.get("dependencies", []), markers)],
        extras={name: [*_needs(values, markers)] for name, values in extras.items()},
        mentions={name for values in [item.get("dependencies", []), *extras.values()] for name in _names(values)},
        is_own=kind == "directory" or any(name in item or name in source for name in _OWN),
    )


def _needs(dependencies: Any, markers: Markers) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    """Yield name, version (where several are locked) and extras of what a package needs here."""
    if isinstance(dependencies, Mapping):  # Poetry: by name, a version or a table, or a list of these
        for name, values in dependencies.items():
            for value in values if isinstance(values, list) else [values]:
                table = value if isinstance(value, dict) else {}
                if (
                    not table.get("optional")
                    and markers.hold(table.get("markers"))
                    and markers.fits(table.get("python"))
                ):
                    yield normalise(name), None, tuple(table.get("extras", ()))
        return
    for item in dependencies:
        if isinstance(item, str):  # PDM: a requirement
            found = markers.takes(item)
            if found is not None:
                yield normalise(found.name), None, tuple(found.extras)
        elif markers.hold(item.get("marker")):
            extras = item.get("extra", ())
            yield normalise(item["name"]), item.get("version"), (extras,) if isinstance(extras, str) else tuple(extras)


def _names(dependencies: Any) -> Iterator[str]:
    for item in dependencies:
        text = item if isinstance(item, str) else item["name"]
        yield normalise(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0])


def _followed(entries: list[_Entry]) -> Pins:
    """Follow what is needed from the project on; where it is not in the lock, from what nothing else needs."""
    by_name = defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
    roots = [entry for entry in entries if entry.is_own]
    if not roots:
        needed = {name for entry in entries for name in entry.mentions}
        roots = [entry for entry in entries if entry.name not in needed]
    main = [entry for entry in roots if entry.is_main]
    required = _reached(main, by_name, with_extras=False)
    others = _reached(roots, by_name, with_extras=True)
    return Pins(_versions(required), _versions(entry for entry in others if entry not in required))


def _reached(roots: list[_Entry], by_name: Mapping[str, list[_Entry]], *, with_extras: bool) -> list[_Entry]:
    reached: list[_Entry] = []
    waiting: list[tuple[_Entry, tuple[str, ...]]] = [
        (root, tuple(root.extras) if with_extras else ()) for root in roots
    ]
    seen: set[tuple[int, tuple[str, ...]]] = set()
    while waiting:
        entry, extras = waiting.pop()
        if (id(entry), extras) in seen:
            continue
        seen.add((id(entry), extras))
        if entry not in reached:
            reached.append(entry)
        wanted = [*entry.needs, *(need for extra in extras for need in entry.extras.get(extra, ()))]
        waiting += [
            (found, more)
            for name, version, more in wanted
            for found in by_name.get(name, ())
            if version is None or version == found.version
        ]
    return reached


def _versions(entries: Iterable[_Entry]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.version is not None and not entry.is_own:
            found[entry.name].add(entry.version)
    return dict(found)
