"""The journal: a chain of lines in which every damage is found at its line, and which goes on after any crash."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base import canonical, digest, journal
from repro.errors import StoreDamagedError

ENTRIES = st.lists(
    st.dictionaries(st.sampled_from(["kind", "run", "path"]), st.text() | st.integers() | st.floats()), max_size=6
)
#: Few entries in a new folder for each example: what is looked at is the chain, not how long it gets.
FEW = settings(max_examples=30, deadline=None)


@contextmanager
def written(entries: list[dict[str, Any]]) -> Iterator[Path]:
    """A journal with these entries, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal.jsonl")
        for entry in entries:
            journal.append(path, entry)
        yield path


def lines_of(path: Path) -> list[bytes]:
    """The lines of a journal, with their ends."""
    return path.read_bytes().splitlines(keepends=True)


def places(faults: list[str]) -> list[int]:
    """The lines that the faults name."""
    return [int(fault.split(" line ")[1].split()[0].rstrip(":")) for fault in faults]


FIVE = [{"kind": "record", "run": f"r{n}", "value": n / 3} for n in range(5)]


@FEW
@given(ENTRIES)
def test_what_is_appended_is_read_back_in_order(entries: list[dict[str, Any]]) -> None:
    """All entries come back, numbered from 0, each with the digest of the line before it, and no fault is found."""
    with written(entries) as path:
        found, faults = journal.check(path)
        assert faults == []
        assert [item["seq"] for item in found] == list(range(len(entries)))
        bare = [{name: item[name] for name in item if name not in ("seq", "prev", "sum")} for item in found]
        assert repr(bare) == repr([dict(sorted(entry.items())) for entry in entries])
        lines = lines_of(path) if entries else []
        before = [journal.GENESIS, *(digest.of_bytes(line[:-1]) for line in lines)]
        assert [item["prev"] for item in found] == before[: len(entries)]


def test_an_empty_and_a_missing_journal_have_no_faults(tmp_path: Path) -> None:
    """A journal that nobody wrote to yet is in order."""
    assert journal.check(tmp_path / "none.jsonl") == ([], [])
    (tmp_path / "empty.jsonl").touch()
    assert journal.check(tmp_path / "empty.jsonl") == ([], [])


def test_a_torn_tail_is_dropped_at_every_byte_and_the_next_append_goes_on(tmp_path: Path) -> None:
    """A line cut anywhere was never acknowledged: it is not read, no fault, and the next line takes its place."""
    with written(FIVE) as path:
        whole = path.read_bytes()
        kept = len(b"".join(lines_of(path)[:4]))
    torn = tmp_path / "torn.jsonl"
    for cut in range(kept, len(whole)):
        torn.write_bytes(whole[:cut])
        assert [item["run"] for item in journal.check(torn)[0]] == ["r0", "r1", "r2", "r3"]
        journal.append(torn, FIVE[4])
        assert torn.read_bytes() == whole


@pytest.mark.parametrize("size", [10, 70_000, 300_000])
def test_lines_of_any_length_are_chained(tmp_path: Path, size: int) -> None:
    """A line longer than what is read at once from the end is found whole; so is one after a long torn tail."""
    path = tmp_path / "journal.jsonl"
    for n in range(3):
        journal.append(path, {"text": "x" * size, "n": n})
    with path.open("ab") as handle:
        handle.write(b"y" * size)
    journal.append(path, {"n": 3})
    found, faults = journal.check(path)
    assert ([item["n"] for item in found], faults) == ([0, 1, 2, 3], [])


def test_every_flipped_byte_is_found_at_its_line(tmp_path: Path) -> None:
    """Any byte of any line, the last one too, that is not as it was is told, with the number of its line alone."""
    with written(FIVE[:3]) as path:
        whole = path.read_bytes()
    damaged = tmp_path / "journal.jsonl"
    for offset in range(len(whole)):
        if whole[offset : offset + 1] == b"\n":
            continue
        data = bytearray(whole)
        data[offset] ^= 1
        damaged.write_bytes(data)
        line = whole[:offset].count(b"\n") + 1
        assert places(journal.check(damaged)[1]) == [line], (offset, bytes(data))


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_flipped_end_of_line_is_found(tmp_path: Path, line: int) -> None:
    """Two lines that run into one another are one that was changed."""
    with written(FIVE) as path:
        lines = lines_of(path)
    lines[line - 1] = lines[line - 1][:-1] + b"\x0b"
    damaged = tmp_path / "journal.jsonl"
    damaged.write_bytes(b"".join(lines))
    assert places(journal.check(damaged)[1]) == [line]


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_a_deleted_line_is_found_where_it_was(tmp_path: Path, line: int) -> None:
    """Without one of its lines the chain is broken exactly there, once."""
    with written(FIVE) as path:
        lines = lines_of(path)
    del lines[line - 1]
    damaged = tmp_path / "journal.jsonl"
    damaged.write_bytes(b"".join(lines))
    assert places(journal.check(damaged)[1]) == [line]


