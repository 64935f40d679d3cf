"""Predictions for each example, and the models that are averaged from them or from weights."""

import importlib
import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import Project
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from repro.base import digest
from repro.errors import StoreDamagedError, UsageError
from repro.run import predictions
from repro.store.store import Store
from repro.worker import averaging_models as models
from repro.worker import averaging_predictions as arithmetic
from repro.worker import averaging_rebasin as rebasin
from repro.worker import averaging_soup as soup
from repro.worker import predictions as saving
from repro.worker.averaging_predictions import Refused
from repro.worker.averaging_weights import Averages

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


def arrays_of(rows: np.ndarray, targets: np.ndarray) -> saving.Arrays:
    """Return predictions of examples 0, 1, ..."""
    return saving.Arrays(np.arange(len(targets)), np.asarray(rows, np.float32), targets)


@st.composite
def ensembles(draw: st.DrawFn) -> list[saving.Arrays]:
    """Some members' probabilities of the same examples."""
    members, examples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 8)), draw(st.integers(2, 4))
    odds = draw(hnp.arrays(np.float64, (members, examples, classes), elements=st.floats(1e-3, 1)))
    truth = draw(hnp.arrays(np.int64, examples, elements=st.integers(0, classes - 1)))
    return [arrays_of(rows / rows.sum(1, keepdims=True), truth) for rows in odds]


@given(ensembles())
@settings(max_examples=60, deadline=None)
def test_the_ensemble_is_never_worse_than_its_members_on_average(members):
    """Jensen: the NLL of the mean is at most the mean of the NLLs, whatever the weights."""
    each = [arithmetic.scores(member)["nll"] for member in members]
    for weights in (arithmetic.uniform(members), arithmetic.greedy(members), arithmetic.fitted(members)):
        assert sum(weights) == pytest.approx(1)
        assert min(weights) >= 0
        found = arithmetic.scores(arithmetic.combined(members, weights))["nll"]
        assert found <= np.dot(weights, each) + 1e-6


@given(ensembles())
@settings(max_examples=40, deadline=None)
def test_fitted_weights_are_the_best_on_what_they_are_fitted_on(members):
    """No member alone, no equal weights and no greedy selection have a smaller NLL there."""

    def nll(weights: list[float]) -> float:
        return arithmetic.scores(arithmetic.combined(members, weights))["nll"]

    others = [arithmetic.uniform(members), arithmetic.greedy(members), *np.eye(len(members)).tolist()]
    assert nll(arithmetic.fitted(members)) <= min(map(nll, others)) + 1e-5


def test_weights_are_fitted_where_the_answer_is_known():
    """Two models that are each sure and right on other examples: half and half; of values, the least squares."""
    rows = np.array([[0.99, 0.01], [0.5, 0.5]])
    members = [arrays_of(rows, np.array([0, 0])), arrays_of(rows[::-1], np.array([0, 0]))]
    assert arithmetic.fitted(members) == pytest.approx([0.5, 0.5], abs=1e-4)
    truth = np.array([1.0, 2.0, 3.0])
    values = [arrays_of(rows, truth) for rows in (truth - 1, truth + 3, -5 * truth)]
    assert arithmetic.fitted(values) == pytest.approx([0.75, 0.25, 0.0], abs=1e-4)
    assert arithmetic.greedy(values) == [0.75, 0.25, 0.0]
    assert arithmetic.scores(values[0]) == {"rmse": pytest.approx(1.0)}


def mlp(width: int = 12) -> torch.nn.Sequential:
    """A small MLP, of the same weights each time: descent by coordinates finds the order of most draws, not of all."""
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(5, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, 3),
    )  # fmt: skip


def test_rebasin_finds_the_order_of_units_again():
    """A network whose hidden units were shuffled gets them back in the order of the first, to the bit."""
    generator = torch.Generator().manual_seed(1)
    first = {name: value.clone() for name, value in mlp().state_dict().items()}
    chain = rebasin.layers(mlp())
    shuffled = dict(first)
    for layer, after in pairwise(chain):
        shuffled |= rebasin._permuted(layer, after, shuffled, torch.randperm(12, generator=generator))
    assert not torch.equal(shuffled["0.weight"], first["0.weight"])
    found = rebasin.matched(chain, first, shuffled)
    assert all(torch.equal(found[name], first[name]) for name in first)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten()), "0 is a Conv2d"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(4, 2)), "each feeds the next"),
        (torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)), "1 is a LayerNorm"),
    ],
)
def test_rebasin_is_for_mlps(network, message):
    """Other networks are refused, with what is in the way."""
    with pytest.raises(Refused, match=message):
        rebasin.layers(network)


