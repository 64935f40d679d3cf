"""Train a residual network of pytorchcv on scikit-learn's digits, scaled to 16 x 16 pixels.

The networks are those of He et al., 2016, for CIFAR-10; only the last pooling is another, since the images are smaller.
"""

import torch
from pytorchcv.models import resnet_cifar
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import repro


def network(name: str) -> nn.Module:
    """Return one of pytorchcv's networks: (n, 3, 16, 16) in, (n, 10) logits out."""
    model = getattr(resnet_cifar, f"{name}_cifar10")(num_classes=10)
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return model


def images() -> tuple[Tensor, Tensor]:
    """Return x of shape (n, 3, 16, 16) in [-1, 1], and the n digits."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    return functional.interpolate(x, scale_factor=2, mode="nearest").expand(-1, 3, -1, -1), torch.tensor(labels)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of images that the model names right."""
    model.eval()
    right = (model(x).argmax(dim=1) == y).double().mean().item()
    model.train()
    return right


def train(run: repro.Run) -> None:
    """Run the experiment: `repro run experiments/resnet/experiment.yaml`."""
    x, y = images()
    order = torch.randperm(len(x), generator=run.rng("split"))
    part, held = order.tensor_split((len(x) * 8 // 10,))
    with run.stream("init"):
        model = network(run.params.model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=run.params.lr, momentum=0.9, weight_decay=run.params.weight_decay, nesterov=True
    )
    run.resume(model=model, optimizer=optimizer)
    for epoch in run.epochs():
        for index in part[torch.randperm(len(part), generator=run.rng("order"))].split(run.params.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        run.log(step=epoch, val_acc=accuracy(model, x[held], y[held]))
        run.checkpoint(model=model, optimizer=optimizer)
