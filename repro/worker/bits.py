"""Digests of tensors: xxh3 over the very bytes, with dtype, shape and name; -0.0 and NaN payloads count."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
import xxhash

#: A tensor whose bytes cannot be read (sparse layouts aside: fake, meta, batched, nested) has this digest.
UNREADABLE = 1
_CHUNK = 1 << 22
_CPU = torch.device("cpu")
_hash = xxhash.xxh3_64_intdigest
_device_used = False
_packers: dict[int, Callable[..., bytes]] = {}
#: Subclasses of Tensor may lay their bytes out in a way of their own.
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number, the golden ratio's


class Bank:
    """Tensors that are digested together, again and again.

    Their addresses are asked for at each reading; while none has moved, the bytes are read where they lie (a view made
    by torch and numpy costs ten times as much). The memory is kept alive by the tensors, not by the bank.
    """

    __slots__ = ("_pairs", "_places", "names", "seeds")

    def __init__(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self.names = list(names)
        self.seeds = [salt(tensor, name) for tensor, name in zip(tensors, names, strict=True)]
        self._places: list[int] = []
        self._pairs: list[tuple[Any, int]] = []

    def digests(self, tensors: Sequence[torch.Tensor | None]) -> list[Any]:
        """Return each tensor's digest; 0 stands for None. They are those of the bank, or like them (gradients)."""
        places = [-1 if t is None else t.data_ptr() if t.is_contiguous() else 0 for t in tensors]
        if places == self._places:
            return [0 if place is None else _hash(place, seed) for place, seed in self._pairs]
        if all(t is None or (address and is_plain(t)) for t, address in zip(tensors, places, strict=True)):
            raw = (None if t is None else _raw(t) for t in tensors)
            self._pairs = list(zip(raw, self.seeds, strict=True))
            self._places = places
        return [0 if t is None else digest(t, seed) for t, seed in zip(tensors, self.seeds, strict=True)]


def is_plain(tensor: torch.Tensor) -> bool:
    """Say whether a tensor's bytes lie at its address, in order, as they are."""
    return (
        type(tensor) in _PLAIN
        and tensor.layout is torch.strided
        and tensor.device == _CPU
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def salt(tensor: torch.Tensor, name: str) -> int:
    """Return the 64 bits that name, dtype and shape add to a tensor's digest."""
    return xxhash.xxh3_64_intdigest(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())


def view(tensor: torch.Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor, without a copy, as a numpy array of uint8."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def digest(tensor: torch.Tensor, seed: int = 0) -> Any:
    """Return a tensor's digest: an int, or on an accelerator a 0-d int64 tensor to be read later."""
    try:
        if is_plain(tensor) and tensor.data_ptr():
            return _hash(_raw(tensor), seed)
        return _other_digest(tensor, seed)
    except (RuntimeError, TypeError, NotImplementedError):
        return UNREADABLE


def _raw(tensor: torch.Tensor) -> Any:
    return (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())


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
    count = len(digests)
    packer = _packers.get(count)
    if packer is None:
        packer = _packers[count] = struct.Struct(f"<{count}Q").pack
    return packer(*digests)


def _read_back(digests: list[Any]) -> list[int]:
    late = [(index, value) for index, value in enumerate(digests) if isinstance(value, torch.Tensor)]
    found = list(digests)
    values = torch.stack([value for _, value in late]).tolist() if late else []
    for (index, _), value in zip(late, values, strict=True):
        found[index] = value & 0xFFFFFFFFFFFFFFFF
    return found
