"""``python -m repro.worker JOBDIR``: runs an experiment's entry, ``train.py:train``, as the child of a supervisor."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from repro.worker.job import AVERAGE


def main() -> int:
    """Import torch while the parent captures, and do the job; as a template, fork a worker for each job that comes."""
    del sys.path[0]  # the folder we stand in: no module of the user's may be imported before the seal
    os.environ.pop("REPRO_WORKER", None)  # children of this process start through the hook
    from repro.worker import imports

    with imports.without_collector():
        import torch  # noqa: F401

    from repro.worker import hook  # noqa: F401

    if sys.argv[1] == "--template":
        known = frozenset(sys.modules)
        from repro.worker import template

        template.run(int(sys.argv[2]), known, _work, _own)
    return _work()


def _own() -> list[str]:
    """Return the folders that hold user code of this process's job."""
    from repro.worker import hook

    job, _ = hook.here()
    return [] if job is None else [job.root, *(copy for _, copy in job.live)]


def _work() -> int:
    """Wait for the seal, call the entry, and return the exit code."""
    from repro.worker import hook, session

    hook.wait_for_seal()
    job = hook.start(sys.argv[1])
    hook.step_aside()
    assert job.entry is not None  # noqa: S101  (the supervisor starts this module for nothing else)
    if job.entry == AVERAGE:
        from repro.worker import averaging

        return _call(lambda: averaging.average(session.current()))
    path, _, name = job.entry.rpartition(":")
    path = os.path.join(job.root, path)
    sys.argv = [path]
    sys.path.insert(0, os.path.dirname(path))
    return _call(lambda: _load(path, name)(session.current()))


def _call(entry: Callable[[], object]) -> int:
    """Call the entry and return the exit code."""
    try:
        entry()
    except Exception:
        _show()
        return 1
    return 0


def _load(path: str, name: str) -> Any:
    from repro.worker.modules import imported_from

    module = imported_from(path)
    if not callable(getattr(module, name, None)):
        msg = f"{path} has no function {name!r}; expected: def {name}(run: repro.Run) -> None"
        raise TypeError(msg)
    return getattr(module, name)


def _show() -> None:
    """Print the traceback from the user's own frames on."""
    kind, error, trace = sys.exc_info()
    first = trace
    while first is not None and os.path.dirname(os.path.abspath(__file__)) in first.tb_frame.f_code.co_filename:
        first = first.tb_next
    traceback.print_exception(kind, error, first or trace)


if __name__ == "__main__":
    sys.exit(main())
