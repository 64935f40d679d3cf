"""Environments built from locks: one folder each, named by what it is built of, whole or not used.

A build holds its environment's lock, and so does every process that writes to it. Each ends with its build; what has
the mark of the build in its variables all the same is ended by the next one. The last thing that is written is the
marker, when each file is what its wheel says. What has no marker when the lock is free was left by a build that was
killed, and is built anew. A replay shares the lock while it runs, so that nothing is taken away beneath it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from repro.base import digest, files, holders, process
from repro.environments import locks, pip, wheels, whole
from repro.environments.recorded import Python, Source
from repro.errors import EnvironmentMismatchError
from repro.store.store import Store

#: Beyond so many, those that were not used for longest are removed by the next build.
MOST = 8
_MARK = "REPRO_BUILD"
#: What was compared before the marker was written.
_CHECKED = "RECORD"
#: Seconds between two looks at a lock, at first and at most, and for killed processes to be gone.
_A_MOMENT, _OFTEN, _PATIENCE = 0.02, 0.5, 10.0
#: Compiles a folder on all cores; its workers end with it.
_COMPILE = """\
import compileall, concurrent.futures, ctypes, functools, sys
end = functools.partial(ctypes.CDLL(None).prctl, 1, 9)
futures = concurrent.futures
futures.ProcessPoolExecutor = functools.partial(futures.ProcessPoolExecutor, initializer=end)
compileall.compile_dir(sys.argv[1], quiet=2, workers=0)
"""
_ENTRY = re.compile(r"^([\w.-]+)\s*=\s*([\w.]+)\s*:\s*([\w.]+)", re.MULTILINE)

Say = Callable[[str], None]


class Built(NamedTuple):
    """An environment that can be used, held while the process lives or until `release`."""

    folder: Path
    digest: str
    wheel: str
    lock: int

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def release(self) -> None:
        """Let go of it."""
        os.close(self.lock)


class Swept(NamedTuple):
    """What `sweep` found: environments removed, with the reason, those that are kept, and the bytes that are free."""

    removed: dict[str, str]
    kept: list[str]
    bytes: int


def folder_of(store: Store) -> Path:
    """Return where the environments of a store are."""
    return store.folder / "environments"


def get(store: Store, source: Source, python: Python, say: Say) -> Built:
    """Return the environment of ``source``, built if it is not there, with the running `repro` in it.

    Raises:
        EnvironmentMismatchError: when it cannot be built.
    """
    name = source.digest(python.version)
    folder = folder_of(store) / name.removeprefix("sha256:")[:24]
    with files.disk_errors("make", folder.parent):
        folder.parent.mkdir(exist_ok=True)
    wheel = wheels.of_self()
    with files.disk_errors("lock", folder):
        lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    built = Built(folder, name, digest.of_bytes(wheel[1]), lock)
    try:
        _settle(built, store, source, python, wheel, say)
    except BaseException:
        os.close(lock)
        raise
    return built


def _settle(built: Built, store: Store, source: Source, python: Python, wheel: tuple[str, bytes], say: Say) -> None:
    """Return with the environment whole and its lock shared."""
    _wait(built, fcntl.LOCK_SH, say)
    while not _is_ready(built):
        fcntl.flock(built.lock, fcntl.LOCK_UN)
        _wait(built, fcntl.LOCK_EX, say)
        os.ftruncate(built.lock, 0)
        os.pwrite(built.lock, holders.note(), 0)
        _end_left(built.folder)
        if not _is_whole(built.folder):
            _build(built, store, source, python, say)
        _add_self(built, wheel)
        fcntl.flock(built.lock, fcntl.LOCK_SH)
    os.utime(_marker(built.folder))


def _wait(built: Built, how: int, say: Say) -> None:
    """Take the lock when it is free; what a build that is gone left going on, and holds it, is ended."""
    tries = 0
    while not _is_taken(built.lock, how):
        if not holders.lives(_read(built.folder.with_suffix(".lock"))):
            _end_left(built.folder)
        if tries == 1:
            say("repro: this environment is being built, or used with another repro; waiting")
        tries += 1
        time.sleep(min(_A_MOMENT * tries, _OFTEN))


def _is_taken(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _marks(folder: Path) -> dict[str, str]:
    """Return the variables by which the processes of an environment's build are known."""
    return {_MARK: str(folder)}


def _end_left(folder: Path) -> None:
    """End every process that a build of this environment left, and wait until it is gone."""
    mark = f"{_MARK}={folder}".encode()
    deadline = time.monotonic() + _PATIENCE
    while process.kill_where(mark.__eq__) and time.monotonic() < deadline:
        time.sleep(_A_MOMENT)


def _marker(folder: Path) -> Path:
    return folder / "repro-environment.json"


def _own(folder: Path) -> Path:
    return folder / "repro-itself.json"


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_whole(folder: Path) -> bool:
    """Say whether an environment was built to its end, here: one that was moved does not run."""
    found = _read(_marker(folder))
    return found.get("folder") == str(folder) and found.get("checked") == _CHECKED


def _is_ready(built: Built) -> bool:
    return _is_whole(built.folder) and _read(_own(built.folder)).get("wheel") == built.wheel


