"""A run that was killed and goes on from its checkpoint equals the uninterrupted one, bit for bit."""

import copy
import random
import shutil
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Project
from torch.utils.data import DataLoader

from repro.worker import checkpoint, obstacles

#: An experiment's entry that dies behind the first loss of the step that DIE names: "40 KILL", "40 LOST".
DEADLY = """\
import os
import signal

import train as experiment


def train(run):
    log = run.log
    step_of_death, _, how = os.environ.get("DIE", "").partition(" ")

    def deadly(*values, step=None, **named):
        log(*values, step=step, **named)
        if str(step) == step_of_death and "loss" in named:
            if how == "LOST":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    run.log = deadly
    experiment.train(run)
"""

#: Six kinds of model with what else a training has: loaders with and without workers, schedulers, a scaler, generators
#: of one's own. With DIE it dies in its own way at an epoch: before its training, in the middle, behind its checkpoint.
SIX = '''\
import os
import random
import signal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import repro


class Noisy(Dataset):
    """Points of five dimensions, moved at random whenever they are read."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        noise = torch.randn(5) + random.random() + np.random.rand()
        return torch.full((5,), i / 24) + 0.1 * noise.float(), i % 3


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 8, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.lstm(x.unsqueeze(2))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.first, self.body, self.out = nn.Linear(1, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.body(self.first(x.unsqueeze(2))).mean(1))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(50, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.bag((x * 10).long().clamp(0, 49)))


def mlp():
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def cnn():
    return nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))


def normed():
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


run = repro.current()
warm = torch.randn(3)  # what is drawn before the run goes on has no effect
with run.stream("init"):
    models = [mlp(), cnn(), Transformer(), LSTM(), Embedding(), normed()]
optimizers = [
    torch.optim.SGD(models[0].parameters(), lr=0.1, momentum=0.9, nesterov=True),
    torch.optim.Adam(models[1].parameters(), lr=0.01, amsgrad=True),
    torch.optim.AdamW(models[2].parameters(), lr=0.01),
    torch.optim.RMSprop(models[3].parameters(), lr=0.01, centered=True),
    torch.optim.Adagrad(models[4].parameters(), lr=0.1),
    torch.optim.NAdam(models[5].parameters(), lr=0.01),
]
schedules = [
    torch.optim.lr_scheduler.LambdaLR(optimizers[0], lambda epoch: np.float64(0.9) ** epoch),
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizers[1], T_max=4),
    torch.optim.lr_scheduler.OneCycleLR(optimizers[2], max_lr=0.02, total_steps=12),
    torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[5], patience=0),
]
scaler = torch.amp.GradScaler("cpu")
mine, numpys = torch.Generator(), np.random.default_rng(7)
mine.manual_seed(3)
loaders = [
    DataLoader(Noisy(), batch_size=8, shuffle=True),
    DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2, generator=run.rng("order")),
    DataLoader(Noisy(), batch_size=8, shuffle=True, generator=mine),
]
if run.rng("flip").random() > 2:
    raise AssertionError
best = {"loss": float("inf"), "curve": []}
parts = dict(models=models, optimizers=optimizers, schedules=schedules, scaler=scaler, mine=mine, numpys=numpys)
saved = run.resume(**parts, best=best)
count = saved.get("count", 0)
run.log(before=1.0)
torch.rand(7)
how, _, when = os.environ.get("DIE", "").partition(" ")


def die(epoch, place):
    if when == f"{epoch} {place}":
        if how == "TERM":
            os.kill(os.getppid(), signal.SIGTERM)
            signal.pause()
        if how == "raise":
            raise RuntimeError("the disk is on fire")
        os.kill(os.getpid(), signal.SIGKILL)


for epoch in run.epochs(4):
    die(epoch, "before")
    if epoch == 0:
        run.rng("warm").random()
    for batches in zip(*loaders):
        total = 0.0
        for i, (model, optimizer) in enumerate(zip(models, optimizers)):
            if i == 5 and epoch % 2:
                continue  # this one trains in every other epoch alone
            x, y = batches[i % 3]
            x = x + 0.01 * torch.from_numpy(numpys.random(5).astype("float32"))
            if run.rng("flip").random() < 0.5:
                x = x.flip(1)
            optimizer.zero_grad()
            with run.stream("dropout"):
                loss = cross_entropy(model(x), y)
            if i == 0:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
            total += loss.item()
        count += 1
        run.log(step=count, loss=total)
        if count % 3 == 2:
            die(epoch, "middle")
        schedules[2].step()
    for schedule in (schedules[0], schedules[1]):
        schedule.step()
    schedules[3].step(total)
    best["loss"] = min(best["loss"], total)
    best["curve"].append(total)
    run.checkpoint(**parts, best=best, count=count)
    run.log(step=epoch, behind=total)
    die(epoch, "behind")
run.log(best=best["loss"], points=len(best["curve"]), draw=torch.rand(1).item())
'''


