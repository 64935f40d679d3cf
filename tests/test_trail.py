"""The trail of real training: what each step went through, and where two runs of it come apart."""

import json
from pathlib import Path

import pytest
from conftest import Project

from repro.record import trail as form
from repro.run import trails

#: One section for each way to train. With FAULT each goes wrong at its step 2, in its own way.
SECTIONS = '''\
import copy
import dataclasses
import gc
import json
import os
import random
import weakref

import numpy as np
import torch
from torch import nn

import repro

FAULT = bool(os.environ.get("FAULT"))
STEPS = 4
run = repro.current()


def ulp(tensor, index=0):
    with torch.no_grad():
        flat = tensor.view(-1) if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1).reshape(-1)
        if not tensor.is_contiguous():
            tensor.data_ptr()
            tensor.permute(0, 2, 3, 1)[0, 0, 0, 0] = torch.nextafter(flat[0], torch.tensor(9.0))
        elif tensor.dtype == torch.float32:
            flat[index] = torch.nextafter(flat[index], torch.tensor(9.0))
        else:
            flat.view(torch.uint8)[0] ^= 1


def small(n=3):
    return nn.Sequential(nn.Linear(n, 4), nn.Tanh(), nn.Linear(4, 1))


def train(model, optimizer, forward=None, fault=None, before=None, make=lambda: torch.randn(5, 3)):
    """Four steps; ``fault(x)`` changes the batch, ``before()`` acts before the step, both at step 2 with FAULT."""
    for step in range(STEPS):
        x = make()
        if FAULT and step == 2 and fault:
            fault(x)
        optimizer.zero_grad()
        (forward or model)(x).sum().backward()
        if FAULT and step == 2 and before:
            before()
        optimizer.step()


def sgd(model, **options):
    return torch.optim.SGD(model.parameters() if isinstance(model, nn.Module) else model, lr=0.1, **options)


def nothing():
    model = small()
    train(model, sgd(model))

def keywords():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
        def forward(self, *, inputs, labels, mask=None):
            return (self.body(inputs["ids"]) - labels) ** 2
    model = Net()
    train(model, sgd(model), lambda x: model(**{"inputs": {"ids": x}, "labels": torch.zeros(5, 1)}), ulp)

def scalars():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
        def forward(self, x, scale, *, mode):
            return self.body(x) * scale * len(mode)
    model = Net()
    scale = [0.5]
    def other(x):
        scale[0] = 0.25
    train(model, sgd(model), lambda x: model(x, scale[0], mode="ünï"), other)

def accumulation():
    model = small()
    optimizer = sgd(model)
    for step in range(STEPS):
        for part in range(3):
            x = torch.randn(5, 3)
            if FAULT and step == 2 and part == 1:
                ulp(x)
            model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

def adversaries():
    maker, judge = small(), small(1)
    first, second = torch.optim.Adam(maker.parameters()), torch.optim.Adam(judge.parameters())
    for step in range(STEPS):
        z = torch.randn(5, 3)
        second.zero_grad()
        judge(maker(z).detach()).mean().backward()
        second.step()
        z = torch.randn(5, 3)
        if FAULT and step == 2:
            z[0] += 1
        first.zero_grad()
        judge(maker(z)).mean().neg().backward()
        first.step()

def several_networks():
    one, other = small(), small(1)
    optimizer = sgd([*one.parameters(), *other.parameters()])
    train(one, optimizer, lambda x: other(one(x)), before=lambda: ulp(other[2].weight.grad))

def lbfgs():
    model = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    for step in range(STEPS):
        x = torch.randn(5, 3)
        def closure():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss
        if FAULT and step == 2:
            optimizer.state[model[0].weight]["old_dirs"][-1][0] += 1e-6
        optimizer.step(closure)

def state_in_lists():
    class Remembers(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                self.state[p].setdefault("seen", []).append(p.detach().clone())
            return super().step(closure)
    model = small()
    optimizer = Remembers(model.parameters(), lr=0.1)
    train(model, optimizer, before=lambda: ulp(optimizer.state[model[0].bias]["seen"][1]))

def sparse():
    model = nn.EmbeddingBag(7, 2, sparse=True)
    train(model, torch.optim.SparseAdam(model.parameters()), before=lambda: ulp(model.weight.grad._values()),
          make=lambda: torch.randint(0, 7, (3, 4)))

def kinds_of_numbers():
    kinds = [torch.bfloat16, torch.float16, torch.float64, torch.complex64]
    tensors = [torch.ones(3, dtype=kind).requires_grad_() for kind in kinds]
    optimizer = sgd(tensors, momentum=0.5)
    for step in range(STEPS):
        optimizer.zero_grad()
        sum((t * t.conj()).real.sum().double() for t in tensors).backward()
        if FAULT and step == 2:
            ulp(tensors[3].grad)
        optimizer.step()

def added_later():
    model, late = small(), nn.Linear(3, 1)
    model[0].weight.requires_grad_(False)
    optimizer = sgd(model, momentum=0.9)
    for step in range(STEPS):
        if step == 1:
            optimizer.add_param_group({"params": late.parameters(), "lr": 0.2})
            model[0].weight.requires_grad_(True)
        x = torch.randn(5, 3)
        optimizer.zero_grad()
        (model(x) + late(x)).sum().backward()
        if FAULT and step == 2:
            optimizer.state[late.bias]["momentum_buffer"].add_(1)
        optimizer.step()

def exchanged():
    model, other = small(), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = sgd(model)
    for step in range(STEPS):
        if step == 2:
            optimizer.param_groups[0]["params"] = list(other.parameters())
        optimizer.zero_grad()
        x = torch.randn(5, 3)
        (other(x) + model(x)).sum().backward()
        if FAULT and step == 2:
            ulp(other[2].weight.grad)
        optimizer.step()

def no_gradient():
    model = small()
    optimizer = sgd(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        if step != 1:
            model(torch.randn(5, 3)).sum().backward()
        optimizer.step()

def tied():
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6, bias=False))
    model[1].weight = model[0].weight
    train(model, sgd(model), before=lambda: ulp(model[0].weight.grad), make=lambda: torch.randint(0, 6, (4,)))

def batch_norm():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    train(model, sgd(model), before=lambda: ulp(model[1].running_mean))

def buffer_made_anew():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
            self.register_buffer("count", torch.zeros(1))
        def forward(self, x):
            self.count = self.count + 1
            return self.body(x)
    model = Counts()
    train(model, sgd(model), before=lambda: setattr(model, "count", model.count + 5))

def channels_last():
    model = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
    assert not model.weight.is_contiguous()
    train(model, sgd(model, momentum=0.9), before=lambda: ulp(model.weight.grad),
          make=lambda: torch.randn(2, 2, 4, 4).to(memory_format=torch.channels_last))

def parameter_changed_by_hand():
    model = small()
    train(model, sgd(model), before=lambda: ulp(model[2].bias))

def error_in_forward():
    model = small()
    optimizer = sgd(model)
    x = torch.ones(5, 3)
    for step in range(STEPS):
        if step == 1:
            for bad in (torch.ones(5, 7), KeyboardInterrupt):
                try:
                    if bad is KeyboardInterrupt:
                        handle = model[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                        model(x)
                    else:
                        model(bad)
                except (RuntimeError, KeyboardInterrupt):
                    pass
            handle.remove()
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

def wrapped_optimizer():
    class Sharp(torch.optim.Optimizer):
        def __init__(self, base):
            self.base = base
            super().__init__(base.param_groups, {})
        def step(self, closure=None):
            self.base.step()
            if self.fault:
                ulp(self.param_groups[0]["params"][0])
    model = small()
    optimizer = Sharp(sgd(model))
    for step in range(STEPS):
        optimizer.fault = FAULT and step == 2
        optimizer.zero_grad()
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()

def averaged():
    model = small()
    mean = torch.optim.swa_utils.AveragedModel(model)
    optimizer = sgd(model)
    x = torch.ones(5, 3)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        mean.update_parameters(model)
        with torch.no_grad():
            mean.eval()(torch.randn(5, 3))

def rate_in_a_tensor():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    train(model, optimizer, before=lambda: optimizer.param_groups[0]["lr"].add_(1e-7))

def setting_in_a_list():
    model = small()
    optimizer = sgd(model)
    optimizer.param_groups[0]["mine"] = [1, 2]
    train(model, optimizer, before=lambda: optimizer.param_groups[0]["mine"].append(3))

def eval_mode():
    model = small().eval()
    train(model, sgd(model), fault=ulp)

def objects_as_batch():
    @dataclasses.dataclass
    class Batch:
        ids: torch.Tensor
        name: str = "made at 10:42"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
        def forward(self, batch, array):
            return self.body(batch.ids) * torch.from_numpy(array)
    model = Net()
    train(model, sgd(model), lambda x: model(Batch(x), np.ones((5, 1), np.float32)), ulp)

def array_as_batch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
        def forward(self, array):
            return self.body(torch.from_numpy(array))
    model = Net()
    train(model, sgd(model), fault=lambda a: a.__setitem__((0, 0), np.nextafter(a[0, 0], np.float32(9))),
          make=lambda: torch.randn(5, 3).numpy())

def scaled():
    model = small()
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(STEPS):
        optimizer.zero_grad()
        x = torch.randn(5, 3)
        if step == 1:
            x[0, 0] = float("inf")
        scaler.scale(model(x).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

def half_of_it():
    model = nn.Linear(3, 1000)
    optimizer = sgd(model)
    for step in range(STEPS):
        if step == 2:
            model.to(torch.bfloat16)
        optimizer.zero_grad()
        model(torch.ones(5, 3, dtype=model.weight.dtype)).sum().backward()
        if FAULT and step == 2:
            ulp(model.bias.grad)
        optimizer.step()

def hostile():
    class Bag(dict):
        def values(self):
            raise KeyError("no values for you")
    class Net(nn.Module):
        __hash__ = None
        def __eq__(self, other):
            raise RuntimeError("not to be compared")
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 1))
        def forward(self, x, *rest, **more):
            return x @ self.weight
    model = Net()
    loop = [torch.ones(1)]
    loop.append(loop)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    train(model, optimizer, lambda x: model(x, Bag(a=1), loop, object(), key=lambda: 1, other={1, 2}))

def freed():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer)
    kept = [weakref.ref(item) for item in (model, model[0].weight, model[1].running_mean, optimizer,
                                           optimizer.state[model[0].weight]["exp_avg"], model[0].weight.grad)]
    only_model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other = torch.optim.SGD(only_model.parameters(), lr=0.1)
    train(only_model, other)
    kept.append(weakref.ref(only_model[1].running_mean))
    del model, optimizer, only_model
    found = [reference() is None for reference in kept]
    gc.collect()
    print("FREED", all(found), [reference() is None for reference in kept])

def draw(extra):
    def section():
        model = small()
        train(model, sgd(model), before=extra)
    return section

sections = [nothing, keywords, scalars, accumulation, adversaries, several_networks, lbfgs, state_in_lists, sparse,
            kinds_of_numbers, added_later, exchanged, no_gradient, tied, batch_norm, buffer_made_anew, channels_last,
            parameter_changed_by_hand, error_in_forward, wrapped_optimizer, averaged, rate_in_a_tensor,
            setting_in_a_list, eval_mode, objects_as_batch, array_as_batch, scaled, half_of_it, hostile, freed]
draws = {
    "python": lambda: random.random(), "numpy": lambda: np.random.rand(), "torch": lambda: torch.rand(1),
    "stream, numpy": lambda: run.rng("order").random(),
    "stream, torch": lambda: torch.rand(1, generator=run.rng("order")),
}
stream = run.rng("order")
at_first = stream.numpy.bit_generator.state, stream.get_state()
begun = []
from torch.optim.optimizer import register_optimizer_step_pre_hook as register
seen = weakref.WeakSet()
def note(optimizer, args, kwargs):
    if optimizer not in seen:
        seen.add(optimizer)
        begun.append(current)
register(note)
for name, section in [(s.__name__, s) for s in sections] + [(name, draw(extra)) for name, extra in draws.items()]:
    current = name
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(len(begun))
    stream.numpy.bit_generator.state = at_first[0]
    stream.set_state(at_first[1])
    section()
print("BEGUN", json.dumps(begun))
'''

