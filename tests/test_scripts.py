"""Unchanged scripts of all kinds do under ``repro run -- ...`` what they do under plain python."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPRO, Done, Project, clean_environment

SYSTEM_PYTHON = Path("/usr/bin/python3")

#: Says all that a script can tell of how it was started, and logs a metric if it is part of a run.
TELL = """\
import argparse
import os
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--name", default="none")
options = parser.parse_args()
print("lr", options.lr, "name", options.name, "argv", sys.argv[1:], "main", __name__)
print("here", os.path.basename(os.getcwd()), "beside", open("data/numbers.txt").read().strip())
print("path", os.environ.get("PYTHONPATH"), "input", repr(sys.stdin.read()))
print("flags", sys.flags.isolated, sys.flags.optimize, sys.flags.no_site, "to stderr", file=sys.stderr)
if "REPRO_JOB" in os.environ and not sys.flags.no_site:
    import repro

    repro.current().log(lr=options.lr)
"""


@pytest.fixture
def tell(project: Project) -> Project:
    """A project whose script tells how it was started, as a file and as a package."""
    project.write("tell.py", TELL)
    project.write("package/__init__.py", "print('package', __name__)\n")
    project.write("package/__main__.py", TELL)
    project.write("sub/data/numbers.txt", "4 5 6")
    project.write("data/numbers.txt", "1 2 3")
    project.write("run.sh", 'export PYTHONPATH=$PWD/lib\npython tell.py --lr 1 "$@"\npython tell.py --lr 2\nexit 7\n')
    project.commit()
    return project


def plain(project: Project, *words: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Done:
    """Run a command as a user without repro does."""
    found = subprocess.run(
        words,
        cwd=cwd or project.root,
        env=clean_environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(found.returncode, found.stdout, found.stderr)


def without_words_of_repro(text: str) -> str:
    """Return standard error without the lines that repro itself says there."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("repro: "))


def metrics_of(project: Project, name: str) -> list[float]:
    """Return all values of a metric of the last run, in order."""
    document = project.repro("log", "last", "--json", check=0).json
    return [point["value"] for point in document["metrics"].get(name, [])]


@pytest.mark.parametrize(
    ("command", "stdin", "logged"),
    [
        (["python", "tell.py", "--lr", "0.25", "--name", "a b'c"], "x\ny", [0.25]),
        (["python", "-m", "package", "--lr", "3"], "", [3.0]),
        (["python", "-", "--name", "n"], None, [0.5]),
        (["python", "-c", TELL, "--lr", "4"], "words", [4.0]),
        (["python", "-O", "-u", "-W", "ignore", "-X", "dev", "tell.py"], "", [0.5]),
        (["python", "-I", "tell.py"], "", [0.5]),
        (["python", "-E", "tell.py"], "", [0.5]),
        (["bash", "run.sh", "--name", "b"], "in", [1.0, 2.0]),
        (["./run.sh"], "", [1.0, 2.0]),
    ],
    ids=["file", "module", "stdin", "code", "options", "isolated", "ignore", "bash", "script"],
)
def test_a_command_does_what_it_does_without_repro(
    tell: Project, command: list[str], stdin: str | None, logged: list[float]
) -> None:
    """Output, standard error, exit code, arguments, folder, PYTHONPATH and standard input are as under plain python."""
    (tell.root / "run.sh").write_text("#!/bin/bash\n" + (tell.root / "run.sh").read_text())
    (tell.root / "run.sh").chmod(0o755)
    given = TELL if stdin is None else stdin
    env = {"PYTHONPATH": str(tell.root / "package")}
    expected = plain(tell, *command, stdin=given, **env)
    found = tell.repro("run", "--", *command, stdin=given, **env)
    assert found.out == expected.out
    assert found.code == expected.code
    assert without_words_of_repro(found.err) == expected.err
    assert metrics_of(tell, "lr") == logged


