"""`repro diagnose` names what makes two runs of one thing differ, with its line: planted scripts, real processes."""

from typing import Any

import pytest
from conftest import Project
from hypothesis import example, given
from hypothesis import strategies as st

from repro.replay import replay, traces, ulp
from repro.store.store import Store

#: A few real steps on `x`, a list or an array that what stands before has made.
TRAIN = """
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(3):
    inputs = torch.as_tensor(x, dtype=torch.float32).reshape(-1, 4)  # ENTERS
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()
"""


def line_of(text: str, mark: str) -> int:
    """Return the number of the line that holds ``mark``."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if mark in line)


def diagnose(project: Project, script: str, *options: str, check: int = 3) -> Any:
    """Diagnose a script of the project; return the document."""
    project.write("train.py", script)
    return project.repro("diagnose", "--json", *options, "--", "python", "train.py", check=check).json


def test_an_honest_script_agrees(project: Project) -> None:
    """Where nothing differs, two runs agree: found is false, exit code 0, and there was one replay."""
    found = diagnose(project, "x = [0.5] * 8" + TRAIN, check=0)
    assert (found["found"], found["kind"], found["line"], len(found["replays"])) == (False, None, None, 1)
    assert "agree to the bit" in found["text"]


UNSEEDED = """\
import numpy as np

rng = np.random.default_rng()  # HERE
x = rng.random(8)
"""


def test_an_unseeded_generator_is_named(project: Project) -> None:
    """The culprit is the line that makes the generator, not the one that draws, nor the one where a tensor is made."""
    script = UNSEEDED + TRAIN
    found = diagnose(project, script)
    assert (found["found"], found["kind"]) == (True, "seed")
    assert (found["file"], found["line"]) == ("train.py", line_of(script, "HERE"))
    assert (found["step"], found["column"]) == (0, "batch")
    assert "operating system" in found["text"]
    assert len(found["replays"]) == 3
    runs = project.store / "runs"
    assert not list(runs.glob("*/trace")), "the logs are taken away"


#: A custom operator whose kernel lies: its result is moved by an ULP or two, each time otherwise.
OPERATOR = """\
import os

import torch
from torch import nn


@torch.library.custom_op("planted::noisy", mutates_args=())
def noisy(x: torch.Tensor) -> torch.Tensor:
    bits = x.detach().clone().contiguous().numpy().view("i4")
    bits.reshape(-1)[3] += 1 + int.from_bytes(os.urandom(2), "big")
    return torch.from_numpy(bits.view("f4"))


@noisy.register_fake
def _(x):
    return torch.empty_like(x)


