"""Inputs that are gone: the bytes that the store kept of them are used."""

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
