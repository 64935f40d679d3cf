"""What several commands share: the store, JSON on standard output, words on standard error."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import click
import msgspec

from repro.capture import root
from repro.errors import UsageError
from repro.store.store import Store

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output, nothing else."
)
#: Signals within so many seconds are one wish to end.
_AT_ONCE = 1.0
#: So long is a line of what only one of two runs has.
_OUTLINE = 80
_LONE = re.compile("[\ud800-\udfff]")
#: Control characters but the tabulator, line separators, and those that turn the direction of writing (UAX 9).
_HIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
VERDICT_STYLE = {"IDENTICAL": "green", "DIFFERENT": "red", "NOT_REPLAYABLE": "yellow"}
STATE_STYLE = {
    "COMPLETED": "green",
    "FAILED": "red",
    "TIMED_OUT": "red",
    "LOST": "red",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
}


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this command as Ctrl-C does, in order; what ``nohup`` ignores is left alone.

    Of several that come at once the first ends it, and the others do not break off how it ends.
    """
    last = -_AT_ONCE

    def interrupt(_number: int, _frame: Any) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > _AT_ONCE:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, interrupt)


def store_folder(project: Path) -> Path:
    """Return where the store of a project is: REPRO_STORE, else ``.repro`` at its root."""
    named = os.environ.get("REPRO_STORE")
    return Path(named).expanduser().resolve() if named else project / ".repro"


def open_store() -> Store:
    """Return the store of the project that the user stands in; it need not exist.

    Raises:
        UsageError, StoreError: when there is no project here, or the store is of another format.
    """
    named = os.environ.get("REPRO_STORE")
    store = Store(store_folder(Path() if named else root.find(Path.cwd())))
    store.check_format()
    return store


def emit(value: Any) -> None:
    """Print one JSON document; numbers that JSON lacks become text ("NaN"), names that are no UTF-8 escapes."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    click.echo(_LONE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def plain(value: Any) -> Any:
    """Return a value as plain lists, mappings, text and finite numbers."""
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value).replace("nan", "NaN").replace("inf", "Infinity")
    if isinstance(value, Path):
        return str(value)
    return value


def visible(text: str) -> str:
    """Return one line of text in which nothing moves the cursor, ends the line or turns the direction of writing.

    Names and values come from scripts, and from records of somebody else's: on a screen they are text and nothing more.
    """
    return _HIDDEN.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Return a text of several lines with nothing else in it that a terminal obeys."""
    return "\n".join(map(visible, text.split("\n")))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def echo(text: Any = "", *, nl: bool = True, **style: Any) -> None:
    """Print a line for people, on standard output."""
    click.secho(visible(str(text)), nl=nl, color=colour(), **style)


def say(text: str = "", **style: Any) -> None:
    """Print a line for people, on standard error."""
    click.secho(visible(text), err=True, color=colour(), **style)


def number(value: Any) -> str:
    """Return a metric's value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


#: A digest, of which the beginning is enough for a person.
_DIGEST = re.compile(r"\b((?:sha256|git|xxh3|keyed):[0-9a-f]{12})[0-9a-f]+")


def shown(value: Any) -> str:
    """Return one side of a difference: a command as it is typed, nothing as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return shlex.join(value)
    return _DIGEST.sub(r"\1", str(value))


def change(before: Any, after: Any) -> str:
    """Return both sides of a difference; of what only one has, and has parts, the beginning in a short line."""
    if bool(before) != bool(after):
        before, after = (_outline(side) if isinstance(side, (dict, list)) else side for side in (before, after))
    return f"{shown(before)} -> {shown(after)}"


def _outline(value: Any) -> Any:
    """Return the parts of a mapping, or of a list of them, in words, cut where they are many."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        return value
    words = "; ".join(", ".join(f"{name} {shown(item)}" for name, item in part.items()) for part in parts)
    return textwrap.shorten(words, _OUTLINE, placeholder=" ...") or None


def short(text: str | None, length: int = 12) -> str:
    """Return the beginning of a digest without its tag."""
    return "none" if text is None else text.partition(":")[2][:length]


def count(number: int, what: str) -> str:
    """Return a number of things: ``1 step``, ``1,200 steps``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def is_terminal() -> bool:
    """Say whether somebody looks at standard output."""
    return sys.stdout.isatty()


def colour() -> bool | None:
    """Return False where colours are not wanted (NO_COLOR, a dumb terminal), None where click may decide."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def table(
    head: list[str],
    rows: list[list[str]],
    *,
    wrapped: Container[str] = (),
    style: Callable[[int, str], str | None] = lambda _column, _text: None,
) -> None:
    """Print a table on standard output; ``style`` gives the colour of a cell.

    In a terminal the columns named ``wrapped`` are broken into lines where there is little room; elsewhere a row is a
    line, and nothing is cut.
    """
    rows = [[visible(text) for text in row] for row in rows]
    if not is_terminal():
        _plain_table([head, *rows])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        found.add_column(name, no_wrap=name not in wrapped, overflow="fold")
    for row in rows:
        found.add_row(*(Text(text, style=style(column, text) or "") for column, text in enumerate(row)))
    Console(highlight=False).print(found)


def _plain_table(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        echo("  ".join(map(str.ljust, row, widths)).rstrip())


def needs_runs(store: Store) -> None:
    """Raise UsageError when a store that does not exist is asked for runs."""
    if not store.exists():
        raise UsageError(f"there is no store in {store.folder}", hint="repro run -- python train.py makes one")


_MOST = 12


def print_list(title: str, lines: list[str]) -> None:
    """Print lines under a title on standard output, at most a dozen of them; nothing where there are none."""
    if lines:
        echo(f"  {title}:")
        for line in lines[:_MOST]:
            echo(f"    {line}")
        if len(lines) > _MOST:
            echo(f"    ... and {len(lines) - _MOST} more (--json has all)")
