"""What the end of a run tells of its recipe: an exception does; a lack of memory or disk, a signal, a limit do not."""

import pytest

from repro.record.values import Outcome
from repro.store.store import Store
from repro.tune import results


def failed(store: Store, text: str, **fields) -> Outcome:
    """Return the outcome of a run that wrote a text to its standard error."""
    folder = store.run_folder("one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stderr.log").write_text(text)
    nothing = {"metrics": {}, "trail_digest": None, "trails": [], "files": {}, "inputs": [], "outputs": []}
    rest = {"artifacts": [], "notes": [], "gaps": [], "started": "", "ended": "", "record_digest": "", "run_id": "one"}
    given = {"state": "FAILED", "exit_code": 1, "signal": None, "reason": "exit code 1"} | fields
    return Outcome(**nothing, **rest, **given)


TRACE = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n    step()\n'


@pytest.mark.parametrize(
    "text",
    [
        TRACE + "MemoryError",
        TRACE + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 TiB for an array",
        TRACE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        TRACE + "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        TRACE + "RuntimeError: CUDA error: out of memory",
        TRACE + "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"
        " memory: you tried to allocate 4000 bytes. Error code 12 (Cannot allocate memory)",
        TRACE + "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        TRACE + "OSError: [Errno 12] Cannot allocate memory",
        TRACE + "RuntimeError: DataLoader worker (pid 77) is killed by signal: Killed. ",
        TRACE + "RuntimeError: Caught MemoryError in DataLoader worker process 0.\nOriginal " + TRACE + "MemoryError\n",
        TRACE + "MemoryError\n\nDuring handling of the above exception, another exception occurred:\n\n"
        + TRACE + "RuntimeError: the step failed",
        "CUDA out of memory",
    ],
)  # fmt: skip
def test_out_of_memory_in_the_script_is_no_result(tmp_path, text):
    """What Python, NumPy, torch and a DataLoader say of too little memory tells nothing of the recipe."""
    store = Store.create(tmp_path / ".repro")
    outcome = failed(store, text)
    assert not results.is_result(store, outcome)
    assert results.why(store, outcome) == "out of memory"


@pytest.mark.parametrize(
    "text",
    [
        TRACE + "ValueError: no such optimizer",
        "out of memory: the batch is halved\n" + TRACE + "ValueError: no such optimizer",
        TRACE + '  File "model.py", line 9, in guard\n    raise ValueError("x")  # no MemoryError\nValueError: x',
        "usage: train.py",
    ],
)
def test_an_exception_of_the_script_is_a_result(tmp_path, text):
    """Other exceptions are results, also of a script that said before that it went on with less memory."""
    store = Store.create(tmp_path / ".repro")
    assert results.is_result(store, failed(store, text))


def test_a_full_disk_is_no_result(tmp_path):
    """A disk that was full says nothing of the recipe either, and is called so."""
    store = Store.create(tmp_path / ".repro")
    outcome = failed(store, TRACE + "OSError: [Errno 28] No space left on device: 'model.pt'")
    assert not results.is_result(store, outcome)
    assert results.why(store, outcome) == "out of disk space"


def test_ends_that_are_no_results(tmp_path):
    """A signal, also of a shell's command, and a limit are no results; each is said in words."""
    store = Store.create(tmp_path / ".repro")
    ends = [
        ({"exit_code": None, "signal": "SIGSEGV", "reason": "ended by SIGSEGV"}, "ended by SIGSEGV"),
        ({"exit_code": 137, "reason": "exit code 137"}, "exit code 137"),
        ({"exit_code": 0, "state": "TIMED_OUT", "reason": "time limit of 600 s"}, "out of time at 600 s"),
        ({"exit_code": 1, "reason": "memory limit of 4 GiB: 4.1 GiB in use"}, "out of memory at 4 GiB"),
    ]
    for fields, words in ends:
        outcome = failed(store, "", **fields)
        assert not results.is_result(store, outcome)
        assert results.why(store, outcome) == words
