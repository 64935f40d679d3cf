"""repro: run PyTorch experiments so that every number can be earned again.

``import repro`` is light: torch, git and rich are imported only where they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.worker.session import Run, current

__all__ = ["Run", "__version__", "current"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Run", "current"):
        from repro.worker import session

        return getattr(session, name)
    msg = f"module 'repro' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
