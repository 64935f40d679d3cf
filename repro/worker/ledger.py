"""An append-only file written through memory: a row a step costs a copy, where a system call costs 4 to 17 us.

(Measured between two training steps, when neither the kernel's code nor ours is in the caches.) What was written is in
the kernel's hands at once, and is there after ``kill -9`` as after a `write`. Blocks are reserved before they are
mapped, so that a full disk is an error at that point and never a bus error. The zeros that are left at the end are cut
off before the file is sealed (`repro.run.trails.settle`).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from repro.worker.memory import WHOLE

_FIRST = 1 << 16
_MOST = 1 << 22
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Ledger:
    """A new file that grows by whole entries. No descriptor is kept, which a script could close.

    It begins with so many bytes of another file, where ``begin`` names them.
    """

    def __init__(self, path: str, begin: tuple[str, int] | None = None) -> None:
        self.path = path
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        self._address = 0  # of the part that is mapped
        self._room = 0  # its size
        self._start = 0  # its place in the file
        self._next = 0  # the next entry's place in it
        self._chunk = _FIRST
        if begin is not None:
            copy_beginning(begin[0], path, begin[1])
            self._next = begin[1]

    @property
    def size(self) -> int:
        """The bytes of all entries."""
        return self._start + self._next

    def append(self, data: bytes) -> int:
        """Append an entry and return its place in the file; the last 16 bytes are written last. Raises OSError."""
        place = self.size
        first = self.reserve(len(data))
        last = first + len(data)
        WHOLE[first : last - 16] = data[:-16]
        WHOLE[last - 16 : last] = data[-16:]
        return place

    def reserve(self, size: int) -> int:
        """Return the address of the next entry, of ``size`` bytes: it is zeros until the caller writes it.

        Raises OSError.
        """
        if self._next + size > self._room:
            self._grow(size)
        address = self._address + self._next
        self._next += size
        return address

    def _grow(self, size: int) -> None:
        """Map what follows the last entry, from the page that it begins in."""
        at = self._start + self._next
        start = at - at % mmap.PAGESIZE
        room = at - start + max(self._chunk, size)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, start, room)
            access = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_POPULATE
            address = _libc.mmap(None, room, *access, descriptor, start)
        finally:
            os.close(descriptor)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self.path)
        self.close()
        self._address, self._room, self._start, self._next = address, room, start, at - start
        self._chunk = min(2 * self._chunk, _MOST)

    def close(self) -> None:
        """Let go of the mapped part. A forked child that does so takes nothing from its parent."""
        if self._address:
            _libc.munmap(self._address, self._room)
        self._address = self._room = 0


def copy_beginning(source: str, target: str, size: int) -> None:
    """Append the first ``size`` bytes of a file to another. Raises OSError, also where there are fewer."""
    with open(source, "rb") as old, open(target, "ab") as new:
        while size and (data := old.read(min(_MOST, size))):
            new.write(data)
            size -= len(data)
    if size:
        raise OSError(errno.EIO, f"it ends {size} bytes too early", source)
