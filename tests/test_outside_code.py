"""Code outside the project is captured as a further tree before the run, and replayed from there."""

import shutil
from pathlib import Path

import pytest
from conftest import Project

from repro.capture import outside

#: How a script may take ``value.py`` of the folder ``common`` beside the project.
WAYS = {
    "append": 'import sys\nsys.path.append("../common")\nimport value\n',
    "insert of a path": "import sys\nfrom pathlib import Path\nROOT = Path(__file__).resolve().parents[1]\n"
    'sys.path.insert(0, str(ROOT / "common"))\nimport value\n',
    "os.path": "import os, sys\nHERE = os.path.dirname(os.path.abspath(__file__))\n"
    'sys.path.append(os.path.join(HERE, os.pardir, "common"))\nimport value\n',
    "absolute": 'import sys\nsys.path += ["{common}"]\nimport value\n',
    "formatted": 'import sys\nBASE = ".."\nsys.path[:0] = [f"{{BASE}}/common"]\nimport value\n',
    "a file": 'import runpy, types\nvalue = types.SimpleNamespace(**runpy.run_path("../common/value.py"))\n',
    "a spec": "import importlib.util as u\ns = u.spec_from_file_location('value', '../common/value.py')\n"
    "value = u.module_from_spec(s)\ns.loader.exec_module(value)\n",
    "site": 'import site\nsite.addsitedir("../common")\nimport value\n',
    "a helper adds it": "import helper\nimport value\n",
    "PYTHONPATH": "import value\n",
}


@pytest.fixture
def common(project: Project) -> Path:
    """The folder ``common`` beside the project: two modules, one of which takes a third from beside it."""
    folder = project.root.parent / "common"
    (folder.parent / "deeper").mkdir()
    folder.mkdir()
    (folder / "value.py").write_text('import sys\nsys.path.append("../deeper")\nimport deep\nX = 1 + deep.X\n')
    (folder.parent / "deeper" / "deep.py").write_text("X = 1\n")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_code_outside_is_a_tree_of_its_own(project: Project, common: Path, way: str) -> None:
    """However it is reached: in the recipe, no input, replayed as recorded when it has changed; a new run differs."""
    project.write("t.py", WAYS[way].format(common=common) + "import repro\nrepro.current().log(x=value.X)\n")
    project.write("helper.py", 'import sys\nsys.path.append("../common")\n')
    project.commit()
    env = {"PYTHONPATH": str(common)} if way == "PYTHONPATH" else {}
    done = project.run("--", "python", "t.py", **env)
    shown = project.repro("show", done["run_id"], "--json", check=0).json
    assert set(shown["record"]["recipe"]["sources"]) == {"common", "deeper"}
    assert shown["outcome"]["inputs"] == []
    (common / "value.py").write_text("X = 50\n")
    (common.parent / "deeper" / "deep.py").unlink()
    assert project.replay(done["run_id"], **env)["verdict"] == "IDENTICAL"
    again = project.run("--", "python", "t.py", **env)
    assert (again["metrics"], again["recipe_digest"] == done["recipe_digest"]) == ({"x": 50.0}, False)
    changed = project.repro("diff", done["run_id"], again["run_id"], "--json").json
    assert "sources.common" in str(changed)


def test_a_folder_that_holds_the_project_is_left_out_and_named(project: Project) -> None:
    """Its modules are inputs, kept and replayed from the store; so they are where the script works the path out."""
    above = project.root.parent
    (above / "value.py").write_text("X = 1\n")
    (above / "odd").mkdir()
    (above / "odd" / "other.py").write_text("X = 1\n")
    project.write(
        "t.py",
        'import sys\nsys.path += ["..", "".join(["../", "odd"])]\nimport value, other, repro\n'
        "repro.current().log(x=value.X + other.X)\n",
    )
    project.commit()
    done = project.run("--", "python", "t.py")
    reasons = {gap["what"]: gap["reason"] for gap in done["gaps"]}
    assert "holds the project" in reasons[f"code in {above}"]
    (above / "value.py").write_text("X = 2\n")
    (above / "odd" / "other.py").write_text("X = 2\n")
    assert project.replay(done["run_id"])["verdict"] == "IDENTICAL"


def test_what_is_installed_or_has_no_code_is_no_source(tmp_path: Path) -> None:
    """Installed packages, the system's folders, empty ones and names that are not known are left alone."""
    root = tmp_path / "project"
    (tmp_path / "empty").mkdir()
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "m.py").touch()
    root.mkdir()
    lines = ["../empty", "../site-packages", "../none", "/usr/lib/python3"]
    text = "import sys\n" + "".join(f"sys.path.append({line!r})\n" for line in lines) + "sys.path.append(sys.argv[1])\n"
    (root / "a.py").write_text(text)
    (root / "broken.py").write_text("sys.path.append(\n")
    found = outside.find(root, root, root / ".repro", ["a.py", "broken.py"], [], "", {})
    assert found == outside.Outside({}, {})


@pytest.mark.parametrize("kind", ["temporary", "many", "unreadable", "topmost"])
def test_a_folder_that_is_no_folder_of_code_stops_no_run(
    project: Project, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in the folder of temporary files, or among thousands of others: it runs, and a gap says what it is."""
    place = Path("/outside-code") if kind == "topmost" else tmp_path / "place"
    place.mkdir()
    try:
        (place / "s.py").write_text("print('ran')\n")
        if kind == "temporary":
            monkeypatch.setenv("TMPDIR", str(place))
        if kind == "many":
            (place / "images").mkdir()
            for number in range(5_001):
                (place / "images" / str(number)).touch()
        if kind == "unreadable":
            (place / "broken").mkdir()
            (place / "broken" / ".git").write_text("gitdir: /nowhere\n")
        project.write("t.py", "pass\n")
        project.commit()
        done = project.run("--", "python", str(place / "s.py"))
        assert done["state"] == "COMPLETED"
        if kind != "unreadable":
            assert f"code in {place}" in [gap["what"] for gap in done["gaps"]]
        assert project.replay(done["run_id"])["verdict"] == "IDENTICAL"
    finally:
        shutil.rmtree(place)
