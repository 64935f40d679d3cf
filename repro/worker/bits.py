"""Digests of tensors: xxh3 over the very bytes, with dtype, shape and name; -0.0 and NaN payloads count."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
import xxhash

from repro.worker.memory import WHOLE

#: A tensor whose bytes cannot be read (fake, meta, batched, quantised) has this digest, and is counted.
UNREADABLE = 1
unreadable = 0
_CHUNK = 1 << 22
#: The bytes of plain CPU tensors, by address and size. The memory is kept alive by the tensors, not by these views.
_places: dict[tuple[int, int], Any] = {}
#: The same for tensors of the script's own, by address, dtype and shape: the bytes, and what these add to the digest.
_arguments: dict[Any, tuple[Any, int]] = {}
_MOST_PLACES = 20_000
_CPU = torch.device("cpu")
_hash = xxhash.xxh3_64_intdigest
_device_used = False
_structs: dict[int, struct.Struct] = {}
#: Subclasses of Tensor may lay their bytes out in a way of their own.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLAIN_TYPES = frozenset(_PLAIN)
_is_contiguous = torch.Tensor.is_contiguous
_address = torch.Tensor.data_ptr
_MIX = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number, the golden ratio's


class Bank:
    """Tensors that are digested together, again and again, each with the salt of its name, dtype and shape.

    What `digest` asks of each tensor is asked of all of them at once, in loops that run in C, and no more than is
    needed: between two training steps the caches are cold, and an attribute costs half a microsecond.
    """

    __slots__ = ("_addresses", "_places", "_sizes", "names", "seeds")

    def __init__(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        self.names = list(names)
        self.seeds = [salt(tensor, name) for tensor, name in zip(tensors, names, strict=True)]
        self._sizes = [size(tensor) for tensor in tensors]
        self._addresses: list[int] = []
        self._places: list[Any] = []

    def digests(self, tensors: Sequence[torch.Tensor | None]) -> list[Any]:
        """Return each tensor's digest; 0 stands for None. They are those of the bank, or like them (gradients)."""
        return [0 if tensor is None else digest(tensor, seed) for tensor, seed in zip(tensors, self.seeds, strict=True)]

    def again(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Return the digests of the bank's own tensors, which are looked at anew where one has moved."""
        try:
            if [*map(_address, tensors)] == self._addresses:
                return [*map(_hash, self._places, self.seeds)]
        except (RuntimeError, NotImplementedError):  # it has no address
            pass
        return self.anew(tensors)

    def anew(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Return the digests of the bank's own tensors, and remember where they lie if all are plainly there."""
        found = self.digests(tensors)
        self._addresses = []
        if not out_of_sight() and all(is_plain(tensor) and _is_backed(tensor) for tensor in tensors):
            self._addresses = [*map(_address, tensors)]
            self._places = [raw(tensor) for tensor in tensors]
        return found

    def are_like(self, tensors: Sequence[torch.Tensor | None]) -> bool:
        """Say whether other tensors have the dtypes and sizes of the bank's."""
        pairs = zip(tensors, self._sizes, strict=True)
        return all(tensor is None or size(tensor) == expected for tensor, expected in pairs)

    def like(self, tensors: Sequence[Any]) -> list[Any]:
        """Return the digests of tensors that `are_like` the bank's and are made anew at each step."""
        try:
            if all(map(_is_contiguous, tensors)) and _PLAIN_TYPES.issuperset(map(type, tensors)):
                places: list[Any] = [*map(_places.get, zip(map(_address, tensors), self._sizes, strict=True))]
                if all(places):
                    return [*map(_hash, places, self.seeds)]
        except (TypeError, RuntimeError, NotImplementedError):  # None, or a tensor without an address
            pass
        return self.digests(tensors)


def digest(tensor: torch.Tensor, seed: int = 0) -> Any:
    """Return a tensor's digest: an int, or on an accelerator a 0-d int64 tensor to be read later.

    Bytes that were read before are read again where they lie: tensors are allocated anew at each step, and come to lie
    at the same few addresses. To see that they are plainly a tensor's values takes ten times as long.
    """
    try:
        if tensor.is_cpu and tensor.is_contiguous() and type(tensor) in _PLAIN:
            place = _places.get((tensor.data_ptr(), tensor.nbytes))
            if place is not None:
                return _hash(place, seed)
    except (RuntimeError, NotImplementedError):  # it has no address: a sparse gradient
        pass
    return _look(tensor, seed)


def of_argument(tensor: torch.Tensor) -> Any:
    """Return the digest of a tensor of the script's own, with dtype and shape and no name.

    One that is conjugated or negated lazily has others' bytes.
    """
    if type(tensor) in _PLAIN and tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj():
        key = tensor.data_ptr(), tensor.dtype, tensor.shape
        found = _arguments.get(key)
        if found is not None:
            return _hash(*found)
        if is_plain(tensor) and not out_of_sight() and _is_backed(tensor):
            if len(_arguments) >= _MOST_PLACES:
                _arguments.clear()
            found = _arguments[key] = raw(tensor), salt(tensor, "")
            return _hash(*found)
    return _look(tensor, salt(tensor, ""))


_is_compiling = torch.compiler.is_compiling
_transforms = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def out_of_sight() -> bool:
    """Say whether this is being traced or transformed, when tensors have no bytes to read."""
    return _is_compiling() or is_transformed()


def is_transformed() -> bool:
    """Say whether a transform of `torch.func` or `torch.jit.trace` is at work."""
    return _transforms() is not None or _tracing() is not None


def _look(tensor: torch.Tensor, seed: int) -> Any:
    """Return a tensor's digest, and remember the bytes at its address where they are plainly its values."""
    if out_of_sight():
        return _no_bytes()
    try:
        if not (is_plain(tensor) and _is_backed(tensor)):
            return _other_digest(tensor, seed)
        if len(_places) >= _MOST_PLACES:
            _places.clear()
        place = _places[tensor.data_ptr(), tensor.nbytes] = raw(tensor)
        return _hash(place, seed)
    except Exception:
        return _no_bytes()


def _no_bytes() -> int:
    """Count a tensor that cannot be read, and return its digest."""
    global unreadable
    unreadable += 1
    return UNREADABLE


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


def _is_backed(tensor: torch.Tensor) -> bool:
    """Say whether a tensor's memory is there: a storage may have been freed or cut behind it."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + last + 1) * tensor.element_size()
    return bool(tensor.data_ptr()) and end <= tensor.untyped_storage().nbytes()


def salt(tensor: torch.Tensor, name: str) -> int:
    """Return the 64 bits that name, dtype and shape add to a tensor's digest."""
    return xxhash.xxh3_64_intdigest(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())


def size(tensor: torch.Tensor) -> int:
    """Return a tensor's size in bytes; 0 for one that is not laid out by strides."""
    return tensor.nbytes if tensor.layout is torch.strided else 0


def view(tensor: torch.Tensor) -> Any:
    """Return the bytes of a contiguous CPU tensor, without a copy, as a numpy array of uint8."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def raw(tensor: torch.Tensor) -> Any:
    """Return the bytes of a plain CPU tensor where they lie; they are kept alive by the tensor alone."""
    address = tensor.data_ptr()
    return WHOLE[address : address + tensor.nbytes]


def _other_digest(tensor: torch.Tensor, seed: int) -> Any:
    shard = getattr(tensor, "_local_tensor", None)  # of a DTensor: each rank digests its own
    if shard is not None:
        return digest(shard, seed)
    if tensor.layout is not torch.strided:
        return combine([digest(part, seed) for part in _parts(tensor)])
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.device.type == "meta" or (tensor.numel() and not _is_backed(tensor)):
        return _no_bytes()
    if tensor.device.type == "cpu":
        return _hash(view(tensor.contiguous()), seed)
    return on_device(tensor, seed)


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the strided tensors that a sparse or nested one is made of."""
    if tensor.is_nested:
        return [tensor.values(), tensor.offsets()]  # type: ignore[attr-defined]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]


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


def combine(digests: list[Any]) -> int:
    """Return one digest for several (0 for none, its own for one); waits for an accelerator if one is still there."""
    if not digests:
        return 0
    if len(digests) == 1 and isinstance(digests[0], int):
        return digests[0]
    return _hash(pack(digests))


def pack(digests: list[Any]) -> bytes:
    """Return the digests as 8 bytes each, reading back in one transfer those that lie on an accelerator."""
    return struct_of(len(digests)).pack(*read_back(digests))


def struct_of(count: int) -> struct.Struct:
    """Return the layout of so many digests, 8 bytes each."""
    found = _structs.get(count)
    if found is None:
        found = _structs[count] = struct.Struct(f"<{count}Q")
    return found


def read_back(digests: list[Any]) -> list[int]:
    """Return the digests as numbers: those that lie on an accelerator are read in one transfer."""
    if not _device_used:
        return digests
    late: dict[torch.device, list[int]] = {}
    for index, value in enumerate(digests):
        if isinstance(value, torch.Tensor):
            late.setdefault(value.device, []).append(index)
    found = list(digests)
    for places in late.values():
        values = torch.stack([found[index] for index in places]).tolist()
        for index, value in zip(places, values, strict=True):
            found[index] = value & 0xFFFFFFFFFFFFFFFF
    return found