def test_relative_paths_are_those_of_the_folder_where_the_user_stands(tell: Project) -> None:
    """A script started from a sub-folder reads that folder's files, also when its project lies above."""
    command = ("python", "../tell.py")
    expected = plain(tell, *command, cwd=tell.root / "sub")
    found = tell.repro("run", "--", *command, cwd=tell.root / "sub", stdin="", check=0)
    assert "4 5 6" in found.out
    assert found.out == expected.out
    assert tell.replay(check=0)["verdict"] == "IDENTICAL"


#: A run's process says how many records and outcomes there are.
SEAL = """\
import glob, os
if os.environ.get("REPRO_JOB"):
    folders = [glob.glob(f".repro/runs/**/{name}.json", recursive=True) for name in ("record", "outcome")]
    print("SEALED", *map(len, folders), flush=True)
"""


@pytest.mark.parametrize(
    "command",
    [
        "python look.py",
        "python -S look.py",
        "python -W ignore -S look.py",
        "python -X dev -IS look.py",
        "python -I -E look.py",
        "python -s look.py",
        "bash look.sh",
        f"{SYSTEM_PYTHON} look.py",
    ],
)
def test_the_record_is_sealed_before_the_first_line_of_user_code(project: Project, command: str) -> None:
    """Whatever the flags of the interpreter, user code finds the record on the disk, and no outcome yet.

    The user's own ``sitecustomize`` counts as user code.
    """
    project.write("look.py", SEAL)
    project.write("look.sh", "python look.py\n")
    project.write("lib/sitecustomize.py", SEAL)
    words = command.split()
    if words[0].startswith("/") and not SYSTEM_PYTHON.exists():
        pytest.skip("no system Python here")
    found = project.repro("run", "--", *words, check=0, PYTHONPATH=str(project.root / "lib"))
    lines = [line for line in found.out.splitlines() if line.startswith("SEALED")]
    assert lines
    assert set(lines) == {"SEALED 1 0"}


def test_where_the_hooks_cannot_reach_the_gap_says_so_and_the_script_is_undisturbed(project: Project) -> None:
    """``-S`` and a cleared environment run as they would alone; the run's gaps say what is missing."""
    project.write("a.py", "import sys\nprint('repro' in sys.modules, sys.flags.no_site)\n")
    assert project.repro("run", "--", "python", "-S", "a.py", check=0).out == "False 1\n"
    document = project.repro("show", "last", "--json").json
    assert any("hooks reached no Python" in gap["reason"] for gap in document["outcome"]["gaps"])
    project.write("b.sh", 'env -i PATH="$PATH" python a.py\n')
    assert project.repro("run", "--", "bash", "b.sh", check=0).out == "False 0\n"
    gaps = project.repro("show", "last", "--json").json["outcome"]["gaps"]
    assert [gap["what"] for gap in gaps] == ["trail"]


@pytest.mark.skipif(not SYSTEM_PYTHON.exists(), reason="no system Python here")
def test_a_foreign_python_runs_undisturbed(project: Project) -> None:
    """Debian's own Python, without repro, runs the script; the record names it: no trail."""
    project.write("a.py", "import sys\nprint('repro' in sys.modules, sys.executable)\nsys.exit(3)\n")
    done = project.repro("run", "--json", "--", str(SYSTEM_PYTHON), "a.py", check=3)
    assert f"False {SYSTEM_PYTHON}" in done.err
    reasons = {gap["what"]: gap["reason"] for gap in done.json["gaps"]}
    assert reasons["trail"] == f"no trail: repro is not installed for {SYSTEM_PYTHON}"


def test_the_users_own_sitecustomize_still_runs(project: Project) -> None:
    """A ``sitecustomize`` on PYTHONPATH runs, in the first process and in a child, once each."""
    project.write("lib/sitecustomize.py", "import sys\nsys.greeting = 'hello'\nprint('site', file=sys.stderr)\n")
    project.write("lib/helper.py", "name = 'helper'\n")
    project.write(
        "a.py",
        "import helper, subprocess, sys\nprint(sys.greeting, helper.name, flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import sys; print(sys.greeting, \"child\")'])\n",
    )
    found = project.repro("run", "--", "python", "a.py", check=0, PYTHONPATH=str(project.root / "lib"))
    assert found.out == "hello helper\nhello child\n"
    assert found.err.count("site\n") == 3  # repro itself is a Python that reads it, too


