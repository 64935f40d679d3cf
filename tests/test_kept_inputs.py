"""Inputs that are gone: the bytes that the store kept of them are used."""

import json
import shutil

from conftest import Project

SCRIPT = """\
import repro
repro.current().log(sum=sum(float(open(name).read()) for name in {names}))
"""


def test_an_input_that_is_gone_comes_from_the_store(project: Project) -> None:
    """With its folder, in the project and beside it: IDENTICAL, said in a line; without kept bytes it is asked for."""
    outside = project.root.parent / f"{project.root.name}-beside"
    names = ["data/x", "data/deep/y", f"../{outside.name}/z"]
    project.write("s.py", SCRIPT.format(names=names))
    project.write(".gitignore", "data/\n")
    for number, name in enumerate(names):
        project.write(name, str(number))
    project.commit()
    run = project.run("--", "python", "s.py")["run_id"]
    (project.root / "data/deep/y").unlink()
    done = project.repro("replay", run, check=0)
    assert "IDENTICAL" in done.out
    assert f"{project.root}/data/deep/y is gone; the replay has the bytes that the run read" in done.err
    shutil.rmtree(project.root / "data")
    shutil.rmtree(outside)
    assert project.replay(run)["verdict"] == "IDENTICAL"
    assert not (project.root / "data").exists()
    shutil.rmtree(project.store / "objects")
    found = project.replay(run, check=4)
    assert (found["reason"].endswith("is gone; the run read it"), "put it back" in found["hint"]) == (True, True)


def test_an_input_that_is_gone_and_read_by_its_absolute_path_is_no_difference(project: Project) -> None:
    """A replay cannot put a file where the script looks for it: NOT_REPLAYABLE names it, not DIFFERENT."""
    project.write("s.py", SCRIPT.format(names=[str(project.root / "data/x")]))
    project.write(".gitignore", "data/\n")
    project.write("data/x", "1")
    project.commit()
    run = project.run("--", "python", "s.py")["run_id"]
    (project.root / "data/x").unlink()
    found = project.replay(run, check=4)
    assert (found["verdict"], "data/x is gone" in found["reason"]) == ("NOT_REPLAYABLE", True)


def test_an_input_that_changed_is_as_the_run_read_it(project: Project) -> None:
    """IDENTICAL with the bytes that the store kept, said in a line; with ``--inputs current`` as it is now."""
    outside = project.root.parent / f"{project.root.name}-beside"
    names = ["data/x", "table.csv", f"../{outside.name}/z"]
    project.write(
        "s.py", SCRIPT.format(names=names) + f"print(len(list(__import__('os').scandir('../{outside.name}'))))\n"
    )
    project.write(".gitignore", "data/\n*.csv\n")
    for number, name in enumerate(names):
        project.write(name, str(number))
    project.write(f"../{outside.name}/nobody-reads-this", "7")
    project.write("e.yaml", "name: e\ncommand: python s.py\ndata:\n  table: table.csv\n")
    project.commit()
    run = project.run("e.yaml")["run_id"]
    for name in names:
        project.write(name, "100")
    done = project.repro("replay", run, check=0)
    assert "IDENTICAL" in done.out
    assert "data/x has changed since the run; the replay has the bytes that the run read, from the store" in done.err
    assert [(project.root / name).read_text() for name in names] == ["100"] * 3
    project.write("data/x", "0")
    project.write(names[2], "2")
    current = json.loads(project.repro("replay", run, "--inputs", "current", "--why", "--json", check=3).out)
    assert [item["path"] for item in current["cause"]["differences"]] == ["inputs.table.csv"]
    (project.root / "table.csv").unlink()
    assert project.replay(run)["verdict"] == "IDENTICAL"


def test_an_input_that_changed_and_is_read_by_its_absolute_path_is_the_first_difference(project: Project) -> None:
    """Where the recorded bytes do not reach the script, what changed is named."""
    project.write("s.py", SCRIPT.format(names=[str(project.root / "data/x")]))
    project.write(".gitignore", "data/\n")
    project.write("data/x", "1")
    project.commit()
    run = project.run("--", "python", "s.py")["run_id"]
    project.write("data/x", "2")
    found = project.replay(run, check=3)
    assert (found["verdict"], found["differences"][0]["path"]) == ("DIFFERENT", "inputs.data/x")
