"""The index: a view that may be lost or damaged at any time; and the names by which a run is meant."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import ROOT, Project, clean_environment

from repro.base import clock
from repro.errors import RunNotFoundError
from repro.record.values import MetricSpec, Outcome, Record
from repro.store import index, names
from repro.store.store import Store


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Outcome]:
    """Record and outcome of a real run, to make others from."""
    project = Project(tmp_path_factory.mktemp("model"))
    project.write("train.py", "import repro\nrepro.current().log(acc=0.5)\n")
    done = project.run("--", "python", "train.py")
    store = Store(project.store)
    outcome = store.outcome(done["run_id"])
    assert outcome is not None
    return store.record(done["run_id"]), msgspec.structs.replace(outcome, files={}, outputs=[], artifacts=[])


class Made:
    """A store with runs made from a real one."""

    def __init__(self, project: Project, model: tuple[Record, Outcome]) -> None:
        self.project = project
        self.store = Store.create(project.store)
        self.record, self.outcome = model

    def add(self, run_id: str | None = None, *, state: str = "COMPLETED", replay_of: str | None = None, **metrics: Any):
        """Add a run; return its id."""
        run_id = run_id or clock.new_run_id()
        specs = {"acc": MetricSpec(direction="maximize"), "loss": MetricSpec(direction="minimize"), "n": MetricSpec()}
        change = msgspec.structs.replace
        _, lock = self.store.new_run(run_id)
        self.store.seal_record(change(self.record, run_id=run_id, metrics=specs, replay_of=replay_of))
        self.store.seal_outcome(change(self.outcome, run_id=run_id, state=state, metrics=metrics))
        os.close(lock)
        return run_id

    def ids(self) -> list[str]:
        """The ids as the index lists them."""
        return [run["run_id"] for run in index.rows(self.store)]


@pytest.fixture
def made(project: Project, model: tuple[Record, Outcome]) -> Made:
    """A store without runs."""
    return Made(project, model)


# --- the index -------------------------------------------------------------------------------------------------------


def test_a_list_is_what_was_sealed(made: Made) -> None:
    """Each run is there once, in the order of the journal, with what its record and outcome say."""
    wanted = [made.add(acc=n / 10, loss=float(n)) for n in range(5)]
    runs = made.project.repro("ls", "--json", check=0).json
    assert [run["run_id"] for run in runs] == wanted
    assert [run["metrics"] for run in runs] == [{"acc": n / 10, "loss": float(n)} for n in range(5)]
    assert {run["recipe_digest"] for run in runs} == {made.record.recipe_digest}
    more = made.add(acc=1.0)
    assert made.ids() == [*wanted, more]


def spoil_text(path: Path) -> None:
    """Make a cell of the index what is no JSON."""
    with sqlite3.connect(path) as base:
        base.execute("UPDATE runs SET metrics = '{'")
    base.close()


def spoil_pages(path: Path) -> None:
    """Write garbage over all pages but the first, so that the damage shows only when rows are read."""
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xa5" * (len(data) - 8192))


def old_version(path: Path) -> None:
    """Make it the index of another version."""
    with sqlite3.connect(path) as base:
        base.execute("UPDATE head SET version = 1")
        base.execute("DELETE FROM runs")
    base.close()


def other_table(path: Path) -> None:
    """Make it another program's."""
    path.unlink()
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE head (x)")
    base.close()


SPOILERS = {
    "deleted": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 1000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "head": lambda path: path.write_bytes(b"\0" * 100 + path.read_bytes()[100:]),
    "pages": spoil_pages,
    "text": spoil_text,
    "version": old_version,
}


@pytest.mark.parametrize("how", SPOILERS)
def test_a_spoilt_index_is_made_anew(made: Made, how: str) -> None:
    """Missing, old or damaged in any way, the index is rebuilt from the sealed files, without a word, and kept."""
    wanted = [made.add(acc=float(n)) for n in range(40)]
    assert made.ids() == wanted
    path = made.store.folder / "index.sqlite"
    SPOILERS[how](path)
    assert [run["metrics"] for run in index.rows(made.store)] == [{"acc": float(n)} for n in range(40)]
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchone() == (40,)
    base.close()


