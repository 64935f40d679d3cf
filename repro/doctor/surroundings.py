"""What surrounds a run and will not hold: no lock, files that nobody keeps, threads that machine or shell counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repro.doctor.finding import Finding, found
from repro.record.values import Gap

_COUNTS = (
    "OMP_NUM_THREADS MKL_NUM_THREADS OPENBLAS_NUM_THREADS OMP_THREAD_LIMIT MKL_DOMAIN_NUM_THREADS GOTO_NUM_THREADS"
    " BLIS_NUM_THREADS NUMEXPR_NUM_THREADS NUMEXPR_MAX_THREADS VECLIB_MAXIMUM_THREADS"
).split()
_SWITCHES = ("OMP_DYNAMIC", "MKL_DYNAMIC")
_SHOWN = 3  # differences of a lock


def of_lock(lock: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with the lock in force, as `capture.lock.describe` found it."""
    if lock["lock"] is None:
        what = "no file pins the versions that are installed"
        return [found("lock-missing", None, None, what, "pip freeze --all > requirements.lock")]
    if lock["matches"]:
        return []
    shown = "; ".join(lock["differences"][:_SHOWN])
    more = "; ..." if lock["differ"] > _SHOWN else ""
    remedy = f"install what {lock['lock']} says, or lock anew"
    return [found("lock-mismatch", lock["lock"], None, f"the environment differs from it: {shown}{more}", remedy)]


def of_files(large: Sequence[Gap]) -> list[Finding]:
    """Return what is too large to be kept with the code; the capture's own words have the remedy behind a colon."""
    parts = [(gap.what, *gap.reason.rpartition(": taken for data; ")) for gap in large]
    return [found("large-files", what, None, f"not kept: {why}", remedy) for what, why, _, remedy in parts]


def of_threads(
    asked: int | None,
    threads: int,
    settled: Mapping[str, str],
    named: bool,
    environment: Mapping[str, str],
    file: str | None,
) -> list[Finding]:
    """Return what of the count of threads is left to the machine, or to the variables of a shell.

    ``threads`` is the count that a run would take, ``settled`` the variables that it would set; ``named`` says that
    something else than the machine decides where nothing is asked for.
    """
    wanted = "threads: N in the experiment file" if file is not None else "--threads N"
    if asked is None and not named:
        what = f"the count of threads is this machine's: {threads}"
        return [found("threads-from-machine", file, None, what, wanted.replace("N", str(threads)))]
    findings = []
    for name in (*_COUNTS, *_SWITCHES):
        value = environment.get(name)
        if value is None or (settled.get(name) == value and (asked is not None or name in _SWITCHES)):
            continue
        if asked is not None and value == str(asked):
            continue
        said = "decides, and nothing else does" if asked is None else f"says otherwise than {asked} threads"
        findings.append(
            found("thread-variable", None, None, f"{name}={value} of your shell {said}", _unset(name, wanted))
        )
    return findings


def _unset(name: str, wanted: str) -> str:
    return f"unset {name}; {wanted}"
