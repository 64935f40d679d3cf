"""What `repro doctor` finds before a run, at which line, and what it leaves alone."""

import importlib.metadata
import shutil
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Project
from doctor_scripts import SCRIPTS

LOCK = f"numpy=={importlib.metadata.version('numpy')}\n"


def text_of(script: str) -> str:
    """Return a script without the margin that it has here."""
    return "\n".join(line.removeprefix(" " * 8) for line in script.splitlines()) + "\n"


def marked(script: str) -> list[int]:
    """Return the lines with a mark; ``#?`` marks the line after that of a call of several."""
    lines = enumerate(script.splitlines(), 1)
    return [number - line.endswith("#?") for number, line in lines if line.endswith(("#!", "#?"))]


@pytest.fixture
def steady(project: Project) -> Project:
    """A committed project around which nothing is to be found: its lock is that of here."""
    project.write("requirements.lock", LOCK)
    project.commit()
    return project


def doctor(project: Project, *words: str, check: int | None = None, **env: str) -> list[Any]:
    """Run ``repro doctor --json`` with one thread asked for; return the findings."""
    found: list[Any] = project.repro("doctor", "--json", "--threads", "1", *words, check=check, **env).json["findings"]
    return found


def places(findings: list[Any]) -> list[tuple[str, str | None, int | None]]:
    """Return rule, file and line of each finding."""
    return [(item["rule"], item["file"], item["line"]) for item in findings]


@pytest.mark.parametrize("rule", sorted(SCRIPTS))
def test_a_rule_finds_its_lines_and_no_others(steady: Project, rule: str) -> None:
    """Each rule finds every marked line of its script, by aliases too; the clean twins beside them are left alone."""
    script = text_of(SCRIPTS[rule])
    steady.write("train.py", script)
    findings = doctor(steady, "train.py", check=2)
    assert places(findings) == [(rule, "train.py", line) for line in marked(script)]
    assert all(item["remedy"] and item["text"] for item in findings)


def test_nothing_found_is_zero(steady: Project) -> None:
    """A script that does all of it well gives nothing at all: exit code 0, an empty list, and words that say so."""
    steady.write(
        "train.py",
        "from pathlib import Path\n\nimport numpy as np\nimport torch\nfrom torch.utils.data import DataLoader\n\n"
        "torch.manual_seed(1)\nrng = np.random.default_rng(2)\nfiles = sorted(Path('data').glob('*.png'))\n"
        "loader = DataLoader(files, shuffle=True, num_workers=2, generator=torch.Generator().manual_seed(3))\n",
    )
    assert doctor(steady, "train.py", check=0) == []
    done = steady.repro("doctor", "--threads", "1", "--", "python", "train.py", check=0)
    assert done.out == ""
    assert "nothing found · 1 file read" in done.err


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_the_experiments_of_this_repository_are_clean(steady: Project, name: str) -> None:
    """The experiments here give no finding, and a bare doctor takes the experiment.yaml where the user stands."""
    shutil.copytree(ROOT / "experiments", steady.root / "experiments")
    done = steady.repro("doctor", "--json", cwd=steady.root / "experiments" / name, check=0)
    assert done.json == {"findings": [], "files": [f"experiments/{name}/train.py"]}


def test_the_text_names_file_line_and_remedy(steady: Project) -> None:
    """On the screen a finding is file:line as seen from here, the rule, what is wrong, and the remedy below it."""
    steady.write("part/train.py", "import os\n\nprint(len(os.listdir('.')))\nx = os.listdir('.')[0]\n")
    done = steady.repro("doctor", "--threads", "1", "train.py", cwd=steady.root / "part", check=2)
    assert done.out == (
        "train.py:4: unsorted-listing: os.listdir lists in the order of the disk\n    remedy: sorted(...)\n"
    )
    assert "1 finding · 1 file read" in done.err


