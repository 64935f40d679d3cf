"""Where the imported modules came from, looked at when a process ends."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from repro.base import caches
from repro.worker.job import Job
from repro.worker.watch import BLIND

#: This package, which watches the replay and is no part of it.
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/"


def origins(job: Job) -> dict[str, Any]:
    """Return the modules that came out of the user's own tree on a replay (live), and readers that cannot be watched.

    On a replay every module whose file lies in a captured source must have come from the materialised tree; compiled
    ones in a cache have not.
    """
    live = []
    if job.protect:
        places = tuple(live + "/" for live, _ in job.live)
        own = (job.root + "/", *(copy + "/" for _, copy in job.live))
        found = ((name, path) for name, path in _files() if path.startswith(places) and not path.startswith(own))
        cached = caches.named(os.environ, (*places, *own))
        live = [[name, path] for name, path in found if cached.of(path) is None]
    return {"live": live, "blind": [name for name in BLIND if name in sys.modules]}


def _files() -> Iterator[tuple[str, str]]:
    """Yield name and file of every module of the user's; Python takes the program's own file away before it ends."""
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None) or (sys.argv[:1] or [""])[0] * (name == "__main__")
        if isinstance(path, str) and not path.startswith(_HERE) and "/site-packages/" not in path:
            yield name, path


def imported_from(path: str) -> Any:
    """Import a file of the user's by its name and return the module; its folder is in ``sys.path`` already.

    Raises:
        ImportError: where another module has the name.
    """
    module = importlib.import_module(os.path.splitext(os.path.basename(path))[0])
    if os.path.realpath(module.__file__ or "") != os.path.realpath(path):
        msg = f"{os.path.basename(path)} has the name of a module that is imported already: {module.__file__}"
        raise ImportError(msg)
    return module
