"""A base image with the very Python that runs the tests, made of this machine's files: no registry is in reach."""

import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

#: Of each Python its own: a machine may have more than one that runs the tests.
NAME = f"localhost/repro-tests-base:{platform.python_version()}"
_LIBRARY = re.compile(r"=> (/\S+)|^\s*(/\S+ld-linux\S+)", re.MULTILINE)


def _needed(programs: Iterable[Path]) -> set[str]:
    """Return the libraries of the system that programs and modules load."""
    found: set[str] = set()
    for program in programs:
        done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
        found |= {one or other for one, other in _LIBRARY.findall(done.stdout)}
    return {path for path in found if path.startswith(("/lib", "/usr/lib"))}


def _python_files(prefix: Path) -> Iterable[Path]:
    library = prefix / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    left_out = {"site-packages", "dist-packages", "test", "idlelib", "tkinter", "turtledemo", "__pycache__", "lib2to3"}
    for here, folders, names in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in left_out and not name.startswith("config-"))
        yield from (Path(here, name) for name in sorted(names))
    yield from sorted((prefix / "lib").glob("libpython*"))


def write(target: Path) -> None:
    """Write the image's files as a tar archive: Python, what it and torch load, and busybox."""
    prefix = Path(sys.base_prefix)
    program = Path(os.path.realpath(sys.executable))
    files = [program, *_python_files(prefix)]
    torch = [path for entry in sys.path for path in Path(entry or ".").glob("torch/lib/*.so")]
    libraries = _needed([program, *(path for path in files if path.suffix == ".so"), *torch])
    with tarfile.open(target, "w") as archive:
        for path in [*files, *map(Path, sorted(libraries))]:
            archive.add(os.path.realpath(path), str(path), recursive=False)
        archive.add("/bin/busybox", "/bin/busybox")
        for name, aim in [("/bin/sh", "busybox"), ("/usr/local/bin/python3", str(program))]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, aim
            archive.addfile(link)
        for name in ("tmp", "proc", "dev", "sys", "etc", "root", "usr/bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)


def make(folder: Path) -> str:
    """Make the base image with Podman if it is not there; return its name."""
    if subprocess.run(["podman", "image", "exists", NAME], check=False).returncode:
        write(folder / "base.tar")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        subprocess.run(
            ["podman", "import", "--quiet", "--change", f"ENV {path}", str(folder / "base.tar"), NAME],
            check=True,
            capture_output=True,
        )
    return NAME
