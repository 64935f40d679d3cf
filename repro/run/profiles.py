"""Determinism profiles as variables and flags; docs/reference/determinism.md says what each promises."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from repro.capture import hardware
from repro.errors import ConfigError
from repro.record.values import Gap, Profile

#: What each profile promises: kept in the record, and explained in docs/reference/determinism.md.
PROMISES: Mapping[Profile, str] = {
    "strict": "the same bits on the same software and CPU model; operators without a deterministic kernel are errors",
    "portable": "expected: the same bits on any x86-64 CPU with the same libraries; checked by golden digests",
    "warn": "as strict, but for operators without a deterministic kernel, which are listed",
    "off": "nothing",
}
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: torchrun, by either of its names, told to start more than one process.
_NPROC = re.compile(r"(torchrun|torch\.distributed\.(run|launch)) .*--nproc[-_]per[-_]node[= ](?!1( |$))")
_CUBLAS = (":4096:8", ":16:8")
#: Instruction sets that every x86-64 processor has.
_PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Prescott",
}


class Settings(NamedTuple):
    """What a profile sets: variables of the child, the count of threads, torch's flags; and what must be said of it."""

    variables: dict[str, str]
    threads: int
    flags: dict[str, Any]
    gaps: list[Gap]
    said: list[str]


def settle(
    profile: Profile, environment: Mapping[str, str], asked: int | None, command: Sequence[str] = ()
) -> Settings:
    """Return what ``profile`` sets, given the user's environment, the threads asked for and the command.

    A count of threads that the user has set is taken; unset, it is what torch would take here, as a number: all cores,
    or 1 for each of several processes that torchrun starts.

    Raises:
        ConfigError: when a variable that the user has set makes the profile's promise void.
    """
    gaps: list[Gap] = []
    said: list[str] = []
    threads = _threads(profile, environment, asked, said, 1 if _NPROC.search(" ".join(command)) else None)
    if profile == "off":
        return Settings({}, threads, {}, gaps, said)
    variables = {name: str(threads) for name in _COUNTS}
    variables |= {"MKL_DYNAMIC": "FALSE", "OMP_DYNAMIC": "FALSE"}
    variables["PYTHONHASHSEED"] = environment.get("PYTHONHASHSEED", "0")
    if variables["PYTHONHASHSEED"] == "random":
        _void(profile, "PYTHONHASHSEED", "random", "a number", gaps)
    variables["CUBLAS_WORKSPACE_CONFIG"] = environment.get("CUBLAS_WORKSPACE_CONFIG", _CUBLAS[0])
    if variables["CUBLAS_WORKSPACE_CONFIG"] not in _CUBLAS:
        _void(profile, "CUBLAS_WORKSPACE_CONFIG", variables["CUBLAS_WORKSPACE_CONFIG"], " or ".join(_CUBLAS), gaps)
    if profile == "portable":
        said += [
            f"portable sets {name}={value} (it was {environment[name]})"
            for name, value in _PORTABLE.items()
            if environment.get(name, value) != value
        ]
        variables |= _PORTABLE
    return Settings(variables, threads, _flags(profile), gaps, said)


def names_threads(profile: Profile, environment: Mapping[str, str], command: Sequence[str] = ()) -> bool:
    """Say whether something else than the machine decides the count of threads where none is asked for."""
    given = any(environment.get(name, "").partition(",")[0].isdigit() for name in _COUNTS)
    return profile == "portable" or given or _NPROC.search(" ".join(command)) is not None


def _flags(profile: Profile) -> dict[str, Any]:
    return {
        "use_deterministic_algorithms": True,
        "warn_only": profile == "warn",
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "mkldnn_deterministic": True,
    }


def _threads(
    profile: Profile, environment: Mapping[str, str], asked: int | None, said: list[str], default: int | None
) -> int:
    if profile == "portable":
        if asked not in (None, 1):
            raise ConfigError(f"portable runs with 1 thread, not {asked}", hint="--determinism strict, or --threads 1")
        return 1
    given = {name: environment[name] for name in _COUNTS if environment.get(name, "").partition(",")[0].isdigit()}
    count = int(next(iter(given.values())).partition(",")[0]) if given else None
    if asked is not None:
        if count not in (None, asked):
            said.append(f"{asked} threads, as asked for (the environment says {given})")
        return asked
    return count or default or hardware.physical_cores()


def _void(profile: Profile, name: str, value: str, wanted: str, gaps: list[Gap]) -> None:
    what = f"{name}={value} makes the promise of {profile!r} void"
    if profile != "warn":
        raise ConfigError(f"{what}; expected {wanted}", hint=f"unset {name}, or --determinism warn")
    gaps.append(Gap(what=name, reason=f"{what}; expected {wanted}"))
