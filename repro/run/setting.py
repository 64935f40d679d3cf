"""What a run is started with: its environment, its program, and the Python that this brings about."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from repro.capture import interpreter
from repro.environments.elsewhere import Elsewhere
from repro.run import profiles, request
from repro.run.request import Request


class Setting(NamedTuple):
    """Profile and variables settled, the words to start, the Python that will run, whether it may start unsealed."""

    settings: profiles.Settings
    env: dict[str, str]
    command: list[str]
    python: interpreter.Interpreter | None
    early: bool


def settle(
    asked: Request,
    environment: Mapping[str, str] | None,
    overrides: Mapping[str, str | None],
    elsewhere: Elsewhere | None = None,
) -> Setting:
    """Return the setting of a run, from the user's environment (ours unless given) and what overrides it.

    ``elsewhere`` is the environment whose Python it gets, where that is not the current one.

    Raises:
        UsageError: when the program is not there.
        ConfigError: when a variable makes the profile's promise void.
    """
    base = request.child_environment(environment if environment is not None else os.environ)
    settings = profiles.settle(asked.profile, base, asked.threads, asked.command or ())
    changed: dict[str, str | None] = {**base, **settings.variables, **overrides}
    env = {name: value for name, value in changed.items() if value is not None}
    if elsewhere is not None and elsewhere.prefix is not None:
        return _elsewhere(asked, settings, env, elsewhere)
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


def _elsewhere(asked: Request, settings: profiles.Settings, env: dict[str, str], place: Elsewhere) -> Setting:
    """Return the setting of a run that has its Python in another environment."""
    env = place.variables(env)
    program = f"{place.prefix}/bin/python"
    is_image = place.python is not None
    if asked.entry is not None:
        env["REPRO_WORKER"] = "1"
        python = place.python or interpreter.of_program(program, env)
        return Setting(settings, env, [program, "-m", "repro.worker"], python, not is_image)
    words = list(asked.command or [])
    words[0] = place.program(words[0], asked.working_folder)
    if is_image:
        return Setting(settings, env, words, place.python, False)
    words[0] = interpreter.locate(words[0], env.get("PATH"), asked.working_folder)
    is_python = interpreter.is_python(words[0])
    python = interpreter.of_program(words[0] if is_python else program, env)
    early = is_python and python.hooked and not interpreter.skips_site(words[1:])
    return Setting(settings, env, words, python, early)
