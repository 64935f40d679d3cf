"""The files that a process's rows are written to through memory: nothing lost, nothing torn, nothing broken."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash
from conftest import Project
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.record import trail as form
from repro.record.values import TrailSchedule
from repro.run import trails
from repro.worker.ledger import Ledger


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(16, 200_000), min_size=1, max_size=20))
def test_what_is_appended_is_there_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Entries of any size, also larger than what is mapped at a time, lie one behind the other where it was said."""
    ledger = Ledger(str(tmp_path_factory.mktemp("ledger") / "rows"))
    entries = [os.urandom(size) for size in sizes]
    places = [ledger.append(entry) for entry in entries]
    assert places == [sum(sizes[:index]) for index in range(len(sizes))]
    data = Path(ledger.path).read_bytes()
    assert data[: sum(sizes)] == b"".join(entries)
    assert not data[sum(sizes) :].strip(b"\0")
    ledger.close()
    assert ledger.append(b"after" * 4) == sum(sizes)


def test_all_is_there_after_a_kill(tmp_path: Path) -> None:
    """What was appended a moment before ``kill -9`` is in the file, and no descriptor was held for it."""
    code = (
        "import os, signal, sys; from repro.worker.ledger import Ledger\n"
        "before = os.listdir('/proc/self/fd')\n"
        "ledger = Ledger(sys.argv[1])\n"
        "for i in range(2000): ledger.append(i.to_bytes(112, 'little'))\n"
        "assert os.listdir('/proc/self/fd') == before\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "rows"], check=False)
    assert done.returncode == -signal.SIGKILL
    data = (tmp_path / "rows").read_bytes()
    assert [int.from_bytes(data[112 * i : 112 * (i + 1)], "little") for i in range(2000)] == [*range(2000)]


def test_a_forked_child_that_lets_go_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    """The parent goes on writing where it was."""
    ledger = Ledger(str(tmp_path / "rows"))
    ledger.append(b"first" * 4)
    pid = os.fork()
    if pid == 0:
        ledger.close()
        os._exit(0)
    os.waitpid(pid, 0)
    ledger.append(b"again" * 4)
    assert Path(ledger.path).read_bytes().startswith(b"first" * 4 + b"again" * 4)


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    """Room is reserved before it is written to: no bus error; what is there stays, and other files can be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        ledger = Ledger(str(folder / "rows"))
        written = []
        with pytest.raises(OSError, match="No space") as caught:
            written.extend(ledger.append(index.to_bytes(112, "little")) for index in range(100_000))
        count = len(written)
        assert caught.value.errno == errno.ENOSPC
        data = (folder / "rows").read_bytes()
        assert [int.from_bytes(data[112 * i : 112 * (i + 1)], "little") for i in range(count)] == [*range(count)]
        assert count > 1000
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_what_is_reserved_is_cut_off_without_harm_to_who_still_writes(tmp_path: Path) -> None:
    """The files end with their last entry; a process that outlived the run goes on, and no longer reaches them."""
    (tmp_path / "trail").mkdir()
    stem = tmp_path / "trail" / "00000-0000-1-1"
    table = {"table": 0, "names": ["weight", "bias"], "buffers": ["mean"]}
    stem.with_suffix(".tables").write_text(json.dumps(table) + "\n")
    rows, details = Ledger(f"{stem}.rows"), Ledger(f"{stem}.details")

    def step(number: int, flags: int, digests: list[int]) -> None:
        at = details.append(struct.pack(f"<{1 + len(digests)}Q", 0, *digests))
        rows.append(form.pack(form.Frame(number, 0, flags, at + 1, (1,) * 9, b"chain of 16 byte")))

    step(0, form.FULL | form.DEEP, [*range(9)])
    step(1, form.FULL, [10, 11, 12, 13])
    trails.settle(trails.read(tmp_path))
    assert os.path.getsize(rows.path) == 2 * 112
    assert os.path.getsize(details.path) == 8 * (10 + 5)
    for number in range(2, 2000):
        step(number, form.FULL, [0] * 4)
    trails.settle(trails.read(tmp_path))
    assert sorted(path.suffix for path in stem.parent.iterdir()) == [".details", ".rows", ".tables"]
    [found] = trails.read(tmp_path)
    assert [frame.step for frame in found.frames] == [0, 1]
    assert found.tensors(found.frames[0], form.BUFFERS) == {"mean": 8}
    assert found.tensors(found.frames[1], form.GRADIENTS) == {"weight": 12, "bias": 13}
    assert found.tensors(found.frames[1], form.PARAMETERS_OUT) is None
    assert found.tensors(found.frames[1], form.STATE) is None


def test_threads_that_step_at_once_lose_nothing_and_break_nothing(project: Project) -> None:
    """Several threads may each train a network of their own: no bus error, each step once, all in one chain.

    Columns by tensor are over what the details say; they are 0 in frames that are not full or not deep.
    """
    project.write(
        "train.py",
        """\
import sys
import threading

import torch

from repro.worker import ledger

sys.setswitchinterval(1e-6)
ledger._FIRST = ledger._MOST = 4096


def train(number):
    parameter = torch.nn.Parameter(torch.zeros(number))
    parameter.grad = torch.ones(number)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(2000):
        optimizer.step()


threads = [threading.Thread(target=train, args=(number,)) for number in range(1, 5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
    )
    done = project.run("--", "python", "train.py")
    assert [gap["reason"] for gap in done["gaps"] if "could not be read" in gap["reason"]] == []
    [found] = trails.read(project.store / "runs" / done["run_id"])
    steps = [(frame.optimizer, frame.step) for frame in found.frames]
    assert sorted(steps) == [(number, step) for number in range(4) for step in range(2000)]
    chain = form.NO_CHAIN
    for frame in found.frames:
        chain = xxhash.xxh3_128_digest(form.pack(frame._replace(detail=0, chain=chain)))
        assert frame.chain == chain
        assert frame.flags & (form.FULL | form.DEEP) == form.kind(frame.step, 1, TrailSchedule())
        for column in (*form.BY_PARAMETER, form.BUFFERS):
            digests = (found.tensors(frame, column) or {}).values()
            packed = struct.pack(f"<{len(digests)}Q", *digests)
            assert frame.columns[column] == (xxhash.xxh3_64_intdigest(packed) if digests else 0)
