"""Train a small convolutional network on scikit-learn's handwritten digits.

Nothing here seeds anything. Each use of chance draws from a stream of its own, which `repro` derives from the one
master seed: "split" deals the images out, "init" sets the first weights, "order" shuffles the epochs. Dropout draws
from torch's global generator, which `repro` seeds too.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import repro


@dataclass(frozen=True)
class Part:
    """Some of the images: x of shape (n, 1, 8, 8) in [0, 1], y the n digits."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> "Part":
        """Pick the images at `index`, in that order."""
        return Part(self.x[index], self.y[index])


def split(everything: Part, generator: torch.Generator) -> tuple[Part, Part, Part]:
    """Deal the images out at random: 60% for training, 20% for validation, 20% for the test."""
    n = len(everything)
    order = torch.randperm(n, generator=generator)
    train, val, test = order.tensor_split((n * 6 // 10, n * 8 // 10))
    return everything.take(train), everything.take(val), everything.take(test)


def network(width: int, dropout: float) -> nn.Module:
    """Two convolutions and a linear layer: (n, 1, 8, 8) in, (n, 10) logits out."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * width * 4 * 4, 10),
    )


def optimizer_for(model: nn.Module, run: repro.Run) -> torch.optim.Optimizer:
    """Build the optimizer that the params name."""
    params = run.params
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=params.lr, momentum=params.momentum, weight_decay=params.weight_decay
        )
    if params.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    raise ValueError(f"optimizer is {params.optimizer!r}, expected 'sgd' or 'adam'")


@torch.no_grad()
def evaluate(model: nn.Module, part: Part) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy on `part`, dropout off."""
    model.eval()
    logits = model(part.x)
    model.train()
    loss = functional.cross_entropy(logits, part.y)
    accuracy = (logits.argmax(dim=1) == part.y).double().mean()
    return loss.item(), accuracy.item()


def train(run: repro.Run) -> None:
    """Run the experiment: `repro run experiments/digits/experiment.yaml`."""
    images, labels = load_digits(return_X_y=True)
    run.data("digits", images, labels)
    x = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    training, validation, test = split(Part(x, torch.tensor(labels)), run.rng("split"))

    with run.stream("init"):
        model = network(run.params.width, run.params.dropout)
    optimizer = optimizer_for(model, run)

    saved = run.resume(model=model, optimizer=optimizer)
    step = saved.get("step", 0)
    for _ in run.epochs():
        order = torch.randperm(len(training), generator=run.rng("order"))
        for index in order.split(run.params.batch_size):
            batch = training.take(index)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(batch.x), batch.y)
            loss.backward()
            optimizer.step()
            run.log(step=step, loss=loss.item())
            step += 1
        val_loss, val_acc = evaluate(model, validation)
        run.log(step=step, val_loss=val_loss, val_acc=val_acc)
        run.checkpoint(model=model, optimizer=optimizer, step=step)

    _, test_acc = evaluate(model, test)
    run.log(test_acc=test_acc)
