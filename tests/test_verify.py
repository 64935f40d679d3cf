"""`repro verify`: every edit, deletion and reordering of what was sealed is found and named; nothing is written."""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Project

from repro.cli import main
from repro.store.verify import LIMIT

#: A few real steps with a trail, a metric, a result, a checkpoint, and a file that the run before it had left.
SCRIPT = """\
import pathlib, torch, repro
log = pathlib.Path("log.txt")
before = log.read_text() if log.exists() else ""
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    loss = model(torch.ones(1, 4)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    repro.current().log(step=step, loss=loss.item())
repro.current().checkpoint(model=model)
pathlib.Path("result.txt").write_text("done")
repro.current().artifact("result.txt")
log.write_text(before + "one more run\\n")
print("done")
"""

#: What lies in a store without being sealed: settings of the store, locks, caches, git's own, what goes on.
UNSEALED = (
    ".gitignore",
    "index.sqlite",
    "journal.lock",
    "key",
    "store.json",
    "cache/*",
    "code.git/HEAD",
    "code.git/capture.lock",
    "code.git/config",
    "code.git/index-*",
    "code.git/info/*",
    "runs/*/lock",
)


class Answer(NamedTuple):
    """What `repro verify` said and how it ended."""

    code: int
    out: str
    err: str


class Verified(Project):
    """A project with a store that can be damaged and healed."""

    def verify(self, *words: str) -> Answer:
        """Run ``repro verify`` in this process: it is done a hundred times."""
        out, err = io.StringIO(), io.StringIO()
        here = Path.cwd()
        os.chdir(self.root)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main._guarded(["verify", *words])
        finally:
            os.chdir(here)
        return Answer(code, out.getvalue(), err.getvalue())

    def files(self, *patterns: str) -> set[Path]:
        """The files of the store that fit a pattern."""
        found = (path for pattern in patterns for path in self.store.glob(pattern))
        return {path for path in found if path.is_file()}

    @property
    def journal(self) -> Path:
        """The store's journal."""
        return self.store / "journal.jsonl"

    @property
    def runs(self) -> list[str]:
        """The ids of the runs in the order of the journal."""
        lines = map(json.loads, self.journal.read_text().splitlines())
        return [line["run"] for line in lines if line["kind"] == "record"]

    @contextlib.contextmanager
    def damaged(self, path: Path, data: bytes | None) -> Iterator[str]:
        """Have other bytes in a file (None: no file) for a while; its place in the store."""
        before, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        try:
            yield path.relative_to(self.store).as_posix()
        finally:
            path.write_bytes(before)
            path.chmod(mode)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Verified:
    """Two runs, of which the second read what the first had left, and a replay of the second with its verdict."""
    project = Verified(tmp_path_factory.mktemp("verify"))
    project.write("train.py", SCRIPT)
    project.write("other/data.bin", b"\x00\xff" * 50)
    project.commit()
    for _ in range(2):
        assert project.run("--", "python", "train.py")["state"] == "COMPLETED"
    assert project.replay()["verdict"] == "IDENTICAL"
    return project


def flipped(data: bytes, place: int) -> bytes:
    """The bytes with one bit of one byte turned over."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_store_that_is_as_it_was_passes(done: Verified) -> None:
    """All is well: exit 0, how much was looked at, the chain's head, and what a chain cannot tell."""
    found = done.verify()
    assert found.code == 0
    assert "as they were sealed" in found.out
    assert "head sha256:" in found.out
    assert LIMIT in found.err
    document = json.loads(done.verify("--json").out)
    assert document["ok"] is True
    assert document["limit"] == LIMIT
    assert document["entries"] == 7
    assert document["files"] > 30
    assert (document["faults"], document["journal_faults"], document["recovered"]) == ([], [], [])