def followed(
    steps: int, *, last: int = 2
) -> tuple[torch.nn.Module, Averages, list[torch.Tensor], torch.optim.Optimizer]:
    """Train a network for some steps, and return it with its averages and the first weights after each step."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    epochs = iter([(epoch, 4) for epoch in range(4) for _ in range(2)])
    found = Averages(model, ema=0.9, swa=True, swa_start=None, last=last, where=lambda: next(epochs))
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 2)).square().sum().backward()
        optimizer.step()
        seen.append(model.weight.detach().clone())
    return model, found, seen, optimizer


def test_averages_are_what_they_say():
    """EMA with its warm-up, SWA over the last quarter of the epochs, and the mean of the last steps, by hand."""
    _, averages, seen, _ = followed(8)
    found = averages.found()
    assert {name: steps for name, (steps, _) in found.items()} == {"ema": 8, "swa": 2, "last": 2}
    ema = seen[0]
    for count, weight in enumerate(seen[1:], 1):
        ema = torch.lerp(ema, weight, 1 - min(0.9, (1 + count) / (10 + count)))
    assert torch.allclose(found["ema"][1]["weight"], ema)
    assert torch.allclose(found["swa"][1]["weight"], (seen[6] + seen[7]) / 2)
    assert torch.allclose(found["last"][1]["weight"], (seen[6] + seen[7]) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.0}, "ema is a decay"),
        ({"last": -1}, "last is a number of steps"),
        ({"swa_start": 1, "swa": False}, "swa_start"),
        ({"ema": None, "swa": False}, "nothing is to be averaged"),
    ],
)
def test_averages_that_cannot_be_are_refused(options, message):
    """ValueError in the script says what was expected."""
    given_ = {"ema": None, "swa": True, "swa_start": None, "last": 0} | options
    with pytest.raises(ValueError, match=message):
        Averages(torch.nn.Linear(1, 1), where=lambda: None, **given_)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module is expected, not list"):
        Averages([], ema=0.9, swa=True, swa_start=None, last=0, where=lambda: None)


NORMED = """\
import torch
from torch import nn

X = torch.arange(40.0).reshape(10, 4)


def build(run):
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))


def evaluate(model, run, split):
    model.eval()
    rows = torch.softmax(torch.cat([model(x) for x in X.split(5)]), 1)
    return rows, torch.randint(2, (10,))
"""


SEED = {"master": "0", "replicates": {}}


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A maker of the user's module from its text."""

    def make(text: str, seeds: list[dict[str, Any]]) -> models.UserModule:
        path = tmp_path / "module_of_the_user.py"
        path.write_text(text)
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
        importlib.invalidate_caches()
        return models.UserModule(str(path), {}, seeds)

    return make


EVALUATE = """\
from torch import nn


def build(run):
    return nn.Linear(1, 1)


def evaluate(model, run, split):
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 0.25", {"accuracy": 0.25}),
        ("return {'accuracy': 0.5, 'nll': 0.7, 'seen': 3}", {"accuracy": 0.5, "nll": 0.7}),
        ("return {'rmse': 2.0}", {"rmse": 2.0}),
        ("return {'probabilities': [1.0, 3.0], 'targets': [2.0, 2.0]}", {"rmse": 1.0}),
        ("return [9, 5], [1.0, 3.0], [2.0, 2.0]", {"rmse": 1.0}),
        ("run.log(x=1); run.predictions('dev', [9, 5], [1.0, 3.0], [2.0, 2.0])", {"rmse": 1.0}),
    ],
)
def test_an_evaluation_comes_back_in_several_forms(user_module, body, expected):
    """Predictions that are saved or returned, a mapping of scores, or the accuracy alone."""
    module = user_module(EVALUATE + f"    {body}\n", [SEED])
    assert module.evaluate(module.build(), "test").scores == pytest.approx(expected)


def test_an_evaluation_that_says_nothing_is_an_error(user_module):
    """The message says what `evaluate` is to do."""
    module = user_module(EVALUATE + "    return None\n", [SEED])
    with pytest.raises(TypeError, match=r"run\.predictions\(split, ids, probabilities, targets\), or returns"):
        module.evaluate(module.build(), "test")


def test_a_split_from_a_stream_that_members_do_not_share_is_refused(user_module):
    """Of one seed, or with the split's replicate held, it is the same for all; else it is refused."""
    text = EVALUATE + "    run.rng('split')\n    return 0.5\n"
    for other in (SEED, {"master": "0", "replicates": {"order": 3}}):
        module = user_module(text, [SEED, other])
        assert module.evaluate(module.build(), "test").scores == {"accuracy": 0.5}
    for other in ({"master": "1", "replicates": {}}, {"master": "0", "replicates": {"split": 1}}):
        module = user_module(text, [SEED, other])
        with pytest.raises(Refused, match="drawn from the stream 'split'"):
            module.evaluate(module.build(), "test")


