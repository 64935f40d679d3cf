"""What is to be run: a command or an experiment, resolved to one value that everything else works from."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from repro.capture import interpreter, program, root
from repro.errors import UsageError
from repro.record import seeds
from repro.record.values import MetricSpec, Profile, SeedPlan, TrailSchedule
from repro.run import config, patterns

#: A share of the data is counted in these.
MILLION = 1_000_000
_MOST_DIGITS = 100


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run to be made.

    ``root`` is the user's project; ``place`` is where the run happens: the same, or a materialised folder.
    ``cwd`` is relative to the root, None where the user stands outside it (then ``outside`` says where).
    ``epochs`` is the budget of a run that ends before its horizon, ``data_share`` that of one that trains on a part
    of its data, in millionths. ``program`` is what the command reads from standard input as its code.
    """

    root: Path
    place: Path
    cwd: str | None
    outside: Path | None
    name: str
    command: list[str] | None
    entry: str | None
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, MetricSpec] = field(default_factory=dict)
    patterns: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    seed_given: bool = False
    replicates: dict[str, int] = field(default_factory=dict)
    profile: Profile = "warn"
    threads: int | None = None
    trail: TrailSchedule = field(default_factory=TrailSchedule)
    epochs: int | None = None
    data_share: int | None = None
    program: bytes | None = None

    @property
    def working_folder(self) -> Path:
        """The folder in which the run's first process starts."""
        if self.cwd is None:
            return self.outside or self.place
        return self.place / self.cwd

    @property
    def seed_plan(self) -> SeedPlan:
        """The run's seed plan."""
        return SeedPlan(master=str(self.seed), replicates=self.replicates)

    @property
    def budget(self) -> dict[str, int]:
        """The run's budget: so many ``epochs`` where it ends before its horizon, else the horizon; ``data``."""
        found = self.horizon if self.epochs is None else {"epochs": self.epochs}
        return found if self.data_share is None else {**found, "data": self.data_share}

    @property
    def horizon(self) -> dict[str, int]:
        """The length that schedules are laid out for: the parameter ``epochs``, where there is one."""
        epochs = self.params.get("epochs")
        return {"epochs": epochs} if isinstance(epochs, int) and not isinstance(epochs, bool) else {}


class Choices(NamedTuple):
    """What is chosen beside the words: changed parameters, patterns of metrics, and what None leaves to the file."""

    changes: Sequence[str] = ()
    patterns: Sequence[str] = ()
    seed: int | None = None
    profile: Profile | None = None
    threads: int | None = None


def of_experiment(path: Path, choices: Choices) -> Request:
    """Return the request that an experiment file makes. Raises ConfigError, ProjectRootError."""
    found = config.load(path, choices.changes)
    file = found.file
    project = root.find(found.folder)
    master = choices.seed if choices.seed is not None else file.seed or 0
    cwd = found.folder.relative_to(project).as_posix()
    return Request(
        root=project,
        place=project,
        cwd=cwd,
        outside=None,
        name=file.name,
        command=config.command_of(found, integer_seed(master)) if file.command else None,
        entry=None if file.entry is None else os.path.normpath(f"{cwd}/{file.entry}"),
        params=found.params,
        metrics=file.metrics,
        patterns=patterns.parse(choices.patterns),
        data=file.data,
        seed=master,
        seed_given=choices.seed is not None or file.seed is not None,
        profile=choices.profile or file.determinism,
        threads=choices.threads if choices.threads is not None else file.threads,
    )


def of_command(command: Sequence[str], choices: Choices) -> Request:
    """Return the request that a command makes. Raises UsageError, ProjectRootError."""
    here = Path.cwd()
    script = interpreter.script_of(command[1:]) if interpreter.is_python(command[0]) else command[0]
    known = script is not None and (here / script).is_file()
    if interpreter.is_python(command[0]) and script is not None and not known and not (here / script).is_dir():
        raise UsageError(
            f"there is no script {script} in {here}", hint=config.nearest(script, [p.name for p in here.glob("*.py")])
        )
    project = root.find(here, here / script if known and script is not None else None)
    inside = here.is_relative_to(project)
    master = choices.seed or 0
    words = [_seeded(word, master) for word in command]
    return Request(
        root=project,
        place=project,
        cwd=here.relative_to(project).as_posix() if inside else None,
        outside=None if inside else here,
        name=Path(script).name if known and script is not None else Path(command[0]).name,
        command=words,
        entry=None,
        patterns=patterns.parse(choices.patterns),
        seed=master,
        seed_given=choices.seed is not None,
        profile=choices.profile or "warn",
        threads=choices.threads,
        program=program.on_standard_input(command),
    )


def _seeded(word: str, master: int) -> str:
    """Return a word with ``{seed}`` replaced where that is all of it or all of an option's value: never inside code."""
    before, mark, after = word.rpartition("{seed}")
    return before + str(integer_seed(master)) if mark and not after and before[-1:] in ("", "=") else word


def of_words(words: Sequence[str], choices: Choices) -> Request:
    """Return the request that a command line's words make: an experiment file, or a command.

    Raises:
        UsageError, ConfigError, ProjectRootError: for words that make none.
    """
    if not words:
        raise UsageError("nothing to run", hint="repro run experiment.yaml, or repro run -- python train.py")
    if words[0].endswith((".yaml", ".yml")):
        if len(words) > 1:
            said = f"an experiment takes no further words: {' '.join(words[1:])}"
            raise UsageError(said, hint="--set NAME=VALUE changes a parameter")
        return of_experiment(Path(words[0]), choices)
    if choices.changes:
        raise UsageError("--set changes a parameter of an experiment file; a command takes its own arguments")
    if words[0].endswith(".py") and shutil.which(words[0]) is None:
        raise UsageError(f"{words[0]} is no program", hint=f"repro run -- python {' '.join(words)}")
    return of_command(words, choices)


def integer_seed(master: int) -> int:
    """Return what ``{seed}`` stands for: 32 bits drawn from the replicate's own stream."""
    return seeds.integer(master, "command", 32)


def is_seed(text: str) -> bool:
    """Say whether a text is a whole number from 0 on, of 100 digits at most."""
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def parse_seed(text: str | None) -> int | None:
    """Return the master seed that ``--seed`` names: a number, or 64 random bits for ``random``.

    Raises:
        UsageError: for anything else.
    """
    if text is None:
        return None
    if text == "random":
        return int.from_bytes(os.urandom(8), "big")
    if not is_seed(text):
        raise UsageError(f"--seed {text}: a whole number from 0 on is expected, or `random`")
    return int(text)


def describe(request: Request) -> str:
    """Return the run as a person would type it."""
    return request.entry or shlex.join(request.command or [])


def child_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a run's processes get: the user's whole, with this environment's programs in front.

    `repro` lives in the experiment's own environment. Where none is activated, `python` is the one beside `repro`.
    """
    env = dict(base)
    if not env.get("VIRTUAL_ENV") and not env.get("CONDA_PREFIX") and sys.prefix != sys.base_prefix:
        programs = os.path.join(sys.prefix, "bin")
        parts = env.get("PATH", os.defpath).split(os.pathsep)
        if programs not in parts:
            env["PATH"] = os.pathsep.join([programs, *parts])
    return env
