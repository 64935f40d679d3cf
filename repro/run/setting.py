"""What a run is started with: its environment, its program, and the Python that this brings about."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from repro.capture import interpreter
from repro.run import profiles, request
from repro.run.request import Request


class Setting(NamedTuple):
    """Profile and variables settled, the words to start, the Python that will run, whether it may start unsealed."""

    settings: profiles.Settings
    env: dict[str, str]
    command: list[str]
    python: interpreter.Interpreter | None
    early: bool


def settle(asked: Request, environment: Mapping[str, str] | None, overrides: Mapping[str, str | None]) -> Setting:
    """Return the setting of a run, from the user's environment (ours unless given) and what overrides it.

    Raises:
        UsageError: when the program is not there.
        ConfigError: when a variable makes the profile's promise void.
    """
    base = request.child_environment(environment if environment is not None else os.environ)
    settings = profiles.settle(asked.profile, base, asked.threads, asked.command or ())
    changed: dict[str, str | None] = {**base, **settings.variables, **overrides}
    env = {name: value for name, value in changed.items() if value is not None}
    if asked.entry is not None:
        env["REPRO_WORKER"] = "1"
        return Setting(settings, env, [sys.executable, "-m", "repro.worker"], interpreter.own(), True)
    words = list(asked.command or [])
    program = interpreter.locate(words[0], env.get("PATH"), asked.working_folder)
    if not interpreter.is_python(words[0]):
        default = interpreter.default_program(env)
        python = None if default is None else interpreter.of_program(default, env)
        return Setting(settings, env, [program, *words[1:]], python, False)
    python = interpreter.of_program(program, env)
    return Setting(
        settings, env, [program, *words[1:]], python, python.hooked and not interpreter.skips_site(words[1:])
    )