def test_a_barrier_of_nan_is_not_low(user_module):
    """Weights whose mean diverges are refused, and so is every barrier above the limit, unless a start is shared."""
    text = (
        EVALUATE
        + "    w = model.weight.item()\n    return {'accuracy': 0.5, 'nll': float('nan') if 0.4 < w < 0.6 else w}\n"
    )
    kitchen = soup.Kitchen(user_module(text, [SEED]))
    ends = [{"weight": torch.tensor([[value]]), "bias": torch.zeros(1)} for value in (0.0, 1.0)]
    assert math.isnan(soup.barrier(kitchen, *ends, (0.0, 1.0), "val"))
    for highest, shared in ((math.nan, False), (0.011, False)):
        with pytest.raises(Refused, match="the loss rises by"):
            soup.check_barrier(highest, 0.01, shared=shared)
    soup.check_barrier(0.01, 0.01, shared=False)
    soup.check_barrier(5.0, 0.01, shared=True)


def test_weights_that_diverge_on_the_way_are_an_infinite_barrier(user_module):
    """Predictions that are not finite between two members are no error, but a barrier."""
    text = EVALUATE + "    run.predictions(split, [0], [float('inf')], [0.0])\n"
    kitchen = soup.Kitchen(user_module(text, [SEED]))
    state = {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}
    assert soup.barrier(kitchen, state, state, (0.0, 0.0), "val") == math.inf


def test_batch_norm_statistics_are_estimated_anew(user_module):
    """A mean of weights is evaluated with the statistics of the training data; each call draws as the first."""
    module = user_module(NORMED, [SEED])
    kitchen = soup.Kitchen(module)
    state = dict(kitchen.mean([module.build().state_dict(), module.build().state_dict()]))
    assert kitchen.has_statistics
    model = kitchen.averaged(state)
    x = torch.arange(40.0).reshape(2, 5, 4)
    assert torch.allclose(model[0].running_mean, x.mean((0, 1)))
    assert torch.allclose(model[0].running_var, x.var(1).mean(0))
    first, second = (kitchen.evaluate(state, "val") for _ in range(2))
    assert first.scores == second.scores
    assert first.predictions.targets.tolist() == second.predictions.targets.tolist()


TRAIN = """\
import os

import torch
from torch import nn
from torch.nn import functional

import repro

generator = torch.Generator().manual_seed(3)
X = torch.randn(500, 6, generator=generator)
Y = (X[:, 0].sign() + (X[:, 1] * X[:, 2]).sign()).long() // 2 + 1
PARTS = {"train": range(200), "val": range(200, 350), "test": range(350, 500)}


def build(run):
    width = run.params.width
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def evaluate(model, run, split):
    ids = torch.tensor(PARTS[split])
    if run.params.seeded_split:
        ids = torch.randperm(150, generator=run.rng("split")) + ids[0]
        Y_ = Y[ids]
        ids = torch.arange(150)
        run.predictions(split, ids, torch.softmax(model(X[ids]), 1), Y_)
        return None
    run.predictions(split, ids, torch.softmax(model(X[ids]), 1), Y[ids])


def train(run):
    with run.stream("init"):
        model = build(run)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    if run.params.average:
        run.average(model, ema=0.9, last=3)
    run.resume(model=model, optimizer=optimizer)
    for epoch in run.epochs():
        if os.environ.get("FAULT") == str(epoch):
            raise RuntimeError("as asked")
        for index in torch.randperm(200, generator=run.rng("order")).split(20):
            optimizer.zero_grad()
            functional.cross_entropy(model(X[index]), Y[index]).backward()
            optimizer.step()
        run.checkpoint(model=model, optimizer=optimizer)
    for split in ("val", "test"):
        evaluate(model, run, split)
    run.log(done=1)
"""
EXPERIMENT = """\
name: moons
entry: train.py:train
params: {epochs: 8, width: 12, average: true, seeded_split: false}
threads: 1
"""


