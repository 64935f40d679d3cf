"""The environment that a replay runs in: the current one, the recorded one, or some of its packages over ours."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base import clock, digest
from repro.capture import variables
from repro.engines import bubblewrap, container, local
from repro.environments import cache, image, overlay, recorded
from repro.environments.elsewhere import Elsewhere
from repro.errors import EnvironmentMismatchError, UsageError
from repro.record import devices
from repro.record.values import Attachment, Outcome, Record
from repro.replay.plan import Plan
from repro.replay.restored import Restored
from repro.run import setting
from repro.run.observed import Observed
from repro.run.request import Request
from repro.store.store import Store

Say = Callable[[str], None]
#: Variables of this machine that mean nothing in a container, beside those of the recipe.
_OURS = frozenset(
    "PATH HOME SHELL USER LOGNAME HOSTNAME TMPDIR TEMP TMP MAIL EDITOR PAGER VIRTUAL_ENV PYTHONHOME CUDA_HOME".split()
)
_OURS_BEGIN = ("PIP_", "UV_", "XDG_", "DOCKER_", "CONTAINER", "CONDA_", "LD_", "SSL_", "GIT_", "PODMAN_", "CURL_")
_PASSED = (
    "REPRO_JOB",
    "REPRO_WORKER",
    "PYTHONPATH",
    "PYTHONDONTWRITEBYTECODE",
    devices.VARIABLE,
    *variables.OFFLINE,
)
_SYSTEM = ("/usr/", "/etc/", "/proc/", "/sys/", "/dev/", "/lib", "/bin/", "/sbin/", "/opt/repro/")


@dataclass(frozen=True)
class Options:
    """How the environment of a replay is come by: ``engine`` and ``base`` are those of an image."""

    allow_python: bool = False
    hermetic: bool = False
    engine: str | None = None
    base: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a replay runs: its environment, None for the current one, what starts it, and further live places."""

    elsewhere: Elsewhere | None = None
    launch: Callable[..., Any] = local.launch
    live: tuple[tuple[str, str], ...] = ()

    def denied(self, seen: Observed, restored: Restored, folder: Path) -> list[str]:
        """Say what a run wanted and did not get; nothing outside a sandbox."""
        if not isinstance(self.launch, bubblewrap.Sandbox):
            return []
        found = []
        count = len(seen.network) or self.launch.dropped
        if count:
            names = ", ".join(dict.fromkeys(seen.network))
            found.append(
                f"wanted the network: {count} connection{'' if count == 1 else 's'}" + (f" ({names})" if names else "")
            )
        own = (str(restored.place), str(folder), *bubblewrap.EMPTY, *(copy for _, copy in restored.live))
        found += [f"wanted to write {path}" for path in [*seen.refused, *seen.writes] if not path.startswith(own)]
        return list(dict.fromkeys(found))


