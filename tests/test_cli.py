"""The command line: data on standard output, words on standard error, one form of error, documented exit codes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPRO, ROOT, Project, clean_environment

COMMANDS = ("run", "doctor", "replay", "ls", "show", "log", "diff", "verify", "schema")

#: Logs a few points, says something on both streams, leaves a file.
SCRIPT = """\
import sys, repro
print("words of the script")
print("and of its errors", file=sys.stderr)
for step in range(4):
    repro.current().log(step=step, loss=1 / (step + 1), acc=step / 4)
open("left.txt", "w").write("x")
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a run by command, one by experiment with parameters, one that failed, and a replay."""
    project = Project(tmp_path_factory.mktemp("cli"))
    project.write("train.py", SCRIPT)
    params = ", ".join(f"parameter_{n}: {n}" for n in range(12))
    project.write("e.yaml", f"name: long\ncommand: python train.py\nparams: {{{params}}}\n")
    project.commit()
    project.run("--", "python", "train.py")
    project.run("e.yaml")
    project.run("--", "python", "-c", "raise SystemExit(7)", check=7)
    assert project.replay("last~1", check=0)["verdict"] == "IDENTICAL"
    return project


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_run_prints_one_document(project: Project) -> None:
    """With --json the script's own words go to standard error; the document has what the run came to."""
    project.write("train.py", SCRIPT)
    found = project.repro("run", "--json", "--", "python", "train.py", check=0)
    document = json.loads(found.out)
    assert set(document) >= {"run_id", "state", "metrics", "recipe_digest", "record_digest", "trail_digest", "path"}
    assert document["state"] == "COMPLETED"
    assert document["metrics"] == {"acc": 0.75, "loss": 0.25}
    assert document["recipe_digest"].startswith("sha256:")
    assert document["record_digest"].startswith("sha256:")
    assert Path(document["path"]) == project.store / "runs" / document["run_id"]
    assert "words of the script" in found.err
    assert "and of its errors" in found.err


def test_without_json_the_scripts_words_are_where_they_belong(project: Project) -> None:
    """The script's standard output is all there is on ours; what repro has to say is on standard error."""
    project.write("train.py", SCRIPT)
    found = project.repro("run", "--", "python", "train.py", check=0)
    assert found.out == "words of the script\n"
    assert "and of its errors" in found.err
    assert "seed 0 (the default)" in found.err
    assert "COMPLETED" in found.err


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["ls"], {"run_id", "state", "name", "params", "metrics", "started", "recipe_digest"}),
        (["show", "last"], {"run_id", "state", "metrics", "record", "observed", "outcome", "attachments", "path"}),
        (["log", "last~1"], {"run_id", "metrics"}),
        (["diff", "last", "last~1"], {"a", "b", "differences", "code", "first_difference", "metrics"}),
        (["verify"], {"ok", "files", "entries", "faults", "journal_faults", "recovered", "head", "limit"}),
        (["verify", "last"], {"ok", "files", "faults"}),
        (["schema"], {"$schema", "$defs"}),
        (
            ["replay", "last~1"],
            {"run_id", "replay_of", "verdict", "first_difference", "differences", "compared", "metrics", "gaps"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_json_is_one_document_with_these_fields(done: Project, words: list[str], fields: set[str]) -> None:
    """--json on each command prints one document on standard output and nothing else there."""
    document = json.loads(done.repro(*words, "--json", check=0).out)
    for item in document if isinstance(document, list) else [document]:
        assert set(item) >= fields


def test_numbers_that_json_lacks_are_text(project: Project) -> None:
    """NaN and infinities are "NaN" and "Infinity": every JSON reader takes the document."""
    project.write("train.py", "import repro; repro.current().log(a=float('nan'), b=float('-inf'))\n")
    text = project.repro("run", "--json", "--", "python", "train.py", check=0).out
    strict = json.loads(text, parse_constant=pytest.fail)
    assert strict["metrics"] == {"a": "NaN", "b": "-Infinity"}
    for words in (["ls"], ["show", "last"], ["log", "last"]):
        json.loads(project.repro(*words, "--json", check=0).out, parse_constant=pytest.fail)


def test_csv_has_every_point_to_the_last_bit(done: Project) -> None:
    """`repro log --csv` has a head and a line for each point, with values that read back exactly."""
    lines = done.repro("log", "last~1", "--csv", check=0).out.splitlines()
    assert lines[0] == "metric,step,value,time"
    values = [float(line.split(",")[2]) for line in lines[1:] if line.startswith("loss,")]
    assert values == [1 / (step + 1) for step in range(4)]


# --- nothing there yet -----------------------------------------------------------------------------------------------


def test_an_empty_project_has_no_runs(project: Project) -> None:
    """`ls` of a project without a store is an empty list and a hint, and makes nothing."""
    found = project.repro("ls", check=0)
    assert (found.out, "hint: repro run" in found.err) == ("", True)
    assert project.repro("ls", "--json", check=0).json == []
    for words in (["show", "last"], ["log", "last"], ["diff", "last", "last"], ["verify"], ["replay", "last"]):
        found = project.repro(*words, check=2)
        assert found.out == ""
        assert re.match(
            r"error: there is no store in .*/project/\.repro\nhint: repro run -- python train\.py", found.err
        )
    assert os.listdir(project.root) == []


@pytest.mark.parametrize("words", [["ls"], ["run", "--", "true"], ["show", "last"]], ids=["ls", "run", "show"])
def test_the_home_folder_is_no_project(tmp_path: Path, words: list[str]) -> None:
    """From $HOME, or from /, every command is exit 2 and says what to do; nothing is written there."""
    home = Project(tmp_path)
    for cwd in (tmp_path, Path("/")):
        found = home.repro(*words, cwd=cwd, HOME=str(tmp_path), check=2)
        assert re.match(r"error: the project would be .*(the home folder|the whole disk)\nhint: .*git init", found.err)
    assert os.listdir(tmp_path) == []


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["rn"], "there is no command 'rn'", "did you mean 'run'?"),
        (["frobnicate"], "there is no command 'frobnicate'", "ls, show, log"),
        (["ls", "--jsn"], "no such option '--jsn'", "did you mean '--json'? repro ls --help"),
        (["show"], "missing argument 'RUN'", "repro show --help"),
        (["ls", "more"], "got unexpected extra argument (more)", "repro ls --help"),
        (
            ["run", "python", "train.py", "--lr", "1"],
            "no such option '--lr'",
            "options of your own command come after --",
        ),
        (["run", "train.py"], "train.py is no program", "repro run -- python train.py"),
        (["run", "--threads", "none", "--", "true"], "invalid value for '--threads'", "repro run --help"),
    ],
)
def test_a_mistake_is_two_lines(done: Project, words: list[str], error: str, hint: str) -> None:
    """What was wrong, and after `hint:` what helps; exit 2; nothing on standard output, no traceback."""
    found = done.repro(*words, check=2)
    assert found.out == ""
    first, second = found.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")
    assert hint in second