#: For each optimizer of each section: where the run with faults comes apart from the one without.
EXPECTED: dict[str, list[tuple[int, str, str | None] | None]] = {
    "nothing": [None],
    "keywords": [(2, "batch", None)],
    "scalars": [(2, "batch", None)],
    "accumulation": [(2, "batch", None)],
    "adversaries": [(3, "batch", None), (2, "batch", None)],
    "several_networks": [(2, "gradients", "Sequential#2.2.weight")],
    "lbfgs": [(2, "loss", None)],
    "state_in_lists": [(2, "optimizer state", "0.bias")],
    "sparse": [(2, "gradients", "weight")],
    "kinds_of_numbers": [(2, "gradients", "group0.3")],
    "added_later": [(2, "optimizer state", "bias")],
    "exchanged": [(2, "gradients", "2.weight")],
    "no_gradient": [None],
    "tied": [(2, "gradients", "0.weight")],
    "batch_norm": [(2, "buffers", "1.running_mean")],
    "buffer_made_anew": [(2, "buffers", "count")],
    "channels_last": [(2, "gradients", "weight")],
    "parameter_changed_by_hand": [(2, "parameters in", "2.bias")],
    "error_in_forward": [None],
    "wrapped_optimizer": [(2, "parameters out", "0.weight"), (3, "parameters in", "0.weight")],
    "averaged": [None],
    "rate_in_a_tensor": [(2, "optimizer settings", None)],
    "setting_in_a_list": [(2, "optimizer settings", None)],
    "eval_mode": [(2, "batch", None)],
    "objects_as_batch": [(2, "batch", None)],
    "array_as_batch": [(2, "batch", None)],
    "scaled": [None],
    "half_of_it": [(2, "gradients", "bias")],
    "hostile": [None],
    "freed": [None, None],
    "python": [(2, "generators", None)],
    "numpy": [(2, "generators", None)],
    "torch": [(2, "generators", None)],
    "stream, numpy": [(2, "generators", None)],
    "stream, torch": [(2, "generators", None)],
}


