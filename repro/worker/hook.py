"""The start of every interpreter of a run: called by ``repro_hook.pth`` when ``REPRO_JOB`` is set.

It waits until the record is sealed, then sets up seeding, determinism, watching and the trail; each waits for the
module that it is about, so that a script which never imports torch never pays for it. It must not fail.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from repro.base import caches
from repro.worker.job import Job, Lines

#: Exit code of an interpreter whose supervisor died before the record was sealed: user code never ran.
NOT_SEALED = 125

_SIGKILL = 9

_job: Job | None = None
_observed: Lines | None = None
_watcher: Any = None
_trail: Any = None
_streams: list[Any] = []


def here() -> tuple[Job | None, Lines | None]:
    """Return the job that this process belongs to, and its observed list."""
    return _job, _observed


def follow(stream: Any) -> None:
    """Let the trail's generators column take in one more stream."""
    _streams.append(stream)
    if _trail is not None:
        _trail.generators.follow(stream)


def trail() -> Any:
    """Return the trail of this process, None where there is none."""
    return _trail


def wait_for_seal() -> None:
    """Return when the record is sealed; end the process at once if its supervisor is gone before."""
    gate = os.environ.pop("REPRO_GATE", None)
    if gate is None:
        return
    word = os.read(int(gate), 1)
    os.close(int(gate))
    if word != b"!":
        os._exit(NOT_SEALED)


def start(folder: str) -> Job:
    """Set everything up for this process and return its job."""
    global _job, _observed, _watcher
    _job = Job.read(folder)
    os.environ.update(caches.moved(os.environ, _job.live))
    _observed = Lines(folder, "observed")
    _observed.event("process", **_process())
    from repro.worker import determinism, imports, redirect, seeding, tensorboard
    from repro.worker.watch import Watcher

    imports.on_failure.append(_cannot_watch)
    redirect.install(_job)
    watcher = _watcher = Watcher(_job, _observed)
    watcher.install()
    seeding.install(_job, _observed)
    determinism.install(_job, _observed)
    determinism.watch_loaders(_observed)
    tensorboard.install()
    if _job.trace is not None:
        _trace(_job)
    imports.when_imported("torch", lambda torch: _on_torch(torch, watcher.note_write))
    if _job.cut and hasattr(sys.stdout, "reconfigure"):  # how far it has come shows in its output
        sys.stdout.reconfigure(line_buffering=True)
    _watch_children(_observed)
    atexit.register(_at_exit)
    os.register_at_fork(after_in_child=_forked)
    return _job


def _watch_children(observed: Lines) -> None:
    """Tell of children that were killed: who killed them, it was not the recipe."""
    original = os.waitpid

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        """Wait for a child, as `os.waitpid` does."""
        found = original(pid, options)
        if found[0] and os.WIFSIGNALED(found[1]) and os.WTERMSIG(found[1]) == _SIGKILL:
            observed.event("killed", pid=found[0])
        return found

    setattr(os, "waitpid", waitpid)  # noqa: B010  (a module, to the type checker)


def _trace(job: Job) -> None:
    """Log what comes from outside of torch and, once torch is imported, its operators."""
    from repro.worker import imports, outside, tracing

    log = tracing.Log(job)
    outside.install(log)
    imports.when_imported("torch", lambda _torch: _trace_operators(log))


def _trace_operators(log: Any) -> None:
    from repro.worker.operators import Operators

    Operators(log).install()


def step_aside() -> None:
    """Let the user's own module of the name `repro` be found first, as under plain python; ours is where there is none.

    Called at the end of the line in ``repro_hook.pth``, once the import of this module is over.
    """
    if _job is not None:
        sys.modules.pop("repro", None)


def _process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "executable": sys.executable,
        "version": sys.version.split()[0],
        "prefix": sys.prefix,
        "flags": {"isolated": sys.flags.isolated, "optimize": sys.flags.optimize, "no_site": sys.flags.no_site},
        "rank": os.environ.get("RANK"),
    }


def _forked() -> None:
    if _observed is not None:
        _observed.event("process", forked=True, **_process())


def _on_torch(torch: ModuleType, note_write: Callable[[Any], None]) -> None:
    _note_saves(torch, note_write)
    if _job is None or _observed is None or not _job.trail.get("enabled", True):
        return
    from repro.worker import loaders
    from repro.worker.trail import Trail

    global _trail
    if _job.values is None:
        _trail = Trail(_job, _observed)
    else:
        from repro.worker.values import Keeping

        _trail = Keeping(_job, _observed)
    for stream in _streams:
        _trail.generators.follow(stream)
    _trail.install()
    loaders.install(_job)


def _note_saves(torch: ModuleType, note_write: Callable[[Any], None]) -> None:
    """Tell of the files that torch.save writes: it opens them in C++, out of the audit hook's sight."""
    import functools

    save = torch.save

    @functools.wraps(save)
    def noted(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, (str, os.PathLike)):
            note_write(f)
        save(obj, f, *args, **kwargs)

    setattr(torch, "save", noted)  # noqa: B010  (a module, to the type checker)
    torch.serialization.save = noted


def _cannot_watch(module: str, error: Exception) -> None:
    if _observed is not None:
        _observed.event("trail-failure", error=f"{module} could not be watched: {type(error).__name__}: {error}"[:300])


def _at_exit() -> None:
    try:
        _look_at_end()
    except Exception as error:
        _cannot_watch("the end of a process", error)


def _look_at_end() -> None:
    if _observed is None or _job is None:
        return
    from repro.worker import modules

    missing = [] if _watcher is None else _watcher.missing()
    _observed.event("modules", pid=os.getpid(), missing=missing, **modules.origins(_job))
    torch = sys.modules.get("torch")
    if torch is not None:
        from repro.worker.determinism import numerics

        _observed.event("numerics", at="exit", pid=os.getpid(), state=numerics(torch))


def _complain(error: BaseException) -> None:
    message = f"repro: cannot watch this process ({type(error).__name__}: {error}); it goes on without\n"
    os.write(2, message.encode())


_folder = os.environ.get("REPRO_JOB")
if _folder and "REPRO_WORKER" not in os.environ:
    wait_for_seal()
    try:
        start(_folder)
    except Exception as error:
        _complain(error)
