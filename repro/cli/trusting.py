"""The question that comes before anything of a record from elsewhere is run: is it trusted?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from repro.cli import common
from repro.errors import UsageError
from repro.store import trust
from repro.store.store import Store

_ANSWERS: dict[str, trust.Scope] = {"r": "record", "s": "store", "k": "key"}


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--trust``, ``--trust-store`` and ``--trust-key`` to a command; it gets ``trusted``."""

    def gathered(**values: Any) -> Any:
        given = [scope for scope, name in _FLAGS.items() if values.pop(name)]
        return function(**values, trusted=given[0] if given else None)

    gathered.__name__, gathered.__doc__ = function.__name__, function.__doc__
    gathered.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for scope, name in reversed(_FLAGS.items()):
        what = {"record": "this record", "store": "the whole store", "key": "all that the key of its signature signed"}
        text = f"Trust {what[scope]}, which was not made here, from now on: its code is run."
        gathered = click.option(f"--{name.replace('_', '-')}", name, is_flag=True, help=text)(gathered)
    return gathered


_FLAGS: dict[trust.Scope, str] = {"record": "trust", "store": "trust_store", "key": "trust_key"}


def need_trust(store: Store, run_id: str, given: trust.Scope | None) -> None:
    """Return when a record is trusted, asking a user who sits at a terminal.

    Raises:
        UsageError: when it is not.
    """
    first = store.record(run_id).replay_of
    name = run_id if first is None or not store.run_folder(first).exists() else first
    if given is not None:
        trust.trust(store, name, given)
    elif not trust.is_trusted(store, name):
        trust.trust(store, name, _ask(name))


def _ask(run_id: str) -> trust.Scope:
    error = UsageError(
        f"{run_id} was not recorded here by you: its code and the packages that it names would be run on this machine",
        hint=f"repro show {run_id} and repro verify say what it is; --trust trusts it, --trust-store all of its store",
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise error
    common.say(f"repro: {error}")
    answer = click.prompt(
        "Trust this [r]ecord, its whole [s]tore, the [k]ey that signed it, or [n]othing?",
        type=click.Choice(["r", "s", "k", "n"]),
        default="n",
        show_choices=False,
        err=True,
    )
    if answer not in _ANSWERS:
        raise error
    return _ANSWERS[answer]