def test_imports_are_followed_within_the_project(steady: Project) -> None:
    """Modules that the script imports are read too, by every form of import; others and types alone are not."""
    bad = "import os\n\nX = os.listdir('.')[0]\n"
    names = ("a.py", "pkg/b.py", "pkg/sub/c.py", "pkg/sub/d.py", "late.py", "pkg/e.py", "src/laid/out.py", "space/f.py")
    for name in (*names, "never.py", "types_only.py"):
        steady.write(name, bad)
    steady.write("pkg/__init__.py", "")
    steady.write("pkg/sub/__init__.py", "from . import d\nfrom ..e import X\n")
    steady.write("src/laid/__init__.py", bad)
    steady.write(
        "train.py",
        "import importlib\nfrom typing import TYPE_CHECKING\n\nimport a\nimport pkg.b as b\nfrom pkg.sub.c import X\n"
        "from laid import out\nfrom space import f\n\nif TYPE_CHECKING:\n    import types_only\n\n\n"
        "def main():\n    import late\n    return importlib.import_module('a'), late\n",
    )
    found = places(doctor(steady, "train.py", check=2))
    assert found == [("unsorted-listing", name, 3) for name in sorted([*names, "src/laid/__init__.py"])]


def test_a_draw_is_found_in_the_module_of_the_data(steady: Project) -> None:
    """The Dataset may lie in another module than the loader; without workers, or with a worker_init_fn, it is fine."""
    steady.write(
        "faces.py",
        "import numpy as np\nfrom torch.utils.data import Dataset\n\n\nclass Faces(Dataset):\n"
        "    def __getitem__(self, index):\n        return np.random.rand()\n",
    )
    begin = "from faces import Faces\nfrom torch.utils.data import DataLoader\n\nDataLoader(Faces()"
    for more, lines in ((", num_workers=2", [7]), ("", []), (", num_workers=2, worker_init_fn=print", [])):
        steady.write("train.py", f"{begin}{more})\n")
        assert [item["line"] for item in doctor(steady, "train.py")] == lines, more


@pytest.mark.parametrize(
    "words",
    [
        ("--", "python", "tool.py", "--lr", "0.1"),
        ("--", "python", "-u", "-W", "error", "tool.py"),
        ("--", "python", "-m", "tool"),
        ("--", "python", "-m", "package"),
        ("--", "python", "package"),
        ("--", "python", "-m", "torch.distributed.run", "--nproc-per-node", "2", "tool.py"),
        ("--", "torchrun", "--nproc-per-node=2", "tool.py", "--lr", "1"),
        ("--", "torchrun", "-m", "package"),
        ("--", "env", "X=1", "python", "tool.py"),
        ("--", "./run"),
        ("tool.py", "--lr", "0.1"),
        ("command.yaml",),
        ("entry.yaml",),
    ],
    ids=" ".join,
)
def test_the_script_of_every_kind_of_command_is_read(steady: Project, words: tuple[str, ...]) -> None:
    """The script is found behind python and its options, -m, torchrun, env, as a program, in an experiment file."""
    bad = "import os\n\nX = os.listdir('.')[0]\n"
    steady.write("tool.py", f"{bad}\n\ndef main(run):\n    pass\n")
    steady.write("package/__main__.py", bad)
    steady.write("run", f"#!/usr/bin/env python\n{bad}").chmod(0o755)
    steady.write("command.yaml", "name: a\ncommand: python tool.py --lr {lr}\nparams: {lr: 1}\nthreads: 1\n")
    steady.write("entry.yaml", "name: a\nentry: tool.py:main\nthreads: 1\n")
    (found,) = doctor(steady, *words, check=2)
    file = "package/__main__.py" if "package" in words else "run" if "./run" in words else "tool.py"
    assert places([found]) == [("unsorted-listing", file, 4 if file == "run" else 3)]


def test_code_given_in_words_is_read(steady: Project) -> None:
    """The text after ``python -c`` is looked at as a script named ``-c``; a shell script is said not to be."""
    assert places(doctor(steady, "--", "python", "-c", "import torch\ntorch.seed()", check=2)) == [
        ("unseeded-generator", "-c", 2)
    ]
    steady.write("run.sh", "echo hello\n")
    done = steady.repro("doctor", "--threads", "1", "--", "sh", "run.sh", check=0)
    assert "the code was not looked at" in done.err


