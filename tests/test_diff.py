"""`repro diff`: which files of the code and of the data are not as they were, and by how much."""

import re
from typing import Any

import pytest
from conftest import Project

from repro.cli import common

READ = "import sys\nfor name in sys.argv[1:]:\n    open(name, 'rb').read()\n"


def code_of(project: Project) -> list[tuple[Any, ...]]:
    """Return path, status, lines added and removed of each file between the last two runs."""
    document = project.repro("diff", "last~1", "last", "--json", check=0).json
    assert document["patch"] is None
    return [(item["path"], item["status"], item["added"], item["removed"]) for item in document["code"]]


@pytest.fixture
def edited(project: Project) -> Project:
    """A project with two runs; between them a file each was added, deleted, changed, and a binary one changed."""
    project.write("a.py", "one\ntwo\nthree\n")
    project.write("b.py", "b\n")
    project.write("sub/ä b.bin", b"\0\1\2")
    project.write("mode.sh", "true\n")
    project.run("--", "true")
    project.write("a.py", "one\n2\nthree\nfour\n")
    project.write("c.py", "c\nc\n")
    project.write("sub/ä b.bin", b"\0\1\3\4")
    (project.root / "b.py").unlink()
    (project.root / "mode.sh").chmod(0o755)
    project.run("--", "true")
    return project


def test_files_of_the_code_with_their_lines(edited: Project) -> None:
    """--json has each file that differs with its lines added and removed: none of a binary one, 0 of a mode."""
    assert code_of(edited) == [
        ("a.py", "M", 2, 1),
        ("b.py", "D", 0, 1),
        ("c.py", "A", 2, 0),
        ("mode.sh", "M", 0, 0),
        ("sub/ä b.bin", "M", None, None),
    ]


def test_a_short_difference_of_the_code_is_shown(edited: Project) -> None:
    """For people: the files with their counts, binary ones named as such, and the lines, without being asked."""
    text = edited.repro("diff", "last~1", "last", check=0).out
    for line in ("M a.py  +2 -1", "D b.py  +0 -1", "A c.py  +2 -0", "M sub/ä b.bin  binary"):
        assert re.search(rf"^ +{re.escape(line)}$", text, re.MULTILINE), line
    assert "\n-two\n+2\n three\n+four\n" in text
    assert "Binary files" in text


def test_a_long_difference_is_shown_when_asked_for(project: Project) -> None:
    """Beyond forty lines only the counts are there, and how to see the lines; --code (and --patch) shows them."""
    project.write("a.py", "x\n")
    project.run("--", "true")
    project.write("a.py", "x\n" + "y\n" * 41)
    project.run("--", "true")
    done = project.repro("diff", "last~1", "last", check=0)
    assert "M a.py  +41 -0" in done.out
    assert "+y" not in done.out
    assert "41 lines of code differ: --code shows them" in done.err
    for option in ("--code", "--patch"):
        assert project.repro("diff", "last~1", "last", option, check=0).out.count("\n+y") == 41
        patch = project.repro("diff", "last~1", "last", option, "--json", check=0).json["patch"]
        assert patch.count("\n+y") == 41


def test_a_thing_with_parts_that_one_run_lacks_is_a_short_line() -> None:
    """A thread pool that only one run had is told by its parts, in words and cut; values of both sides are whole."""
    pool = {"user_api": "blas", "internal_api": "openblas", "num_threads": 2, "version": "0.3.29", "layer": "pthreads"}
    line = "none -> user_api blas, internal_api openblas, num_threads 2, version 0.3.29, layer ..."
    assert common.change(None, pool) == line
    assert common.change([pool, pool], None).endswith(" ... -> none")
    assert len(common.change([pool, pool], None)) < 100
    assert common.change({}, {"driver": "570"}) == "none -> driver 570"
    assert common.change({"a": 1}, {"a": 2}) == "{'a': 1} -> {'a': 2}"
    assert common.change(None, [1, 2]) == "none -> [1, 2]"


def test_a_run_and_itself(edited: Project) -> None:
    """There is no difference, of files neither."""
    document = edited.repro("diff", "last", "last", "--json", check=0).json
    assert (document["code"], document["data"], document["differences"]) == ([], [], [])
    assert edited.repro("diff", "last", "last", check=0).out == "no difference\n"


@pytest.fixture
def reads(project: Project) -> Project:
    """A project whose script reads files; data are ignored by git, so that they are no code."""
    project.write("read.py", READ)
    project.write(".gitignore", "data/\n")
    project.write("data/a.csv", "x,y\n1,2\n3,4\n")
    project.commit()
    return project


def data_of(project: Project) -> list[Any]:
    """Return what differs of the data between the last two runs."""
    found: list[Any] = project.repro("diff", "last~1", "last", "--json", check=0).json["data"]
    return found


def test_data_that_is_gone_is_known_by_its_size(reads: Project) -> None:
    """A file too large to be kept, and written over: its sizes before and after, and that no more is to be known."""
    for letter in (b"x", b"y"):
        reads.write("data/a.csv", letter * 9_000_000)
        reads.run("--", "python", "read.py", "data/a.csv")
    assert data_of(reads) == [{"path": "data/a.csv", "status": "M", "sizes": [9_000_000, 9_000_000], "contents": None}]
    text = reads.repro("diff", "last~1", "last", check=0).out
    assert "M 9,000,000 bytes -> 9,000,000 bytes (the contents are not to be had any more)" in text


def test_data_that_only_one_run_read(reads: Project) -> None:
    """Files that one of the runs alone read are named with their size."""
    reads.write("data/b.csv", "x\n")
    reads.run("--", "python", "read.py", "data/a.csv")
    reads.run("--", "python", "read.py", "data/b.csv")
    assert [(item["path"], item["status"], item["sizes"]) for item in data_of(reads)] == [
        ("data/a.csv", "D", [12, None]),
        ("data/b.csv", "A", [None, 2]),
    ]
    assert "A not read -> 2 bytes" in reads.repro("diff", "last~1", "last", check=0).out


@pytest.mark.parametrize(
    ("before", "after", "contents", "words"),
    [
        (
            "x,y\n1,2\n3,4\n",
            "x,y\n1,2\n3,5\n6,7\n",
            {"bytes": 5, "rows": [3, 4], "rows_added": 2, "rows_removed": 1},
            "5 bytes differ; 3 -> 4 rows: 2 added, 1 removed",
        ),
        (
            "a\nb\n",
            "b\na\n",
            {"bytes": 2, "rows": [2, 2], "rows_added": 0, "rows_removed": 0},
            "2 bytes differ; 2 -> 2 rows, the same in another order or with other line ends",
        ),
        (
            "\0ab",
            "\0ac",
            {"bytes": 1, "rows": None, "rows_added": None, "rows_removed": None},
            "3 bytes -> 3 bytes, 1 byte differ",
        ),
    ],
    ids=["rows", "order", "binary"],
)
def test_bytes_and_rows_of_data(reads: Project, before: str, after: str, contents: dict[str, Any], words: str) -> None:
    """Where both contents are to be had (the store keeps small inputs), bytes and rows that differ are told."""
    for text in (before, after):
        reads.write("data/a.csv", text)
        reads.run("--", "python", "read.py", "data/a.csv")
    (found,) = data_of(reads)
    assert (found["path"], found["status"], found["contents"]) == ("data/a.csv", "M", contents)
    assert words in reads.repro("diff", "last~1", "last", check=0).out
