"""The entry point: finds the command, and turns errors into words and exit codes in one place."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from repro import __version__
from repro.cli import common, streams
from repro.errors import ReproError, UsageError

#: Each command's module and the line that `repro --help` has for it.
COMMANDS = {
    "run": "Run an experiment or any command, recorded before it trains.",
    "doctor": "Say what will not hold, before a long run.",
    "replay": "Earn a run again: same bits? If not, where it came apart.",
    "diagnose": "Say why two runs of the same thing differ: operator, seed, draw, order.",
    "seeds": "Run under several seeds: how much of the number is luck.",
    "tune": "Search: every trial a record, every decision logged.",
    "study": "Look at a study of tune; verify its decisions.",
    "average": "Make one model of several runs: ensembles, soups, EMA, SWA.",
    "ls": "List the runs.",
    "show": "Show a run: record, what it observed, outcome.",
    "log": "Show a run's metrics.",
    "diff": "Show how two runs differ.",
    "recover": "Settle the runs whose supervisor is gone.",
    "lock": "Pin the environment, with hashes.",
    "verify": "Check that no sealed file was changed.",
    "docker": "Rebuild a run's environment as an image, and run it there.",
    "gc": "Give back the room that environments take.",
    "sign": "Sign the journal with an SSH key.",
    "schema": "Print the JSON Schema of an experiment file.",
}
_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)
_MANY = (errno.EMFILE, errno.ENFILE)


class _Commands(click.Group):
    """Imports a command's module only when that command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"repro.cli.{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        formatter.write("\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from repro.run.config import nearest

            raise UsageError(f"there is no command {args[0]!r}", hint=nearest(args[0], COMMANDS)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="repro", message="%(prog)s %(version)s")
def cli() -> None:
    """Run PyTorch experiments so that every number can be earned again.

    RUN is a run id, a unique prefix of one, or last, last~1, best:val_acc.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    streams.settle()
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str] | None) -> int:
    try:
        streams.check_room()
        code = int(cli.main(arguments, prog_name="repro", standalone_mode=False, color=common.colour()) or 0)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001  (the one place where everything ends)
        return next(end(error) for kind, end in _ENDS if isinstance(error, kind))
    return code


def _help(error: Any) -> int:
    error.show()
    return int(error.exit_code)


def _misused(error: Any) -> int:
    """Say what click found wrong in our form."""
    message, _, close = error.format_message().rstrip(".?").partition(" Did you mean ")
    message = message[:1].lower() + message[1:].rstrip(".")
    hint = None
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"{error.ctx.command_path} --help"
        if isinstance(error, click.NoSuchOption) and error.ctx.info_name == "run":
            hint += "; options of your own command come after --"
        elif close:
            hint = f"did you mean {close}? {hint}"
    return _say(message, hint, error.exit_code)


def _failed(error: Any) -> int:
    return _say(str(error), error.hint, error.exit_code)


def _interrupted(error: Any) -> int:
    return _say(str(error.__cause__ or error) or "interrupted", None, 130)  # click has an error of its own for it


def _unread(_error: Any) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on: the flush at exit must not complain
    return 128 + signal.SIGPIPE


def _exit(error: Any) -> int:
    return _unread(error) if error.code == 1 else int(error.code or 0)  # with 1 click ends what nobody reads


def _refused(error: Any) -> int:
    if error.errno in _MANY:
        return _failed(streams.too_many_files())
    if error.errno not in _DISK:
        return _fault(error)
    if error.filename is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # standard output is full: the flush at exit must not fail again
    where = f" {error.filename}" if error.filename else ""
    return _say(f"cannot write{where}: {error.strerror}", "free some space, or make the store writable", 5)


def _fault(error: Any) -> int:
    traceback.print_exception(error)
    return _say("this is a fault of repro itself", "please report it with the lines above", 1)


#: What each kind of error comes to; the first that fits.
_ENDS: tuple[tuple[type[BaseException], Callable[[Any], int]], ...] = (
    (click.exceptions.NoArgsIsHelpError, _help),
    (click.ClickException, _misused),
    (ReproError, _failed),
    (click.Abort, _interrupted),
    (KeyboardInterrupt, _interrupted),
    (SystemExit, _exit),
    (BrokenPipeError, _unread),
    (OSError, _refused),
    (BaseException, _fault),
)


def _say(message: str, hint: str | None, code: int) -> int:
    common.say("error: ", fg="red", bold=True, nl=False)
    common.say(message)
    if hint:
        common.say("hint: ", fg="cyan", nl=False)
        common.say(hint)
    return code
