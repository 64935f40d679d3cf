"""The determinism settings, applied when torch is imported, and the numerics state read back.

The profiles and what each promises are in docs/reference/determinism.md. Nothing here was tried on a GPU.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
import warnings
import weakref
from types import ModuleType
from typing import Any

from repro.worker.imports import when_imported
from repro.worker.job import Job, Lines

_SMALLEST, _ONE = float("5e-324"), float("1")
_LIBRARY = re.compile(r"^[ -]*(Intel|OpenMP|LAPACK)")
_LOADER = ("num_workers", "batch_size", "persistent_workers", "prefetch_factor", "pin_memory", "drop_last", "in_order")
_MOST_LOADERS = 50
#: The DataLoaders of this process: the position of each is to be in a checkpoint.
loaders: weakref.WeakSet[Any] = weakref.WeakSet()
#: What goes through one of them now.
iterators: weakref.WeakSet[Any] = weakref.WeakSet()
_NO_KERNEL = re.compile(r"(\S+) does not have a deterministic implementation")


def install(job: Job, observed: Lines) -> None:
    """Apply the profile's flags once torch is imported, and observe the state then; `at_first_step` compares."""
    when_imported("torch", lambda torch: _on_torch(torch, job, observed))


def _on_torch(torch: ModuleType, job: Job, observed: Lines) -> None:
    if job.profile != "off":
        _apply(torch, job, warn_only=job.profile == "warn")
    if job.profile == "warn":
        _collect_warnings(observed)
    observed.event("numerics", at="import", pid=os.getpid(), state=numerics(torch), software=_software(torch))


def _apply(torch: ModuleType, job: Job, *, warn_only: bool) -> None:
    # torch.use_deterministic_algorithms does the same and imports torch._inductor for its own flag: 0.3 s.
    torch._C._set_deterministic_algorithms(True, warn_only=warn_only)
    when_imported("torch._inductor.config", lambda config: setattr(config, "deterministic", True))
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.mkldnn.deterministic = True
    if job.threads is not None:
        torch.set_num_threads(job.threads)


def _collect_warnings(observed: Lines) -> None:
    """Take in torch's warnings about operators without a deterministic kernel: once each, and not on the screen.

    They are ours, not the script's: a filter that makes errors of warnings does not reach them.
    """
    _keep_filter_first()
    show = warnings.showwarning
    seen: set[str] = set()

    def showwarning(message: Any, category: Any, filename: str, lineno: int, *args: Any, **kwargs: Any) -> None:
        found = _NO_KERNEL.search(str(message))
        if found is None:
            show(message, category, filename, lineno, *args, **kwargs)
        elif found[1] not in seen:
            seen.add(found[1])
            observed.event("nondeterministic", operator=found[1], file=filename, line=lineno)

    warnings.showwarning = showwarning


def _keep_filter_first() -> None:
    original = {name: getattr(warnings, name) for name in ("filterwarnings", "simplefilter", "resetwarnings")}
    ours = {"message": f".*{_NO_KERNEL.pattern.partition(' ')[2]}", "category": UserWarning}

    def wrap(change: Any) -> Any:
        @functools.wraps(change)
        def changed(*args: Any, **kwargs: Any) -> None:
            change(*args, **kwargs)
            original["filterwarnings"]("default", **ours)

        return changed

    for name, change in original.items():
        setattr(warnings, name, wrap(change))
    original["filterwarnings"]("default", **ours)