class Study(NamedTuple):
    """A study of three seeds in a project, which several tests read."""

    project: Project
    study_id: str
    runs: list[str]

    def average(self, *words: str, check: int = 0) -> Any:
        """Run `repro average --json`."""
        done = self.project.repro("average", "--json", *words, check=check)
        return done.json if check == 0 else done.err

    def record_digest(self, run_id: str) -> str:
        """Return what the journal says of a record."""
        return digest.of_file(self.project.store / "runs" / run_id / "record.json")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Three seeds of a small MLP, with predictions, checkpoints and averages."""
    project = Project(tmp_path_factory.mktemp("average") / "project")
    project.root.mkdir()
    project.write("train.py", TRAIN)
    project.write("experiment.yaml", EXPERIMENT)
    found = project.repro("seeds", "--n", "3", "--workers", "2", "--json", "experiment.yaml", check=0).json
    return Study(project, found["study_id"], [run["run_id"] for run in found["runs"]])


def test_an_ensemble_is_a_run_of_its_own(study: Study) -> None:
    """It names its members by record digest, has the figures of the three, replays bit for bit, and verifies."""
    found = study.average(study.study_id[:8])
    assert found["members"] == [study.record_digest(run_id) for run_id in study.runs]
    test = [predictions.read(study.project.store, run_id, "test") for run_id in study.runs]
    rows, truth = np.mean([item.probabilities for item in test], 0), test[0].targets
    averaged, best, mean = (found["metrics"][who] for who in ("averaged", "best_single", "mean_single"))
    assert averaged["accuracy"] == pytest.approx((rows.argmax(1) == truth).mean())
    assert averaged["nll"] == pytest.approx(-np.log(rows[np.arange(150), truth]).mean(), rel=1e-5)
    assert averaged["nll"] <= mean["nll"]
    assert averaged["parameters"] == 3 * mean["parameters"] == 3 * best["parameters"] == 3 * 279
    assert averaged["inference_seconds"] > best["inference_seconds"] > 0
    validation = [predictions.read(study.project.store, run_id, "val") for run_id in study.runs]
    accuracy = [(item.probabilities.argmax(1) == item.targets).mean() for item in validation]
    assert max(accuracy) == accuracy[study.runs.index(found["best_single"])]
    shown = study.project.repro("show", "--json", found["run_id"], check=0).json
    assert shown["record"]["recipe"]["params"]["members"] == found["members"]
    assert len([name for name in shown["record"]["recipe"]["data"] if name.startswith("members/")]) == 9
    own = predictions.read(study.project.store, found["run_id"], "test")
    assert np.allclose(own.probabilities, rows, atol=1e-6)
    replayed = study.project.replay(found["run_id"], check=0)
    assert (replayed["verdict"], replayed["compared"]["artifacts"]) == ("IDENTICAL", 3)
    study.project.repro("verify", check=0)


def test_weights_of_independent_runs_are_refused_with_the_barrier(study: Study) -> None:
    """Exit code 2, the barrier and its limit; a higher limit lets it, and re-basin makes the barrier lower."""
    words = (",".join(study.runs), "--method", "soup")
    said = study.average(*words, check=2)
    assert re.search(r"the loss rises by [\d.]+ between two members, .* up to a barrier of 0\.01", said)
    assert "--max-barrier" in said
    plain = study.average(*words, "--max-barrier", "inf")
    matched = study.average(*words, "--max-barrier", "inf", "--rebasin")
    assert plain["details"]["barrier"] > matched["details"]["barrier"] > 0
    assert len(plain["details"]["barriers"]) == 3
    assert matched["metrics"]["averaged"]["nll"] < plain["metrics"]["averaged"]["nll"]
    assert plain["metrics"]["averaged"]["parameters"] == 279


def test_members_that_go_on_from_one_checkpoint_make_a_soup(study: Study) -> None:
    """A fork's members share an initialisation: their soup is made, has a low barrier, and replays, moved as well."""
    words = ("--fork-at", "5", "--n", "2", "--json", "experiment.yaml")
    fork = study.project.repro("seeds", *words, check=0).json
    found = study.average(fork["study_id"], "--method", "greedy-soup")
    assert found["details"]["shared"]
    assert found["details"]["barrier"] < 0.05
    assert found["metrics"]["averaged"]["accuracy"] >= found["metrics"]["mean_single"]["accuracy"] - 0.05
    moved = Project(study.project.root.with_name("moved"))
    study.project.root.rename(moved.root)
    try:
        replayed = moved.replay(found["run_id"], check=0)
    finally:
        moved.root.rename(study.project.root)
    assert (replayed["verdict"], replayed["compared"]["artifacts"]) == ("IDENTICAL", 4)


