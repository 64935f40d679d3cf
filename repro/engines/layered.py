"""Run as a script, before a job's command: lay an overlay over folders for this process and its children alone.

It takes one argument, the JSON of a `Plan`, and the command's words. It imports nothing but the standard library: it
runs without site-packages. What it cannot do it says in one line on standard error and ends with `REFUSED`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from typing import Any

REFUSED = 125
_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(plan_text: str, words: list[str]) -> None:
    """Mount what the plan says and become the command; without one, take away and put back what the plan names."""
    plan = json.loads(plan_text)
    parent = os.getppid()
    options = _enter()
    kept = [(_by_handle(path), path) for path in plan["kept"]]
    layers = [(place, [*map(_by_handle, (place, upper, work))]) for place, upper, work in plan["layers"]]
    for place, (lower, upper, work) in layers:  # all were opened before one is covered by another
        _mount("overlay", place, "overlay", 0, f"{options},lowerdir={lower},upperdir={upper},workdir={work}")
    for source, path in kept:
        _mount(source, path, None, _MS_BIND, None)
    if not words:
        _arrange(plan)
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.chdir(plan["cwd"])  # the folder that we stand in lies below the overlay
        os.execvpe(words[0], words, os.environ)  # noqa: S606  (it is the run's own command)


def _enter() -> str:
    """Go into mounts of our own, as root or as a user of a namespace of our own; return the overlay's options."""
    user, group = os.geteuid(), os.getegid()
    if _LIBC.unshare(_CLONE_NEWNS) == 0:
        options = "redirect_dir=on"
    else:
        _check(_LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "neither root's mounts nor user namespaces are allowed")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as handle:
                handle.write(text)
        options = "userxattr"
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)
    return options


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(_LIBC.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"no {kind or 'bind'} mount at {target}")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _by_handle(path: str) -> str:
    """Return a name of a folder that needs no escapes, and that means the same once something is mounted over it."""
    return f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY)}"


def _is_ours(path: str, devices: set[int]) -> bool:
    """Say whether a change at a path changes a layer and nothing else: a link may have come to lead elsewhere."""
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.stat(folder).st_dev in devices


def _arrange(plan: dict[str, Any]) -> None:
    devices = {os.stat(place).st_dev for place, _, _ in plan["layers"]}
    for path in plan["absent"]:
        if _is_ours(path, devices):
            _take_away(path)
    for path in plan["folders"]:
        if _is_ours(path, devices) and not os.path.lexists(path):
            os.makedirs(path)
    for source, path in plan["back"]:
        if _is_ours(path, devices):
            _put_back(source, path)


def _take_away(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _put_back(source: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(path):
        os.unlink(path)
    shutil.copyfile(source, path)  # of a file that is there it keeps the mode


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2:])
    except OSError as problem:
        sys.stderr.write(f"{problem.strerror or problem}\n")
        sys.exit(REFUSED)
