"""Which GPUs a run can see: what the driver told of the machine, and CUDA_VISIBLE_DEVICES, read as CUDA reads it.

Written after NVIDIA's documentation ("CUDA Environment Variables" in the CUDA C++ programming guide, and the guide to
Multi-Instance GPUs) and `torch.cuda._parse_visible_devices`. Untested on a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from repro.record.values import Record

#: Says which GPUs CUDA may use, and in which order.
VARIABLE = "CUDA_VISIBLE_DEVICES"
_NUMBER = re.compile(r"\s*\+?(\d+)")
_NAMED = ("GPU-", "MIG-")


class Device(NamedTuple):
    """One GPU, or an instance of one: what stands for it in the variable, and its model (None: not known)."""

    choice: str
    model: str | None

    def __str__(self) -> str:
        return f"{self.model} ({self.choice})" if self.model else self.choice


def hides_all(value: str) -> bool:
    """Say whether a value of the variable leaves no GPU: empty, ``-1``, ``none``."""
    return not (_NUMBER.match(value) or value.startswith(_NAMED))


def visible(gpus: Mapping[str, Any], environment: Mapping[str, str]) -> list[Device] | None:
    """Return the GPUs that a process with these variables can use, in its order; None where nobody knows.

    ``gpus`` is the circumstance of that name. A number stands for a GPU by its place, a text for the only one whose
    UUID begins so; the list ends at the first entry that is none, and has nothing where one comes twice. CUDA numbers
    GPUs from the fastest to the slowest, the driver by their bus: where they differ and CUDA_DEVICE_ORDER does not say
    PCI_BUS_ID, a number is left as it is, and so is everything where the driver did not answer.
    """
    value = environment.get(VARIABLE)
    machine = _machine(gpus)
    if value is None:
        return None if machine is None else [device for group in machine for device in group]
    entries = value.split(",")
    if value.startswith(_NAMED):
        found = _named(entries, None if machine is None else [device for group in machine for device in group])
    else:
        found = _numbered(entries, machine, by_bus=environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID")
    return found if len({device.choice for device in found}) == len(found) else []


def _machine(gpus: Mapping[str, Any]) -> list[list[Device]] | None:
    """Return the GPUs by the order of their bus, each as what can be used of it: itself, or its instances."""
    if "error" in gpus:
        return None
    devices = (gpus.get("value") or {}).get("devices", [])
    return [[Device(item["uuid"], item["name"]) for item in gpu.get("mig", [gpu])] for gpu in devices]


def _named(entries: Sequence[str], machine: Sequence[Device] | None) -> list[Device]:
    found = []
    for entry in entries:
        fitting = [device for device in machine or [] if device.choice.startswith(entry)]
        if machine is None:
            fitting = [Device(entry, None)]
        if not entry.startswith(entries[0][:4]) or len(fitting) != 1:
            break
        found += fitting
    return found


def _numbered(entries: Sequence[str], machine: Sequence[Sequence[Device]] | None, *, by_bus: bool) -> list[Device]:
    models = {device.model for group in machine or [] for device in group}
    found: list[Device] = []
    for entry in entries:
        number = _NUMBER.match(entry)
        if number is None or (machine is not None and int(number[1]) >= len(machine)):
            break
        if machine is not None and (by_bus or len(models) == 1):
            found += machine[int(number[1])][:1]  # of a GPU in instances, CUDA uses the first
        else:
            found.append(Device(str(int(number[1])), None))
    return found


def seen(record: Record) -> list[Device] | None:
    """Return the GPUs that a run could see; None where that is not known."""
    value = record.circumstances.get("launch", {}).get("visible_devices", record.recipe.environment.get(VARIABLE))
    environment = record.recipe.environment | ({} if value is None else {VARIABLE: value})
    return visible(record.circumstances.get("gpus", {}), environment)


def is_there(value: str, gpus: Mapping[str, Any]) -> bool:
    """Say whether all GPUs that a value of the variable names are in a machine."""
    found = visible(gpus, {VARIABLE: value, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    return _machine(gpus) is not None and found is not None and len(found) == len(value.split(","))