def points(project: Project, run_id: str) -> dict[str, list[tuple[int | None, float]]]:
    """Return step and value of every point of a run."""
    found = project.repro("log", run_id, "--json", check=0).json["metrics"]
    return {name: [(item["step"], item["value"]) for item in values] for name, values in found.items()}


def trail_files(done: dict[str, Any]) -> list[bytes]:
    """Return the bytes of a run's trail."""
    return [path.read_bytes() for path in sorted((Path(done["path"]) / "trail").iterdir())]


def assert_equal(project: Project, whole: dict[str, Any], last: dict[str, Any]) -> None:
    """Two runs have one recipe, one trail to the byte, one set of metric points."""
    assert last["state"] == whole["state"] == "COMPLETED"
    assert last["recipe_digest"] == whole["recipe_digest"]
    assert last["record_digest"] != whole["record_digest"]
    assert last["metrics"] == whole["metrics"]
    assert points(project, last["run_id"]) == points(project, whole["run_id"])
    assert last["trail_digest"] == whole["trail_digest"]
    assert trail_files(last) == trail_files(whole)


@pytest.mark.parametrize(("name", "deaths"), [("digits", ["25 KILL", "50 LOST"]), ("mnist5k", ["50 LOST", "140 KILL"])])
def test_an_experiment_killed_in_every_epoch_equals_the_uninterrupted(
    project: Project, name: str, deaths: list[str]
) -> None:
    """Killed in its second epoch, gone on, killed in its third, gone on: trail, metrics and recipe are the same.

    The record names run and checkpoint; the continuation's replay runs from the start and is IDENTICAL to all of it.
    """
    shutil.copytree(ROOT / "experiments" / name, project.root, dirs_exist_ok=True)
    project.write("deadly.py", DEADLY)
    file = project.root / "experiment.yaml"
    file.write_text(file.read_text().replace("train.py:train", "deadly.py:train"))
    project.commit()
    words = ["experiment.yaml", "--set", "epochs=3"]
    whole = project.run(*words)
    project.repro("run", *words, DIE=deaths[0])
    project.repro("run", "--resume", "last", DIE=deaths[1])
    last = project.run("--resume", "last")
    assert_equal(project, whole, last)
    runs = project.repro("ls", "--json", check=0).json
    assert [run["state"] for run in runs][1:3] == [death[3:].strip().replace("KILL", "FAILED") for death in deaths]
    record = project.repro("show", "last", "--json", check=0).json["record"]
    start = record["circumstances"]["resumed"]
    assert (start["run"], start["epoch"]) == (runs[2]["run_id"], 1)
    outcome = project.repro("show", start["run"], "--json", check=0).json["outcome"]
    for item in start["checkpoints"]:
        assert outcome["files"][item["path"].split("/", 2)[2]] == item["digest"]
    if name == "digits":
        assert project.replay(check=0)["compared"]["frames"] == whole["frames"]
    assert project.repro("verify", "--json", check=0).json["ok"]


