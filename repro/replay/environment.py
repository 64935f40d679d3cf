"""The environment that a replay runs in: the current one, the recorded one, or some of its packages over ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from repro.environments import cache, overlay, recorded
from repro.environments.elsewhere import Elsewhere
from repro.errors import EnvironmentMismatchError
from repro.record.values import Record
from repro.replay.plan import Plan
from repro.run import setting
from repro.run.request import Request
from repro.store.store import Store

Say = Callable[[str], None]


@contextlib.contextmanager
def prepared(
    store: Store,
    record: Record,
    plan: Plan,
    request: Request,
    folder: Path,
    *,
    allow_python: bool,
    say: Say,
    variables: dict[str, str],
) -> Iterator[Elsewhere | None]:
    """Yield the environment that a plan asks for, None for the current one; it is held meanwhile.

    Raises:
        EnvironmentMismatchError: when it cannot be had here.
    """
    if plan.environment == "current" and not plan.packages:
        yield None
        return
    source = recorded.source(store, record, say)
    python = recorded.find_python(recorded.original(store, record), allow_other=allow_python)
    built = cache.get(store, source, python, say)
    facts = {"lock": source.lock_digest, "built": built.digest, "repro": built.wheel}
    try:
        if plan.environment == "locked":
            yield Elsewhere({"kind": "locked", **facts}, str(built.folder))
            return
        base = setting.settle(request, variables, plan.variables).python
        assert base is not None  # noqa: S101  (without a Python there were no packages to differ)
        place = overlay.make(folder / "overlay", base, built.folder, plan.packages)
        yield Elsewhere({"kind": "overlay", "packages": sorted(plan.packages), **facts}, str(place))
    finally:
        built.release()


def obstacle(store: Store, record: Record, say: Say) -> str | None:
    """Build the recorded environment, or say why it cannot be had."""
    try:
        source = recorded.source(store, record, say)
        python = recorded.find_python(recorded.original(store, record), allow_other=False)
        cache.get(store, source, python, say).release()
    except EnvironmentMismatchError as error:
        return str(error)
    return None
