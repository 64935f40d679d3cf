"""Host, processor, memory and GPUs. The GPU part is untested on a GPU."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
from pathlib import Path
from typing import Any


def host() -> dict[str, Any]:
    """Return the machine's name, system and C library."""
    system = platform.uname()
    return {
        "name": system.node,
        "system": system.system,
        "release": system.release,
        "machine": system.machine,
        "distribution": _distribution(),
        "libc": " ".join(_libc()),
    }


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _libc() -> tuple[str, str]:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return platform.libc_ver()
    return name, version


def processor() -> dict[str, Any]:
    """Return model, flags and counts of the processors that this process may use."""
    blocks = _cpuinfo()
    first = blocks[0] if blocks else {}
    return {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "flags": sorted(first.get("flags", first.get("Features", "")).split()),
        "logical": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)),
        "physical": physical_cores(),
    }


def physical_cores() -> int:
    """Return how many physical cores this process may use: the thread count that torch takes with MKL."""
    usable = os.sched_getaffinity(0)
    cores = {
        (block.get("physical id", "0"), block.get("core id", block["processor"]))
        for block in _cpuinfo()
        if int(block.get("processor", "-1")) in usable
    }
    return len(cores) or len(usable)


def _cpuinfo() -> list[dict[str, str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = []
    for part in text.split("\n\n"):
        pairs = (line.partition(":") for line in part.splitlines() if ":" in line)
        block = {name.strip(): value.strip() for name, _, value in pairs}
        if "processor" in block:
            blocks.append(block)
    return blocks


def memory() -> dict[str, int]:
    """Return the machine's memory in bytes, and what a control group allows of it, where it does not allow all."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = []
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return {"total": total} | ({"limit": min(limits)} if limits and min(limits) < total else {})


def has_driver() -> bool:
    """Say whether the kernel has a driver of NVIDIA's (``/dev/dxg``: under WSL)."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or any(map(os.path.exists, ("/proc/driver/nvidia/version", "/dev/dxg")))


def gpus() -> dict[str, Any]:
    """Return driver and GPUs as NVML tells them; an empty mapping where there is no driver.

    Raises:
        Exception: whatever NVML raises where a driver is there and does not answer.
    """
    if not has_driver():
        return {}
    import pynvml

    pynvml.nvmlInit()
    try:
        count = pynvml.nvmlDeviceGetCount()
        return {
            "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
            "cuda_of_driver": pynvml.nvmlSystemGetCudaDriverVersion_v2(),
            "devices": [_gpu(pynvml, index) for index in range(count)],
        }
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> dict[str, Any]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "name": _text(pynvml.nvmlDeviceGetName(handle)),
        "uuid": _text(pynvml.nvmlDeviceGetUUID(handle)),
        "memory": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "compute_capability": ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))),
        "vbios": _text(pynvml.nvmlDeviceGetVbiosVersion(handle)),
        **_instances(pynvml, handle),
    }


def _instances(pynvml: Any, handle: Any) -> dict[str, Any]:
    """Return what a GPU in MIG mode is divided into: nothing for one that is whole."""
    try:
        is_divided = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except pynvml.NVMLError:  # this model cannot be divided
        is_divided = False
    if not is_divided:
        return {}
    found = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with contextlib.suppress(pynvml.NVMLError):  # there is no such instance
            one = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            found.append({"name": _text(pynvml.nvmlDeviceGetName(one)), "uuid": _text(pynvml.nvmlDeviceGetUUID(one))})
    return {"mig": found}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
