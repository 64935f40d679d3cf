"""A template: a process that has torch loaded and forks one warm worker after the other, each for a job of its own.

It runs no user code, never enters a parallel region, does not touch a GPU, and has one thread when it forks. What is
forked goes on as a cold worker does that has just imported torch: in a session of its own, with its own folder, output
and variables, and waiting for the seal. The supervisor's side is `repro.engines.warm`.
"""

from __future__ import annotations

import array
import ctypes
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from repro.base.process import die_with_parent

_MOST = 1 << 16
_LOADED = ("torch._dynamo", "repro.worker.trail", "repro.worker.loaders", "repro.worker.checkpoint")
_LOADED_BY_HOOK = ("determinism", "modules", "redirect", "seeding", "tensorboard", "watch")


def run(descriptor: int, known: Collection[str], work: Callable[[], int], own: Callable[[], Sequence[str]]) -> NoReturn:
    """Be a template that takes requests from a socket; in each worker do ``work``, and end.

    ``known`` are the modules that a cold worker has; ``own`` names the folders of the user's code.
    """
    begin = _serve(descriptor, {name.partition(".")[0] for name in known})
    loaded = frozenset(sys.modules)

    def worker() -> int:
        begin()
        return work()

    _leave(worker, lambda: _take_apart(own(), loaded))


def _serve(descriptor: int, known: Collection[str]) -> Callable[[], None]:
    """Fork a worker for each request; return in each, and there alone: what makes it one.

    The first message names further modules to load. The answer has the names that are loaded beyond those that a cold
    worker has, each with its file: user code may have modules of the same names.
    """
    control = socket.socket(fileno=descriptor)
    asked = json.loads(control.recv(_MOST))
    moved = _load(asked["modules"])
    added = {name.partition(".")[0] for name in sys.modules}.difference(known)
    spoilt = _settle()
    os.chdir("/")  # where we stood is removed once we are ready
    origins = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(added)}
    control.send(json.dumps({"added": origins, "threads": _threads(), "moved": moved or spoilt}).encode())
    place = _variable("REPRO_JOB")
    while True:
        request, descriptors = _receive(control)
        if request is None:
            os._exit(0)
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            control.send(json.dumps({"error": error.errno}).encode())
        if pid == 0:
            return lambda: _become(request, descriptors, control, me, place, asked["stand"])
        for number in descriptors:
            os.close(number)
        if pid > 0:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            control.send(json.dumps({"status": status}).encode())


def _load(modules: Sequence[str]) -> bool:
    """Import what a first step and the hooks import, and the libraries that are asked for.

    Return whether these did what a template must not do: drew from a global generator, or began to use a GPU.
    """
    import numpy as np
    import torch

    for name in (*_LOADED, *(f"repro.worker.{name}" for name in _LOADED_BY_HOOK)):
        importlib.import_module(name)
    before = _generators(np, torch)
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112  (the worker says so, where it is the user's line that imports it)
            continue
    return _generators(np, torch) != before or bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _generators(np: Any, torch: Any) -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()


def _settle() -> bool:
    """Let libraries end the threads that they end before a fork, and put all that is loaded out of the collector's way.

    What the collector does not look at is not written to either, and stays shared. What torch would take apart of its
    own libraries at exit ends with the process: 25 ms. Return whether what is forked could not use a GPU any more.
    """
    for found in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        if getattr((found.peek() or (None, None))[1], "__module__", "") == "torch.library":
            found.atexit = False
    pid = os.fork()
    if pid == 0:
        os._exit(int(sys.modules["torch"].cuda._is_in_bad_fork()))
    spoilt = os.waitpid(pid, 0)[1] != 0
    gc.collect()
    gc.freeze()
    return spoilt


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _receive(control: socket.socket) -> tuple[Any, list[int]]:
    """Return one request and its descriptors; None when the supervisor is gone."""
    size = socket.CMSG_LEN(3 * array.array("i").itemsize)
    data, ancillary, _, _ = control.recvmsg(_MOST, size)
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content)
    return (json.loads(data) if data else None), found.tolist()