def test_a_run_that_does_not_exist(done: Project) -> None:
    """A missing id is exit 2 for every command that takes one."""
    for words in (["show"], ["log"], ["verify"], ["replay"], ["diff", "last"]):
        found = done.repro(*words, "nope", check=2)
        assert found.err.splitlines()[-2:] == [
            "error: no run 'nope'",
            "hint: repro ls lists the runs; `last` is the latest",
        ]


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands() -> None:
    """`repro --help`, `-h` and no words at all show what there is; --version says which this is."""
    project = Project(ROOT)
    text = project.repro("--help", check=0).out
    assert project.repro("-h", check=0).out == text
    assert project.repro(check=2).err == text
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$|^  {name} +[A-Z].*$", text, re.MULTILINE)
    assert re.fullmatch(r"repro \d+\.\d+\.\d+\n", project.repro("--version", check=0).out)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    """Each command says what it does, and each of its options has a line; it fits a terminal of 80 columns."""
    text = Project(ROOT).repro(name, "--help", check=0).out
    assert text.startswith(f"Usage: repro {name}")
    assert "``" not in text
    assert max(map(len, text.splitlines())) <= 80
    _, _, options = text.partition("Options:\n")
    assert "--json" in options
    for line in options.splitlines():
        assert re.match(r"  (-\S.*|   +\S.*)$", line)


# --- terminals -------------------------------------------------------------------------------------------------------


def in_terminal(project: Project, *words: str, columns: int = 80, **env: str) -> str:
    """What a terminal of so many columns gets to see of a command."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in clean_environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [str(REPRO), *words],
        cwd=project.root,
        env=environment | {"TERM": "xterm-256color"} | env,
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    seen = b""
    with contextlib.suppress(OSError):
        while data := os.read(outer, 65536):
            seen += data
    os.close(outer)
    assert process.wait() in (0, 2)
    return seen.decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    """The text without escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("words", [["ls"], ["show", "last~1"], ["log", "last~1"], ["verify"], ["ls", "--jsn"]])