@pytest.mark.parametrize("line", [1, 2, 3, 4])
def test_swapped_lines_are_found_where_they_are(tmp_path: Path, line: int) -> None:
    """Two lines that changed places are both out of their place, and so is what follows them."""
    with written(FIVE) as path:
        lines = lines_of(path)
    lines[line - 1], lines[line] = lines[line], lines[line - 1]
    damaged = tmp_path / "journal.jsonl"
    damaged.write_bytes(b"".join(lines))
    assert places(journal.check(damaged)[1]) == [number for number in (line, line + 1, line + 2) if number <= 5]


def test_a_line_of_ones_own_making_is_found(tmp_path: Path) -> None:
    """A line put in between, even one with a right sum of its own, breaks the chain behind it."""
    with written(FIVE) as path, written(FIVE[::-1]) as other:
        lines, strange = lines_of(path), lines_of(other)
    damaged = tmp_path / "journal.jsonl"
    damaged.write_bytes(b"".join([*lines[:2], strange[2], *lines[2:]]))
    assert places(journal.check(damaged)[1]) == [3, 4]
    lines[1] = strange[1]
    damaged.write_bytes(b"".join(lines))
    assert places(journal.check(damaged)[1]) == [2, 3]


def test_a_line_that_is_not_canonical_is_found(tmp_path: Path) -> None:
    """The same value written with a space is another line."""
    with written(FIVE[:2]) as path:
        lines = lines_of(path)
    damaged = tmp_path / "journal.jsonl"
    damaged.write_bytes(lines[0] + json.dumps(json.loads(lines[1])).encode() + b"\n")
    assert places(journal.check(damaged)[1]) == [2]


@FEW
@given(st.lists(st.binary(max_size=30), max_size=4))
def test_a_file_of_anything_is_a_list_of_faults(lines: list[bytes]) -> None:
    """No content makes the check raise."""
    with written([]) as path:
        path.write_bytes(b"\n".join(lines))
        entries, faults = journal.check(path)
        assert entries == []
        assert len(faults) == b"\n".join(lines).count(b"\n")


def test_nothing_is_added_behind_a_last_line_that_cannot_be_read(tmp_path: Path) -> None:
    """An append to a journal whose last whole line is damaged is an error that says what helps, and changes nothing."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"no line of a journal\n")
    with pytest.raises(StoreDamagedError, match="last line") as caught:
        journal.append(path, {"n": 0})
    assert "repro verify" in str(caught.value.hint)
    assert path.read_bytes() == b"no line of a journal\n"


APPENDER = """\
import sys
from pathlib import Path
from repro.base import journal, locks
folder, name = Path(sys.argv[1]), sys.argv[2]
for n in range(40):
    with locks.exclusive(folder / "lock"):
        journal.append(folder / "journal.jsonl", {"by": name, "n": n})
"""


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    """Under the lock the lines of several processes make one chain: none is lost, each keeps its own order."""
    names = ["a", "b", "c"]
    writers = [subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path), name]) for name in names]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found, faults = journal.check(tmp_path / "journal.jsonl")
    assert faults == []
    assert len(found) == 120
    for name in names:
        assert [item["n"] for item in found if item["by"] == name] == list(range(40))


def test_a_line_is_its_entry_and_three_more_fields(tmp_path: Path) -> None:
    """The form of a line is fixed: canonical JSON with seq, prev and sum, the digest of the line without it."""
    path = tmp_path / "journal.jsonl"
    journal.append(path, {"kind": "record", "run": "r"})
    bare = {"kind": "record", "prev": "sha256:" + "0" * 64, "run": "r", "seq": 0}
    total = "sha256:9b7fa35490e8290a0c42ecebe48dfde39500ff2d59e74f30af7473aec601666c"
    assert path.read_bytes() == canonical.dumps(bare | {"sum": digest.of_bytes(canonical.dumps(bare))}) + b"\n"
    assert json.loads(path.read_bytes())["sum"] == total
