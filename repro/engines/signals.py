"""What is sent to a supervisor: passed on to its job in the order in which it came; it never ends the supervisor."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from repro.engines.output import Channel

#: What a terminal sends goes to the whole process group, as it does there; the rest to the first process alone.
_OF_A_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_OF_A_SENDER = (
    *(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM),
    *(signal.SIGPROF, signal.SIGXCPU, signal.SIGIO, signal.SIGPWR),
)
#: A run that one of these was passed on to was told to end.
ENDING = frozenset({*_OF_A_TERMINAL, signal.SIGTERM})
_TAKEN = (*_OF_A_TERMINAL, *_OF_A_SENDER, signal.SIGTSTP, signal.SIGWINCH)
_MOST = 1 << 10


class Relay:
    """Takes signals over from `begin` to `end`; what we were told to ignore (``nohup``) is left alone.

    What comes before `aim` is ``waiting`` for the job, what comes when its first process is over is ``late``; what
    the job was sent is ``forwarded``. Python calls its handlers by the numbers of the signals, so the order is that of
    the bytes that the kernel's calls leave in a pipe.
    """

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.forwarded: list[int] = []
        self.late: list[int] = []
        self._before: dict[int, Any] = {}
        self._queue: deque[int] = deque()
        self._is_busy = self._is_over = False
        self._called: Counter[int] = Counter()
        self._read: set[int] = set()
        self._pipe: tuple[int, int] | None = None
        self._wakeup_before = -1
        self._group: int | None = None
        self._first: int | None = None
        self._channels: Sequence[Channel] = ()
        self._patience: float | None = None
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Take the signals over."""
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in _TAKEN:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._arrived)

    def aim(self, first: int, channels: Sequence[Channel], patience: float | None) -> None:
        """Pass signals on to a process and its group from here, first what is waiting.

        So many seconds (``patience``) after it was told to end the group is killed.
        """
        self._channels, self._patience = channels, patience
        self._first = open_process(first)
        self._queue.extendleft(reversed(self.waiting))
        self.waiting.clear()
        self._group = first
        self._work()

    def over(self) -> None:
        """Send nothing more: the first process is gone, and its number may be another's."""
        self._group = None
        if self._timer is not None:
            self._timer.cancel()
        if self._first is not None:
            os.close(self._first)
            self._first = None
        self._channels = ()
        self._is_over = True

    def end(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            for descriptor in self._pipe:
                os.close(descriptor)
            self._pipe = None

    def wait(self) -> None:
        """Return when the first process has ended, known by its descriptor where there is one.

        The kernel may give a signal to any of our threads: one that waits for a process alone would not be woken.
        """
        if self._first is None or self._pipe is None:
            return
        poll = select.poll()
        for descriptor in (self._first, self._pipe[0]):
            poll.register(descriptor, select.POLLIN)
        while all(found != self._first for found, _ in poll.poll()):
            self._take_in()
            self._work()

    def _arrived(self, number: int, _frame: Any) -> None:
        """Heed a signal. Its byte may be there before this is called for it, or after."""
        self._take_in()
        if number in self._read:
            self._read.discard(number)
        else:
            self._queue.append(number)
            self._called[number] += 1
        self._work()

    def _take_in(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for byte in os.read(self._pipe[0], _MOST) if self._pipe is not None else b"":
                if self._called[byte]:
                    self._called[byte] -= 1
                elif byte in self._before:
                    self._queue.append(byte)
                    self._read.add(byte)

    def _work(self) -> None:
        """Do what is in the queue, in order: a handler may be called within another."""
        if self._is_busy:
            return
        self._is_busy = True
        try:
            while self._queue:
                self._take(self._queue.popleft())
        finally:
            self._is_busy = False

    def _take(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._stop()
        elif number == signal.SIGWINCH:
            self._resize()
        elif self._is_over or has_ended(self._first):
            self.late.append(number)
        elif self._group is None:
            self.waiting.append(number)
        else:
            self._pass_on(self._group, number)

    def _pass_on(self, group: int, number: int) -> None:
        self.forwarded.append(number)
        if self._patience is not None and self._timer is None and number in ENDING:
            self._timer = threading.Timer(self._patience, send_group, (group, signal.SIGKILL))
            self._timer.daemon = True
            self._timer.start()
        if number in _OF_A_TERMINAL:
            send_group(group, number)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(group, number)

    def _stop(self) -> None:
        """Stop with the job, and go on with it: a group in a session of its own does not heed SIGTSTP."""
        if self._group is not None:
            send_group(self._group, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._group is not None:
            send_group(self._group, signal.SIGCONT)

    def _resize(self) -> None:
        for channel in self._channels:
            channel.resize()
        if self._group is not None:
            send_group(self._group, signal.SIGWINCH)


def send_group(group: int, number: int) -> bool:
    """Send a signal to a process group; say whether there is one that can be sent it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def open_process(pid: int) -> int | None:
    """Return a descriptor that stands for a process and never for a later one of its number; None where none is had."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def has_ended(process: int | None) -> bool:
    """Say whether a process is known to have ended, by its descriptor, waited for or not."""
    if process is None:
        return False
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))
