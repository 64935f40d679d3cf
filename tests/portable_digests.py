"""An experiment of the test's own: digests of what the digits network is at its start, and what a run made of it.

``repro run`` runs it with the profile `portable`, in the folder of a copy of ``experiments/digits``.
"""

import hashlib
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from train import network

import repro


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of each tensor, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return f"sha256:{found.hexdigest()}"


@torch.no_grad()
def main(run: repro.Run) -> None:
    """Write the digests of the initial weights, of a checkpoint's model, and of its logits on all images."""
    params = run.params
    with run.stream("init"):
        model = network(params.width, params.dropout)
    found = {"initial weights": digest(model.state_dict())}
    trained = torch.load(params.checkpoint, weights_only=True)["model"]
    found["trained model"] = digest(trained)
    model.load_state_dict(trained)
    model.eval()
    images = torch.tensor(load_digits().data / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    found["logits"] = digest({"logits": model(images)})
    Path("digests.json").write_text(json.dumps(found), encoding="utf-8")