def _build(built: Built, store: Store, source: Source, python: Python, say: Say) -> None:
    folder = built.folder
    if folder.exists():
        say("repro: a build of this environment was killed; what it left is removed")
    say(f"repro: building the environment of {len(source.pins)} packages with pip, once ({python.version})")
    began = time.monotonic()
    try:
        _install_checked(built, store, source, python, say)
        _add_editables(folder, source.editables)
    except BaseException:
        _end_left(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    marker = {"folder": str(folder), "digest": built.digest, "checked": _CHECKED}
    files.replace(_marker(folder), json.dumps(marker).encode())
    say(f"repro: built in {time.monotonic() - began:.0f} s")
    sweep(store)


def _install_checked(built: Built, store: Store, source: Source, python: Python, say: Say) -> None:
    """Install until each file is what its wheel says; what is not twice, in the same way, is the wheel's own mistake.

    Raises:
        EnvironmentMismatchError: when two installations are not what their wheels are, each in its own way.
    """
    before: list[str] | None = None
    for _ in range(2):
        _remove(built.folder)
        if built.folder.exists():
            raise EnvironmentMismatchError(f"{built.folder} cannot be removed", hint=f"rm -rf {built.folder}")
        make(python, built.folder, (built.lock,))
        _install(built, store, source)
        found = whole.faults(site_of(built.folder), source.pins)
        if found == before:
            say(f"repro: {found[0]}: the wheel itself says otherwise")
        if not found or found == before:
            return
        before = found
    assert before is not None  # noqa: S101  (there were faults)
    hint = "something else writes there, or the disk is at fault; the same command builds it anew"
    raise EnvironmentMismatchError(f"the environment was not built as its wheels are: {before[0]}", hint=hint)


def make(python: Python, folder: Path, pass_fds: Sequence[int] = ()) -> None:
    """Make an empty environment. Raises EnvironmentMismatchError."""
    words = [python.program, "-I", "-m", "venv", "--without-pip", "--symlinks", str(folder)]
    try:
        process.output(words, env=os.environ | _marks(folder), pass_fds=pass_fds, mortal=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()
        hint = "Debian: apt-get install python3-venv" if "ensurepip" in said else "df -h"
        raise EnvironmentMismatchError(f"{python.program} -m venv failed: {said or error}", hint=hint) from error


def _install(built: Built, store: Store, source: Source) -> None:
    """Install all pins by their hashes, and compile them: pip itself does that on one core."""
    folder = built.folder
    own = folder / "wheels"
    for item in source.wheels.values():
        store.objects.restore(item["digest"], own / item["file"])
    lock = folder / "lock.txt"
    lock.write_text(locks.render(source.pins), encoding="utf-8")
    words = ["install", "--quiet", "--no-deps", "--require-hashes", "--no-compile", "--no-warn-script-location"]
    words += [*pip.find_links([own, *source.folders]), "-r", str(lock)]
    if source.pins:
        pip.run(words, python=built.python, pass_fds=(built.lock,), marks=_marks(folder))
    subprocess.run(
        [built.python, "-I", "-c", _COMPILE, str(site_of(folder))],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,  # packages bring files for other Pythons along
        env=os.environ | _marks(folder),
        pass_fds=(built.lock,),
        preexec_fn=process.die_with_parent,
    )


def site_of(folder: Path) -> Path:
    """Return the folder of an environment that packages are in."""
    return next(folder.glob("lib/python*/site-packages"))


def _add_editables(folder: Path, editables: dict[str, dict[str, str]]) -> None:
    """Put in place what finds the sources of editable installs; a replay leads that to the recorded code."""
    site = site_of(folder)
    for texts in editables.values():
        for name, text in texts.items():
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if name.endswith(".dist-info/entry_points.txt"):
                _add_scripts(folder, text)


def _add_scripts(folder: Path, text: str) -> None:
    """Write the console scripts of an editable install."""
    section = text.partition("[console_scripts]")[2].partition("\n[")[0]
    for name, module, function in _ENTRY.findall(section):
        top = function.partition(".")[0]
        path = folder / "bin" / name
        lines = [f"#!{folder}/bin/python", "import sys", f"from {module} import {top}", f"sys.exit({function}())"]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o755)


def _add_self(built: Built, wheel: tuple[str, bytes]) -> None:
    """Add the running `repro` from a wheel of itself, in place of any other."""
    if _read(_own(built.folder)).get("wheel") == built.wheel:
        return
    name, data = wheel
    path = built.folder / "wheels" / name
    with files.disk_errors("write", path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    words = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        "--no-warn-script-location",
        str(path),
    ]
    pip.run(words, python=built.python, pass_fds=(built.lock,), marks=_marks(built.folder))
    files.replace(_own(built.folder), json.dumps({"wheel": built.wheel}).encode())


def _remove(folder: Path) -> None:
    """Remove an environment; its marker first, so that one half removed is none."""
    _marker(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _environments(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Hold an environment's lock if nobody uses or builds it; yield whether that is so."""
    lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def sweep(store: Store, *, everything: bool = False) -> Swept:
    """Remove what killed builds left, and environments beyond `MOST`; with ``everything`` all that nobody uses."""
    root = folder_of(store)
    found = _environments(root)
    recent = sorted((path for path in found if _is_whole(path)), key=lambda path: _marker(path).stat().st_mtime)
    keep = set() if everything else set(recent[-MOST:])
    removed: dict[str, str] = {}
    size = 0
    for folder in (path for path in found if path not in keep):
        with _unused(folder) as is_free:
            if is_free:
                reason = "asked for" if everything else "not used for longest"
                removed[folder.name] = reason if _is_whole(folder) else "left by a build that was killed"
                _end_left(folder)
                size += _size(folder)
                _remove(folder)
    return Swept(removed, [path.name for path in _environments(root)], size)


def _size(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_blocks * 512
    return total