noisy.register_autograd(lambda ctx, gradient: gradient)
model = nn.Linear(4, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    optimizer.zero_grad()
    hidden = model(torch.ones(2, 4))
    if step == 3:
        hidden = noisy(hidden)  # HERE
    hidden.square().mean().backward()
    optimizer.step()
"""


def test_an_operator_that_gives_other_bits_from_equal_inputs_is_named(project: Project) -> None:
    """Its name, shapes, dtype, the step, the user's line, how many elements differ and by how many ULP."""
    found = diagnose(project, OPERATOR)
    assert (found["kind"], found["operator"]) == ("operator", "planted.noisy.default")
    assert (found["file"], found["line"]) == ("train.py", line_of(OPERATOR, "HERE"))
    assert (found["step"], found["column"]) == (3, "loss")
    assert (found["shapes"], found["dtype"]) == ([[[2, 8]], [[2, 8]]], ["float32"])
    assert found["unequal"] == 1
    assert 1 <= found["ulp"] < 2**16
    said = project.repro("diagnose", "last", check=3).out
    assert f"train.py:{line_of(OPERATOR, 'HERE')}: planted.noisy.default gives another result from equal inputs" in said
    assert "1 element of the result differ" in said


CLOCK = """\
import random
import time

now = time.time()
random.seed(now)  # HERE
x = [random.random() for _ in range(8)]
"""
OWN = """\
import random

own = random.Random()  # HERE
x = [own.gauss(0, 1) for _ in range(8)]
"""
LEGACY = """\
import numpy as np

np.random.seed(3)
own = np.random.RandomState()  # HERE
x = own.rand(8)
"""
DRAW = """\
import os
import random

values = list(range(8))
for _ in range(int.from_bytes(os.urandom(2), "big") % 9973):
    random.random()  # HERE
random.shuffle(values)
x = values
"""
SHUFFLED = """\
import os
import tempfile

with tempfile.TemporaryDirectory() as folder:
    for number in range(8):
        open(f"{folder}/{number}{os.urandom(4).hex()}", "w").close()
    x = [float(name[0]) for name in os.listdir(folder)]  # HERE
"""
THREADS = """\
import os
import threading
import time

values = []


def put(number):
    time.sleep(int.from_bytes(os.urandom(2), "big") / 2**16 / 5)
    values.append(float(number))


workers = [threading.Thread(target=put, args=(number,)) for number in range(8)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
x = values
"""
PARTED = """\
import os

import torch

x = torch.ones(8)
for _ in range(1 + int.from_bytes(os.urandom(2), "big") % 1999):
    x = x + 0.01  # HERE
"""


@pytest.mark.parametrize(
    ("head", "kind", "mark", "said"),
    [
        (CLOCK, "seed", "HERE", "time.time was read there"),
        (OWN, "seed", "HERE", "operating system"),
        (LEGACY, "seed", "HERE", "operating system"),
        (DRAW, "draw", "HERE", "random.random was called one time more"),
        (SHUFFLED, "order", "HERE", "os.listdir"),
        (THREADS, "order", "ENTERS", "the same values in another order"),
        (PARTED, "control", "HERE", "the other with"),
    ],
    ids=["clock", "own generator", "legacy generator", "one draw more", "folder", "threads", "control flow"],
)
def test_what_comes_from_outside_is_named_with_its_line(
    project: Project, head: str, kind: str, mark: str, said: str
) -> None:
    """A seed, a draw more, the order of a folder or of threads, a loop's length: each by its line."""
    script = head + TRAIN
    found = diagnose(project, script)
    assert (found["found"], found["kind"], found["file"]) == (True, kind, "train.py")
    assert found["line"] == line_of(script, mark)
    assert said in found["text"]


def test_a_run_from_which_only_replays_of_today_differ_is_left_to_replay(trained: Project) -> None:
    """Replays that agree with one another, but not with the run, are no case of nondeterminism: exit code 0."""
    trained.run("--", "python", "train.py")
    found = trained.repro("diagnose", "last", "--json", check=0, FAULT="draw").json
    assert (found["found"], found["kind"]) == (False, None)
    assert "replay --why" in found["text"]


#: Much of what tracing could disturb, with nothing that differs.
MANY = """\
import random

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.randn(3, 8, 8), int(np.random.randint(10)), random.random()


@torch.jit.script
def scripted(x):
    return torch.tensor(1.0) + x * torch.as_tensor([2.0])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().flatten(2).transpose(1, 2)
        x, _ = self.memory(self.attention(x))
        x = torch.utils.checkpoint.checkpoint(self.drop, x, use_reentrant=False)
        return self.out(F.scaled_dot_product_attention(x, x, x).mean(1))


if __name__ == "__main__":
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    rng = np.random.default_rng(4)
    own = random.Random(7)
    for _ in range(2):
        for x, y, _r in torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=2, shuffle=True):
            optimizer.zero_grad()
            weight = torch.from_numpy(rng.random(1)).float().mean() + own.random()
            doubled = torch.func.vmap(lambda a: (a * 2).sum())(x).mean()
            (F.cross_entropy(net(scripted(x)), y) * weight + 0 * doubled).backward()
            optimizer.step()
"""


def test_tracing_leaves_the_bits_as_they_are(project: Project) -> None:
    """A traced replay is IDENTICAL, its logs have each process, and there is nothing that could not be logged."""
    project.write("train.py", MANY)
    run_id = project.run("--", "python", "train.py")["run_id"]
    store = Store(project.store)
    found = replay.replay(store, run_id, asked=replay.Asked(to_stderr=True, trace=0))
    assert (found.verdict, found.reason) == ("IDENTICAL", None)
    folder = store.run_folder(str(found.run_id)) / "trace"
    assert sorted({path.name[:10] for path in folder.glob("*.jsonl")}) == [f"00000-000{number}" for number in range(5)]
    assert traces.failures(traces.Side(folder, str(project.root))) == []


HASHED = """\
words = {"ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"}
x = [float(ord(word[0])) for word in words]
"""


def test_the_order_of_a_set_is_named_where_it_comes_in(project: Project) -> None:
    """With --determinism off the hash seed is free: the line is that of the tensor, and the text says what is free."""
    script = HASHED + TRAIN
    found = diagnose(project, script, "--determinism", "off")
    assert (found["kind"], found["line"]) == ("order", line_of(script, "ENTERS"))
    assert "PYTHONHASHSEED" in found["text"]


LOADER = """\
import numpy as np
import torch
from torch import nn


np.random.seed(3)


class Noisy(torch.utils.data.Dataset):
    rng = None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.rng is None:
            self.rng = np.random.default_rng()  # HERE
        return torch.full((4,), float(index)) + np.random.rand() + self.rng.random()


if __name__ == "__main__":
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(Noisy(), batch_size=4, num_workers=2):
        optimizer.zero_grad()
        model(batch.float()).square().mean().backward()
        optimizer.step()
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_generator_of_a_loaders_worker_is_named(project: Project, context: str) -> None:
    """Workers are traced too: numpy's global generator is seeded there, one of the dataset's own is not."""
    found = diagnose(project, LOADER.replace("num_workers=2", f"num_workers=2, multiprocessing_context={context!r}"))
    assert (found["kind"], found["line"]) == ("seed", line_of(LOADER, "HERE"))
    assert found["process"][:10] in ("00000-0001", "00000-0002")
    assert found["others"] == []


INNOCENT = """\
import copy, pickle, random, time
import numpy as np

split = np.random.RandomState(42).permutation(64)
kept = np.random.default_rng(5).bit_generator.state
restored = np.random.default_rng()
restored.bit_generator.state = kept
legacy = np.random.RandomState()
legacy.set_state(np.random.RandomState([3, 4]).get_state())
loaded = pickle.loads(pickle.dumps(np.random.default_rng(0)))
copied = copy.deepcopy(np.random.Generator(np.random.PCG64(7)))
unused = np.random.default_rng(), np.random.RandomState(), random.Random()
ok = random.Random(5).random() + restored.random() + legacy.rand() + loaded.random() + copied.random()
"""


def test_nothing_is_accused_where_generators_are_seeded_restored_or_not_used(project: Project) -> None:
    """A seeded `RandomState` takes entropy first and throws it away, so do copies; what nobody draws from is no fault.

    The same of scikit-learn's `random_state=0`: two runs agree, whatever there is to compare.
    """
    forest = "from sklearn.ensemble import RandomForestRegressor as Forest\n"
    fit = "x = Forest(2, random_state=0, n_jobs=2).fit(split[:, None], split).predict([[3]])\n"
    found = diagnose(project, INNOCENT + forest + fit + "print(ok, x)\n", check=0)
    assert (found["found"], found["kind"], found["others"]) == (False, None, [])


@pytest.mark.parametrize(
    ("guilty", "said"),
    [
        ("bad = np.random.RandomState()  # HERE\nx = bad.rand()", "takes its seed from the operating system"),
        ("bits = np.random.PCG64()  # HERE\nx = np.random.Generator(bits).random()", "from the operating system"),
        ("seeds = np.random.SeedSequence()  # HERE\nx = np.random.default_rng(seeds.spawn(2)[1]).random()", "system"),
        ("legacy.seed(time.time_ns() % 2**31)  # HERE\nx = legacy.rand()", "is seeded with"),
        ("bad = copy.deepcopy(np.random.default_rng())  # HERE\nx = bad.random()", "from the operating system"),
    ],
    ids=["RandomState", "PCG64", "SeedSequence", "seeded again", "copy"],
)
def test_among_innocent_generators_the_guilty_one_is_named(project: Project, guilty: str, said: str) -> None:
    """A generator by its line, among others that are seeded, restored or not used, none of which is named."""
    script = INNOCENT + guilty + "\nprint(ok, x)\n"
    found = diagnose(project, script)
    assert (found["kind"], found["line"]) == ("seed", line_of(script, "HERE"))
    assert said in found["text"]
    assert {item["line"] for item in found["others"]} <= {found["line"]}


#: Two generators of torch, one of which is seeded with the time; and numpy's, seeded.
GENERATORS = """import secrets
import time
import numpy as np
import torch

split = np.random.RandomState(42).permutation(8)
torch.manual_seed(0)
noise = torch.Generator().manual_seed(time.time_ns() % 2**31)  # NOISE
order = torch.Generator().manual_seed(3)
x = torch.randn(8)[torch.randperm(8, generator=order)][torch.from_numpy(split)]
"""


@pytest.mark.parametrize(
    ("more", "kind", "mark", "said"),
    [
        ("x = x + 0.01 * torch.randn(8, generator=noise)", "seed", "NOISE", "time.time_ns was read there"),
        ("torch.manual_seed(time.time_ns() % 2**31)  # HERE\nx = x * torch.rand(8)", "seed", "HERE", "seeded with"),
        ("x = x + secrets.randbelow(2**30)  # HERE", "draw", "HERE", "the operating system's entropy"),
    ],
    ids=["a generator of torch", "the global one", "secrets"],
)
def test_of_several_generators_the_one_that_was_drawn_from_is_named(
    project: Project, more: str, kind: str, mark: str, said: str
) -> None:
    """The state of the generator that an operator draws from decides which seed is to blame, and no other is."""
    script = GENERATORS + more + TRAIN
    found = diagnose(project, script)
    assert (found["kind"], found["line"]) == (kind, line_of(script, mark))
    assert said in found["text"]
    assert "RandomState" not in str(found)


def test_generators_belong_together_by_line_and_state_not_by_order() -> None:
    """Threads may make them in another order; those with equal states of one line are one, the rest in their order."""

    def made(line: int, state: str) -> list[dict[str, object]]:
        return [{"k": "seed", "n": "RandomState", "at": ["train.py", line], "v": state}]

    one = {"own a/1": made(3, "x"), "own a/2": made(3, "y"), "own a/3": made(5, "p"), "python": made(1, "s")}
    other = {"own a/1": made(3, "y"), "python": made(1, "t"), "own a/2": made(3, "x"), "own a/4": made(5, "q")}
    expected = {"own a/1": "own a/2", "own a/2": "own a/1", "own a/3": "own a/4", "python": "python"}
    assert traces.counterparts(one, other) == expected


@given(st.floats(width=32, allow_nan=False), st.integers(0, 1000))
@example(-(2.0**-149), 3)
@example(-(2.0**-148), 4)
def test_a_distance_in_ulp_is_a_number_of_steps(value: float, steps: int) -> None:
    """The n-th number after one lies n ULP away, also across zero; and equal bits lie at 0."""
    import numpy as np

    other = np.float32(value)
    for _ in range(steps % 5):
        other = np.nextafter(other, np.float32(np.inf))
    expected = 0 if other == np.float32(value) else steps % 5
    if np.isfinite(other):
        assert ulp.distance(np.float32(value).tobytes(), other.tobytes(), 32)[0] == expected


def test_draws_that_are_equal_by_luck_do_not_hide_where_two_runs_parted() -> None:
    """What was drawn once more is named though a later draw of few values is the same; an equal seed begins anew."""

    def event(kind: str, line: int, value: int, time: int) -> dict[str, object]:
        return {"k": kind, "n": f"call{line}", "at": ["train.py", line], "v": value, "t": time, "direct": True}

    begin = event("seed", 1, 0, 0)
    one = [begin, event("draw", 6, 9, 1), event("draw", 7, 3, 2), event("draw", 7, 1, 3), event("draw", 7, 2, 4)]
    other = [begin, event("draw", 7, 4, 1), event("draw", 7, 3, 2), event("draw", 7, 0, 3)]
    found = traces.Stream("rank 0", "python", one, other).fork(10)
    assert found is not None
    assert found[1].event["at"] == ["train.py", 6]
    assert found[1].more is one[1]
    again = event("seed", 8, 0, 5), event("draw", 9, 5, 6)
    late = traces.Stream("rank 0", "python", [*one[:4], *again], [*other, again[0], event("draw", 9, 6, 6)]).fork(7)
    assert late is not None
    assert late[1].event["at"] == ["train.py", 9]
