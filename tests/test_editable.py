"""Packages installed editable: a replay imports the recorded code, wherever the live one is and whatever it became."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trees
from conftest import ROOT, Done, Project, clean_environment

SITES = [entry for entry in sys.path if entry.endswith("site-packages")]


class Home(NamedTuple):
    """An environment with `repro` in it, and the editable projects that were installed there, by name."""

    bin: Path
    projects: dict[str, Project]


def make_environment(folder: Path) -> Path:
    """Make an environment that has all packages of this one and `repro` with its hook; return its programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "0.pth").write_text("\n".join([*SITES, str(ROOT)]) + "\n")
    shutil.copy(ROOT / "repro_hook.pth", site)
    program = folder / "bin" / "repro"
    program.write_text(f"#!{folder}/bin/python\nimport sys\nfrom repro.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return folder / "bin"


BACKENDS = {
    "setuptools": 'requires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"',
    "hatchling": 'requires = ["hatchling"]\nbuild-backend = "hatchling.build"',
}


def write_package(root: Path, name: str, backend: str, layout: str) -> Project:
    """Write a project with a package of two modules, a data file and an empty folder; nothing of it is tracked."""
    project = Project(root)
    text = f'[build-system]\n{BACKENDS[backend]}\n\n[project]\nname = "{name}"\nversion = "1.0"\n'
    if backend == "setuptools":
        where = "package-dir = {'' = 'src'}\n" if layout == "src" else ""
        text += f'\n[tool.setuptools]\npackages = ["{name}", "{name}.sub"]\n{where}'
    if backend == "hatchling" and layout == "flat":
        text += "\n[tool.hatch.build]\ndev-mode-exact = true\n"
    project.write("pyproject.toml", text)
    base = f"src/{name}" if layout == "src" else name
    project.write(f"{base}/__init__.py", "from .sub import value\n")
    project.write(
        f"{base}/sub/__init__.py",
        "import importlib.resources\nfrom .deep import number\n"
        "text = importlib.resources.files(__name__).joinpath('data.txt').read_text()\n"
        "value = number + len(text)\n",
    )
    project.write(f"{base}/sub/deep.py", "number = 100\n")
    project.write(f"{base}/sub/data.txt", "1234567")
    return project


#: Project and sibling: the project is what runs, the sibling a second package in a folder beside it.
PAIRS = [(backend, layout) for backend in BACKENDS for layout in ("src", "flat")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An environment into which a project and its sibling are installed for each build backend and layout."""
    base = tmp_path_factory.mktemp("editable")
    programs = make_environment(base / "env")
    projects = {}
    for backend, layout in PAIRS:
        for part in ("own", "side"):
            name = f"{part}_{backend}_{layout}"
            projects[name] = write_package(base / name, name, backend, layout)
    words = [word for project in projects.values() for word in ("-e", str(project.root))]
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "-q", "--no-build-isolation"]
    command = [*pip, "--no-deps", "--no-index", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, env=clean_environment(), capture_output=True)
    return Home(programs, projects)


def call(home: Home, project: Project, *words: str, check: int | None = None, **env: str) -> Done:
    """Run the environment's `repro` in a project."""
    path = f"{home.bin}{os.pathsep}{clean_environment()['PATH']}"
    environment = clean_environment(PATH=path, VIRTUAL_ENV=str(home.bin.parent), **env)
    done = subprocess.run(
        [home.bin / "repro", *words],
        cwd=project.root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return Done(done.returncode, done.stdout, done.stderr)


def show(home: Home, project: Project, run: str = "last") -> Any:
    """Return all that is known of a run."""
    return call(home, project, "show", run, "--json", check=0).json


def change(project: Project) -> None:
    """Change every Python file of a project, so that none of them works as before."""
    for path in project.root.rglob("*.py"):
        if ".repro" not in path.parts:
            path.write_text(path.read_text().replace("100", "555").replace("number", "changed") + "\nbroken = True\n")
    for path in project.root.rglob("data.txt"):
        path.write_text("changed since")


@pytest.mark.parametrize(("backend", "layout"), PAIRS)
@pytest.mark.parametrize("repository", [True, False])
def test_a_project_and_its_sibling_changed_after_the_run(
    home: Home, backend: str, layout: str, repository: bool
) -> None:
    """The project's own package and one in a sibling folder, both changed since: the replay has the recorded code."""
    own, side = (home.projects[f"{part}_{backend}_{layout}"] for part in ("own", "side"))
    script = f"""\
import own_{backend}_{layout} as own, side_{backend}_{layout} as side, repro
import side_{backend}_{layout}.sub.deep
repro.current().log(own=own.value, side=side.value)
print(own.__file__, side.__file__)
"""
    own.write("train.py", script)
    saved = {project: trees.read(project.root) for project in (own, side)}
    if repository:
        own.commit()
        side.commit()
    try:
        done = call(home, own, "run", "--json", "--", "python", "train.py", check=0).json
        assert done["metrics"] == {"own": 107, "side": 107}
        seen = show(home, own)
        packages = {item["name"]: item["digest"] for item in seen["record"]["recipe"]["packages"]}
        assert packages[f"own-{backend}-{layout}"] == "editable:."
        assert packages[f"side-{backend}-{layout}"] == f"editable:source/side-{backend}-{layout}"
        assert seen["record"]["recipe"]["sources"].keys() >= {f"side-{backend}-{layout}"}
        assert seen["outcome"]["outputs"] == []
        change(own)
        change(side)
        shutil.rmtree(own.root / ".git", ignore_errors=True)
        before = trees.read(side.root)
        found = call(home, own, "replay", "last", "--json").json
        assert (found["verdict"], found["reason"], found["differences"]) == ("IDENTICAL", None, []), found
        assert trees.read(side.root) == before
    finally:
        shutil.rmtree(own.root / ".repro", ignore_errors=True)
        for project, files in saved.items():
            shutil.rmtree(project.root / ".git", ignore_errors=True)
            for name, (_, data) in files.items():
                project.write(os.fsdecode(name), data)


class Pair(NamedTuple):
    """A project and its sibling, as they were installed; whatever a test does to them is undone."""

    own: Project
    side: Project


@pytest.fixture
def pair(home: Home) -> Iterator[Pair]:
    """The project and the sibling with setuptools and a flat layout: imported by a finder."""
    found = Pair(home.projects["own_setuptools_flat"], home.projects["side_setuptools_flat"])
    saved = {project: trees.read(project.root) for project in found}
    yield found
    for project, files in saved.items():
        shutil.rmtree(project.root)
        for name, (_, data) in files.items():
            project.write(os.fsdecode(name), data)


def identical(home: Home, project: Project) -> dict[str, Any]:
    """Replay the last run; anything but IDENTICAL fails."""
    done = call(home, project, "replay", "last", "--json")
    assert done.code == 0, f"{done.out}\n{done.err}"
    found: dict[str, Any] = done.json
    return found


def test_children_import_the_recorded_code_too(home: Home, pair: Pair) -> None:
    """A child interpreter, a spawned process and a module run with ``-m`` have the recorded packages as well."""
    script = """\
import multiprocessing, subprocess, sys, repro

def work(queue):
    import side_setuptools_flat
    queue.put(side_setuptools_flat.value)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    spawned = queue.get()
    process.join()
    code = "import own_setuptools_flat as own; print(own.value)"
    child = int(subprocess.check_output([sys.executable, "-c", code], cwd="/"))
    module = int(subprocess.check_output([sys.executable, "-m", "side_setuptools_flat.tool"]))
    repro.current().log(spawned=spawned, child=child, module=module)
"""
    pair.own.write("train.py", script)
    pair.side.write("side_setuptools_flat/tool.py", "from . import value\nprint(value)\n")
    done = call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0).json
    assert done["metrics"] == {"spawned": 107, "child": 107, "module": 107}
    change(pair.own)
    change(pair.side)
    identical(home, pair.own)


WAYS = {
    "by its file": """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("by_file", LIVE + "/own_setuptools_flat/sub/deep.py")
module = importlib.util.module_from_spec(spec)
sys.modules["by_file"] = module
spec.loader.exec_module(module)
""",
    "as a program": """
import subprocess, sys
subprocess.run([sys.executable, LIVE + "/own_setuptools_flat/sub/deep.py"], check=True)
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_module_from_the_live_tree_is_named(home: Home, pair: Pair, way: str) -> None:
    """Where a script goes around the import system, the replay is NOT_REPLAYABLE and names the module and its file."""
    pair.own.write("train.py", f"import repro\nLIVE = {str(pair.own.root)!r}\nrepro.current().log(x=1)\n{WAYS[way]}")
    call(home, pair.own, "run", "--", "python", "train.py", check=0)
    done = call(home, pair.own, "replay", "last", "--json")
    assert (done.code, done.json["verdict"]) == (4, "NOT_REPLAYABLE")
    assert ("by_file" if way == "by its file" else "__main__") in done.json["reason"]
    assert str(pair.own.root / "own_setuptools_flat" / "sub" / "deep.py") in done.json["reason"]


def test_live_paths_on_the_import_path_lead_to_the_recorded_code(home: Home, pair: Pair) -> None:
    """A live folder that a script, or PYTHONPATH, puts on ``sys.path`` gives the recorded modules."""
    pair.own.write("tools/one.py", "x = 1\n")
    pair.own.write("tools/two.py", "x = 2\n")
    pair.own.write("tools/table.txt", "123")
    pair.own.write("plugins/pack/three.py", "x = 3\n")
    script = f"""\
import os, sys, repro
import one
table = next(f"{{entry}}/table.txt" for entry in sys.path if os.path.exists(f"{{entry}}/table.txt"))
sys.path.insert(0, {str(pair.own.root / "tools")!r})
sys.path.insert(0, {str(pair.own.root / "plugins")!r})
import two, pack.three
repro.current().log(x=one.x + 10 * two.x + 100 * pack.three.x, y=len(open(table).read()))
"""
    pair.own.write("train.py", script)
    env = {"PYTHONPATH": str(pair.own.root / "tools")}
    done = call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0, **env).json
    assert done["metrics"] == {"x": 321, "y": 3}
    for name in ("tools/one.py", "tools/table.txt", "tools/two.py", "plugins/pack/three.py"):
        pair.own.write(name, "x = 7\n")
    identical(home, pair.own)


def test_generated_and_compiled_modules_that_are_ignored(home: Home, pair: Pair) -> None:
    """A ``_version.py`` or an extension module that git ignores, in project and sibling, is linked and checked."""
    extension = next(Path(path) for path in sys.path if path.endswith("lib-dynload")).glob("_queue.*.so")
    library = next(extension)
    for project, name in zip(pair, ("own_setuptools_flat", "side_setuptools_flat"), strict=True):
        project.write(".gitignore", "_version.py\n*.so\n")
        project.write(f"{name}/_version.py", "version = 41\n")
        shutil.copy(library, project.root / name)
    script = """\
import own_setuptools_flat._version as a, side_setuptools_flat._version as b, repro
import own_setuptools_flat._queue as c, side_setuptools_flat._queue as d
repro.current().log(x=a.version + b.version, y=c.SimpleQueue().qsize(), z=d.SimpleQueue().qsize())
"""
    pair.own.write("train.py", script)
    call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0)
    read = {Path(item["path"]).name for item in show(home, pair.own)["outcome"]["inputs"]}
    assert read == {"_version.py", library.name}
    assert identical(home, pair.own)["differences"] == []
    pair.side.write("side_setuptools_flat/_version.py", "version = 42\n")
    assert call(home, pair.own, "replay", "last", "--json").json["verdict"] == "IDENTICAL"
    done = call(home, pair.own, "replay", "last", "--json", "--inputs", "current")
    assert done.json["verdict"] == "DIFFERENT"
    assert [item["kind"] for item in done.json["differences"]] == ["data"]
    (pair.side.root / "side_setuptools_flat" / library.name).unlink()
    words = ("replay", "last", "--json", "--inputs", "current")  # the module that is gone comes from the store
    done = call(home, pair.own, *words)
    assert (done.json["verdict"], [*done.json["metrics"]]) == ("DIFFERENT", ["x"])


def test_a_sibling_within_a_larger_repository(home: Home, pair: Pair) -> None:
    """A source that is a sub-folder of a repository is captured by that repository's rules, without the rest of it."""
    base = Project(pair.side.root.parent)
    base.write(".gitignore", "*.local\n/own_*\n/env\n")
    for name in ("side_setuptools_flat/kept.local", "side_setuptools_flat/noise.local"):
        base.write(name, "x")
    try:
        base.git("init", "-q", ".")
        base.git("add", "-f", "side_setuptools_flat/kept.local", "side_setuptools_flat/pyproject.toml")
        pair.own.git("init", "-q", ".")
        pair.own.write("train.py", "import side_setuptools_flat as side, repro\nrepro.current().log(x=side.value)\n")
        call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0)
        tree = show(home, pair.own)["record"]["recipe"]["sources"]["side-setuptools-flat"].removeprefix("git:")
        names = Project(pair.own.store / "code.git").git("ls-tree", "-r", "--name-only", tree).split()
        assert "kept.local" in names
        assert "noise.local" not in names
        assert all(not name.startswith(("own_", "side_setuptools_src")) for name in names)
        change(pair.side)
        identical(home, pair.own)
    finally:
        shutil.rmtree(base.root / ".git")
        (base.root / ".gitignore").unlink()


def test_what_is_left_out_of_a_sibling_is_named(home: Home, pair: Pair) -> None:
    """Secrets and environments in a sibling are not captured, and named with their place."""
    pair.side.write(".env", "TOKEN=abc")
    pair.side.write(".venv/pyvenv.cfg", "")
    pair.own.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    done = call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0).json
    named = {gap["what"] for gap in done["gaps"]}
    assert {f"{pair.side.root}/.env", f"{pair.side.root}/.venv/"} <= named


def test_a_sibling_edited_before_its_import_is_named(home: Home, pair: Pair) -> None:
    """A module of a sibling that is edited between the seal and its import is named in the outcome's notes."""
    deep = pair.side.root / "side_setuptools_flat" / "sub" / "deep.py"
    script = f"""\
import subprocess, repro
subprocess.run(["sh", "-c", "echo 'number = 3' > {deep}"], check=True)
import side_setuptools_flat as side
repro.current().log(x=side.value)
"""
    pair.own.write("train.py", script)
    done = call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0).json
    assert done["metrics"] == {"x": 10}
    assert [str(deep) in note for note in done["notes"]] == [True]