class Ran:
    """One run of all sections: its output, outcome, and its trail by optimizer."""

    def __init__(self, project: Project, **env: str) -> None:
        done = project.repro("run", "--", "python", "a.py", check=0, **env)
        self.out = done.out
        self.document = project.repro("show", "last", "--json").json
        (self.trail,) = trails.read(Path(self.document["path"]))
        begun = json.loads(done.out.rpartition("BEGUN ")[2])
        self.optimizers: dict[str, list[int]] = {}
        for number, section in enumerate(begun):
            self.optimizers.setdefault(section, []).append(number)

    def frames(self, section: str, which: int = 0) -> list[form.Frame]:
        """Return the frames of one of a section's optimizers."""
        number = self.optimizers[section][which]
        return [frame for frame in self.trail.frames if frame.optimizer == number]

    def table(self, section: str) -> dict[str, list[str]]:
        """Return the last table of names of a section's first optimizer."""
        number = self.optimizers[section][0]
        return [table for table in self.trail.tables.values() if table["optimizer"] == number][-1]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, Ran, Ran]:
    """Three runs of all sections: twice without faults, once with them."""
    root = tmp_path_factory.mktemp("trail") / "project"
    root.mkdir()
    project = Project(root)
    project.write("a.py", SECTIONS)
    return Ran(project), Ran(project), Ran(project, FAULT="1")


