"""Train an MLP on scikit-learn's digits, and offer what averages of several such runs need.

The split is one and the same for every seed: only "init" and "order" differ between runs. `repro average` reads the
predictions that `train` saves; for averages of weights it calls `build` and `evaluate`.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

import repro

TEST, VALIDATION = 540, 180


def parts() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return ids (n,), images (n, 64) in [0, 1] and digits (n,) of each split; no seed has a say in it."""
    images, labels = load_digits(return_X_y=True)
    rest, test = train_test_split(range(len(labels)), test_size=TEST, random_state=0)
    train, val = train_test_split(rest, test_size=VALIDATION, random_state=0)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return {name: (torch.tensor(ids), x[ids], y[ids]) for name, ids in (("train", train), ("val", val), ("test", test))}


def build(run: repro.Run) -> nn.Module:
    """Return a new network: (n, 64) in, (n, 10) logits out."""
    width = run.params.width
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


@torch.no_grad()
def evaluate(model: nn.Module, run: repro.Run, split: str) -> float:
    """Save what the network predicts on a split, and return its accuracy there."""
    ids, x, y = parts()[split]
    model.eval()
    probabilities = torch.softmax(model(x), dim=1)
    model.train()
    run.predictions(split, ids, probabilities, y)
    return (probabilities.argmax(dim=1) == y).double().mean().item()


def train(run: repro.Run) -> None:
    """Run the experiment: `repro seeds --n 5 experiments/averaging/experiment.yaml`."""
    _, x, y = parts()["train"]
    run.data("digits", x, y)
    with run.stream("init"):
        model = build(run)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.params.lr)
    run.average(model, ema=0.99)
    run.resume(model=model, optimizer=optimizer)
    for _ in run.epochs():
        for index in torch.randperm(len(y), generator=run.rng("order")).split(run.params.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        run.checkpoint(model=model, optimizer=optimizer)
    run.log(val_acc=evaluate(model, run, "val"), test_acc=evaluate(model, run, "test"))