def test_a_source_that_is_gone_is_a_gap(home: Home, pair: Pair) -> None:
    """An editable install whose folder was deleted is named in the gaps; the run goes on without it."""
    pair.own.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    moved = pair.side.root.with_name("moved away")
    pair.side.root.rename(moved)
    try:
        done = call(home, pair.own, "run", "--json", "--", "python", "train.py", check=0).json
    finally:
        moved.rename(pair.side.root)
    assert [gap["what"] for gap in done["gaps"]] == ["package side-setuptools-flat"]
    identical(home, pair.own)


def test_the_recipe_of_a_changed_sibling_differs(home: Home, pair: Pair) -> None:
    """The code of a sibling is part of the recipe: an edit there is another recipe, an edit taken back the same one."""
    pair.own.write("train.py", "import repro\nrepro.current().log(x=1)\n")
    run = ("run", "--json", "--", "python", "train.py")
    first = call(home, pair.own, *run, check=0).json["recipe_digest"]
    text = (pair.side.root / "pyproject.toml").read_text()
    pair.side.write("pyproject.toml", text + "\n")
    assert call(home, pair.own, *run, check=0).json["recipe_digest"] != first
    (file,) = call(home, pair.own, "diff", "last~1", "last", "--json", check=0).json["code"]
    assert (file["path"], file["added"], file["removed"]) == ("pyproject.toml", 1, 0)
    assert file["source"].startswith("side-")
    pair.side.write("pyproject.toml", text)
    assert call(home, pair.own, *run, check=0).json["recipe_digest"] == first


def test_an_environment_of_the_projects_own(project: Project) -> None:
    """A project with its packages in a ``.venv`` within: the relative path to its Python holds for the replay too."""
    make_environment(project.root / ".venv")
    project.write(".venv/lib/python3.11/site-packages/installed.py", "x = 3\n")
    project.write(
        "train.py", "import sys, installed, repro\nrepro.current().log(x=installed.x, y=len(sys.prefix) > 0)\n"
    )
    project.write("run.sh", ". .venv/bin/activate\npython train.py\n")
    home = Home(project.root / ".venv" / "bin", {})
    for command in ([".venv/bin/python", "train.py"], ["bash", "run.sh"], ["python", "train.py"]):
        done = call(home, project, "run", "--json", "--", *command, check=0).json
        assert [gap["what"] for gap in done["gaps"]] == [".venv/"]
        assert show(home, project)["outcome"]["inputs"] == []
        assert identical(home, project)["differences"] == []
