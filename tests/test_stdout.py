"""Runs without a trail: what they print and leave is compared, and a program on standard input is captured."""

import subprocess
from pathlib import Path

import pytest
from conftest import REPRO, Project, clean_environment

from repro.capture import program
from repro.record.values import FileDigest
from repro.replay import outputs, stdout


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("acc 0.5 in 0.21s", "acc 0.5 in 0.35s"),
        ("[2026-12-01 10:00:01,123] loss 0.5", "[2026-12-02 09:00:59,001] loss 0.5"),
        ("Tue Dec  1 10:00:01 2026 f1=0.5", "Wed Dec  2 10:00:01 2026 f1=0.5"),
        ("10/10 [00:03<00:00, 3.21it/s, loss=0.5]", "10/10 [00:04<00:00, 2.9it/s, loss=0.5]"),
        (
            "loss: 6.93 | dt: 22.59ms | tok/sec: 11,333 | total time: 0.01m",
            "loss: 6.93 | dt: 9ms | tok/sec: 9 | total time: 1.0m",
        ),
        ("n=3 <Foo object at 0x7f12ab>", "n=3 <Foo object at 0x6f00>"),
        ("SPS: 4757 return 7", "SPS: 4801 return 7"),
        ("batch_time=0.1 acc=0.9", "batch_time=0.4 acc=0.9"),
        ("5: Finished Error in: 0.63", "5: Finished Error in: 0.10"),
        ("epoch 1 took 3.4 loss 2", "epoch 1 took 3.1 loss 2"),
    ],
)
def test_lines_that_differ_in_times_alone_are_equal(tmp_path: Path, before: str, after: str) -> None:
    """Times, durations, rates, dates and addresses are no result; the rest of the line is evidence."""
    assert compared(tmp_path, before, after) == (1, None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("acc 0.5", "acc 0.6"),
        ("loss 0.31 min 0.2", "loss 0.31 min 0.3"),
        ("timesteps: 1000", "timesteps: 1001"),
        ("in 3 epochs", "in 4 epochs"),
        ("acc 0.5 in 0.21s", "acc 0.6 in 0.21s"),
        ("version 1.2.3", "version 1.2.4"),
        ("1500000000 rows", "1600000000 rows"),
        ("[[87 0]", "[[86 1]"),
    ],
)
def test_a_result_that_differs_is_a_difference(tmp_path: Path, before: str, after: str) -> None:
    """No number that may be a result is taken for a time."""
    difference = compared(tmp_path, before, after)[1]
    assert difference == stdout.OutputDifference(line=1, before=before, after=after)


@pytest.mark.parametrize(
    "line", ["1796119083.12", "took 3.4 s", "Training time: 3.2", "Tue Dec  1 10:00:01 UTC 2026", ""]
)
def test_times_alone_are_no_evidence(tmp_path: Path, line: str) -> None:
    """A run that prints nothing else has nothing to compare."""
    assert compared(tmp_path, line, line) == (0, None)


def test_progress_colours_and_the_replays_folder(tmp_path: Path) -> None:
    """Of a progress bar its end counts; colours do not; a replay's folder stands for the root of the disk."""
    assert compared(tmp_path, "  1%|\r 50%|\rdone 5", "\rdone \x1b[32m5\x1b[0m") == (1, None)
    assert compared(tmp_path, "saved /p/m.pt 1", "saved /x/work/root/p/m.pt 1", moved="/x/work/root") == (1, None)


def test_lines_of_several_processes_come_in_any_order(tmp_path: Path) -> None:
    """Only where several processes wrote them."""
    assert compared(tmp_path, "a 1\nb 2", "b 2\na 1", in_order=False) == (2, None)
    assert compared(tmp_path, "a 1\nb 2", "b 2\na 1")[1] is not None
    assert compared(tmp_path, "a 1\nb 2", "b 2\na 3", in_order=False)[1] is not None


def test_a_run_that_was_cut_short_may_print_less(tmp_path: Path) -> None:
    """The lines that it has decide."""
    assert compared(tmp_path, "a 1", "a 1\nb 2", extent="first") == (1, None)
    assert compared(tmp_path, "a 1", "a 1\nb 2")[1] is not None


def compared(folder: Path, before: str, after: str, **options: object) -> stdout.Compared:
    """Compare two outputs."""
    for name, text in (("a", before), ("b", after)):
        (folder / name).write_text(text + "\n" * bool(text), newline="")
    return stdout.compare(folder / "a", folder / "b", **options)  # type: ignore[arg-type]


def files(**digests: str) -> list[FileDigest]:
    """Return files by their paths, with ``__`` for a slash and ``_`` for a point."""
    names = {name.replace("__", "/").replace("_", "."): value for name, value in digests.items()}
    return [FileDigest(path=path, size=1, digest=value) for path, value in names.items()]


