"""Digests of tensors: xxh3 over the very bytes, with dtype, shape and name; -0.0 and NaN payloads count."""

from __future__ import annotations

import struct
from typing import Any

import torch
import xxhash

#: A tensor whose bytes cannot be read (sparse layouts aside: fake, meta, batched, nested) has this digest.
UNREADABLE = 1
_CHUNK = 1 << 22
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number, the golden ratio's


class Cell:
    """One tensor that is digested again and again: its bytes are looked at in place as long as it does not move."""

    __slots__ = ("_pointer", "_view", "name", "seed", "tensor")

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self.tensor = tensor
        self.name = name
        self.seed = salt(tensor, name)
        self._pointer = -1
        self._view: Any = None

    def digest(self) -> Any:
        """Return the digest now: an int, or on an accelerator a 0-d int64 tensor to be read later."""
        tensor = self.tensor
        if self._view is not None and tensor.data_ptr() == self._pointer:
            return xxhash.xxh3_64_intdigest(self._view, self.seed)
        return self._look(tensor)

    def _look(self, tensor: torch.Tensor) -> Any:
        if tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.is_contiguous():
            self._view = view(tensor)
            self._pointer = tensor.data_ptr()
            return xxhash.xxh3_64_intdigest(self._view, self.seed)
        return digest(tensor, self.seed)


def salt(tensor: torch.Tensor, name: str) -> int:
    """Return the 64 bits that name, dtype and shape add to a tensor's digest."""
    return xxhash.xxh3_64_intdigest(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())


def view(tensor: torch.Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor, without a copy, as a numpy array of uint8."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def digest(tensor: torch.Tensor, seed: int = 0) -> Any:
    """Return a tensor's digest: an int, or on an accelerator a 0-d int64 tensor to be read later."""
    try:
        if tensor.layout is not torch.strided:
            return _sparse(tensor, seed)
        tensor = tensor.detach()
        if tensor.device.type == "cpu":
            return xxhash.xxh3_64_intdigest(view(tensor.contiguous()), seed)
        return on_device(tensor, seed)
    except (RuntimeError, TypeError, NotImplementedError):
        return UNREADABLE


def _sparse(tensor: torch.Tensor, seed: int) -> Any:
    if tensor.layout is torch.sparse_coo:
        parts = [tensor._indices(), tensor._values()]
    else:
        parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return combine([digest(part, seed) for part in parts])


def on_device(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a digest computed where the tensor lies, as a 0-d int64 tensor: no copy of the data, no wait.

    The bytes are read as 32-bit words, each multiplied by an odd number that depends on its place, and added modulo
    2**64: integer sums do not depend on the order of threads. Untested on a GPU; tested for its arithmetic on a CPU.
    """
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    raw = torch.nn.functional.pad(raw, (0, -raw.numel() % 4)).view(torch.int32)
    total = torch.full((), _signed(seed), dtype=torch.int64, device=tensor.device)
    for start in range(0, raw.numel(), _CHUNK):
        words = raw[start : start + _CHUNK].to(torch.int64)
        place = torch.arange(start + 1, start + 1 + words.numel(), dtype=torch.int64, device=tensor.device)
        weight = place * _MIX
        weight = (weight ^ (weight >> 29)) * _MIX | 1
        total = total * 31 + (words * weight).sum()
    return total


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def combine(digests: list[Any]) -> Any:
    """Return one digest for several; waits for an accelerator only if one of them is still there."""
    return xxhash.xxh3_64_intdigest(pack(digests))


def pack(digests: list[Any]) -> bytes:
    """Return the digests as 8 bytes each, reading back in one transfer those that lie on an accelerator."""
    late = [(index, value) for index, value in enumerate(digests) if isinstance(value, torch.Tensor)]
    if late:
        digests = list(digests)
        values = torch.stack([value.cpu() if value.device.type == "cpu" else value for _, value in late]).tolist()
        for (index, _), value in zip(late, values, strict=True):
            digests[index] = value & 0xFFFFFFFFFFFFFFFF
    return struct.pack(f"<{len(digests)}Q", *digests)