BAR = """\
import sys, time
for i in range(3):
    sys.stderr.write(f"\\r\\x1b[32m{i + 1}/3\\x1b[0m acc=0.{i}")
    sys.stderr.flush()
time.sleep(0.3)  # the two streams arrive by ways of their own
print(f"out {sys.stdin.isatty()} {sys.stdout.isatty()} {sys.stderr.isatty()}")
try:
    import os
    print(f"size {os.get_terminal_size(1).columns}")
except OSError:
    print("size none")
"""


def _through_terminal(project: Project, *words: str) -> bytes:
    """Run a command whose standard streams are all one terminal, 91 columns wide; return what the terminal got."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 91, 0, 0))
    process = subprocess.Popen(
        words, cwd=project.root, env=clean_environment(), stdin=slave, stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    data = b""
    while True:
        ready, _, _ = select.select([master], [], [], 20)
        try:
            piece = os.read(master, 65536) if ready else b""
        except OSError:
            piece = b""
        if not piece:
            break
        data += piece
    assert process.wait(timeout=20) == 0
    os.close(master)
    return data


def test_a_terminal_stays_a_terminal_and_colours_and_bars_pass_through(project: Project) -> None:
    """On a terminal the script sees one of the same width, and its bytes arrive unchanged; through pipes as well."""
    project.write("bar.py", BAR)
    expected = _through_terminal(project, sys.executable, "bar.py")
    found = _through_terminal(project, str(REPRO), "run", "--metric", "acc=([0-9.]+)", "--", "python", "bar.py")
    bars = b"\r\x1b[32m1/3\x1b[0m acc=0.0\r\x1b[32m2/3\x1b[0m acc=0.1\r\x1b[32m3/3\x1b[0m acc=0.2"
    assert bars in expected
    assert bars in found
    for words in (b"out True True True", b"size 91"):
        assert words in expected
        assert words in found
    assert metrics_of(project, "acc") == [0.0, 0.1, 0.2]
    done = project.repro("run", "--", "python", "bar.py", check=0)
    assert done.out == "out False False False\nsize none\n"
    folder = Path(project.repro("show", "last", "--json").json["path"])
    assert (folder / "stdout.log").read_text() == done.out
    assert (folder / "stderr.log").read_bytes() == bars


def test_a_metric_pattern_reads_each_stream_for_itself(project: Project) -> None:
    """Bars on standard error that are cut into pieces do not get into the lines of standard output, nor the reverse."""
    project.write(
        "a.py",
        "import os, time\n"
        "for i in range(20):\n"
        "    os.write(1, b'acc=0.'); os.write(2, b'\\rloss=1.'); time.sleep(0.003)\n"
        "    os.write(1, b'%d\\n' % i); os.write(2, b'%d of many' % i); time.sleep(0.003)\n",
    )
    project.repro("run", "--metric", "acc=([0-9.]+)", "--metric", "loss=([0-9.]+)", "--", "python", "a.py", check=0)
    assert metrics_of(project, "acc") == [float(f"0.{i}") for i in range(20)]
    assert metrics_of(project, "loss") == [float(f"1.{i}") for i in range(20)]


def test_tensorboard_scalars_are_taken_in(project: Project) -> None:
    """``add_scalar`` of an unchanged script gives metrics with their steps; the event file is written all the same."""
    project.write(
        "a.py",
        "import numpy as np, torch\n"
        "from torch.utils.tensorboard import SummaryWriter\n"
        "writer = SummaryWriter('logs')\n"
        "for i in range(3):\n"
        "    writer.add_scalar('val/acc', torch.tensor(i / 4), np.int64(i))\n"
        "    writer.add_scalar('loss', np.float32(i), global_step=float(i))\n"
        "writer.add_scalars('both', {'a': 1, 'b': 2.0}, 5)\n"
        "writer.close()\n",
    )
    done = project.run("--", "python", "a.py")
    assert done["metrics"] == {"val/acc": 0.5, "loss": 2.0, "both/a": 1.0, "both/b": 2.0}
    points = project.repro("log", "last", "--json").json["metrics"]
    assert [point["step"] for point in points["loss"]] == [0, 1, 2]
    assert any(name.name.startswith("events.out") for name in (project.root / "logs").rglob("*"))


def test_timing_metrics_are_listed_and_not_compared(project: Project) -> None:
    """A script that prints and logs its step times replays IDENTICAL; what measures time is named as not compared."""
    project.write(
        "a.py",
        "import time, repro\n"
        "run = repro.current()\n"
        "for i in range(3):\n"
        "    run.log({'loss': 1 / (i + 1), 'step_time': time.perf_counter(), 'train_runtime': time.time(),"
        " 'samples_per_second': time.time()}, step=i)\n"
        "    print('took', time.perf_counter())\n",
    )
    project.run("--", "python", "a.py")
    found = project.replay(check=0)
    assert found["verdict"] == "IDENTICAL"
    assert found["not_compared"] == ["samples_per_second", "step_time", "train_runtime"]
    assert found["compared"]["points"] == 3


def test_without_anything_to_compare_there_is_no_identity(project: Project) -> None:
    """A script that leaves no step, metric, output or file is NOT_REPLAYABLE, exit 4; a file is compared."""
    project.write("nothing.py", "pass\n")
    project.run("--", "python", "nothing.py")
    found = project.replay(check=4)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert "nothing to compare" in found["reason"]
    project.write("file.py", "open('result.txt', 'w').write('42')\n")
    project.run("--", "python", "file.py")
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
    project.write("clock.py", "import time\nopen('clock.txt', 'w').write(str(time.time_ns()))\n")
    project.run("--", "python", "clock.py")
    found = project.replay(check=3)
    assert (found["verdict"], found["reason"]) == ("DIFFERENT", "output clock.txt differs")


API = """\
import math
import os
import sys

