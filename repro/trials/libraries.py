"""Which installed libraries an experiment imports whatever happens: a template may have them loaded before."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: Known to be inert while they are imported: they draw nothing, start nothing, and read neither folder nor arguments.
INERT = frozenset({"numpy", "pandas", "scipy", "sklearn", "torchvision"})


def imported(script: Path) -> list[str]:
    """Return the modules of such libraries that a script and the modules beside it import in their outermost lines.

    A name that a file or folder beside the script has as well is the user's, and none of these.
    """
    found: dict[str, None] = {}
    pending, seen = [script], {script}
    while pending:
        for name in _imports(pending.pop()):
            top = name.partition(".")[0]
            beside = [path for path in (script.parent / f"{top}.py", script.parent / top) if path.exists()]
            if not beside and top in INERT:
                found[name] = None
            files = [path for path in (*beside, *(path / "__init__.py" for path in beside)) if path.is_file()]
            pending += [path for path in files if path not in seen]
            seen.update(files)
    return list(found)


def _imports(path: Path) -> Iterator[str]:
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # the run says so
        return
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield node.module