def test_another_programs_database_in_the_indexs_place_stays(made: Made) -> None:
    """It has none of our application id: it is left as it is, and the list comes from memory."""
    wanted = [made.add() for _ in range(3)]
    assert made.ids() == wanted
    path = made.store.folder / "index.sqlite"
    other_table(path)
    before = path.read_bytes()
    assert made.ids() == wanted
    assert path.read_bytes() == before


def test_a_folder_in_the_indexs_place_does_no_harm(made: Made) -> None:
    """Where the index cannot be made on the disk, the list comes from memory."""
    wanted = [made.add() for _ in range(3)]
    (made.store.folder / "index.sqlite").mkdir()
    assert made.ids() == wanted


@pytest.mark.parametrize("kept", [0, 1, 2, 5])
def test_a_journal_that_was_cut_short_is_followed(made: Made, kept: int) -> None:
    """The index shows what the journal has now, not what it once had; and what comes after the cut."""
    wanted = [made.add() for _ in range(3)]
    assert made.ids() == wanted
    lines = made.store.journal.read_bytes().splitlines(keepends=True)
    made.store.journal.write_bytes(b"".join(lines[:kept]))
    assert made.ids() == wanted[: (kept + 1) // 2]
    more = made.add()
    assert made.ids() == [*wanted[: (kept + 1) // 2], more]


def test_a_journal_of_equal_length_but_other_content_is_followed(made: Made) -> None:
    """A store that was put in another's place is listed as it is."""
    made.add("20260101-000000-aaaaaaaa", acc=1.0)
    assert made.ids() == ["20260101-000000-aaaaaaaa"]
    other = Made(Project(made.project.root.parent / "other"), (made.record, made.outcome))
    other.add("20260101-000000-bbbbbbbb", acc=1.0)
    shutil.copytree(other.store.folder, made.store.folder, dirs_exist_ok=True)
    assert made.ids() == ["20260101-000000-bbbbbbbb"]


def test_a_run_whose_record_cannot_be_read_is_listed_all_the_same(made: Made) -> None:
    """A damaged or deleted record leaves its line, named as unreadable; the other runs are as they were."""
    broken, gone, whole = (made.add(acc=1.0) for _ in range(3))
    for run_id, data in ((broken, b"garbage"), (gone, None)):
        path = made.store.run_folder(run_id) / "record.json"
        path.unlink()
        if data is not None:
            path.write_bytes(data)
    listed = made.project.repro("ls", "--json", check=0).json
    assert [run["run_id"] for run in listed] == [broken, gone, whole]
    assert [run["name"] for run in listed] == ["its record cannot be read"] * 2 + [made.record.name]
    made.project.repro("ls", check=0)
    done = made.project.repro("show", broken, check=5)
    assert "record.json" in done.err
    assert "hint: repro verify" in done.err


def test_several_lists_at_once_agree(made: Made) -> None:
    """Processes that all bring a missing index up to date at once all see every run."""
    wanted = [made.add() for _ in range(50)]
    code = "import sys; from pathlib import Path; from repro.store import index; from repro.store.store import Store;"
    code += "print(len(index.rows(Store(Path(sys.argv[1])))))"
    for _ in range(3):
        (made.store.folder / "index.sqlite").unlink(missing_ok=True)
        command = [sys.executable, "-c", code, str(made.store.folder)]
        several = [subprocess.Popen(command, stdout=-1, text=True) for _ in range(4)]
        assert [process.communicate()[0].strip() for process in several] == [str(len(wanted))] * 4


def test_a_thousand_runs(made: Made) -> None:
    """`repro ls` lists the last 40 of 1,000 and says how many more there are; --all and --json have all."""
    wanted = [made.add(acc=n / 1000) for n in range(1000)]
    done = made.project.repro("ls", check=0)
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", *wanted[-40:]]
    assert "960 earlier runs: repro ls --all" in done.err
    assert len(made.project.repro("ls", "--all", check=0).out.splitlines()) == 1001
    assert [run["run_id"] for run in made.project.repro("ls", "--json", check=0).json] == wanted
    assert names.resolve(made.store, "best:acc") == wanted[-1]


@pytest.mark.parametrize(
    "words", [["ls"], ["show", "last"], ["log", "last"], ["diff", "last", "last"], ["verify"], ["schema"], ["--help"]]
)
def test_looking_imports_neither_torch_nor_numpy(made: Made, words: list[str]) -> None:
    """No command that does not train imports torch, numpy or GitPython: they take seconds."""
    made.add(acc=1.0)
    code = "import sys; from repro.cli.main import _guarded; _guarded(sys.argv[1:]);"
    code += "print(sorted({'torch', 'numpy', 'git'} & set(sys.modules)), file=sys.stderr)"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, cwd=made.project.root, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_importing_repro_is_light() -> None:
    """`import repro` takes in nothing but the standard library."""
    code = "import sys; before = set(sys.modules); import repro;"
    code += "print({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'repro'}"


# --- names -----------------------------------------------------------------------------------------------------------

IDS = ["20260101-000000-aaaa1111", "20260101-000000-aaab2222", "20260102-000000-cccc3333"]


@pytest.fixture
def three(made: Made) -> Made:
    """A store with three runs and a replay of the last."""
    for run_id, acc, loss in zip(IDS, (0.5, 0.9, 0.7), (3.0, 2.0, 1.0), strict=True):
        made.add(run_id, acc=acc, loss=loss, n=1.0)
    made.add("20260103-000000-dddd4444", replay_of=IDS[2], acc=0.7, loss=1.0)
    return made


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (IDS[0], 0),
        ("20260102", 2),
        ("aaaa", 0),
        ("aaab", 1),
        ("c", 2),
        ("last", 2),
        ("last~0", 2),
        ("last~1", 1),
        ("last~2", 0),
        ("best:acc", 1),
        ("best:loss", 2),
    ],
)
def test_a_name_means_one_run(three: Made, name: str, place: int) -> None:
    """An id, a unique prefix of it or of its random tail, last, last~n (replays do not count), best:metric."""
    assert names.resolve(three.store, name) == IDS[place]
    shown = three.project.repro("show", name, "--json", check=0).json
    assert shown["run_id"] == IDS[place]


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("nope", "no run 'nope'", "repro ls lists the runs"),
        ("last~3", "there are 3 runs", "repro ls"),
        ("last~x", "no run 'last~x'", "repro ls"),
        ("best:f1", "no completed run has a metric 'f1'", "metrics here: acc, loss, n"),
        ("best:n", "whether more is better", "direction: maximize"),
        ("20260101", f"fits 2 runs: {IDS[0]}, {IDS[1]}", "give more of the id"),
        ("aaa", f"fits 2 runs: {IDS[0]}, {IDS[1]}", "give more of the id"),
        ("2026", "fits 4 runs", "give more of the id"),
        ("", "is empty", "repro ls"),
        ("../runs", "no run '../runs'", "repro ls"),
    ],
)
@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_name_that_means_none_or_several(three: Made, command: str, name: str, said: str, hint: str) -> None:
    """It is exit 2: which runs it could be, and the command that helps."""
    done = three.project.repro(command, name, check=2)
    assert done.out == ""
    assert said in done.err
    assert hint in done.err.partition("hint: ")[2]
    assert "Traceback" not in done.err


def test_the_best_is_of_runs_that_came_to_their_end(made: Made) -> None:
    """Neither a failed run nor one with NaN is the best, and the first of equals stands."""
    made.add(state="FAILED", acc=0.99)
    made.add(acc=float("nan"))
    first = made.add(acc=0.5)
    made.add(acc=0.5)
    assert names.resolve(made.store, "best:acc") == first


def test_without_any_run_every_name_is_an_error(made: Made) -> None:
    """In an empty store it says so, and how to make the first run."""
    with pytest.raises(RunNotFoundError, match="no runs in") as caught:
        names.resolve(made.store, "last")
    assert "repro run" in str(caught.value.hint)


def test_names_are_known_to_every_command(three: Made) -> None:
    """Wherever a run id does, its short names do."""
    for words in (["log", "c"], ["diff", "aaaa", "last"], ["verify", "last~1"]):
        assert three.project.repro(*words, "--json").code in (0, 3)
    document = json.loads(three.project.repro("diff", "aaaa", "last", "--json", check=0).out)
    assert (document["a"], document["b"]) == (IDS[0], IDS[2])