@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a_terminal_without_colours_loses_nothing(done: Project, words: list[str], plain: dict[str, str]) -> None:
    """With NO_COLOR, or in a dumb terminal, there are the same words, and no colour."""
    coloured, found = in_terminal(done, *words), in_terminal(done, *words, **plain)
    assert "\x1b[" in coloured
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", found)
    trimmed = [[line.rstrip() for line in without_colours(text).splitlines()] for text in (coloured, found)]
    assert trimmed[0] == trimmed[1]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_narrow_terminal_shows_whole_ids(done: Project, columns: int) -> None:
    """Whatever its width, a terminal shows every run's id and state whole, and no line longer than itself."""
    ids = [run["run_id"] for run in done.repro("ls", "--json", check=0).json]
    lines = without_colours(in_terminal(done, "ls", columns=columns)).splitlines()
    for run_id in ids:
        assert [line for line in lines if line.startswith(run_id)]
    assert max(map(len, lines)) <= columns
    assert "IDENTICAL (replay)" in "\n".join(lines)


def test_a_pipe_gets_whole_rows(done: Project) -> None:
    """Where nobody looks, a row of `ls` is one line with nothing cut, and there are no colours."""
    found = done.repro("ls", check=0).out
    assert "\x1b" not in found
    (row,) = [line for line in found.splitlines() if " long " in line and "COMPLETED" in line]
    for n in range(12):
        assert f"parameter_{n}={n}" in row


