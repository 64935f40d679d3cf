"""Run a job's processes in a container, with Podman or Docker: images built, containers started and taken away."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from repro.engines import local
from repro.errors import EnvironmentMismatchError, UsageError

KNOWN = ("podman", "docker")
_SIGNALLED = 128
_LAST_SIGNAL = 64
_SHOWN = 600
_MOST_FILES, _MOST_PROCESSES = 1 << 20, 10_000


class Image(NamedTuple):
    """An image on this machine: its id, the digests of its layers, and its labels."""

    id: str
    layers: list[str]
    labels: dict[str, str]
    digests: list[str]


@dataclass(frozen=True)
class Box:
    """How a container is made: what it sees of the disk and of the variables, as whom it runs, and its limits."""

    image: str
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    passed: Callable[[Mapping[str, str]], Sequence[str]] = lambda _env: ()
    memory: int | None = None
    cpus: int | None = None
    gpus: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """One of the programs that can do it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def is_reproducible(self) -> bool:
        """Say whether it builds the same image twice: Docker's daemon puts the time of day into it."""
        return self.name == "podman"

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """Return what the engine prints.

        Raises:
            EnvironmentMismatchError: when it fails, in words that help.
        """
        command = [self.name, *words]
        done = subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=_plain()
        )
        if done.returncode:
            raise complaint(self.name, done.stderr or done.stdout)
        return done.stdout

    def image(self, name: str) -> Image | None:
        """Return an image of this machine, None where there is none of the name."""
        try:
            (found,) = json.loads(self.run("image", "inspect", name))
        except EnvironmentMismatchError as error:
            if re.search("no such image|not known|unable to inspect|not found", str(error), re.IGNORECASE):
                return None
            raise
        config = found.get("Config") or {}
        labels = config.get("Labels") or {}
        name = str(found["Id"])
        identity = name if name.startswith("sha256:") else f"sha256:{name}"
        return Image(identity, found["RootFS"]["Layers"], labels, found.get("RepoDigests") or [])

    def base(self, name: str) -> Image:
        """Return the image that others are built on, fetched where it is not there.

        Raises:
            EnvironmentMismatchError: when it cannot be had.
        """
        found = self.image(name)
        if found is None:
            with contextlib.suppress(EnvironmentMismatchError):
                self.run("pull", "--quiet", name)
            found = self.image(name)
        if found is None:
            hint = f"{self.name} images lists what is here; --base NAME takes one of them, or a site's own"
            raise EnvironmentMismatchError(f"the base image {name} is neither here nor to be had", hint=hint)
        return found

    def build(self, context: Path, tag: str, base: str, *, anew: bool = False) -> Image:
        """Build an image without network and return it; Podman gives the same id for the same context.

        Layers that were built before are taken again, unless it is to be built ``anew``.
        """
        words = ["build", "--network", "none", "--tag", tag, "--build-arg", f"BASE={base}"]
        words += ["--build-arg", "SOURCE_DATE_EPOCH=0"]
        if self.is_reproducible:
            words += _limits()
            words += ["--timestamp", "0", "--layers", "--pull=never", "--format", "oci"]
        words += ["--no-cache"] if anew else []
        self.run(*words, ".", cwd=context)
        found = self.image(tag)
        assert found is not None  # noqa: S101  (it was built a moment ago)
        return found

    def ask(self, image: str, words: Sequence[str]) -> str:
        """Return what a program of an image prints."""
        return self.run("run", "--rm", "--network", "none", *_limits(), "--entrypoint", words[0], image, *words[1:])

    def command(self, box: Box, name: str, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> list[str]:
        """Return the words that start ``words`` in a container of a name."""
        found = [self.name, "run", "--rm", "--name", name, "--network", "none", "--workdir", str(cwd)]
        found += [*_limits(), "--user", f"{os.getuid()}:{os.getgid()}", "--entrypoint", words[0]]
        if self.name == "podman":
            found += ["--security-opt", "label=disable", *(["--userns=keep-id"] if os.getuid() else [])]
        for mode, places in (("ro", box.read), ("rw", box.write)):
            found += [part for place in places for part in ("--volume", f"{place}:{place}:{mode}")]
        found += [part for variable in box.passed(env) for part in ("--env", variable)]
        found += [part for item in box.settings.items() for part in ("--env", "=".join(item))]
        found += ["--memory", str(box.memory)] if box.memory else []
        found += ["--cpus", str(box.cpus)] if box.cpus else []
        if box.gpus:
            found += ["--device", "nvidia.com/gpu=all"] if self.name == "podman" else ["--gpus", "all"]
        return [*found, box.image, *words[1:]]

    def remove(self, name: str) -> None:
        """Take a container away, whatever it does."""
        subprocess.run(
            [self.name, "rm", "--force", name], stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_plain()
        )


class ContainerProcess:
    """A job's process in a container: as `local.LocalProcess`, with the signal that ended it, and no container left."""

    #: Each is started anew.
    warm = False

    def __init__(self, process: local.LocalProcess, engine: Engine, name: str) -> None:
        self._process, self._engine, self._name = process, engine, name

    def release(self) -> None:
        """Pass signals on from here."""
        self._process.release()

    def abandon(self) -> None:
        """End it at once."""
        self._engine.remove(self._name)
        self._process.abandon()

    def wait(self) -> local.End:
        """Wait for the end."""
        try:
            return signalled(self._process.wait())
        finally:
            self._engine.remove(self._name)


def signalled(end: local.End) -> local.End:
    """Return an end whose exit code is a shell's word for a signal as that signal."""
    if end.code is not None and _SIGNALLED < end.code <= _SIGNALLED + _LAST_SIGNAL:
        return end._replace(code=None, signal=end.code - _SIGNALLED)
    return end


class Launch:
    """Starts a run's command in a container; stands in for `local.launch`."""

    def __init__(self, engine: Engine, box: Box) -> None:
        self._engine, self._box = engine, box

    def __call__(self, command: local.Command) -> ContainerProcess:
        """Start it; its folder is the one thing beside the box's own that it may write to."""
        name = f"repro-{command.folder.name.lower()}"
        box = replace(self._box, write=[*self._box.write, str(command.folder)])
        words = self._engine.command(box, name, command.words, command.cwd, command.env)
        return ContainerProcess(local.launch(command._replace(words=words)), self._engine, name)


def choose(name: str | None = None) -> Engine:
    """Return the engine of a name, or the first that is here and works.

    Raises:
        UsageError: for a name that is none.
        EnvironmentMismatchError: when there is none, or its daemon does not answer.
    """
    if name is not None and name not in KNOWN:
        raise UsageError(f"--engine {name}: one of {', '.join(KNOWN)} is expected")
    here = [known for known in KNOWN if name in (None, known) and shutil.which(known)]
    if not here:
        wanted = name or "neither Podman nor Docker"
        said = f"{wanted} is not installed" if name else f"{wanted} is installed"
        raise EnvironmentMismatchError(said, hint="Debian: apt-get install podman buildah (or docker.io)")
    failure: EnvironmentMismatchError | None = None
    for known in here:
        engine = Engine(known)
        try:
            engine.run("version", "--format", "{{.Client.Version}} {{.Server.Version}}") if known == "docker" else None
        except EnvironmentMismatchError as error:
            failure = failure or error
            continue
        return engine
    assert failure is not None  # noqa: S101
    raise failure


def complaint(engine: str, words: str) -> EnvironmentMismatchError:
    """Return the error that an engine's words mean."""
    text = " ".join(words.strip().splitlines()[-6:])[-_SHOWN:]
    for pattern, message, hint in _COMPLAINTS:
        if re.search(pattern, words, re.IGNORECASE):
            return EnvironmentMismatchError(message.format(engine=engine, text=text), hint=hint.format(engine=engine))
    return EnvironmentMismatchError(f"{engine} failed: {text}", hint=f"{engine} info")


#: What engines say, what that means, and what helps.
_COMPLAINTS = (
    (
        "Cannot connect to the Docker daemon|daemon is not running|failed to connect to the docker API",
        "{engine}'s daemon does not answer: {text}",
        "start it (systemctl start docker), or take Podman: --engine podman",
    ),
    (
        "permission denied.*docker.sock",
        "{engine}'s daemon may not be used by you",
        "add yourself to the group docker, or take Podman: --engine podman",
    ),
    ("no space left on device", "no space left on the disk for {engine}", "{engine} system prune; df -h"),
    ("DO NOT MATCH THE HASHES", "a wheel is not what the lock has", "repro lock --from RUN resolves the hashes anew"),
    (
        "requires BuildKit|buildx component is missing",
        "Docker builds this image with BuildKit, which is not there",
        "install Docker's buildx (Debian: docker-buildx), or take Podman: --engine podman",
    ),
    (
        "is not a supported wheel|No matching distribution found",
        "a wheel is for another Python than the base image's: {text}",
        "--base NAME takes an image with the recorded Python",
    ),
)


def _limits() -> list[str]:
    """Return the options that keep a container within our own limits: Podman's defaults need a right to raise them."""
    files, processes = (resource.getrlimit(number)[1] for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    found = {"nofile": (files, _MOST_FILES), "nproc": (processes, _MOST_PROCESSES)}
    limits = {name: most if hard == resource.RLIM_INFINITY else min(hard, most) for name, (hard, most) in found.items()}
    return [part for name, limit in limits.items() for part in ("--ulimit", f"{name}={limit}:{limit}")]


def _plain() -> dict[str, str]:
    """Return our variables without those of a run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REPRO_")}
