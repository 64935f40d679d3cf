"""Predictions for each example, and the models that are averaged from them or from weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Project

from repro.errors import StoreDamagedError, UsageError
from repro.run import predictions
from repro.store.store import Store
from repro.worker import predictions as saving

GOOD = ([7, 3], [[0.25, 0.75], [0.5, 0.5]], [1, 0])
BAD = {
    "ids twice": (([3, 3], *GOOD[1:]), "id 3 is there twice"),
    "a number too few": (([1], *GOOD[1:]), r"ids \(n,\), probabilities \(n, k\) and targets \(n,\) are expected"),
    "targets too few": ((*GOOD[:2], [1]), "targets (1,)"),
    "ids are fractions": (([0.5, 1.5], *GOOD[1:]), "whole numbers or texts"),
    "logits": ((GOOD[0], [[2.0, -1.0], [0.5, 0.5]], GOOD[2]), r"those of id 7 sum to 1, the least is -1 \(logits\?"),
    "rows above 1": ((GOOD[0], [[0.5, 0.5], [0.5, 0.6]], GOOD[2]), r"those of id 3 sum to 1\.1"),
    "NaN": ((GOOD[0], [[0.5, 0.5], [np.nan, 1.0]], GOOD[2]), "probabilities of id 3 are not finite"),
    "one class": ((GOOD[0], [[1.0], [1.0]], [0, 0]), "is one class"),
    "a class that is none": ((*GOOD[:2], [1, 2]), "the target of id 3 is 2; classes are 0 to 1"),
    "half a class": ((*GOOD[:2], [1, 0.5]), "whole numbers, not float64"),
    "a cube": ((GOOD[0], np.ones((2, 1, 1)), GOOD[2]), "for a regression"),
    "words": ((GOOD[0], [["a", "b"], ["c", "d"]], GOOD[2]), "probabilities are numbers"),
    "nothing": (([], np.ones((0, 2)), []), "no examples"),
    "values that are NaN": ((GOOD[0], [0.5, np.nan], [0.0, 1.0]), "probabilities of id 3 are not finite"),
    "true values that are NaN": ((GOOD[0], [0.5, 0.5], [np.nan, 1.0]), "targets of id 7 are not finite"),
}


@pytest.mark.parametrize(("given_", "message"), BAD.values(), ids=BAD)
def test_predictions_that_are_none_are_refused(given_, message):
    """The script gets a TypeError or ValueError that names the split and the first id that is wrong."""
    with pytest.raises((TypeError, ValueError), match=message.replace("(1,)", r"\(1,\)")) as caught:
        saving.checked("test", *given_)
    assert "run.predictions('test')" in str(caught.value)


@pytest.mark.parametrize("split", ["", "../test", "a/b", ".test", "a" * 101, "te st"])
def test_a_split_has_a_name_that_a_file_can_have(split):
    """What is no name is refused, so that no file is written anywhere else."""
    with pytest.raises(ValueError, match="no name of a split"):
        saving.checked(split, *GOOD)


def test_tensors_of_any_kind_are_taken():
    """Tensors on the tape, of 16 bits, and lists give the same: sorted by id, in small types."""
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5]], requires_grad=True)
    found = saving.checked("test", torch.tensor([7, 3]), rows.to(torch.bfloat16), torch.tensor([1, 0]))
    assert found.ids.tolist() == [3, 7]
    assert (found.ids.dtype, found.probabilities.dtype, found.targets.dtype) == (np.uint8, np.float32, np.uint8)
    assert found.probabilities.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert found.targets.tolist() == [0, 1]


def test_the_file_depends_on_the_arrays_alone(tmp_path):
    """The same predictions in another order, as other types, at another time: the same bytes."""
    files = []
    for name, given_ in {
        "a": GOOD,
        "b": ([3, 7], np.array(GOOD[1][::-1], np.float16), np.array([0, 1], np.int32)),
    }.items():
        (tmp_path / name / saving.FOLDER).mkdir(parents=True)
        saving.save(str(tmp_path / name), "test", saving.checked("test", *given_))
        files.append((tmp_path / name / saving.FOLDER / "test.npz").read_bytes())
    assert files[0] == files[1]


SCRIPT = """\
import numpy as np
import repro

run = repro.current()
rng = np.random.default_rng(4)
values = rng.random((6, 3))
for split in ("val", "test"):
    run.predictions(split, [f"img{i}" for i in range(6)], values / values.sum(1, keepdims=True), rng.integers(0, 3, 6))
"""


def test_predictions_are_sealed_and_replayed(project: Project) -> None:
    """They are artifacts: read back by their digest, compared by a replay, and refused once they were changed."""
    project.write("train.py", SCRIPT)
    run_id = project.run("--", "python", "train.py")["run_id"]
    found = predictions.read(project.store, run_id, "test")
    assert found.ids.tolist() == [f"img{i}" for i in range(6)]
    assert found.probabilities.shape == (6, 3)
    assert not found.is_regression
    assert predictions.splits(Store(project.store), run_id) == ["test", "val"]
    replayed = project.replay(check=0)
    assert (replayed["verdict"], replayed["compared"]["artifacts"]) == ("IDENTICAL", 2)
    with pytest.raises(UsageError, match="no predictions of 'dev'; it has those of: test, val") as caught:
        predictions.read(project.store, run_id, "dev")
    assert "predictions('dev', ids, probabilities, targets)" in str(caught.value.hint)
    path = Path(project.store, "runs", run_id, "predictions", "test.npz")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreDamagedError, match="not what it was"):
        predictions.read(project.store, run_id, "test")
