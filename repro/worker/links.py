"""Links of a replay's folder to the user's files: a process that is about to write through one gets a copy instead."""

from __future__ import annotations

import contextlib
import os
from _thread import get_ident
from collections.abc import Iterator

#: As many links in a row as Linux follows.
_MOST_LINKS = 40


def own_copy(path: str, own: tuple[str, ...]) -> None:
    """Replace the link at ``path`` that leads out of the folders ``own`` (each ends in a slash) by a copy.

    A link within them stays, and the one that it leads to is seen to. A link that leads to nothing is removed: a file
    written through it would be made outside. Threads and processes that write side by side make one copy: the first
    one holds the folder, and who comes next finds a file.
    """
    link = _leading_out(path, own)
    if link is None:
        return
    with _held(os.path.dirname(link)):
        if os.path.isfile(link) and os.path.islink(link):
            _copy(link)
        elif os.path.islink(link) and not os.path.exists(link):
            os.unlink(link)


def _leading_out(path: str, own: tuple[str, ...]) -> str | None:
    """Return the first link of those that a path leads through that ends outside, and that lies in ``own`` itself."""
    for _ in range(_MOST_LINKS):
        place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not place.startswith(own) or not os.path.islink(place):
            return None
        aim = os.path.join(os.path.dirname(place), os.readlink(place))
        parent = os.path.realpath(os.path.dirname(aim)) + os.sep
        if not parent.startswith(own):
            return place
        path = aim
    return None


def _copy(link: str) -> None:
    import shutil

    temporary = os.path.join(os.path.dirname(link), f".repro-copy-{os.getpid()}-{get_ident()}")
    try:
        shutil.copy2(link, temporary)
        os.replace(temporary, link)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _held(folder: str) -> Iterator[None]:
    """Hold a folder against all that ask for it so, threads and processes alike; where that is not known, go on."""
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):  # a process that was forked meanwhile has the handle too
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
