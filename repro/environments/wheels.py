"""Wheels made of what is installed: of `repro` itself, and of distributions that no index has as they are."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import repro
from repro.base import digest, files, scratch
from repro.capture import drift, packages
from repro.capture.interpreter import HOOK
from repro.errors import EnvironmentMismatchError
from repro.store.store import Store

#: No larger distribution is kept: what is that large is on an index.
MOST_BYTES = 64 << 20
_DATE = (1980, 1, 1, 0, 0, 0)
_WHEEL = "Wheel-Version: 1.0\nGenerator: repro\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def of_self() -> tuple[str, bytes]:
    """Return file name and bytes of a wheel of the running `repro`: the same bytes for the same code."""
    package = Path(repro.__file__).parent
    found = {
        f"repro/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    found[HOOK] = _hook(package).read_bytes()
    info = f"{packages.SELF.replace('-', '_')}-{repro.__version__}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {packages.SELF}\nVersion: {repro.__version__}\n"
    found[f"{info}/METADATA"] = head.encode()
    found[f"{info}/WHEEL"] = _WHEEL.encode()
    found[f"{info}/entry_points.txt"] = b"[console_scripts]\nrepro = repro.cli.main:main\n"
    return f"{info.removesuffix('.dist-info')}-py3-none-any.whl", _pack(found, info)


def _hook(package: Path) -> Path:
    """Return the file that starts the hooks: in site-packages, or beside the package in its source tree."""
    places = [Path(entry, HOOK) for entry in (str(package.parent), *sys.path) if entry]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise EnvironmentMismatchError(f"{HOOK} is not installed", hint="install repro anew (pip install repro-runner)")
    return found


def _pack(found: Mapping[str, bytes], info: str) -> bytes:
    """Return the bytes of a wheel of these files, RECORD included; equal for equal files."""
    record = io.StringIO()
    rows = [(name, _hash(data), len(data)) for name, data in sorted(found.items())]
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*sorted(found.items()), (f"{info}/RECORD", record.getvalue().encode())]:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def keep(found: Iterable[packages.Distribution], store: Store) -> dict[str, dict[str, str]]:
    """Keep a wheel of each distribution that no index has as it is; return file name and digest of each by name.

    Those are what was installed from a folder, a repository or a file, and what was edited since.
    """
    kept = {}
    for item in found:
        is_local = item.origin is not None or item.edited
        if is_local and item.editable is None and item.name != packages.SELF:
            made = _keep(item, store)
            if made is not None:
                kept[item.name] = made
    return kept


def _keep(item: packages.Distribution, store: Store) -> dict[str, str] | None:
    try:
        name, data = _of_installed(item)
    except (OSError, ValueError):
        return None
    content = digest.of_bytes(data)
    if not store.objects.path(content).exists():
        with files.disk_errors("keep", store.objects.folder):
            store.objects.folder.mkdir(parents=True, exist_ok=True)
            with scratch.folder("keep", store.objects.folder) as place:
                path = place / name
                path.write_bytes(data)
                store.objects.take(path)
    return {"file": name, "digest": content}


def of_installed(name: str) -> tuple[str, bytes]:
    """Return file name and bytes of a wheel of a distribution that this interpreter has.

    Raises:
        EnvironmentMismatchError: when it has none of the name.
    """
    for item in packages.scan([entry for entry in sys.path if entry]).distributions:
        if item.name == name:
            return _of_installed(item)
    raise EnvironmentMismatchError(f"{name} is not installed beside repro", hint=f"pip install {name}")


def _of_installed(item: packages.Distribution) -> tuple[str, bytes]:
    """Return file name and bytes of a wheel of an installed distribution, of the files that it has now.

    Raises:
        OSError, ValueError: when a file cannot be read, or all are too large.
    """
    place = Path(item.place)
    paths = [line.path for line in drift.read(f"{place}/RECORD") if packages.counts(line.path)]
    sizes = [os.path.getsize(place.parent / path) for path in paths if (place.parent / path).exists()]
    if sum(sizes) > MOST_BYTES:
        msg = f"{item.name} is too large"
        raise ValueError(msg)
    found = {path: (place.parent / path).read_bytes() for path in paths if (place.parent / path).exists()}
    return f"{place.name.removesuffix('.dist-info')}-{_tag(item.build)}.whl", _pack(found, place.name)


def _tag(build: str | None) -> str:
    tags = [word for word in (build or "").split() if word.count("-") == 2]  # noqa: PLR2004
    return tags[0] if tags else "py3-none-any"