def test_every_kind_of_file_is_there_to_be_damaged(done: Verified) -> None:
    """The store of these tests has a file of each kind that the next tests damage."""
    for pattern in (
        "runs/*/record.json",
        "runs/*/outcome.json",
        "runs/*/attachments/*.json",
        "runs/*/metrics/*.jsonl",
        "runs/*/observed/*.jsonl",
        "runs/*/trail/*.rows",
        "runs/*/trail/*.details",
        "runs/*/trail/*.tables",
        "runs/*/checkpoints/*.pt",
        "runs/*/inputs/*",
        "runs/*/stdout.log",
        "runs/*/stderr.log",
        "runs/*/job.json",
        "objects/??/*",
        "code.git/objects/??/*",
    ):
        assert done.files(pattern), pattern


def test_one_flipped_byte_of_any_file_is_named(done: Verified) -> None:
    """One bit in the first, the middle or the last byte of any file but the unsealed: exit 3, the file is named."""
    sealed = done.files("**/*") - done.files(*UNSEALED) - {done.journal}
    assert len(sealed) > 40
    for path in sorted(sealed):
        data = path.read_bytes()
        for place in sorted({0, len(data) // 2, len(data) - 1}) if data else []:
            with done.damaged(path, flipped(data, place)) as name:
                found = done.verify()
            assert (found.code, name in found.out) == (3, True), f"byte {place} of {name}: {found}"
    assert done.verify().code == 0


def test_any_deleted_file_is_named(done: Verified) -> None:
    """A file that is gone is missing, by name: a record, a code object and an empty log alike."""
    for path in sorted(done.files("**/*") - done.files(*UNSEALED) - {done.journal}):
        with done.damaged(path, None) as name:
            found = done.verify()
        assert (found.code, f"{name} is missing" in found.out) == (3, True), f"{name}: {found}"
    assert done.verify().code == 0


@pytest.mark.parametrize("name", ["metrics/0-1.jsonl", "trail/0-9.rows", "artifacts/more.txt"])
def test_a_file_added_to_a_sealed_run_is_named(done: Verified, name: str) -> None:
    """A file beside the sealed ones would be read as a metric or a trail: it is named."""
    path = done.store / "runs" / done.runs[0] / name
    path.write_text('{"t":1,"step":0,"m":{"loss":0}}\n')
    try:
        found = done.verify()
    finally:
        path.unlink()
    assert found.code == 3
    assert f"runs/{done.runs[0]}/{name} was added" in found.out


@pytest.mark.parametrize("line", [1, 4, 7])
def test_a_flipped_byte_of_the_journal_is_named_by_its_line(done: Verified, line: int) -> None:
    """An edit of the journal, of its last line too, is exit 5 with the number of the line."""
    lines = done.journal.read_bytes().splitlines(keepends=True)
    for place in range(1, len(lines[line - 1]) - 1, 7):
        edited = [*lines[: line - 1], flipped(lines[line - 1], place), *lines[line:]]
        with done.damaged(done.journal, b"".join(edited)):
            found = done.verify()
        assert (found.code, f"journal.jsonl line {line} was changed" in found.out) == (5, True), found


def test_two_swapped_lines_are_named(done: Verified) -> None:
    """Lines of the journal in another order: exit 5, and where."""
    lines = done.journal.read_bytes().splitlines(keepends=True)
    with done.damaged(done.journal, b"".join([*lines[:2], lines[3], lines[2], *lines[4:]])):
        found = done.verify()
    assert found.code == 5
    assert "journal.jsonl line 3 does not follow" in found.out


def test_a_deleted_middle_line_is_named(done: Verified) -> None:
    """A line taken out of the journal: exit 5 with its place, and the sealed file that no line knows any more."""
    lines = done.journal.read_bytes().splitlines(keepends=True)
    place = json.loads(lines[3])["path"]
    with done.damaged(done.journal, b"".join([*lines[:3], *lines[4:]])):
        found = done.verify()
    assert found.code == 5
    assert "journal.jsonl line 4 does not follow" in found.out
    assert f"{place} is in no line of the journal" in found.out


@pytest.mark.parametrize("kept", [0, 1, 5, 6])
def test_a_journal_cut_short_is_told_by_the_files_that_it_had(done: Verified, kept: int) -> None:
    """What was cut off the journal's end is named as long as its files are there: exit 3; else only the limit tells."""
    lines = done.journal.read_bytes().splitlines(keepends=True)
    with done.damaged(done.journal, b"".join(lines[:kept])):
        found = done.verify()
    assert found.code == 3
    for line in lines[kept:]:
        assert f"{json.loads(line)['path']} is in no line of the journal" in found.out
    assert LIMIT in found.err


def test_a_torn_last_line_is_no_fault_of_the_journal(done: Verified) -> None:
    """Half a line at the end was never acknowledged (a crash): the chain before it stands."""
    with done.damaged(done.journal, done.journal.read_bytes() + b'{"kind":"rec'):
        assert done.verify().code == 0


def test_one_run_is_verified_by_itself(done: Verified) -> None:
    """With a run named, what is wrong with another is not said; what it needs of code and objects is."""
    first, second, _ = done.runs
    mine = done.store / "runs" / first / "outcome.json"
    with done.damaged(mine, flipped(mine.read_bytes(), 30)):
        assert done.verify(first).code == 3
        assert done.verify(second).code == 0
    for path in sorted(done.files("code.git/objects/??/*")):
        with done.damaged(path, flipped(path.read_bytes(), 3)) as name:
            assert name in done.verify(second).out
    (kept,) = done.files(f"runs/{second}/inputs/*")
    (copy,) = [path for path in done.files("objects/??/*") if path.read_bytes() == kept.read_bytes()]
    with done.damaged(copy, None) as name:
        assert f"{name} is missing" in done.verify(second).out
        assert done.verify(first).code == 0


def test_code_of_another_run_is_not_this_runs_fault(done: Verified, tmp_path: Path) -> None:
    """An object of the code that only another run's tree has is no fault of this run."""
    project = Verified(tmp_path / "project")
    shutil.copytree(done.root, project.root)
    before = project.files("code.git/objects/??/*")
    project.write("more.py", "1\n")
    project.run("--", "true")
    for path in project.files("code.git/objects/??/*") - before:
        with project.damaged(path, None) as name:
            assert project.verify(done.runs[0]).code == 0
            assert name in project.verify("last").out
            assert name in project.verify().out


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file of a folder with mode, time and bytes, and every folder with its time."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        stat = path.stat()
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found


def test_verifying_writes_nothing(done: Verified) -> None:
    """Neither a whole verification nor one of a run changes, makes or touches a file, not even the index."""
    index = done.store / "index.sqlite"
    for prepare in (lambda: index.unlink(missing_ok=True), lambda: index.write_bytes(b"garbage"), lambda: None):
        prepare()
        before = snapshot(done.store)
        assert done.verify().code == 0
        assert done.verify("last").code == 0
        assert snapshot(done.store) == before
    done.repro("ls", check=0)
    before = snapshot(done.store)
    assert done.verify("last").code == 0
    assert snapshot(done.store) == before


def test_a_file_that_cannot_be_read_is_a_fault(done: Verified) -> None:
    """Something unreadable in the place of a sealed file (here: a folder) is named, not a traceback."""
    path = done.store / "runs" / done.runs[0] / "outcome.json"
    with done.damaged(path, None) as name:
        path.mkdir()
        found = done.verify()
        path.rmdir()
    assert found.code == 3
    assert f"{name} cannot be read" in found.out


def test_the_document_names_the_same_faults(done: Verified) -> None:
    """With --json the faults are lists, and the exit code is the same."""
    path = done.store / "runs" / done.runs[0] / "record.json"
    with done.damaged(path, None):
        found = done.verify("--json")
    document: Any = json.loads(found.out)
    assert found.code == 3
    assert document["ok"] is False
    assert f"runs/{done.runs[0]}/record.json is missing" in document["faults"]
