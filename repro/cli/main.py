"""The entry point: finds the command, and turns errors into words and exit codes in one place."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback

import click

from repro import __version__
from repro.errors import ReproError, UsageError

#: Each command's module and the line that `repro --help` has for it.
COMMANDS = {
    "run": "Run an experiment or any command, recorded before it trains.",
    "replay": "Earn a run again: same bits? If not, where it came apart.",
    "ls": "List the runs.",
    "show": "Show a run: record, what it observed, outcome.",
    "log": "Show a run's metrics.",
    "diff": "Show how two runs differ.",
    "verify": "Check that no sealed file was changed.",
    "sign": "Sign the journal with an SSH key.",
    "schema": "Print the JSON Schema of an experiment file.",
}
_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    sys.exit(_guarded(arguments))


def _guarded(arguments: list[str] | None) -> int:
    try:
        code = int(cli.main(arguments, prog_name="repro", standalone_mode=False) or 0)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _say(*_of_click(error), error.exit_code)
    except ReproError as error:
        return _say(str(error), error.hint, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", None, 130)
    except Exception as error:  # noqa: BLE001  (the one place where everything ends)
        return _other(error)
    return code


def _of_click(error: click.ClickException) -> tuple[str, str | None]:
    """Return what click found wrong in our form, and a hint."""
    message, _, close = error.format_message().rstrip(".?").partition(" Did you mean ")
    message = message[:1].lower() + message[1:].rstrip(".?")
    context = getattr(error, "ctx", None)
    more = [f"did you mean {close}?"] if close else []
    if context is not None:
        more.append(f"{context.command_path} --help")
        if isinstance(error, click.NoSuchOption) and context.info_name == "run":
            more.insert(0, "options of a command of yours come after --: repro run -- python train.py --lr 0.1;")
    return message, " ".join(more) or None


def _other(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads on: the flush at exit must not complain
        return 141
    if isinstance(error, OSError) and error.errno in _DISK:
        hint = "free some space, or make the store writable"
        return _say(f"{error.filename or 'the disk'}: {error.strerror}", hint, 5)
    traceback.print_exception(error)
    return _say("this is a fault of repro itself", "please report it with the lines above", 1)


def _say(message: str, hint: str | None, code: int) -> int:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    if hint:
        click.secho("hint: ", fg="cyan", nl=False, err=True)
        click.echo(hint, err=True)
    return code