def test_files_are_paired_by_what_is_in_them() -> None:
    """The same bytes in a folder named by the time are equal; others there are paired and differ."""
    one, other = files(runs__101112__coef_npy="x"), files(runs__101313__coef_npy="x")
    assert outputs.pair(one, other) == (1, [])
    changed = outputs.pair(one, files(runs__101313__coef_npy="y"))
    assert changed == (
        0,
        [{"path": "runs/101112/coef.npy", "before": "x", "after": "y", "path_after": "runs/101313/coef.npy"}],
    )
    swapped = outputs.pair(files(a="x", b="y"), files(a="y", b="x"))
    assert swapped.equal == 2
    assert outputs.pair(files(a="x"), []) == (0, [{"path": "a", "before": "x", "after": None}])


SCRIPT = """
import os, sys, time
os.makedirs(folder := time.strftime("runs/%H%M%S-") + str(os.getpid() + 1000))
print("accuracy", 1 / 3 + float(os.environ.get("SHIFT", 0)), f"in {time.perf_counter():.6f}s")
open(folder + "/notes.txt", "w").write(f"{time.ctime()} accuracy {1 / 3}\\n")
print(time.time())
if sys.argv[1:]:
    raise ValueError("labels out of range")
"""


def test_what_is_printed_and_left_decides(project: Project) -> None:
    """A run without trail and metrics is IDENTICAL by its output and files, and DIFFERENT by a line of it."""
    project.write("fit.py", SCRIPT)
    project.run("--", "python", "fit.py")
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["lines"], found["compared"]["equal_files"]) == ("IDENTICAL", 1, 1)
    changed = project.repro("replay", "last", "--with", "env.SHIFT=1", check=3)
    assert "then: accuracy 0.33" in changed.out
    assert "now:  accuracy 1.33" in changed.out


def test_a_failure_that_recurs(project: Project) -> None:
    """Nothing else to compare: the same exception is the same result, another is not."""
    project.write("fail.py", "import os\\nraise ValueError('labels' + os.environ.get('MORE', ''))".replace("\\n", "\n"))
    project.run("--", "python", "fail.py", check=1)
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["failure"]) == ("IDENTICAL", "ValueError: labels")
    assert project.replay("last", "--with", "env.MORE=x", check=3)["verdict"] == "DIFFERENT"


def test_only_times_are_nothing_to_compare(project: Project) -> None:
    """What prints the time alone is not replayable, as before."""
    project.write("clock.py", "import time; print(time.time()); print('took', time.perf_counter(), 's')")
    project.run("--", "python", "clock.py")
    assert project.replay(check=4)["verdict"] == "NOT_REPLAYABLE"


def test_a_write_that_was_refused_and_ignored(project: Project, tmp_path: Path) -> None:
    """A run that goes on without it, with equal results, is IDENTICAL, and the write is named."""
    away = tmp_path / "away.txt"
    project.write(
        "settings.py",
        f"import repro\ntry:\n    open({str(away)!r}, 'w')\nexcept OSError:\n    pass\nrepro.current().log(a=1)",
    )
    environment = {"TMPDIR": str(project.root / "tmp")}
    project.run("--", "python", "settings.py", **environment)
    found = project.replay(**environment)
    assert found["verdict"] == "IDENTICAL"


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["python", "-"], True),
        (["python"], True),
        (["python", "-u", "-", "a"], True),
        (["python3.11", "-X", "dev"], True),
        (["python", "train.py"], False),
        (["python", "-m", "x"], False),
        (["python", "-c", "1"], False),
        (["python", "--version"], False),
        (["bash"], True),
        (["bash", "-s", "a"], True),
        (["sh", "-e"], True),
        (["bash", "run.sh"], False),
        (["bash", "-c", "ls"], False),
        (["true"], False),
    ],
)
def test_which_commands_read_their_program(words: list[str], reads: bool) -> None:
    """A Python or a shell without script, module and text; any other command's input is data."""
    assert program.reads_program(words) is reads


@pytest.mark.parametrize("words", [["python", "-"], ["python"], ["bash", "-s"]])
def test_a_program_on_standard_input(project: Project, words: list[str]) -> None:
    """It is code: kept with the record, given to the replay, and named by `diff` where it changes."""
    text = "import random; print('drawn', random.random())" if "python" in words[0] else "echo drawn 5"
    project.repro("run", "--", *words, stdin=text, check=0)
    found = project.replay(check=0)
    assert (found["verdict"], found["compared"]["lines"]) == ("IDENTICAL", 1)
    if words == ["python"]:
        project.repro("run", "--", *words, stdin=text + "\n", check=0)
        assert "<stdin>" in project.repro("diff", "last~1", "last", check=0).out


def test_the_input_of_a_script_is_left_to_it(project: Project) -> None:
    """A loop over a list in the shell goes on: nothing of it is read for a script that does not."""
    project.write("one.py", "")
    project.write("list", "a\nb\n")
    loop = f"while read -r line; do echo $line; {REPRO} run -- python one.py; done < list"
    done = subprocess.run(
        ["bash", "-c", loop], cwd=project.root, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["a", "b"]