import numpy as np
import torch

import repro

run = repro.current()
bound = run.id is not None
assert run is repro.current()
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
run.log(loss=torch.tensor(0.5, requires_grad=True), acc=np.float32(0.25), n=np.int64(3), b=True, one=torch.ones(1, 1))
run.log({"val/x y": float("nan"), "up": math.inf}, step=np.int64(1), down=-math.inf)
run.log(big=2**70, step=torch.tensor(2))
for bad, error in [(None, TypeError), ("0.5", TypeError), (1j, TypeError), ([1, 2], TypeError),
                   (torch.ones(2), (ValueError, RuntimeError)), (np.ones(2), (ValueError, TypeError))]:
    try:
        run.log(bad=bad)
    except error:
        continue
    assert not bound, bad
for call in (lambda: run.log({0: 1.0}), lambda: run.log(x=1.0, step=1.5), lambda: run.log(x=1.0, step="1")):
    try:
        call()
    except TypeError:
        continue
    assert not bound, call
assert dict(run.params) == {}
try:
    run.params.lr
except AttributeError as error:
    assert "lr" in str(error)
run.data("digits", np.arange(6).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16), ["a", "bc"])
path = run.checkpoint(model=model, optimizer=optimizer, epoch=3, best=np.float64(0.9), curve=np.arange(3.0))
assert (path is None) is not bound
if path is not None:
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 3 and state["best"] == 0.9 and list(state["curve"]) == [0, 1, 2]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert run.checkpoint(model=model) != path
open("result.txt", "w").write("7")
run.artifact("result.txt")
os.makedirs("other", exist_ok=True)
open("other/result.txt", "w").write("8")
try:
    run.artifact("other/result.txt")
except ValueError:
    pass
else:
    assert not bound
