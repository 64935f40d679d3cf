"""From the world to a record: everything that is captured before user code runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from repro import __version__
from repro.base import clock
from repro.capture import beside, git, hardware, head, lock, packages, program, providers, variables
from repro.capture import code as code_capture
from repro.capture import data as data_capture
from repro.capture.interpreter import Interpreter
from repro.capture.walk import Layout
from repro.environments import wheels
from repro.environments.elsewhere import Elsewhere
from repro.errors import CaptureError, UsageError
from repro.record import devices
from repro.record.values import Gap, Recipe, Record, recipe_digest
from repro.run import trees
from repro.run.profiles import PROMISES, Settings
from repro.run.request import Request
from repro.store.store import Store


class Captured(NamedTuple):
    """What was captured for one run, and what only its own supervisor needs to know of it."""

    record: Record
    code: code_capture.Code
    sources: dict[str, Path]
    outputs: Mapping[str, code_capture.Stat | None]
    environment: packages.Environment


class Given(NamedTuple):
    """Code that was captured earlier: what a replay, or a study, runs instead of the project as it is now.

    ``record`` is what was captured with it, where nothing is to be captured any more; ``stats`` are those of the code.
    """

    tree: str
    sources: dict[str, str]
    command: list[str] | None
    replay_of: str | None
    project: dict[str, Any]
    study: str | None = None
    record: Record | None = None
    stats: Mapping[str, code_capture.Stat] | None = None
    elsewhere: Elsewhere | None = None


def capture(
    request: Request,
    store: Store,
    run_id: str,
    python: Interpreter | None,
    settings: Settings,
    environment: Mapping[str, str],
    outputs: Mapping[str, code_capture.Stat | None],
    given: Given | None,
) -> Captured:
    """Capture everything and return the record, not yet sealed.

    Raises:
        CaptureError, ConfigError: when something of the recipe cannot be captured.
    """
    if given is not None and given.record is not None:
        return _again(given.record, given, request, store, run_id, environment)
    cache = data_capture.StatCache(store.cache / "files.json")
    with ThreadPoolExecutor(2, thread_name_prefix="capture") as pool:
        installed = pool.submit(_installed, python, store, given)
        circumstances = pool.submit(providers.collect, _providers(request, python, installed.result))
        code = _code(request, store, outputs, given)
        data = data_capture.declared(request.data, request.working_folder, cache)
        found = installed.result()
        if given is None:
            sources = trees.editables(found, request, store, code.gaps)
            codes = trees.capture(sources, store)
            beyond = trees.beyond(request, store, code, environment, sources)
            sources |= {name: path for name, (path, _) in beyond.items()}
            codes |= {name: source for name, (_, source) in beyond.items()}
        else:
            sources = trees.given_places(given.sources, given.project)
            codes = trees.given_codes(given.sources, given.project, request, store)
        if request.program is not None and given is None:
            sources[program.NAME] = store.folder / "program"
            codes[program.NAME] = trees.of_program(request.program, store)
        kept = _head(request, store) if given is None else {}
        facts = circumstances.result()
    if kept:
        facts["head"] = kept
    cache.save()
    argv, redacted = words_of(request, environment)
    recipe = Recipe(
        code=code.tree,
        sources={name: found_code.tree for name, found_code in codes.items()},
        cwd=request.cwd,
        command=argv if given is None else given.command,
        entry=request.entry,
        params=request.params,
        interpreter="none" if python is None else python.version,
        packages=found.packages(request.root, sources),
        data=data,
        seeds=request.seed_plan,
        profile=request.profile,
        settings=settings.flags,
        threads=settings.threads,
        budget=request.budget,
        horizon=request.horizon,
        trail=request.trail,
        environment=variables.recipe(environment),
    )
    code = code._replace(stats=code.stats | trees.stats_of(sources, codes))
    gaps = [
        *code.gaps,
        *trees.gaps_of(sources, codes),
        *found.gaps,
        *settings.gaps,
        *redacted,
        *(_input_gap() if request.program is None else ()),
        *_provider_gaps(facts),
        *_trail_gap(python),
    ]
    facts["project"] = _project(request, store, sources, code, given)
    facts["environment"] = {
        "kind": "current",
        "digest": packages.environment_digest(recipe.interpreter, recipe.packages),
        "editables": found.editables(),
        "wheels": wheels.keep(found.distributions, store) if given is None or given.replay_of is None else {},
        **(given.elsewhere.facts if given is not None and given.elsewhere is not None else {}),
    }
    facts["launch"] = {
        "pythonpath": _redacted(environment.get("PYTHONPATH")),
        "patterns": request.patterns,
        "data": request.data,
        "seed_given": request.seed_given,
        "promise": PROMISES[request.profile],
        "study": None if given is None else given.study,
        "variables": variables.others(environment, store.key),
        **_visible_devices(environment),
        "python": None if python is None else {"executable": python.executable, "prefix": python.prefix},
    }
    record = Record(
        run_id=run_id,
        created=clock.now(),
        name=request.name,
        repro=__version__,
        recipe=recipe,
        recipe_digest=recipe_digest(recipe),
        circumstances=facts,
        gaps=gaps,
        metrics=request.metrics,
        replay_of=None if given is None else given.replay_of,
    )
    return Captured(record, code, sources, outputs, found)


def _again(
    record: Record, given: Given, request: Request, store: Store, run_id: str, environment: Mapping[str, str]
) -> Captured:
    """Return the record of one more run of what ``record`` captured: its own are seeds, parameters, place and data."""
    recipe = recipe_of(record.recipe, request, environment)
    if request.data:
        cache = data_capture.StatCache(store.cache / "files.json")
        data = data_capture.declared(request.data, request.working_folder, cache)
        cache.save()
        recipe = msgspec.structs.replace(recipe, data=data)
    facts = record.circumstances
    place = {"place": str(request.place), "folder": _stood(request, given)}
    launch = {
        "seed_given": request.seed_given,
        "study": given.study,
        "variables": variables.others(environment, store.key),
        **_visible_devices(environment),
    }
    again = msgspec.structs.replace(
        record,
        run_id=run_id,
        created=clock.now(),
        name=request.name,
        recipe=recipe,
        recipe_digest=recipe_digest(recipe),
        circumstances=facts | {"project": facts["project"] | place, "launch": facts["launch"] | launch},
        metrics=request.metrics,
    )
    code = code_capture.Code(given.tree, Layout([], {}, complete=True), dict(given.stats or {}), [], [])
    return Captured(again, code, {}, {}, packages.Environment([], []))


def recipe_of(recipe: Recipe, request: Request, environment: Mapping[str, str]) -> Recipe:
    """Return the recipe of a request in a project and setting that were captured with another one of its kind."""
    words, _ = words_of(request, environment)
    return msgspec.structs.replace(
        recipe,
        seeds=request.seed_plan,
        command=words,
        params=request.params,
        budget=request.budget,
        horizon=request.horizon,
    )


def given_stats(given: Given, request: Request, store: Store) -> dict[str, code_capture.Stat]:
    """Return the stat of each file of captured code where it was materialised."""
    code = code_capture.stats(request.place, store.code.paths(given.tree))
    places = trees.given_places(given.sources, given.project)
    return code | trees.stats_of(places, trees.given_codes(given.sources, given.project, request, store))


def _visible_devices(environment: Mapping[str, str]) -> dict[str, str]:
    """Return which GPUs the run was given, where that was said."""
    return {"visible_devices": environment[devices.VARIABLE]} if devices.VARIABLE in environment else {}


def _installed(python: Interpreter | None, store: Store, given: Given | None) -> packages.Environment:
    if given is not None and given.elsewhere is not None and given.elsewhere.installed is not None:
        return given.elsewhere.installed
    if python is None:
        return packages.Environment([], [Gap(what="packages", reason="no Python was found on PATH")])
    return packages.scan(python.path, store.cache / "packages.json")


def _code(
    request: Request, store: Store, outputs: Mapping[str, code_capture.Stat | None], given: Given | None
) -> code_capture.Code:
    if given is not None:
        layout = Layout(given.project["folders"], {}, complete=True)
        stats = code_capture.stats(request.place, store.code.paths(given.tree))
        return code_capture.Code(given.tree, layout, stats, [], given.project["left_out"])
    base = request.working_folder
    declared = [os.path.relpath(base / where, request.root) for where in request.data.values()]
    return code_capture.capture(request.root, store.folder, store.code, outputs=outputs, data=declared)


def _redacted(text: str | None) -> str | None:
    return None if text is None else variables.redact_text(text)


def words_of(request: Request, environment: Mapping[str, str]) -> tuple[list[str] | None, list[Gap]]:
    """Return a command as the recipe has it, redacted, and the gaps that this leaves."""
    if request.command is None:
        return None, []
    argv, places = variables.redact_arguments(request.command, environment)
    return argv, [Gap(what=f"argument {place}", reason="redacted: it looks like a secret") for place in places]


def _input_gap() -> list[Gap]:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return []
    if stat.S_ISFIFO(mode) or stat.S_ISREG(mode):
        return [Gap(what="standard input", reason="what a run reads there is not kept; a replay reads nothing")]
    return []


def _trail_gap(python: Interpreter | None) -> list[Gap]:
    if python is None or python.hooked:
        return []
    reason = f"no trail: repro is not installed for {python.executable}"
    return [Gap(what="trail", reason=reason)]


def _provider_gaps(facts: Mapping[str, Mapping[str, Any]]) -> list[Gap]:
    return [Gap(what=name, reason=str(fact["error"])) for name, fact in facts.items() if "error" in fact]


def _providers(
    request: Request, python: Interpreter | None, installed: Callable[[], packages.Environment]
) -> dict[str, Callable[[], Any]]:
    return {
        "host": hardware.host,
        "processor": hardware.processor,
        "memory": hardware.memory,
        "gpus": hardware.gpus,
        "git": lambda: git.describe(request.root),
        "lock": lambda: lock.describe(
            request.root, installed().distributions, "" if python is None else python.version
        ),
        "origins": lambda: _origins(installed()),
    }


def _head(request: Request, store: Store) -> dict[str, Any]:
    """Keep the commit of the user's repository; that it cannot be kept stops no run, and is told by its replay."""
    try:
        return head.keep(request.root, store.code)
    except (OSError, ValueError, subprocess.SubprocessError, CaptureError):
        return {}