def _first_difference(a: Ran, b: Ran, section: str, which: int) -> tuple[int, str, str | None] | None:
    for one, other in zip(a.frames(section, which), b.frames(section, which), strict=True):
        column = next((i for i in range(len(form.COLUMNS)) if one.columns[i] != other.columns[i]), None)
        if column is not None:
            before, after = a.trail.tensors(one, column), b.trail.tensors(other, column)
            tensors = [name for name, value in (before or {}).items() if (after or {}).get(name) != value]
            return one.step, form.COLUMNS[column], tensors[0] if tensors else None
    return None


def test_without_a_fault_two_runs_leave_one_trail(ran: tuple[Ran, Ran, Ran]) -> None:
    """The same script twice: every frame of every optimizer is equal, and the trail's digest."""
    one, other, faulty = ran
    assert one.trail.frames == other.trail.frames
    digests = [item.document["outcome"]["trail_digest"] for item in ran]
    assert digests[0] == digests[1] != digests[2]
    assert one.document["observed"]["failures"] == faulty.document["observed"]["failures"] == []


@pytest.mark.parametrize("section", EXPECTED)
def test_a_fault_shows_at_its_step_in_its_column_by_its_tensor(ran: tuple[Ran, Ran, Ran], section: str) -> None:
    """However a script trains, what goes wrong at step 2 shows there: in the first column it touches, by name."""
    one, _, faulty = ran
    assert len(one.optimizers[section]) == len(EXPECTED[section])
    found = [_first_difference(one, faulty, section, which) for which in range(len(EXPECTED[section]))]
    assert found == EXPECTED[section]