assert [*run.epochs(2)] == [0, 1]
assert run.seed == (5 if bound else 0)
print("fine")
"""


def test_a_script_uses_the_run_and_still_works_alone(project: Project) -> None:
    """`repro.current()` logs, keeps checkpoints and artifacts in a run, refuses bad values; alone it is a stand-in."""
    project.write("a.py", API)
    alone = plain(project, "python", "a.py")
    assert (alone.out, alone.err, alone.code) == ("fine\n", "", 0)
    done = project.run("--seed", "5", "--", "python", "a.py")
    metrics = done["metrics"]
    assert [metrics[name] for name in ("loss", "acc", "n", "b", "one")] == [0.5, 0.25, 3.0, 1.0, 1.0]
    assert (metrics["val/x y"], metrics["up"], metrics["down"]) == ("NaN", "Infinity", "-Infinity")
    assert metrics["big"] == float(2**70)
    assert "bad" not in metrics
    points = project.repro("log", "last", "--json").json["metrics"]
    assert [points[name][0]["step"] for name in ("loss", "up", "big")] == [None, 1, 2]
    document = project.repro("show", "last", "--json").json
    assert [item["path"] for item in document["outcome"]["artifacts"]] == ["result.txt"]
    assert list(document["observed"]["data"]) == ["digits"]
    assert len(list((Path(done["path"]) / "checkpoints").iterdir())) == 2
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["artifacts"]) == ("IDENTICAL", 1)


def test_output_of_ten_megabytes_arrives_whole(project: Project) -> None:
    """All of a long output comes through and is kept, both streams."""
    project.write(
        "a.py",
        "import sys\nline = 'x' * 999 + '\\n'\n"
        "for i in range(10_000):\n    sys.stdout.write(line)\n    if i % 10 == 0: sys.stderr.write(line)\n",
    )
    done = project.repro("run", "--", "python", "a.py", check=0)
    assert len(done.out) == 10_000_000
    assert len(without_words_of_repro(done.err)) == 1_000_000
    folder = Path(project.repro("show", "last", "--json").json["path"])
    assert (folder / "stdout.log").stat().st_size == 10_000_000
    assert (folder / "stderr.log").stat().st_size == 1_000_000


def test_a_slow_reader_gets_all_and_the_log_is_whole(project: Project) -> None:
    """What is still in the pipes when the script ends is waited for, however long its reader takes to begin."""
    project.write("a.py", "print('x' * 149_999)\n")
    done = plain(project, "bash", "-c", f"{REPRO} run -- python a.py | (sleep 7; wc -c)")
    assert done.out.strip() == "150000"
    folder = Path(project.repro("show", "last", "--json").json["path"])
    assert (folder / "stdout.log").stat().st_size == 150_000
    project.repro("verify", check=0)


def test_a_reader_that_leaves_ends_the_script_as_under_plain_python(project: Project) -> None:
    """``repro run ... | head -1`` ends; the script's own writes fail, as they do without repro."""
    project.write("a.py", "for i in range(10**9):\n    print(i, flush=True)\n")
    found = plain(project, "bash", "-c", f"timeout 60 {REPRO} run -- python a.py | head -1; echo ${{PIPESTATUS[0]}}")
    alone = plain(project, "bash", "-c", "timeout 60 python a.py | head -1; echo ${PIPESTATUS[0]}")
    assert alone.out == "0\n1\n"
    assert found.out == alone.out
    assert "BrokenPipeError" in found.err
    outcome = project.repro("show", "last", "--json").json["outcome"]
    assert outcome["state"] == "FAILED"


def test_a_program_that_is_no_python_is_recorded_too(project: Project) -> None:
    """A command without any Python in it runs, and its own exit code is passed on."""
    done = project.repro("run", "--json", "--", "sh", "-c", "echo hello; exit 9", check=9)
    assert "hello" in done.err
    assert (done.json["state"], done.json["exit_code"]) == ("FAILED", 9)
    assert shutil.which("sh")
    assert json.loads(done.out)["trail_digest"] is None


def test_a_module_of_the_users_own_may_be_called_repro(project: Project) -> None:
    """A ``repro.py`` beside the script, or run as a module, is the one that is imported; ours where there is none."""
    project.write("repro.py", "name = 'mine'\nif __name__ == '__main__':\n    print('main')\n")
    project.write("a.py", "import repro\nprint(repro.name)\n")
    assert project.repro("run", "--", "python", "a.py", check=0).out == "mine\n"
    assert project.repro("run", "--", "python", "-m", "repro", check=0).out == "main\n"
    project.write("lib/repro.py", "import os\nprint('theirs', os.environ.get('REPRO_JOB') is not None)\n")
    project.write("b/b.py", "import repro\nprint(repro.__file__)\n")
    done = project.repro("run", "--", "python", "b/b.py", check=0)
    assert done.out.endswith("repro/__init__.py\n")