def _origins(found: packages.Environment) -> dict[str, Any]:
    """Return build tags and origins (PEP 610) of the distributions that have one."""
    return {
        item.name: {"version": item.version, "build": item.build, "origin": _clean(item.origin)}
        for item in found.distributions
        if item.origin is not None or item.build is not None
    }


def _clean(origin: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if origin is None else {**origin, "url": variables.redact_url(str(origin.get("url", "")))}


def _stood(request: Request, given: Given | None) -> str:
    """Return where the run begins in the user's own project, also where it is made in a folder of its own."""
    if request.cwd is not None:
        return str(request.root / request.cwd)
    return str(request.working_folder) if given is None else str(given.project["folder"])


def _project(
    request: Request, store: Store, sources: Mapping[str, Path], code: code_capture.Code, given: Given | None
) -> dict[str, Any]:
    return {
        "root": str(request.root),
        "place": str(request.place),
        "folder": _stood(request, given),
        "store": str(store.folder),
        "sources": {name: str(path) for name, path in sources.items()},
        "folders": code.layout.folders,
        "beside": _beside(request, store, code) if given is None else given.project.get("beside"),
        "left_out": code.left_out,
        "user": os.environ.get("USER", ""),
        "supervisor": sys.executable,
    }


def _beside(request: Request, store: Store, code: code_capture.Code) -> str | None:
    """Keep a listing of what lies beside the code; None where that is too much."""
    found = beside.listing(request.root, code.layout.folders, code.stats) if code.layout.complete else None
    if found is None:
        return None
    return store.objects.add(found) if found else beside.EMPTY


def check_arguments(request: Request) -> None:
    """Raise UsageError for a command without words."""
    if request.entry is None and not request.command:
        raise UsageError("nothing to run", hint="repro run experiment.yaml, or repro run -- python train.py")