def test_six_kinds_of_model_replay_and_go_on_bit_for_bit(project: Project) -> None:
    """MLP, CNN, transformer, LSTM, embedding, batch norm: a replay is IDENTICAL, and so is what was ended in any way.

    With six optimizers, four schedulers, a scaler, loaders with 0 and 2 workers, draws in the workers, named streams,
    and generators of the user's: killed, cancelled, failed; before an epoch's steps, amid them, behind its checkpoint.
    """
    project.write("six.py", SIX)
    words = ["--determinism", "strict", "--threads", "1", "--", "python", "six.py"]
    whole = project.run(*words)
    assert whole["notes"] == []
    assert project.replay(check=0)["verdict"] == "IDENTICAL"
    first = project.run(*words, check=137, DIE="kill 1 before")
    assert first["state"] == "FAILED"
    second = project.run("--resume", "last", check=None, DIE="TERM 1 behind")  # that epoch's end was not seen
    assert (second["state"], second["resumed"]["epoch"]) == ("CANCELLED", 0)
    third = project.run("--resume", "last", check=1, DIE="raise 2 middle")
    assert (third["state"], third["resumed"]["epoch"]) == ("FAILED", 0)
    assert third["resumed"]["run"] == first["run_id"]
    last = project.run("--resume", "last")
    assert (last["resumed"]["run"], last["resumed"]["epoch"]) == (third["run_id"], 1)
    assert_equal(project, whole, last)
    assert last["notes"] == []
    assert project.replay(check=0)["verdict"] == "IDENTICAL"


#: A loop of the script's own, or one of `run.epochs`; with DIE the run ends in its last epoch, LOST or by an error.
LOOP = """\
import os
import subprocess
import sys

import torch
from torch import nn

import repro

run = repro.current()
if os.environ.get("ASK"):
    done = subprocess.run(["repro", "run", "--resume", "last"], capture_output=True, text=True)
    print(done.returncode, done.stderr)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters())


def step():
    optimizer.zero_grad()
    loss = model(torch.randn(6, 4)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


how = sys.argv[1]
saved = {} if how == "silent" else run.resume(model=model, optimizer=optimizer)
assert bool(saved) == (run.id is not None and os.environ.get("GOES_ON") == "1")
for epoch in range(saved.get("epoch", -1) + 1, 3) if how == "own" else run.epochs(3):
    loss = step()
    if epoch == 0:
        open("result.txt", "w").write(str(loss))
        run.artifact("result.txt")
    run.log(step=epoch, loss=loss)
    run.checkpoint(model=model, optimizer=optimizer, epoch=epoch)
    if how == "early":
        step()
    if epoch == 2 and os.environ.get("DIE") == "LOST":
        os.kill(os.getppid(), 9)
        os.kill(os.getpid(), 9)
    if epoch == 2 and os.environ.get("DIE"):
        raise RuntimeError
run.log(draw=torch.rand(1).item())
"""


def refused(project: Project, *words: str, code: int = 2) -> str:
    """Return what is said when a run cannot be gone on from; nothing new is in the store then."""
    before = sorted((project.store / "runs").iterdir())
    said = project.repro("run", "--resume", *words, check=code).err
    assert sorted((project.store / "runs").iterdir()) == before
    return said