def test_on_the_path_as_well(project: Project) -> None:
    """A ``repro`` on PYTHONPATH hides ours: such a child starts after the seal and goes its way; the gap says so."""
    project.write("lib/repro/__init__.py", SEAL)
    project.write("a.py", "import repro\nprint(repro.__file__)\n")
    project.write("run.sh", "PYTHONPATH=lib python a.py\n")
    done = project.repro("run", "--", "bash", "run.sh", check=0)
    assert done.out == f"SEALED 1 0\n{project.root}/lib/repro/__init__.py\n"
    assert without_words_of_repro(done.err) == ""
    gaps = project.repro("show", "last", "--json").json["outcome"]["gaps"]
    assert any("hooks reached no Python" in gap["reason"] for gap in gaps)


EARLY = """\
import repro
import numpy

def train(run: repro.Run) -> None:
    run.log(found=1.0)
    print(numpy.__name__, __file__)
"""


def test_no_module_beside_an_experiment_is_imported_before_the_seal(project: Project) -> None:
    """The worker imports torch while the parent captures: a ``numpy.py`` beside the experiment has no part in that."""
    project.write("experiment.yaml", "name: early\nentry: train.py:train\n")
    project.write("train.py", EARLY)
    for name in ("numpy", "typing_extensions", "sympy", "xxhash"):
        project.write(f"{name}.py", f"open({str(project.root / 'early.txt')!r}, 'w').write('x')\n")
    done = project.run("experiment.yaml")
    assert done["metrics"] == {"found": 1.0}
    assert not (project.root / "early.txt").exists()


CLOSES = """\
import os
import repro

first = open("mine.txt", "w")
print("number", first.fileno())
run = repro.current()
run.log(x=1)
os.closerange(3, 5000)
files = [os.open(f"mine-{i}.txt", os.O_WRONLY | os.O_CREAT) for i in range(250)]
run.log(x=2)
open("read.txt").close()
for fd in files:
    os.write(fd, b"mine")
    os.close(fd)
"""


def test_a_script_may_close_all_descriptors(project: Project) -> None:
    """The script's files get the numbers they get under plain python, ours are opened anew, and nothing is mixed up."""
    project.write("a.py", CLOSES)
    project.write("read.txt", "x")
    alone = plain(project, "python", "a.py")
    found = project.repro("run", "--", "python", "a.py", check=0)
    assert found.out == alone.out == "number 3\n"
    assert {(project.root / f"mine-{i}.txt").read_bytes() for i in range(250)} == {b"mine"}
    assert metrics_of(project, "x") == [1.0, 2.0]
    assert "lost" not in found.err


def test_streams_that_are_closed_and_runs_within_runs(project: Project) -> None:
    """With standard output closed the script runs all the same; a script may itself call ``repro run``."""
    project.write("a.py", "import sys\nprint('hello')\nsys.exit(3)\n")
    assert plain(project, "bash", "-c", f"{REPRO} run -- python a.py >&-").code == 3
    project.write("run.sh", f"{REPRO} run -- python a.py; echo inner $?\n")
    done = project.repro("run", "--", "bash", "run.sh", check=0)
    assert done.out == "hello\ninner 3\n"
    states = sorted(item["state"] for item in project.repro("ls", "--json").json)
    assert states == ["COMPLETED", "FAILED", "FAILED"]


def test_a_program_of_an_environment_is_not_the_project(project: Project) -> None:
    """``/opt/env/bin/torchrun`` by its full path runs in the project where the user stands, not the environment."""
    project.write("env/pyvenv.cfg", "")
    program = project.write("env/bin/tool", "#!/bin/sh\npwd\n")
    program.chmod(0o755)
    project.write("work/pyproject.toml", "")
    done = project.repro("run", "--json", "--", str(program), cwd=project.root / "work", check=0)
    assert Path(done.json["path"]).is_relative_to(project.root / "work")