def test_each_step_is_marked_for_what_it_is(ran: tuple[Ran, Ran, Ran]) -> None:
    """Frames say: full or not, batch and loss seen, a closure, no gradient, calls that could not be read."""
    one = ran[0]
    usual = form.FULL | form.DEEP | form.BATCH_SEEN | form.LOSS_SEEN
    for section in (
        "nothing",
        "keywords",
        "scalars",
        "accumulation",
        "several_networks",
        "sparse",
        "eval_mode",
        "channels_last",
    ):
        assert [frame.flags for frame in one.frames(section)] == [usual] * 4, section
        assert [frame.step for frame in one.frames(section)] == [0, 1, 2, 3]
    assert {frame.flags for frame in one.frames("lbfgs")} == {usual | form.CLOSURE}
    assert [frame.flags & form.SKIPPED for frame in one.frames("no_gradient")] == [0, form.SKIPPED, 0, 0]
    assert {frame.flags & form.BATCH_SEEN for frame in one.frames("kinds_of_numbers")} == {0}
    assert {frame.flags & form.HIDDEN for frame in one.frames("hostile")} == {form.HIDDEN}
    hidden = [frame for frame in one.trail.frames if frame.flags & form.HIDDEN]
    assert len(hidden) == 4
    gaps = [gap["reason"] for gap in one.document["outcome"]["gaps"]]
    assert [gap.split()[0] for gap in gaps if "could not be read" in gap] == ["4"]
    assert [gap.split()[3] for gap in gaps if "was not seen" in gap] == ["8"]
    assert len(one.frames("scaled")) == 3


def test_an_error_in_a_call_does_not_shift_the_batches(ran: tuple[Ran, Ran, Ran]) -> None:
    """After calls that raised, the same batch has the same digest; evaluation without gradients is no batch."""
    batches = [frame.columns[form.BATCH] for frame in ran[0].frames("error_in_forward")]
    assert batches[0] == batches[2] == batches[3] != batches[1]
    assert len({frame.columns[form.BATCH] for frame in ran[0].frames("averaged")}) == 1


def test_tensors_have_the_names_that_the_user_knows(ran: tuple[Ran, Ran, Ran]) -> None:
    """Names come from the outermost module, differ between networks, and are ``group0.3`` for loose tensors."""
    one = ran[0]
    assert one.table("nothing")["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert one.table("kinds_of_numbers")["names"] == [f"group0.{i}" for i in range(4)]
    assert one.table("added_later")["names"][-2:] == ["weight", "bias"]
    assert one.table("tied")["names"] == ["0.weight"]
    names = one.table("several_networks")["names"]
    assert len(set(names)) == len(names) == 8
    assert one.table("keywords")["names"][0] == "body.0.weight"
    assert one.table("batch_norm")["buffers"] == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]


def test_nothing_is_kept_alive(ran: tuple[Ran, Ran, Ran]) -> None:
    """A network, its buffers, gradients and optimizer state are freed when the script lets go of them."""
    assert "FREED True" in ran[0].out


def test_a_line_that_seeds_again_and_again_is_noted_a_few_times(ran: tuple[Ran, Ran, Ran]) -> None:
    """The user's seeding is in the outcome's notes with its line; a line in a loop is noted three times."""
    notes = ran[0].document["outcome"]["notes"]
    for call in ("torch.manual_seed", "random.seed", "numpy.random.seed"):
        assert len([note for note in notes if note.startswith(f"{call}(")]) == 3
    assert all("/a.py:" in note for note in notes)