def test_a_loop_of_the_scripts_own_goes_on_from_the_last_checkpoint(project: Project) -> None:
    """Without `run.epochs` the script begins where the plain values say; outputs of the lost run are no other code.

    Refused, and said why: what goes on, is complete, has other code or a damaged checkpoint, and further options.
    """
    project.write("loop.py", LOOP)
    project.commit()
    words = ["--", "python", "loop.py", "own"]
    whole = project.run(*words, ASK="1")
    asked = (Path(whole["path"]) / "stdout.log").read_text()
    assert asked.startswith("2 ")
    assert "is RUNNING" in asked
    assert "COMPLETED" in refused(project, "last")
    project.root.joinpath("result.txt").unlink()
    project.repro("run", *words, DIE="LOST")
    last = project.repro("ls", "--json", check=0).json[-1]["run_id"]
    assert (project.root / "result.txt").exists()
    (project.root / "loop.py").write_text(LOOP + "\n")
    assert f"not as {last} had it: loop.py (M)" in refused(project, "last")
    (project.root / "loop.py").write_text(LOOP)
    assert "takes everything from the run" in refused(project, "last", "--seed", "1")
    project.write("more.py", "")
    assert "more.py (A)" in refused(project, "last")
    project.root.joinpath("more.py").unlink()
    found = max((project.store / "runs" / last / "checkpoints").iterdir())
    content = found.read_bytes()
    found.chmod(0o644)
    found.write_bytes(content[:-1] + b"?")
    assert "is not what it was when it was sealed" in refused(project, "last", code=5)
    found.write_bytes(content)
    done = project.run("--resume", last, GOES_ON="1")
    assert done["resumed"]["epoch"] is None
    assert_equal(project, whole, done)
    assert project.replay(check=0)["compared"]["artifacts"] == 1


@pytest.mark.parametrize(
    ("how", "why", "told"),
    [
        ("early", "run.checkpoint() was not the last thing in its epoch", True),
        ("silent", "the script does not call run.resume() before it", False),
    ],
)
def test_a_checkpoint_that_will_not_do_is_told_before_it_is_needed(
    project: Project, how: str, why: str, told: bool
) -> None:
    """A step behind the checkpoint: a line when the first epoch ends, a note, and no continuation of other bits.

    A script that never asks to go on hears nothing of it.
    """
    project.write("loop.py", LOOP)
    done = project.repro("run", "--", "python", "loop.py", how, DIE="error", check=1)
    assert (f"repro: no run can go on from 00000-0000-000000.pt: {why}\n" in done.err) == told
    assert done.err.count(why) == 2 * told  # at once, and in the notes
    assert f"has no checkpoint to go on from: {why}" in refused(project, "last")


def test_a_run_without_a_checkpoint_or_of_a_replay_is_not_gone_on_from(project: Project) -> None:
    """A run that made none, a replay, metrics out of the output, and a store without runs: exit 2, with a hint."""
    assert "there is no store" in project.repro("run", "--resume", "last", check=2).err
    project.write("a.py", "print('acc=1'); raise SystemExit(1)\n")
    project.run("--", "python", "a.py", check=1)
    assert "it made none\nhint: run.checkpoint(" in refused(project, "last")
    replayed = project.replay(check=None)["run_id"]
    assert "is a replay" in refused(project, replayed)
    project.run("--metric", "acc=([0-9.]+)", "--", "python", "a.py", check=1)
    assert "--metric" in refused(project, "last")


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    """Tensors, numpy's arrays and numbers, tuples, counters: through a file without pickle, types and bits the same."""
    values = {
        "numbers": (1, 2.5, None, "text", True, float("nan"), 2**100),
        "numpy": [np.float64(0.1), np.uint32([1, 2**32 - 1]), np.uint64(2**64 - 1), np.arange(3.0), np.array(2, ">i4")],
        "ordered": OrderedDict(a=torch.ones(2, dtype=torch.bfloat16), b=np.float32(3)),
        "counter": Counter([1, 1]),
        "random": random.Random(3).getstate(),  # noqa: S311
    }
    encoder = checkpoint.Encoder()
    torch.save([encoder.encode(values), encoder.arrays], tmp_path / "x.pt")
    state, arrays = torch.load(tmp_path / "x.pt", weights_only=True)
    back = checkpoint.restored(state, arrays)
    assert repr(back) == repr(values)
    assert [item.dtype for item in back["numpy"]] == [item.dtype for item in values["numpy"]]
    assert back["random"] == values["random"]
    with pytest.raises(TypeError, match=r"a\.0 is a Path|a\.0 is a PosixPath"):
        encoder.encode({"a": [tmp_path]})


