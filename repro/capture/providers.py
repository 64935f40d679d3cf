"""Circumstances: each provider has a time limit and a line of its own in the record, and none stops a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

LIMIT = 5.0


def collect(providers: Mapping[str, Callable[[], Any]], limit: float = LIMIT) -> dict[str, dict[str, Any]]:
    """Ask all providers at once; return for each ``{"ms", "value"}``, or ``{"ms", "error"}`` with the reason.

    One that has not answered after ``limit`` seconds is left behind, in a thread that does not hold up the process.
    """
    answers: dict[str, dict[str, Any]] = {}
    threads = {}
    start = time.monotonic()
    for name, provider in providers.items():
        thread = threading.Thread(target=_ask, args=(name, provider, answers), daemon=True, name=f"provider-{name}")
        thread.start()
        threads[name] = thread
    for name, thread in threads.items():
        thread.join(max(0.0, start + limit - time.monotonic()))
        if name not in answers:
            answers[name] = {"ms": round(limit * 1000), "error": f"no answer within {limit:g} s"}
    return {name: answers[name] for name in providers}


def _ask(name: str, provider: Callable[[], Any], answers: dict[str, dict[str, Any]]) -> None:
    start = time.perf_counter()
    try:
        found = {"value": provider()}
    except Exception as error:  # noqa: BLE001  (a provider may fail in any way; the record says how)
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    answers.setdefault(name, {"ms": round((time.perf_counter() - start) * 1000), **found})