class Surroundings:
    """What a replay needs to find its place: the run, the plan and the folders."""

    def __init__(self, store: Store, record: Record, outcome: Outcome | None, restored: Restored, folder: Path) -> None:
        self.store, self.record, self.outcome = store, record, outcome
        self.restored, self.folder = restored, folder

    @contextlib.contextmanager
    def prepared(
        self, plan: Plan, request: Request, options: Options, env: dict[str, str], say: Say
    ) -> Iterator[Place]:
        """Yield the place that a plan asks for; what it has is held meanwhile.

        Raises:
            EnvironmentMismatchError: when it cannot be had here.
        """
        if plan.environment == "container":
            if options.hermetic:
                raise UsageError("--hermetic is for runs on this machine: a container has no network either")
            yield self._container(plan, options, say)
            return
        with self._elsewhere(plan, request, options, env, say) as there:
            yield Place(there, self._sandbox(there) if options.hermetic else local.launch)

    @contextlib.contextmanager
    def _elsewhere(
        self, plan: Plan, request: Request, options: Options, env: dict[str, str], say: Say
    ) -> Iterator[Elsewhere | None]:
        if plan.environment == "current" and not plan.packages:
            yield None
            return
        source = recorded.source(self.store, self.record, say)
        python = recorded.find_python(recorded.original(self.store, self.record), allow_other=options.allow_python)
        built = cache.get(self.store, source, python, say)
        facts = {"lock": source.lock_digest, "built": built.digest, "repro": built.wheel}
        try:
            if plan.environment == "locked":
                yield Elsewhere({"kind": "locked", **facts}, str(built.folder))
                return
            base = setting.settle(request, env, plan.variables).python
            assert base is not None  # noqa: S101  (without a Python there were no packages to differ)
            place = overlay.make(self.folder / "overlay", base, built.folder, plan.packages)
            yield Elsewhere({"kind": "overlay", "packages": sorted(plan.packages), **facts}, str(place))
        finally:
            built.release()

    def _sandbox(self, there: Elsewhere | None) -> bubblewrap.Sandbox:
        import repro

        ours = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.dirname(repro.__file__)), *sys.path]
        launch = self.record.circumstances["launch"].get("python") or {}
        ours += [str(launch.get("prefix", "")), "" if there is None else str(there.prefix)]
        read = [*self._read(), str(self.store.folder), *(place for place in ours if os.path.isdir(place))]
        return bubblewrap.Sandbox(bubblewrap.find(), read, [str(self.folder)])

    def _container(self, plan: Plan, options: Options, say: Say) -> Place:
        engine = container.choose(options.engine)
        built = image.build(
            self.store, self.record, engine, base=options.base, allow_python=options.allow_python, say=say
        )
        note(self.store, self.record, built)
        if not built.reproducible:
            say(f"repro: {engine.name} builds no image twice alike; Podman does")
        python, installed = image.look(self.store, engine, built.image)
        facts = self.record.circumstances
        limits = facts.get("memory", {}).get("value") or {}
        usable = (facts.get("processor", {}).get("value") or {}).get("usable")
        box = container.Box(
            built.image.id,
            read=self._read(),
            write=[str(self.folder)],
            passed=lambda now: self._passed(plan, now),
            memory=limits.get("limit"),
            cpus=usable if usable is not None and usable < (os.cpu_count() or 1) else None,
            gpus=bool((facts.get("gpus", {}).get("value") or {}).get("devices")),
            settings={"HOME": "/tmp"},  # noqa: S108  (the container's own)
        )
        there = Elsewhere(image.facts(built), image.PREFIX, python, installed)
        return Place(there, container.Launch(engine, box), self._live())

    def _live(self) -> tuple[tuple[str, str], ...]:
        """Return the places of the recorded code in an image with those that it has in the replay."""
        copies = dict(self.restored.live)
        return tuple((place, copies[live]) for live, place in image.places(self.record).items() if live in copies)

    def _read(self) -> list[str]:
        """Return the folders that a run reads: the project, the sources, and those of its other inputs."""
        roots = [live for live, _ in self.restored.live if os.path.isdir(live)]
        inputs = [item.path for item in (self.outcome.inputs if self.outcome is not None else [])]
        data = self.record.circumstances["launch"]["data"].values()
        others = {os.path.dirname(path) for path in [*inputs, *data] if os.path.isabs(path)}
        found = sorted({*roots, *(path for path in others if os.path.isdir(path) and not path.startswith(_SYSTEM))})
        return [path for path in found if not any(path != top and path.startswith(top + os.sep) for top in found)]

    def _passed(self, plan: Plan, env: Mapping[str, str]) -> list[str]:
        """Return the variables that a container gets: of recipe and plan, and the user's own if as they were."""
        then = self.record.circumstances["launch"]["variables"]
        own = [
            name
            for name, value in env.items()
            if name not in _OURS
            and not name.startswith(_OURS_BEGIN)
            and then.get(name) == variables.keyed(value, self.store.key)
        ]
        return sorted({*variables.recipe(env), *own, *(name for name in (*_PASSED, *plan.variables) if name in env)})


def note(store: Store, record: Record, built: image.Built) -> None:
    """Attach to a run the image that was built of it, unless that is known."""
    record = recorded.original(store, record)
    known = [item.body.get("image") for item in store.attachments(record.run_id) if item.kind == "image"]
    if built.image.id in known:
        return
    body = {**image.facts(built), "tag": built.tag}
    about = digest.of_file(store.run_folder(record.run_id) / "record.json")
    store.attach(Attachment(kind="image", about=about, run_id=record.run_id, created=clock.now(), body=body))


def obstacle(store: Store, record: Record, say: Say) -> str | None:
    """Build the recorded environment, or say why it cannot be had."""
    try:
        source = recorded.source(store, record, say)
        python = recorded.find_python(recorded.original(store, record), allow_other=False)
        cache.get(store, source, python, say).release()
    except EnvironmentMismatchError as error:
        return str(error)
    return None
