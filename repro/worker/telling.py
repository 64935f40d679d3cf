"""What a traced process tells of seeds, draws and entropy, in the log's words (`tracing.Log`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from repro.worker.tracing import Log, digest, users_line

_PLAIN = (int, float, str, bytes, bool)
_MOST_SHOWN = 60
#: In place of a seed: it was given the whole state of another.
STATE = object()


class Teller:
    """Writes to the log what was seeded, what was drawn, and what came from the operating system."""

    def __init__(self, log: Log) -> None:
        self.log = log
        #: What numpy took from the operating system, with the line that asked for it.
        self.taken: dict[int, Any] = {}
        #: Whether what is called now is told of by who calls it.
        self.silent = False

    def silently(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what takes entropy that is told of otherwise, or is of no account."""
        before, self.silent = self.silent, True
        try:
            return action(*args, **kwargs)
        finally:
            self.silent = before

    def seeded(self, stream: str, name: str, given: Any, state: str, at: Any = None, **more: Any) -> None:
        """Tell that a generator was seeded: with what was ``given`` (None: by the system), to which ``state``.

        ``at`` is the line that is to be named, where it is another than the one that calls.
        """
        shown = None if given is None or given is STATE else repr(given)[:_MOST_SHOWN]
        found = at or users_line(sys._getframe(), outside=True)
        if found is not None:
            self.log.note(stream, "seed", name, found, v=digest(state), shown=shown, entropy=given is None, **more)

    def drawn(self, stream: str, name: str, state: Callable[[], str], result: Any) -> None:
        """Tell of a draw: the value, and of what has none the state after it."""
        self.log.outside(stream, "draw", name, v=_value(result) or digest(state()))

    def took(self, value: int, frame: FrameType) -> None:
        """Take note of what numpy took from the operating system for the code at ``frame``."""
        found = self.taken[value] = users_line(frame, outside=True)
        if found is not None and not self.silent:
            self.log.note("entropy", "source", "numpy, without a seed,", found, v=digest(str(value)))

    def read(self, name: str, result: Any) -> None:
        """Tell that the user's own code read the operating system's entropy."""
        found = None if self.silent else users_line(sys._getframe(), outside=True)
        if found is not None and found[2]:
            self.log.note("entropy", "source", name, found, v=digest(repr(result)))

    def given(self, args: Any, kwargs: Any) -> Any:
        """Return the seed of a call, None where there is none."""
        return next((value for value in (*args, *kwargs.values()) if value is not None), None)


def _value(result: Any) -> str | None:
    """Return the digest of what was drawn, None where it has no value of its own."""
    if isinstance(result, _PLAIN):
        return digest(repr(result))
    if hasattr(result, "tobytes") and str(getattr(result, "dtype", "")) != "object":
        return digest(result.tobytes())
    return None


def state_of(bit_generator: Any) -> str:
    """Return the state of one of numpy's bit generators."""
    state = bit_generator.state
    inner = state["state"]
    if isinstance(inner, dict) and hasattr(inner.get("key"), "tobytes"):
        return f"{digest(inner['key'].tobytes())} {inner.get('pos')} {state.get('has_gauss')} {state.get('gauss')}"
    return repr(state)