def _become(
    request: Any,
    descriptors: Sequence[int],
    control: socket.socket,
    template: int,
    place: tuple[int, int],
    stand: str,
) -> None:
    """Make this process the worker of one job, as its supervisor would have started a cold one.

    It tells its id once it leads a group of its own, to which signals can be sent.
    """
    die_with_parent()
    if os.getppid() != template:
        os._exit(1)
    os.setsid()
    control.send(json.dumps({"pid": os.getpid()}).encode())
    control.close()
    out, err, gate = descriptors
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    folder, cwd = request["folder"], request["cwd"]
    os.chdir(cwd)
    _tell(folder, place)
    os.environ["REPRO_JOB"] = folder
    os.environ["REPRO_GATE"] = str(gate)
    sys.argv[1:] = [folder]
    sys.orig_argv[-2:] = [folder]
    sys.path[:] = [_moved(entry, stand, cwd) for entry in sys.path]


def _moved(entry: str, stand: str, cwd: str) -> str:
    """Return an entry of ``sys.path`` as it is in the job's folder: relative ones were taken from where we stood."""
    is_relative = entry == stand or entry.startswith(stand + os.sep)
    return cwd + entry[len(stand) :] if is_relative else entry


def _variable(name: str) -> tuple[int, int]:
    """Return where the value of a variable lies that this process was started with: its address and length."""
    fields = open("/proc/self/stat", "rb").read().rpartition(b")")[2].split()  # noqa: SIM115
    start = int(fields[47])  # proc(5): env_start is field 50, and the first two come before the bracket
    content = open("/proc/self/environ", "rb").read()  # noqa: SIM115
    before, mark, after = (b"\0" + content).partition(b"\0" + name.encode() + b"=")
    return start + len(before) + len(mark) - 1, after.index(b"\0")


def _tell(folder: str, place: tuple[int, int]) -> None:
    """Let /proc/PID/environ have this job's folder: by it the processes of a job are found that outlive all others."""
    address, length = place
    value = os.fsencode(folder)
    if len(value) == length:
        ctypes.memmove(address, value, length)


def _leave(work: Callable[[], int], take_apart: Callable[[], None]) -> NoReturn:
    """Do ``work`` and end this process as Python does, less taking apart what was loaded before the fork: 1 to 2 s.

    ``take_apart`` does that with the user's modules, so that what they hold is closed.
    """
    code, interrupted = _outcome(work)
    import atexit
    import threading

    for end in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        try:
            end()
        except BaseException:
            sys.excepthook(*sys.exc_info())
    whole = _flush_standard()
    take_apart()
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF if whole and _flush_standard() else 120)


def _outcome(work: Callable[[], int]) -> tuple[int, bool]:
    """Return the exit code that Python makes of how ``work`` ends, and whether it was interrupted."""
    try:
        return work(), False
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0, False
        print(error.code, file=sys.stderr)
        return 1, False
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        return 1, isinstance(error, KeyboardInterrupt)


def _flush_standard() -> bool:
    found = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            found = False
    return found


def _take_apart(own: Sequence[str], loaded: Collection[str]) -> None:
    """Let go of the user's modules, last first, and write out what is still in the buffers of open files."""
    import io

    folders = tuple(folder.rstrip(os.sep) + os.sep for folder in own)
    new = [(name, module) for name, module in sys.modules.items() if name not in loaded]
    mine = [name for name, module in new if str(getattr(module, "__file__", "")).startswith(folders)]
    modules = [weakref.ref(sys.modules.pop(name)) for name in reversed(mine)]
    gc.collect()
    for reference in modules:
        module = reference()
        if module is not None:  # something holds on to it
            vars(module).clear()
    gc.collect()
    for found in gc.get_objects():
        if issubclass(type(found), io.IOBase):
            try:
                found.flush()
            except Exception:  # noqa: S112  (closed, or read only)
                continue