@pytest.mark.parametrize("words", [["ls"], ["schema"], ["log", "--csv", "last~1"], ["show", "last"]])
def test_a_reader_that_goes_away_is_no_error(done: Project, words: list[str]) -> None:
    """`repro ... | head -1`: no traceback, no complaint, exit 141 as of any program that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [str(REPRO), *words], cwd=done.root, env=clean_environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (141, b"")


def test_a_standard_output_that_is_full(done: Project) -> None:
    """A list that cannot be written is an error with its reason, not a silent success."""
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [str(REPRO), "ls", "--json"], cwd=done.root, env=clean_environment(), stdout=full, stderr=-1, check=False
        )
    assert process.returncode == 5
    assert process.stderr.startswith(b"error: cannot write: No space left on device\nhint: ")
    assert b"Traceback" not in process.stderr


def test_closed_streams_are_as_good_as_none(project: Project) -> None:
    """Started without standard streams, as some daemons do, a run is made and recorded all the same."""
    project.write("train.py", SCRIPT)
    command = f"{REPRO} run -- python train.py <&- >&- 2>&-"
    subprocess.run(["sh", "-c", command], cwd=project.root, env=clean_environment(), check=True)
    (run,) = project.repro("ls", "--json", check=0).json
    assert run["state"] == "COMPLETED"
    folder = project.store / "runs" / run["run_id"]
    assert (folder / "stdout.log").read_text() == "words of the script\n"
    assert (folder / "stderr.log").read_text() == "and of its errors\n"


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_exit_codes_of_run(project: Project) -> None:
    """0 and the command's own; 128 and the signal's number; 1 where an experiment raises; 2, 4 before it starts."""
    project.write("raise.py", "def train(run): raise ValueError('no')\n")
    project.write("e.yaml", "name: e\nentry: raise.py:train\n")
    for code in (0, 1, 3, 7, 255):
        done = project.run("--", "sh", "-c", f"exit {code}", check=code)
        assert (done["exit_code"], done["state"]) == (code, "FAILED" if code else "COMPLETED")
    done = project.run("--", "sh", "-c", "kill -TERM $$", check=128 + signal.SIGTERM)
    assert (done["exit_code"], done["signal"]) == (None, "SIGTERM")
    project.repro("run", "nothing.yaml", check=2)
    project.repro("run", "--", "true", PATH=str(project.root), check=2)
    assert project.run("e.yaml", check=1)["state"] == "FAILED"


def test_exit_codes_of_replay(project: Project) -> None:
    """0 IDENTICAL, 3 DIFFERENT, 4 NOT_REPLAYABLE."""
    project.write("train.py", "import os, repro\nrepro.current().log(x=float(os.environ.get('X', 1)))\n")
    project.run("--", "python", "train.py")
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
    assert project.replay(check=3, X="2")["verdict"] == "DIFFERENT"
    project.run("--", "true")
    found = project.replay(check=4)
    assert found["verdict"] == "NOT_REPLAYABLE"
    assert "nothing to compare" in found["reason"]
    assert found["hint"]


def opened(pid: int, path: Path) -> bool:
    """Say whether a process has a file open."""
    with contextlib.suppress(FileNotFoundError):
        return any(link.exists() and link.samefile(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_an_interrupt_while_repro_waits(project: Project) -> None:
    """Ctrl-C before the run has begun: 130, one line, and no trace of a run."""
    project.repro("run", "--", "true", check=0)
    with (project.store / "journal.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [str(REPRO), "run", "--", "touch", "ran"], cwd=project.root, env=clean_environment(), stderr=-1, text=True
        )
        deadline = time.monotonic() + 20
        while not opened(process.pid, project.store / "journal.lock"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1].strip() == "error: interrupted"
    assert process.returncode == 130
    assert not (project.root / "ran").exists()
    assert len(project.repro("ls", "--json", check=0).json) == 1


def test_an_interrupted_script_is_cancelled(project: Project) -> None:
    """Ctrl-C while the script runs reaches it: 130, and the run is CANCELLED with what it had logged."""
    text = "import repro, time\nrepro.current().log(a=1)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    project.write("train.py", text)
    process = subprocess.Popen(
        [str(REPRO), "run", "--", "python", "train.py"],
        cwd=project.root,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    (run,) = project.repro("ls", "--json", check=0).json
    assert (run["state"], run["metrics"]) == ("CANCELLED", {"a": 1.0})


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_show_tells_the_whole_run(done: Project) -> None:
    """For people: how it ended, what ran and where, code, environment, seed, metrics, what it left, what is missing."""
    text = done.repro("show", "last~1", check=0).out
    for pattern in (
        r"^\d{8}-\d{6}-\w{8}  long$",
        r"^  state +COMPLETED$",
        r"^  command +python train.py$",
        r"^  params.parameter_3 +3$",
        r"^  commit +[0-9a-f]{12} on main",
        r"^  python +CPython 3",
        r"^  seed +0 \(the default\)$",
        r"^  loss +0.25$",
        r"^  left.txt +1 byte, [0-9a-f]{12}$",
        rf"^  kept in +{re.escape(str(done.store))}/runs/",
    ):
        assert re.search(pattern, text, re.MULTILINE), pattern
    assert re.search(r"^  reason +exit code 7$", done.repro("show", "last", check=0).out, re.MULTILINE)
    replay = done.repro("ls", "--json", check=0).json[3]["run_id"]
    assert re.search(r"^verdict\n  IDENTICAL +as a replay of ", done.repro("show", replay, check=0).out, re.MULTILINE)


def test_diff_names_what_differs(done: Project) -> None:
    """For people: a line for each difference, commands as they are typed; of a run and itself, none."""
    text = done.repro("diff", "last~2", "last~1", check=0).out
    assert re.search(r"^parameter +params.parameter_3: none -> 3$", text, re.MULTILINE)
    assert done.repro("diff", "last", "last", check=0).out == "no difference\n"
    text = done.repro("diff", "last~2", "last", check=0).out
    assert re.search(r"^command +command: python train.py -> python -c 'raise SystemExit\(7\)'$", text, re.MULTILINE)
    assert re.search(r"^metric +loss: 0.25 -> none$", text, re.MULTILINE)


def test_diff_shows_the_code(project: Project) -> None:
    """--patch has the lines that changed; files that were added and deleted are named, with how many lines."""
    project.write("a.py", "one\n")
    project.write("b.py", "b\n")
    project.run("--", "true")
    project.write("a.py", "two\n")
    project.write("c.py", "c\n")
    (project.root / "b.py").unlink()
    project.run("--", "true")
    text = project.repro("diff", "last~1", "last", "--patch", check=0).out
    for line in ("M a.py  +1 -1", "D b.py  +0 -1", "A c.py  +1 -0", "-one", "+two"):
        assert re.search(rf"^ *{re.escape(line)}$", text, re.MULTILINE), line


def test_log_sums_up_each_metric(done: Project) -> None:
    """For people: points, first, lowest, highest and last of each metric; without any it says how to log one."""
    assert done.repro("log", "last~1", check=0).out.splitlines() == [
        "metric  points  first  lowest  highest  last",
        "acc     4       0      0       0.75     0.75",
        "loss    4       1      0.25    1        0.25",
    ]
    found = done.repro("log", "last", check=0)
    assert found.out == ""
    assert "has no metrics" in found.err
    assert "hint: repro.current().log" in found.err


def test_python_m_repro_is_repro() -> None:
    """`python -m repro` is the same program."""
    found: Any = subprocess.run(
        [sys.executable, "-m", "repro", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout == Project(ROOT).repro("--version", check=0).out


def test_a_gap_of_every_run_is_said_once(project: Project) -> None:
    """The first run of a store says what it could not capture, the next ones count it; records keep all of it."""
    project.write(".env", "TOKEN=x\n")
    project.write("a.py", "")
    first, second = (project.repro("run", "--", "python", "a.py", check=0) for _ in range(2))
    assert "not captured: .env" in first.err
    assert "not captured: .env" not in second.err
    assert "1 gap as before: repro show" in second.err
    assert ".env" in [gap["what"] for gap in project.run("--", "python", "a.py")["gaps"]]
