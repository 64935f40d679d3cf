"""A GPU for each worker, decided from what the driver told (docs/adr/0025-a-gpu-for-each-worker.md).

Untested on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from repro.errors import UsageError
from repro.record.devices import VARIABLE, Device, visible

_NO_GPU = f"where no training uses a GPU: {VARIABLE}= in front of the command"


class Shared(NamedTuple):
    """How many workers there are, what each has in the variable (nothing: as it is), and what the user is told."""

    workers: int
    choices: tuple[str, ...]
    said: list[str]


def share(asked: int | None, most: int, gpus: Mapping[str, Any], environment: Mapping[str, str]) -> Shared:
    """Share out the GPUs that can be seen: one for each worker, all of one model; a single worker keeps them all.

    ``asked`` is how many workers the user wants; where he does not say, there is one for each GPU, at most ``most``.
    ``gpus`` is the circumstance of that name.

    Raises:
        UsageError: for more workers than GPUs, or where GPUs of several models have numbers that say not which.
    """
    found = visible(gpus, environment)
    if not found:
        workers = asked or most
        return Shared(workers, (), [] if found is not None or workers == 1 else [_unknown(gpus)])
    alike = _alike(found)
    workers = asked or min(most, len(alike))
    fewer = [] if asked or workers == most else [_fewer(workers, most)]
    if workers == 1:
        return Shared(1, (), [*[_all(found)] * (len(found) > 1), *fewer])
    if "error" not in gpus and alike[0].model is None:
        raise UsageError(
            f"{VARIABLE}={environment[VARIABLE]}: there are several models, and CUDA numbers the fastest first",
            hint="CUDA_DEVICE_ORDER=PCI_BUS_ID, or UUIDs (nvidia-smi -L), say which GPUs these are",
        )
    if workers > len(alike):
        of_a_model = f" of one model ({_models(found)})" if len(alike) < len(found) else ""
        count = f"{len(alike)} GPU{'s' * (len(alike) > 1)}{of_a_model}"
        raise UsageError(
            f"--workers {workers}: there {'is' if len(alike) == 1 else 'are'} {count}, and each worker has its own",
            hint=f"--workers {len(alike)}; {_NO_GPU}",
        )
    return Shared(workers, tuple(device.choice for device in alike[:workers]), [*_left_out(found, alike), *fewer])


def _alike(found: Sequence[Device]) -> list[Device]:
    """Return the GPUs of the model that there are most of; of models with as many, the one that comes first."""
    model = Counter(device.model for device in found).most_common(1)[0][0]
    return [device for device in found if device.model == model]


def _models(found: Sequence[Device]) -> str:
    counts = Counter(device.model or "of unknown model" for device in found)
    return ", ".join(f"{count} {model}" for model, count in counts.items())


def _unknown(gpus: Mapping[str, Any]) -> str:
    return f"the driver does not say which GPUs there are ({gpus['error']}): all workers see the same"


def _fewer(workers: int, most: int) -> str:
    return f"no more workers than GPUs: {workers}, where there are cores for {most}; {_NO_GPU}"


def _all(found: Sequence[Device]) -> str:
    return (
        f"one worker: each run sees all {len(found)} GPUs ({_models(found)}), with more workers each sees one;"
        " a script that trains on several at once gives other bits then"
    )


def _left_out(found: Sequence[Device], alike: Sequence[Device]) -> list[str]:
    if len(alike) == len(found):
        return []
    others = [device for device in found if device not in alike]
    return [f"GPUs of another model give other bits: the workers have none of {_models(others)}"]
