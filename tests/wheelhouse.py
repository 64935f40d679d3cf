"""Tiny packages as wheels and as sources, and small environments to install them in."""

import base64
import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: What torch needs to be imported, and what a worker of ours needs beside it.
TORCH = (
    "torch numpy filelock typing-extensions sympy mpmath networkx jinja2 markupsafe fsspec setuptools msgspec xxhash"
    " rfc8785".split()
)


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Write a pure wheel of these files; return its path."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},{_hash(text)},{len(text.encode())}\n" for path, text in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in {**files, f"{info}/RECORD": "".join(lines) + f"{info}/RECORD,,\n"}.items():
            archive.writestr(place, text)
    return path


def _hash(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def flips(folder: Path) -> Path:
    """Write the wheels of ``reproflip`` 1.0 and 2.0: a default is another one in 2.0; return their folder."""
    for version, value in (("1.0", "0.1"), ("2.0", "0.2")):
        wheel(folder, "reproflip", version, {"reproflip/__init__.py": f"DEFAULT = {value}\n"})
    wheel(folder, "reproidle", "1.0", {"reproidle.py": "idle = 1\n"})
    return folder


class Home:
    """A small environment of its own, made of nothing, or of hard links to distributions of this one."""

    def __init__(self, folder: Path, linked: Iterable[str] = (), *, hooked: bool = False) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        (self.site,) = folder.glob("lib/python*/site-packages")
        for name in linked:
            self._link(name)
        if hooked:
            (self.site / "repro").symlink_to(ROOT / "repro")
            (self.site / "repro_hook.pth").write_bytes((ROOT / "repro_hook.pth").read_bytes())

    def _link(self, name: str) -> None:
        from importlib.metadata import distribution

        for path in distribution(name).files or ():
            source, target = Path(str(path.locate())), self.site / path
            if str(path).startswith("..") or not source.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def pip(self, *words: str, links: Path | None = None) -> None:
        """Run this environment's pip for it."""
        command = [sys.executable, "-m", "pip", "--python", self.python, *words]
        env = os.environ | ({"PIP_FIND_LINKS": str(links), "PIP_NO_INDEX": "1"} if links is not None else {})
        subprocess.run(command, check=True, capture_output=True, env=env)

    def install(self, links: Path, *names: str) -> None:
        """Install packages from a folder of wheels."""
        self.pip("install", "--quiet", "--no-deps", "--upgrade", "--force-reinstall", *names, links=links)