def test_parts_are_loaded_in_place() -> None:
    """Objects, also in lists and mappings, get their state back; plain mappings, lists, tensors are filled in place."""
    model = torch.nn.Linear(2, 2)
    generators = [torch.Generator(), np.random.default_rng(1), random.Random(1), np.random.RandomState(4)]  # noqa: S311
    parts = {"models": {"a": [model]}, "generators": generators}
    plain = {"curve": [1.0], "best": {"loss": 2.0}, "mean": torch.zeros(2), "array": np.zeros(2)}
    state = copy.deepcopy(checkpoint.Encoder().encode(parts | plain))

    def draws() -> list[float]:
        one, *others = generators
        return [torch.rand(1, generator=one).item(), *(float(other.random()) for other in others)]

    weight, drawn, curve, mean = model.weight.clone(), draws(), plain["curve"], plain["mean"]
    with torch.no_grad():
        model.weight += 1
    curve.append(3.0)
    mean += 1
    plain["best"]["loss"] = 0.0
    assert checkpoint.loadable(parts | plain) == {"models", "generators"}
    loaded = [item for name, part in (parts | plain).items() for item in checkpoint.load(part, state[name], (name,))]
    assert loaded[0] == (("models", "a", 0), model)
    assert [at for at, _ in loaded[1:]] == [("generators", i) for i in range(4)]
    assert torch.equal(model.weight, weight)
    assert draws() == drawn
    assert (curve, mean.tolist(), plain["best"]) == ([1.0], [0, 0], {"loss": 2.0})
    with pytest.raises(TypeError, match="best is a float"):
        checkpoint.loadable({"best": 1.0})


def test_a_state_that_did_not_come_back_is_named() -> None:
    """The first value that is not the same to the bit: another type, sign of zero, NaN's payload, key or length."""
    state = {"a": [1.0, {"b": torch.tensor([0.0, float("nan")])}]}
    assert checkpoint.unequal(state, copy.deepcopy(state)) is None
    for other, at in [
        ({"a": [1.0, {"b": torch.tensor([-0.0, float("nan")])}]}, ("a", 1, "b")),
        ({"a": [1, state["a"][1]]}, ("a", 0)),
        ({"a": [1.0, {"b": state["a"][1]["b"].double()}]}, ("a", 1, "b")),
        ({"a": [1.0]}, ("a",)),
        ({"c": state["a"]}, ()),
    ]:
        assert checkpoint.unequal(state, other) == at


def test_what_would_not_come_back_is_an_obstacle() -> None:
    """Other names, an optimizer that is no part, a loader's own generator, lasting workers, data half read."""
    data, mine = [*range(8)], torch.Generator()
    own = {"trail": {"optimizers": [{"line": {"kind": "SGD"}, "part": None}]}}
    none: dict[str, Any] = {"trail": None}
    shuffled = DataLoader(data, shuffle=True, generator=mine)
    lasting = DataLoader(data, num_workers=1, persistent_workers=True)
    model = {("model",): object()}

    def find(given: set[str] | None, objects: Any, own: Any, *rest: Any) -> str | None:
        return obstacles.find(given, objects, own, *rest, *[()] * (3 - len(rest)))

    assert find({"model"}, model, none) is None
    assert "only one of" in str(find({"model", "scaler"}, model, none))
    assert "only one of" in str(find(set(), model, none))
    assert "SGD has taken steps" in str(find({"model"}, model, own))
    assert "generator of a DataLoader" in str(find({"model"}, model, none, (), [shuffled]))
    assert find({"mine"}, {("mine",): mine}, none, (), [shuffled]) is None
    assert find({"model"}, model, none, (mine,), [shuffled]) is None
    assert "persistent_workers" in str(find({"model"}, model, none, (), [lasting]))
    iterator = iter(DataLoader(data, batch_size=4))
    next(iterator)
    assert "in the middle" in str(find({"model"}, model, none, (), (), [iterator]))
    next(iterator)
    assert find({"model"}, model, none, (), (), [iterator]) is None