def test_what_a_run_averaged_itself_is_evaluated(study: Study) -> None:
    """The EMA that is best on validation is taken; a run that has none is told the line to add."""
    found = study.average(study.study_id, "--method", "ema")
    assert found["details"]["steps"] == 80
    assert len(found["details"]["taken"]) == 1
    assert found["metrics"]["averaged"]["parameters"] == 279
    without = study.project.run("experiment.yaml", "--set", "average=false")
    said = study.average(without["run_id"], "--method", "swa", check=2)
    assert "run.average(model, swa=True)" in said
    outcomes = [
        study.project.repro("show", "--json", run_id, check=0).json["outcome"]
        for run_id in (study.runs[0], without["run_id"])
    ]
    assert outcomes[0]["trail_digest"] == outcomes[1]["trail_digest"]  # the training does not notice


def test_averages_go_on_with_a_run_that_is_resumed(study: Study) -> None:
    """A run that broke off and was gone on from leaves the averages of the one that was never interrupted."""
    broken = study.project.run("experiment.yaml", check=1, FAULT="6")
    resumed = study.project.repro("run", "--json", "--resume", broken["run_id"], check=0).json
    files = [
        {
            item["path"]: item["digest"]
            for item in study.project.repro("show", "--json", run_id).json["outcome"]["artifacts"]
        }
        for run_id in (study.runs[0], resumed["run_id"])
    ]
    assert files[0] == files[1]
    assert sorted(files[0]) == [
        "averages/ema.pt", "averages/last.pt", "averages/swa.pt", "predictions/test.npz", "predictions/val.npz",
    ]  # fmt: skip


def test_a_split_that_the_seed_draws_is_refused(study: Study) -> None:
    """Members that were trained on what others are tested on are not averaged, neither way."""
    words = ("--set", "seeded_split=true", "--set", "epochs=1", "--n", "2", "--json", "experiment.yaml")
    found = study.project.repro("seeds", *words, check=0).json
    for method in ("ensemble", "soup"):
        said = study.average(found["study_id"], "--method", method, check=2)
        assert "--vary init,order" in said


SCRIPT_OF_VALUES = """\
import sys

import numpy as np
import repro

run = repro.current()
truth = np.arange(5.0)
run.predictions("test", range(5), truth + float(sys.argv[1]), truth)
"""


def test_regressions_without_a_module_are_averaged(project: Project) -> None:
    """Scripts that only save values: RMSE, no best single without validation, and what is missing is named."""
    project.write("fit.py", SCRIPT_OF_VALUES)
    runs = [project.run("--", "python", "fit.py", offset)["run_id"] for offset in ("-1", "3")]
    found = project.repro("average", ",".join(runs), "--json", check=0).json
    assert found["metrics"] == {
        "averaged": {"rmse": pytest.approx(1.0)},
        "best_single": None,
        "mean_single": {"rmse": pytest.approx(2.0)},
    }
    assert project.replay(found["run_id"], check=0)["verdict"] == "IDENTICAL"
    again = project.repro("average", f"{found['run_id']},{runs[1]}", "--json", check=0).json
    assert again["metrics"]["averaged"] == {"rmse": pytest.approx(2.0)}
    assert (again["notes"], again["members"][0]) == ([], found["record_digest"])
    said = project.repro("average", ",".join(runs), "--method", "greedy", check=2).err
    assert "run.predictions('val', ids, probabilities, targets)" in said
    said = project.repro("average", ",".join(runs), "--method", "soup", check=2).err
    assert "fit.py has no function 'build'" in said
    said = project.repro("average", f"{runs[0]},{runs[0]}", check=2).err
    assert "is there twice" in said
    assert "no study 'nothing'" in project.repro("average", "nothing", check=2).err