def numerics(torch: ModuleType) -> dict[str, Any]:
    """Return the state that decides the bits of a computation, as this process has it now."""
    backends = torch.backends
    state = {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill_uninitialized_memory": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn_deterministic": backends.cudnn.deterministic,
        "cudnn_benchmark": backends.cudnn.benchmark,
        "mkldnn_deterministic": backends.mkldnn.deterministic,
        "default_dtype": str(torch.get_default_dtype()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch._C._get_cudnn_allow_tf32(),
        "cublas_allow_tf32": torch._C._get_cublas_allow_tf32(),
        "attention_flash": backends.cuda.flash_sdp_enabled(),
        "attention_memory_efficient": backends.cuda.mem_efficient_sdp_enabled(),
        "attention_math": backends.cuda.math_sdp_enabled(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": backends.cpu.get_cpu_capability(),
        "hash_seed": _hash_seed(),
        "denormals": _SMALLEST * _ONE != 0.0,  # not flushed to zero by this thread
    }
    for name, owner in (("", backends), ("cudnn_", backends.cudnn), ("mkldnn_", backends.mkldnn)):
        state[f"{name}fp32_precision"] = _try(lambda owner=owner: getattr(owner, "fp32_precision", None))
    for name in (
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "MKL_CBWR",
        "MKL_DYNAMIC",
        "OMP_NUM_THREADS",
        "OPENBLAS_CORETYPE",
    ):
        state[name] = os.environ.get(name)
    return state | ({"GPUS": _try(lambda: _gpus(torch))} if torch.cuda.is_initialized() else {})


def _gpus(torch: ModuleType) -> list[str]:
    """Return model and UUID of the GPUs that this process can use, in its order; asked once it uses one."""
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [f"{gpu.name} (GPU-{gpu.uuid})" for gpu in found]


def threadpools() -> dict[str, dict[str, Any]]:
    """Return the thread pools of the loaded BLAS and OpenMP libraries by name, where threadpoolctl is there.

    Several of one name are numbered by version, not in the order in which they were loaded: that says nothing.
    """
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return {}
    found: dict[str, dict[str, Any]] = {}
    pools = _try(threadpool_info)
    for pool in sorted(pools, key=_version) if isinstance(pools, list) else []:
        name = pool["prefix"]
        number = sum(other.partition("#")[0] == name for other in found)
        found[f"{name}#{number + 1}" if number else name] = {
            key: pool[key] for key in sorted(pool) if key not in ("filepath", "prefix")
        }
    return found


def _version(pool: dict[str, Any]) -> tuple[str, str]:
    return pool["prefix"], str(pool.get("version"))


def watch_loaders(observed: Lines) -> None:
    """Observe the settings of every DataLoader that is made, each kind once."""
    when_imported("torch.utils.data.dataloader", lambda module: _watch_loaders(module, observed))


def _watch_loaders(module: ModuleType, observed: Lines) -> None:
    original = module.DataLoader.__init__
    seen: set[str] = set()

    @functools.wraps(original)
    def init(loader: Any, *args: Any, **kwargs: Any) -> None:
        original(loader, *args, **kwargs)
        loaders.add(loader)
        settings = {name: getattr(loader, name, None) for name in _LOADER} | {"generator": loader.generator is not None}
        if repr(settings) not in seen and len(seen) < _MOST_LOADERS:
            seen.add(repr(settings))
            observed.event("loader", settings=settings)

    module.DataLoader.__init__ = init
    begin = module._BaseDataLoaderIter.__init__

    @functools.wraps(begin)
    def init_iterator(iterator: Any, loader: Any) -> None:
        begin(iterator, loader)
        iterators.add(iterator)

    module._BaseDataLoaderIter.__init__ = init_iterator


def _hash_seed() -> str:
    if not sys.flags.hash_randomization:
        return "0"
    return "random" if sys.flags.ignore_environment else os.environ.get("PYTHONHASHSEED", "random")


def _software(torch: ModuleType) -> dict[str, Any]:
    """Return versions that only a process with torch can tell; CUDA, cuDNN and NCCL are kept apart."""
    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": None,
        "nccl": None,
        "python": platform.python_version(),
        "libraries": [line.strip(" -") for line in torch.__config__.show().splitlines() if _LIBRARY.search(line)],
        "parallel": [line.strip() for line in torch.__config__.parallel_info().splitlines() if line.strip()],
    }
    if torch.version.cuda is not None:
        found["cudnn"] = _try(torch.backends.cudnn.version)
        found["nccl"] = _try(lambda: ".".join(map(str, torch.cuda.nccl.version())))
    return found


def _try(read: Any) -> Any:
    try:
        return read()
    except Exception as error:
        return f"unreadable: {error}"