@pytest.mark.parametrize(
    ("source", "line"),
    [("x = 1\ndef broken(:\n", 2), ("x = '\0'\n", None), ("# coding: nonsense\n", None), ("(" * 300 + ")" * 300, 1)],
    ids=["syntax", "null byte", "encoding", "depth"],
)
def test_a_file_that_cannot_be_parsed_is_a_finding(steady: Project, source: str, line: int | None) -> None:
    """A module that is no Python is found with its line, and the others are looked at all the same."""
    steady.write("helper.py", source)
    steady.write("train.py", "import helper\nimport torch\ntorch.seed()\n")
    found = places(doctor(steady, "train.py", check=2))
    assert [item[:2] for item in found] == [("unparsable", "helper.py"), ("unseeded-generator", "train.py")]
    assert found[0][2] == line


def test_a_script_without_end_of_nesting_is_no_crash(steady: Project) -> None:
    """Expressions as deep as Python's own parser lets them be do not end the doctor."""
    steady.write("train.py", "x = " + "+".join(["1"] * 5000) + "\nimport torch\ntorch.seed()\n")
    found = places(doctor(steady, "train.py", check=2))
    assert found[-1][0] in ("unseeded-generator", "unparsable")


def test_no_lock(project: Project) -> None:
    """Without a file that pins versions the lock is missing; with one that another environment made it does not fit."""
    project.write("train.py", "print(1)\n")
    assert places(doctor(project, "train.py", check=2)) == [("lock-missing", None, None)]
    project.write("requirements.txt", "numpy\n")
    assert places(doctor(project, "train.py", check=2)) == [("lock-missing", None, None)]
    project.write("requirements.txt", "numpy==0.1\n")
    (found,) = doctor(project, "train.py", check=2)
    assert places([found]) == [("lock-mismatch", "requirements.txt", None)]
    assert "numpy: locked 0.1" in found["text"]
    project.write("requirements.txt", LOCK)
    assert doctor(project, "train.py", check=0) == []


def test_large_files_that_are_not_committed(steady: Project) -> None:
    """More untracked bytes than the capture takes are found with the file; declared, ignored or committed they are not.

    The file is sparse: it takes no room.
    """
    steady.write("train.py", "def train(run):\n    pass\n")
    experiment = "name: a\nentry: train.py:train\nthreads: 1\n"
    steady.write("experiment.yaml", experiment)
    with (steady.root / "weights.bin").open("wb") as file:
        file.truncate(200_000_001)
    (found,) = doctor(steady, check=2)
    assert places([found]) == [("large-files", "weights.bin", None)]
    assert 'data: {NAME: "weights.bin"}' in found["remedy"]
    steady.write("experiment.yaml", f"{experiment}data: {{weights: weights.bin}}\n")
    assert doctor(steady, check=0) == []
    steady.write("experiment.yaml", experiment)
    steady.write(".gitignore", "*.bin\n")
    assert doctor(steady, check=0) == []


def test_threads(steady: Project) -> None:
    """A count that only the machine or the shell gives is found; one that is written down, or portable's, is not."""
    steady.write("train.py", "def train(run):\n    pass\n")

    def found(*words: str, check: int, **env: str) -> list[Any]:
        return places(steady.repro("doctor", "--json", *words, check=check, **env).json["findings"])

    assert found("train.py", check=2) == [("threads-from-machine", None, None)]
    assert found("--threads", "2", "train.py", check=0) == []
    assert found("--determinism", "portable", "train.py", check=0) == []
    assert found("train.py", check=2, OMP_NUM_THREADS="2") == [("thread-variable", None, None)]
    assert found("--threads", "2", "train.py", check=2, MKL_NUM_THREADS="4") == [("thread-variable", None, None)]
    assert found("--threads", "2", "train.py", check=0, NUMEXPR_NUM_THREADS="2", OMP_DYNAMIC="FALSE") == []
    steady.write("experiment.yaml", "name: a\nentry: train.py:train\n")
    assert found(check=2) == [("threads-from-machine", "experiment.yaml", None)]
    steady.write("experiment.yaml", "name: a\nentry: train.py:train\nthreads: 1\n")
    assert found(check=0) == []


