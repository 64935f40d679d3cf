"""Scripts that trace, transform and compile: never broken by the hooks; the trail is complete or says what it lacks."""

from pathlib import Path

import pytest
from conftest import Project
from test_scripts import plain

from repro.record import trail as form
from repro.run import trails

TRANSFORMS = """\
import copy
import io
import threading

import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

torch.manual_seed(3)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(16, 4), torch.randn(16, 1)

def loss_of(parameters, x, y):
    return ((functional_call(model, parameters, (x,)) - y) ** 2).mean()

def step(tag):
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
    print(tag, loss.item())

step("plain")
linear = nn.Linear(4, 1)
parameters = dict(linear.named_parameters())
print("vmap", vmap(linear)(x).sum().item())
per_sample = vmap(grad(lambda p, a, b: ((functional_call(linear, p, (a,)) - b) ** 2).mean()), (None, 0, 0))
gradients = per_sample(parameters, x, y)
print("grad", {name: round(value.sum().item(), 4) for name, value in gradients.items()})
print("jacrev", jacrev(linear)(x[0]).sum().item())
ensemble = [nn.Linear(4, 1) for _ in range(3)]
stacked, buffers = torch.func.stack_module_state(ensemble)
base = copy.deepcopy(ensemble[0]).to("meta")
print("ensemble", vmap(lambda p, b: functional_call(base, (p, b), (x,)))(stacked, buffers).sum().item())
for name, value in parameters.items():
    getattr(linear, name).grad = gradients[name].mean(0)
inner = torch.optim.SGD(linear.parameters(), lr=0.1)
inner.step()
step("after func")

frozen = copy.deepcopy(model).eval()
exported = torch.export.export(frozen, (x,))
print("export", exported.module()(x).sum().item())
traced = torch.jit.trace(frozen, (x,), check_trace=True)
print("trace", traced(x).sum().item())
scripted = torch.jit.script(frozen)
print("script", scripted(x).sum().item())
symbolic = torch.fx.symbolic_trace(frozen)
print("fx", symbolic(x).sum().item(), sum(1 for _ in symbolic.graph.nodes))
with torch.device("meta"):
    print("meta", nn.Linear(3, 3)(torch.empty(2, 3)).shape)
step("after traces")

buffer = io.BytesIO()
torch.save(model, buffer)
buffer.seek(0)
again = torch.load(buffer, weights_only=False)
print("pickled", again.eval()(x).sum().item(), copy.deepcopy(model).eval()(x).sum().item())
torch.autograd.gradcheck(lambda t: t.sin(), torch.randn(3, dtype=torch.double, requires_grad=True))
def work():
    print("thread", nn.Linear(4, 1)(x).shape)
thread = threading.Thread(target=work)
thread.start()
thread.join()
try:
    model(torch.randn(2, 3))
except RuntimeError as error:
    print("error", str(error)[:40])
step("after an error")
from torch.utils.checkpoint import checkpoint
optimizer.zero_grad()
checkpoint(model, x, use_reentrant=False).sum().backward()
optimizer.step()
with torch.autocast("cpu", dtype=torch.bfloat16):
    print("autocast", model(x).dtype)
step("last")
"""


def frames_of(folder: str) -> list[form.Frame]:
    """Return the frames of the only process with a trail."""
    (found,) = trails.read(Path(folder))
    return found.frames


def test_transforms_and_traces_work_and_are_counted(project: Project) -> None:
    """`torch.func`, export, jit, fx, checkpointing and pickling print what they print under plain python.

    Each step is in the trail, also those after calls that cannot be read; those are marked, and named as a gap.
    """
    project.write("a.py", TRANSFORMS)
    expected = plain(project, "python", "a.py")
    assert expected.code == 0, expected.err
    found = project.repro("run", "--", "python", "a.py", check=0)
    assert found.out == expected.out
    document = project.repro("show", "last", "--json").json
    frames = frames_of(document["path"])
    assert len(frames) == 7
    assert document["observed"]["failures"] == []
    hidden = [bool(frame.flags & form.HIDDEN) for frame in frames]
    assert hidden[0] is False
    assert hidden[1] is True
    assert hidden[-1] is False
    assert any("could not be read" in gap["reason"] for gap in document["outcome"]["gaps"])


COMPILED = """\
import torch
from torch import nn

torch.manual_seed(3)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(16, 4), torch.randn(16, 1)
fast = torch.compile(model, fullgraph=True, backend="aot_eager")

@torch.compile(fullgraph=True)
def loss_of(x, y):
    return ((model(x) - y) ** 2).mean()

@torch.compile(backend="eager")
def compiled_step():
    optimizer.step()

for step in range(6):
    optimizer.zero_grad()
    loss = ((fast(x) - y) ** 2).mean() if step % 2 else loss_of(x, y)
    loss.backward()
    optimizer.step()
    print(step, round(loss.item(), 5))
for step in range(2):
    optimizer.zero_grad()
    loss_of(x, y).backward()
    compiled_step()
print("end", round(loss_of(x, y).item(), 5))
"""


@pytest.mark.timeout(600)
def test_a_compiled_network_trains_as_under_plain_python(project: Project) -> None:
    """`torch.compile(fullgraph=True)` of a network and of a loss function works, and each plain step has its frame.

    A step of an optimizer that is itself compiled leaves none, and a batch inside a compiled function is not seen:
    the run's gaps say so.
    """
    project.write("a.py", COMPILED)
    cache = str(project.root.parent / "inductor")
    expected = plain(project, "python", "a.py", TORCHINDUCTOR_CACHE_DIR=cache)
    assert expected.code == 0, expected.err
    found = project.repro("run", "--", "python", "a.py", check=0, TORCHINDUCTOR_CACHE_DIR=cache)
    assert found.out == expected.out
    document = project.repro("show", "last", "--json").json
    frames = frames_of(document["path"])
    assert [frame.step for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert [frame.step for frame in frames if frame.flags & form.BATCH_SEEN] == [1, 3, 5]
    assert all(frame.flags & form.LOSS_SEEN for frame in frames)
    reasons = " ".join(gap["reason"] for gap in document["outcome"]["gaps"])
    assert "SGD.step was compiled" in reasons
    assert "the batch of 3 steps was not seen" in reasons


DEFAULTS = """\
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

torch.set_num_interop_threads(3)
torch.set_num_threads(2)
torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
with torch.device("cpu"):
    model = nn.Linear(3, 1)
    x = torch.rand(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
seen = []

class Counts(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        seen.append(str(func))
        return func(*args, **(kwargs or {}))

for step in range(3):
    optimizer.zero_grad()
    with torch.autograd.detect_anomaly(), Counts():
        model(x).sum().backward()
        optimizer.step()
print(model.weight.dtype, model.weight.sum().item(), torch.get_num_interop_threads(), torch.empty(2).device)
print(len(seen), sorted(set(seen)))
"""


def test_a_script_may_set_its_own_defaults(project: Project) -> None:
    """Threads, default dtype and device are the script's; a dispatch mode sees the operators it sees alone."""
    project.write("a.py", DEFAULTS)
    expected = plain(project, "python", "-W", "ignore", "a.py")
    assert expected.code == 0, expected.err
    found = project.repro("run", "--", "python", "-W", "ignore", "a.py", check=0)
    assert found.out == expected.out
    document = project.repro("show", "last", "--json").json
    usual = form.FULL | form.BATCH_SEEN | form.LOSS_SEEN
    assert [frame.flags & ~form.DEEP for frame in frames_of(document["path"])] == [usual] * 3
    assert document["outcome"]["gaps"] == []
