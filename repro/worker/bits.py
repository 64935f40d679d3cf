"""Digests of tensors: xxh3 over the very bytes, with dtype, shape and name; -0.0 and NaN payloads count."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import torch
import xxhash

#: A tensor whose bytes cannot be read (sparse layouts aside: fake, meta, batched, nested) has this digest.
UNREADABLE = 1
_CHUNK = 1 << 22
_MOST_PLACES = 64
_CPU = torch.device("cpu")
_device_used = False
#: Subclasses of Tensor may lay their bytes out in a way of their own.
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number, the golden ratio's


class Cell:
    """One tensor that is digested again and again: its bytes are read where they lie, without a view of torch's.

    The address is asked for at each reading (a view made by torch and numpy costs ten times as much); the memory behind
    it is kept alive by the tensor, not by us. ``tensor`` may be exchanged for another of the same dtype and shape.
    """

    __slots__ = ("_dtype", "_places", "_plain", "_shape", "name", "seed", "tensor")

    def __init__(self, tensor: torch.Tensor, name: str) -> None:
        self.tensor = tensor
        self.name = name
        self.seed = salt(tensor, name)
        self._dtype, self._shape = tensor.dtype, tensor.shape
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and type(tensor) in _PLAIN
        self._plain = plain and tensor.numel() > 0
        self._places: dict[int, Any] = {}

    def digest(self) -> Any:
        """Return the digest now: an int, or on an accelerator a 0-d int64 tensor to be read later."""
        return self.read(self.tensor)

    def read(self, tensor: torch.Tensor) -> Any:
        """Return the digest of a tensor: this one, or one like it (its gradient)."""
        if not self._plain or type(tensor) not in _PLAIN or not tensor.is_contiguous():
            return digest(tensor, self.seed)
        place = self._places.get(tensor.data_ptr())
        if place is None or tensor.shape != self._shape or tensor.dtype != self._dtype:
            place = self._look(tensor)
        return digest(tensor, self.seed) if place is None else xxhash.xxh3_64_intdigest(place, self.seed)

    def _look(self, tensor: torch.Tensor) -> Any:
        """Return the bytes at a tensor's address, or None where they are not plainly its values."""
        address = tensor.data_ptr()
        like = tensor.shape == self._shape and tensor.dtype == self._dtype and tensor.device.type == "cpu"
        if not like or not address or tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
            return None
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        place = self._places[address] = _raw(tensor)
        return place


def salt(tensor: torch.Tensor, name: str) -> int:
    """Return the 64 bits that name, dtype and shape add to a tensor's digest."""
    return xxhash.xxh3_64_intdigest(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())


def view(tensor: torch.Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor, without a copy, as a numpy array of uint8."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def digest(tensor: torch.Tensor, seed: int = 0) -> Any:
    """Return a tensor's digest: an int, or on an accelerator a 0-d int64 tensor to be read later."""
    try:
        if (
            type(tensor) in _PLAIN
            and tensor.layout is torch.strided
            and tensor.device == _CPU
            and tensor.is_contiguous()
        ):
            return xxhash.xxh3_64_intdigest(_raw(tensor), seed)
        return _other_digest(tensor, seed)
    except (RuntimeError, TypeError, NotImplementedError):
        return UNREADABLE


def _raw(tensor: torch.Tensor) -> Any:
    """Return the bytes of a plain contiguous CPU tensor where they lie."""
    address = tensor.data_ptr()
    if not address or tensor.is_neg() or tensor.is_conj():
        return view(tensor.contiguous())
    return (ctypes.c_char * tensor.nbytes).from_address(address)


def _other_digest(tensor: torch.Tensor, seed: int) -> Any:
    if tensor.layout is not torch.strided:
        return _sparse(tensor, seed)
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        return xxhash.xxh3_64_intdigest(view(tensor.contiguous()), seed)
    return on_device(tensor, seed)


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
    global _device_used
    _device_used = True
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
    if _device_used:
        digests = _read_back(digests)
    return struct.pack(f"<{len(digests)}Q", *digests)


def _read_back(digests: list[Any]) -> list[int]:
    late = [(index, value) for index, value in enumerate(digests) if isinstance(value, torch.Tensor)]
    found = list(digests)
    values = torch.stack([value for _, value in late]).tolist() if late else []
    for (index, _), value in zip(late, values, strict=True):
        found[index] = value & 0xFFFFFFFFFFFFFFFF
    return found