def test_operators_that_off_does_not_switch(steady: Project) -> None:
    """With determinism off also those are found whose deterministic kernel nobody asks for; strict asks for it."""
    steady.write(
        "train.py", "import torch\n\nx = torch.zeros(3)\nx.index_add_(0, x.long(), x)\ntorch.gather(x, 0, x)\n"
    )
    assert doctor(steady, "train.py", check=0) == []
    found = doctor(steady, "--determinism", "off", "train.py", check=2)
    assert [(item["rule"], item["line"]) for item in found] == [
        ("nondeterministic-operator", 4),
        ("nondeterministic-operator", 5),
    ]
    assert "on CUDA" in found[0]["text"]


def test_nothing_is_run_and_nothing_written(steady: Project) -> None:
    """The doctor imports nothing of the user's and leaves no file behind: no store, no byte code."""
    steady.write("helper.py", "open('run.txt', 'w').close()\n")
    steady.write("train.py", "import helper\nopen('run.txt', 'w').close()\n")
    before = sorted(steady.root.rglob("*"))
    assert doctor(steady, "train.py", check=0) == []
    assert sorted(steady.root.rglob("*")) == before


def test_outputs_of_earlier_runs_do_not_count(steady: Project) -> None:
    """After a run, in whose store it looks, the doctor says the same; the store is left as it was."""
    steady.write("train.py", "open('out.txt', 'w').write('1')\n")
    steady.run("--", "python", "train.py")
    before = sorted(path for path in steady.store.rglob("*") if path.is_file())
    assert doctor(steady, "train.py", check=0) == []
    assert sorted(path for path in steady.store.rglob("*") if path.is_file()) == before


def test_options_may_come_last(steady: Project) -> None:
    """--json and --threads may follow what is looked at; after -- they are the command's own."""
    steady.write("train.py", "def train(run):\n    pass\n")
    steady.write("experiment.yaml", "name: a\nentry: train.py:train\nthreads: 1\n")
    assert steady.repro("doctor", "experiment.yaml", "--json", check=0).json["findings"] == []
    assert steady.repro("doctor", "train.py", "--lr", "1", "--threads", "1", "--json", check=0).json["findings"] == []
    done = steady.repro("doctor", "--json", "--", "python", "train.py", "--threads", "1", "--json", check=2)
    assert places(done.json["findings"]) == [("threads-from-machine", None, None)]


def test_what_cannot_be_a_run_is_an_error(steady: Project) -> None:
    """No experiment here, a file that is not there, a wrong key: one line, a hint, exit code 2, nothing on stdout."""
    for words in ((), ("missing.py",), ("missing.yaml",), ("--", "no-such-program")):
        done = steady.repro("doctor", *words, check=2)
        assert done.out == "", words
        assert done.err.startswith("error: "), words
    assert "no experiment.yaml" in steady.repro("doctor", check=2).err
    steady.write("experiment.yaml", "name: a\nentri: x\n")
    assert "did you mean 'entry'" in steady.repro("doctor", check=2).err


def test_names_are_those_of_their_scope(steady: Project) -> None:
    """A local name that is called like a module is not the module; an import within a function holds there."""
    steady.write(
        "train.py",
        "def one(random, np, os):\n    random.seed()\n    np.random.default_rng()\n    return os.listdir('.')[0]\n\n\n"
        "def two():\n    import random\n    random.seed()\n\n\n"
        "def three():\n    random = object()\n    random.seed()\n",
    )
    assert places(doctor(steady, "train.py", check=2)) == [("unseeded-generator", "train.py", 9)]


def test_another_python_is_asked_for_its_packages(steady: Project, tmp_path: Path) -> None:
    """The lock is held against the Python of the command, which need not be this one."""
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    steady.write("train.py", "print(1)\n")
    found = doctor(steady, "--", str(tmp_path / "empty/bin/python"), "train.py", check=2)
    assert places(found) == [("lock-mismatch", "requirements.lock", None)]
