"""Looks at a run before it is made: reads the files, the environment and the folder, and asks the rules."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import repro
from repro.base import scratch
from repro.capture import code, interpreter, lock, packages
from repro.doctor import imports, program, source, surroundings
from repro.doctor.finding import Finding, found
from repro.doctor.module import Module
from repro.run import leftovers, profiles, request, setting
from repro.run.request import Request
from repro.store.code import CodeRepository
from repro.store.store import Store


class Report(NamedTuple):
    """What was found, and the files that were read for it (relative to the root)."""

    findings: list[Finding]
    files: list[str]


def examine(asked: Request, store: Store, experiment: Path | None) -> Report:
    """Return what will not hold of a run; nothing of the user's is run, and nothing is written.

    ``experiment`` is the experiment file that the request came from, None for a command.

    Raises:
        UsageError, ConfigError, CaptureError: where the run itself could not begin.
    """
    environment = request.child_environment(os.environ)
    asked_for = setting.settle(asked, environment, {})
    python, settings = asked_for.python, asked_for.settings
    with scratch.folder("doctor") as folder:
        choice = _choice(asked, store, folder)
        scanned = None if python is None else packages.scan(python.path, folder / "packages.json")
    file = None if experiment is None else os.path.relpath(experiment.resolve(), asked.root)
    named = profiles.names_threads(asked.profile, environment, asked.command or ())
    modules, unparsable = _modules(asked, environment, python, _without_self(choice.files, asked.root))
    findings = [
        *surroundings.of_lock(
            lock.describe(
                asked.root,
                [] if scanned is None else scanned.distributions,
                "" if python is None else python.version,
            )
        ),
        *surroundings.of_files(choice.large),
        *surroundings.of_threads(asked.threads, settings.threads, settings.variables, named, environment, file),
        *unparsable,
        *source.examine(modules, switched_on=asked.profile != "off"),
    ]
    return Report(findings, [*(module.file for module in modules), *(item.file or "" for item in unparsable)])


def _choice(asked: Request, store: Store, folder: Path) -> code.Choice:
    outputs = leftovers.not_code(store, asked.root) if store.exists() else {}
    declared = [os.path.relpath(asked.working_folder / where, asked.root) for where in asked.data.values()]
    repository = CodeRepository(folder / "code.git")
    return code.choose(asked.root, store.folder, repository, outputs=outputs, data=declared)


def _without_self(files: Iterable[str], root: Path) -> set[str]:
    """Leave out `repro` itself, where its own source lies in the project: it is a circumstance."""
    own = Path(repro.__file__).resolve().parent
    inside = f"{own.relative_to(root).as_posix()}/" if own.is_relative_to(root) else None
    return {file for file in files if inside is None or not file.startswith(inside)}


def _modules(
    asked: Request, environment: dict[str, str], python: interpreter.Interpreter | None, files: set[str]
) -> tuple[list[Module], list[Finding]]:
    begun = program.of_request(asked, environment, [] if python is None else python.path, files)
    unread: list[Finding] = []

    def read(file: str) -> bytes:
        if file == program.INLINE and begun.inline is not None:
            return begun.inline.encode(errors="surrogateescape")
        try:
            return (asked.root / file).read_bytes()
        except OSError as error:
            unread.append(found("unparsable", file, None, f"it cannot be read: {error.strerror}", f"ls -l {file}"))
            return b""

    modules, unparsable = imports.follow(begun.scripts, imports.Project(files, begun.path, read))
    return modules, [*unread, *unparsable]
