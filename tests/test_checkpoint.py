"""What a checkpoint holds, how it comes back, and what would not come back."""

import copy
import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from repro.worker import checkpoint, obstacles, progress


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


def test_a_part_that_went_on_behind_the_checkpoint_is_seen() -> None:
    """A scheduler's step, another learning rate, a draw from a generator that is a part; a network is not looked at."""
    optimizer, mine = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1), torch.Generator()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    objects = {("o",): optimizer, ("s",): schedule, ("g", 0): mine, ("m",): torch.nn.Linear(1, 1)}
    seen = [progress._plain_states(objects)]
    optimizer.step()
    assert progress._plain_states(objects) == seen[0]
    for move in (
        schedule.step,
        lambda: optimizer.param_groups[0].update(lr=0.2),
        lambda: torch.rand(1, generator=mine),
    ):
        move()
        assert progress._plain_states(objects) not in seen
        seen.append(progress._plain_states(objects))
