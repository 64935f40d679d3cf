"""What a lock of each kind pins for one interpreter on this platform."""

from pathlib import Path

import pytest
from conftest import Project

from repro.capture import lock, packages, pins

UV = """
version = 1
requires-python = ">=3.9"
[[package]]
name = "click"
version = "8.1.8"
resolution-markers = ["python_full_version < '3.10'"]
dependencies = [{ name = "colorama", marker = "sys_platform == 'win32'" }]
[[package]]
name = "click"
version = "8.5.1"
resolution-markers = ["python_full_version >= '3.10'"]
dependencies = [{ name = "colorama", marker = "sys_platform == 'win32'" }]
[[package]]
name = "colorama"
version = "0.4.6"
[[package]]
name = "httpx"
version = "1.0"
dependencies = [{ name = "idna" }]
optional-dependencies = { http2 = [{ name = "h2" }] }
[[package]]
name = "h2"
version = "4.0"
[[package]]
name = "idna"
version = "3.0"
[[package]]
name = "matplotlib"
version = "3.1"
[[package]]
name = "pytest"
version = "9.0"
[[package]]
name = "exceptiongroup"
version = "1.3"
[[package]]
name = "proj"
version = "0.1.0"
source = { editable = "." }
dependencies = [
  { name = "click", version = "8.1.8", marker = "python_full_version < '3.10'" },
  { name = "click", version = "8.5.1", marker = "python_full_version >= '3.10'" },
  { name = "httpx", extra = ["http2"] },
  { name = "exceptiongroup", marker = "python_full_version < '3.11'" },
]
[package.optional-dependencies]
plot = [{ name = "matplotlib" }]
[package.dev-dependencies]
dev = [{ name = "pytest" }]
"""
POETRY_2 = """
[[package]]
name = "click"
version = "8.1.8"
optional = false
python-versions = ">=3.7"
groups = ["main"]
[package.dependencies]
colorama = {version = "*", markers = "platform_system == \\"Windows\\""}
[[package]]
name = "colorama"
version = "0.4.6"
optional = false
python-versions = "*"
groups = ["main", "dev"]
markers = {main = "platform_system == \\"Windows\\"", dev = "sys_platform == \\"win32\\""}
[[package]]
name = "old"
version = "1.0"
optional = false
python-versions = "<3.10"
groups = ["main"]
[[package]]
name = "pytest"
version = "9.0"
optional = false
python-versions = ">=3.9"
groups = ["dev"]
[[package]]
name = "redis"
version = "5.0"
optional = true
python-versions = ">=3.9"
groups = ["main"]
"""
POETRY_1 = POETRY_2.replace('groups = ["main"]\n', "").replace('groups = ["dev"]', 'category = "dev"')
POETRY_1 = "\n".join(line for line in POETRY_1.splitlines() if not line.startswith(("markers =", "groups =")))
PDM = """
[metadata]
groups = ["default", "dev"]
[[package]]
name = "click"
version = "8.1.8"
requires_python = ">=3.7"
groups = ["default"]
dependencies = ["colorama; platform_system == \\"Windows\\""]
[[package]]
name = "colorama"
version = "0.4.6"
groups = ["default"]
marker = "platform_system == \\"Windows\\""
[[package]]
name = "proj"
version = "0.1.0"
path = "."
editable = true
groups = ["default"]
dependencies = ["click"]
[[package]]
name = "pytest"
version = "9.0"
groups = ["dev"]
"""
PYLOCK = """
lock-version = "1.0"
created-by = "x"
[[packages]]
name = "click"
version = "8.1.8"
marker = "python_version >= '3.10'"
[[packages]]
name = "colorama"
version = "0.4.6"
marker = "sys_platform == 'win32'"
[[packages]]
name = "pytest"
version = "9.0"
marker = "'dev' in dependency_groups"
[[packages]]
name = "proj"
directory = { path = "." }
"""
REQUIREMENTS = """
# comment
-e .
--index-url https://example.org/simple
click==8.1.8 ; python_full_version >= '3.10' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via proj
click==7.0 ; python_full_version < '3.10' --hash=sha256:cc
colorama==0.4.6 ; sys_platform == "win32"
Typing.Extensions[x]==4.0  # why
numpy>=1.0
torch @ https://example.org/torch.whl
"""


@pytest.mark.parametrize(
    ("name", "text", "required", "optional"),
    [
        ("uv.lock", UV, {"click": "8.5.1", "httpx": "1.0", "h2": "4.0", "idna": "3.0"}, {"matplotlib", "pytest"}),
        ("poetry.lock", POETRY_2, {"click": "8.1.8"}, {"pytest", "redis"}),
        ("poetry.lock", POETRY_1, {"click": "8.1.8"}, {"pytest", "redis"}),
        ("pdm.lock", PDM, {"click": "8.1.8"}, set()),
        ("pylock.toml", PYLOCK, {"click": "8.1.8"}, set()),
        ("requirements.txt", REQUIREMENTS, {"click": "8.1.8", "typing-extensions": "4.0"}, set()),
    ],
    ids=["uv", "poetry 2", "poetry 1", "pdm", "pylock", "requirements"],
)
def test_what_is_pinned_here(
    tmp_path: Path, name: str, text: str, required: dict[str, str], optional: set[str]
) -> None:
    """Markers are evaluated; the project is no package; extras and groups may be there, and need not."""
    (tmp_path / name).write_text(text)
    found = pins.read(tmp_path / name, "CPython 3.11.7")
    assert found is not None
    assert found.required == {key: {value} for key, value in required.items()}
    assert optional <= set(found.optional)
    assert not {"colorama", "proj", "old", "exceptiongroup"} & {*found.required, *found.optional}


def test_markers_are_those_of_the_recorded_interpreter(tmp_path: Path) -> None:
    """Another Python than the one that runs `repro` has other pins in the same lock."""
    (tmp_path / "uv.lock").write_text(UV)
    found = pins.read(tmp_path / "uv.lock", "CPython 3.9.1")
    assert found is not None
    assert found.required["click"] == {"8.1.8"}
    assert found.required["exceptiongroup"] == {"1.3"}


def test_an_optional_package_counts_where_it_is_installed(tmp_path: Path) -> None:
    """Another version of it than the lock has is a difference; that it is not there is none."""
    (tmp_path / "uv.lock").write_text(UV)
    here = {"click": "8.5.1", "httpx": "1.0", "h2": "4.0", "idna": "3.0"}
    for more, differences in (({}, []), ({"pytest": "8.0"}, ["pytest: locked 9.0, here 8.0"])):
        installed = [
            packages.Distribution(name, version, "x", None, None, None) for name, version in (here | more).items()
        ]
        assert lock.describe(tmp_path, installed, "CPython 3.11.7")["differences"] == differences


@pytest.mark.parametrize(
    "text", ["[[package]]\nname = 5\n", "no toml", "package = 3\n", '[[package]]\nname = "a"\nmarker = "?"\n']
)
def test_what_is_no_lock_is_left_out(tmp_path: Path, text: str) -> None:
    """A file that cannot be read as one says nothing, and stops nothing."""
    (tmp_path / "uv.lock").write_text(text)
    assert lock.describe(tmp_path, [])["lock"] is None


def test_a_universal_lock_is_matched_by_its_environment(project: Project) -> None:
    """`repro verify --environment` ends with 0: colorama is for Windows, and proj is the project itself."""
    from importlib import metadata

    project.write("uv.lock", UV.replace("8.5.1", metadata.version("click")).partition('[[package]]\nname = "httpx"')[0])
    done = project.repro("verify", "--environment", check=0)
    assert "uv.lock, which it matches" in done.out + done.err
