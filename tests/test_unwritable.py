"""Standard streams that cannot be written to, and few files that may be open: no run is lost, no traceback is shown."""

import fcntl
import os
import subprocess

import pytest
from conftest import REPRO, Project, clean_environment

SAYS = """\
import sys, time
print("out", flush=True)
time.sleep(0.3)
print("more", flush=True)
"""


def shell(project: Project, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in the project."""
    environment = clean_environment()
    return subprocess.run(
        ["bash", "-c", line], cwd=project.root, env=environment, capture_output=True, text=True, check=False
    )


def last(project: Project) -> dict:
    """Return what is shown of the last run."""
    return dict(project.repro("show", "last", "--json", check=0).json)


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-", "2> >(true)", "2>/dev/full >&-", "2>&- >&- <&-"])
def test_words_that_cannot_be_said_lose_no_run(project: Project, stream: str) -> None:
    """Standard error full, closed, or without a reader: the run is made, sealed, and ends with its own code."""
    project.write("a.py", SAYS + "sys.exit(int(sys.argv[1]))\n")
    for code in (0, 7):
        done = shell(project, f"sleep 0.1; repro run -- python a.py {code} {stream}")
        assert done.returncode == code
        assert done.stdout == ("" if ">&-" in stream.partition(" ")[2] else "out\nmore\n")
        found = last(project)
        assert (found["state"], found["outcome"]["exit_code"]) == ("FAILED" if code else "COMPLETED", code)


@pytest.mark.parametrize("words", ["replay last", "seeds --n 2 -- python a.py {seed}", "ls", "show last", "verify"])
def test_other_commands_say_nothing_and_do_their_work(project: Project, words: str) -> None:
    """Their data is on standard output; that nobody hears their words is no error."""
    project.write("a.py", SAYS)
    project.repro("run", "--", "python", "a.py", check=0)
    done = shell(project, f"repro {words} 2>/dev/full")
    assert (done.returncode, bool(done.stdout)) == (0, True)


def test_an_error_that_cannot_be_said_has_its_exit_code(project: Project) -> None:
    """A mistake is 2 whether or not its words find anybody."""
    assert shell(project, "repro show nothing 2>/dev/full").returncode == 2


def test_a_full_standard_output_is_said_and_loses_nothing(project: Project) -> None:
    """What cannot be passed on is in the run's log, and the outcome says that it was not."""
    project.write("a.py", SAYS)
    assert shell(project, "repro run -- python a.py >/dev/full").returncode == 0
    found = last(project)
    assert found["state"] == "COMPLETED"
    assert (
        "standard output could not be written (No space left on device): the run's log has it"
        in found["outcome"]["notes"]
    )
    assert (project.store / "runs" / found["run_id"] / "stdout.log").read_text() == "out\nmore\n"


def test_a_reader_that_went_away_ends_the_script_as_under_plain_python(project: Project) -> None:
    """The script's own write fails once nobody reads what it prints; the run is FAILED with its exit code."""
    project.write("a.py", SAYS)
    line = "python a.py > >(true)"
    plain = shell(project, line).returncode
    assert plain == 1
    assert shell(project, f"repro run -- {line}").returncode == plain
    assert last(project)["state"] == "FAILED"


def test_a_stream_that_does_not_wait_is_waited_for(project: Project) -> None:
    """Through a pipe that its owner made non-blocking all output arrives, also where it is full for a while."""
    project.write("a.py", "import sys\nfor i in range(40000):\n    print(i, file=sys.stderr)\n")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, fcntl.fcntl(write, fcntl.F_GETFL) | os.O_NONBLOCK)
    command = ["sh", "-c", f"exec {REPRO} run -- python a.py"]
    process = subprocess.Popen(command, cwd=project.root, env=clean_environment(), stderr=write)
    os.close(write)
    with open(read) as said:
        lines = [line for line in said if line.strip().isdigit()]
    assert process.wait(30) == 0
    assert lines == [f"{i}\n" for i in range(40000)]


@pytest.mark.parametrize(
    "words", ["run -- python a.py", "ls", "replay last", "seeds --n 2 -- python a.py {seed}", "verify"]
)
def test_too_few_files_are_an_error_with_its_remedy(project: Project, words: str) -> None:
    """Under any low limit a command either does its work or says what is wrong: exit 2, a hint, no traceback."""
    project.write("a.py", SAYS)
    project.repro("run", "--", "python", "a.py", check=0)
    for most in (8, 10, 13, 16, 20, 25, 30, 35):
        done = shell(project, f"ulimit -n {most}; exec repro {words}")
        assert "Traceback" not in done.stderr
        assert done.returncode == 2
        assert f"error: too few files may be open at once: the limit is {most}\nhint: raise the limit" in done.stderr
    assert shell(project, f"ulimit -n 64; exec repro {words}").returncode == 0
    assert {run["state"] for run in project.repro("ls", "--json").json} <= {"COMPLETED"}


def test_files_that_were_open_before_count(project: Project) -> None:
    """What whoever started the command left open in it leaves as little room as a low limit."""
    project.write("a.py", SAYS)
    opened = 'for i in $(seq 10 90); do eval "exec $i</dev/null"; done'
    done = shell(project, f"ulimit -n 100; {opened}; exec repro run -- python a.py")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "fewer open files" in done.stderr
