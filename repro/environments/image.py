"""An image that brings a record's environment back anywhere: its context, written here; its facts, asked of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from repro.base import digest, files, scratch
from repro.capture import packages
from repro.capture.interpreter import Interpreter, is_python
from repro.engines.container import Engine, Image
from repro.environments import locks, pip, recorded, wheels
from repro.environments.recorded import Source
from repro.errors import EnvironmentMismatchError
from repro.record.values import Record
from repro.store.store import Store
from repro.worker.job import Job

#: Where the environment is in an image, and the recorded code.
PREFIX = "/opt/repro"
CODE = "/work"
#: What ends a line, or would be taken for the end of one; and what a variable may be called.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VERSION = "import platform; print(platform.python_implementation(), platform.python_version())"
#: Asked of an image, in whose environment nothing of ours may be there to be imported: what `scan` reads of it.
_LOOK = """\
import glob, json, os, platform, sys
path = [entry for entry in sys.path if os.path.isdir(entry)]
names = ("RECORD", "WHEEL", "direct_url.json")
found = [place for entry in path for place in glob.glob(entry + "/*.dist-info")]
files = {f"{place}/{name}": open(f"{place}/{name}").read() for place in found for name in names
         if os.path.isfile(f"{place}/{name}")}
hooked = any(os.path.exists(f"{entry}/repro_hook.pth") for entry in path)
version = f"{platform.python_implementation()} {platform.python_version()}"
print(json.dumps([[sys.executable, version, sys.prefix, path, hooked], files]))
"""
_DOCKERFILE = """\
# {title}
# It needs no network to be built. The same image again, with the same id (Docker, which needs BuildKit, gives another):
#     podman build --timestamp 0 --format oci --build-arg SOURCE_DATE_EPOCH=0 .
ARG BASE={base}
FROM ${{BASE}}
ARG SOURCE_DATE_EPOCH=0
ENV PYTHONHASHSEED=0
# The locked packages: {lock}
RUN --mount=type=bind,source=wheels,target=/repro : "{lock}" && \
    python3 -m venv --without-pip {prefix} && {pip_install} --find-links /repro \
    --require-hashes -r /repro/lock.txt && {compile}
# repro itself, and what finds the sources of editable installs: {own}
RUN --mount=type=bind,source=own,target=/repro : "{own}" && \
    {pip_install} /repro/{wheel} && \
    {prefix}/bin/python -c "import shutil, sysconfig; \
shutil.copytree('/repro/site', sysconfig.get_path('purelib'), dirs_exist_ok=True)" && {compile_own}
COPY code {code}
{job}{environment}
LABEL {labels}
WORKDIR {folder}
CMD {command}
"""
_PIP = (
    "PYTHONPATH=/repro/tool/{pip} {prefix}/bin/python -m pip --no-cache-dir --disable-pip-version-check \\\n"
    "    install --quiet --root-user-action ignore --no-index --no-deps --no-compile"
)
#: Byte code that holds no time of day; packages bring files for other Pythons along, which do not compile.
_COMPILE = "{{ {prefix}/bin/python -m compileall -qq --invalidation-mode unchecked-hash {prefix}/lib{what} || :; }}"


class Built(NamedTuple):
    """An image of a record: what it is called, what it is, what its base was, and whether it can be built again."""

    tag: str
    image: Image
    base: str
    reproducible: bool
    lock: str
    wheel: str
    engine: str
    fresh: bool


def default_base(record: Record) -> str:
    """Return the base image that is taken unless another is named: Python's own of the recorded version."""
    return f"docker.io/library/python:{record.recipe.interpreter.rpartition(' ')[2]}-slim"


def build(
    store: Store,
    record: Record,
    engine: Engine,
    *,
    base: str | None = None,
    allow_python: bool = False,
    anew: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Built:
    """Return the image of a record, built where it is not there; ``anew`` builds it in any case.

    Raises:
        EnvironmentMismatchError: when the base, a wheel, or the recorded Python in it cannot be had.
    """
    record = recorded.original(store, record)
    name = base or default_base(record)
    foundation = engine.base(name)
    _check_python(engine, record, foundation, name, allow_python=allow_python)
    source = recorded.source(store, record, say)
    wheel = wheels.of_self()
    key = digest.of_value(
        "image/1",
        [foundation.id, source.digest(record.recipe.interpreter), record.recipe_digest, digest.of_bytes(wheel[1])],
    )
    tag = f"localhost/repro:{key.removeprefix('sha256:')[:24]}"
    image = None if anew else engine.image(tag)
    fresh = image is None
    if image is None:
        folder, lock = store.new_work()
        try:
            say("repro: fetching the wheels of the lock")
            write_context(folder / "context", store, record, source, wheel, f"{name} {foundation.id}", foundation.id)
            say(f"repro: building the image with {engine.name}, once, without network")
            image = engine.build(folder / "context", tag, foundation.id, anew=anew)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    return Built(
        tag,
        image,
        foundation.id,
        engine.is_reproducible,
        source.lock_digest,
        digest.of_bytes(wheel[1]),
        engine.name,
        fresh,
    )


def _check_python(engine: Engine, record: Record, base: Image, name: str, *, allow_python: bool) -> None:
    found = engine.ask(base.id, ["python3", "-I", "-c", _VERSION]).strip()
    if found != record.recipe.interpreter and not allow_python:
        hint = "--base NAME takes an image with that Python; --allow-python goes on and records the difference"
        raise EnvironmentMismatchError(
            f"the run had {record.recipe.interpreter}, and the image {name} has {found}", hint=hint
        )


def write_context(
    folder: Path, store: Store, record: Record, source: Source, wheel: tuple[str, bytes], base: str, base_id: str
) -> None:
    """Write all that an image is built from into a new folder; the same bytes for the same record."""
    folder = folder.resolve()
    folder.mkdir(parents=True)
    fetch(store, record, source, folder / "wheels")
    (folder / "wheels" / "lock.txt").write_text(locks.render(source.pins), encoding="utf-8")
    own_pip = wheels.of_installed("pip")
    (folder / "wheels" / "tool").mkdir()  # apart from the locked one, which may have its name
    (folder / "wheels" / "tool" / own_pip[0]).write_bytes(own_pip[1])
    own = folder / "own"
    (own / "site").mkdir(parents=True)
    (own / wheel[0]).write_bytes(wheel[1])
    (own / "tool").mkdir()
    (own / "tool" / own_pip[0]).write_bytes(own_pip[1])
    for texts in source.editables.values():
        for name, text in texts.items():
            path = own / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if ".dist-info/" in name else _moved(text, record), encoding="utf-8")
    store.code.materialise(record.recipe.code, folder / "code")
    for name, tree in record.recipe.sources.items():
        store.code.materialise(tree, folder / "code" / ".repro-sources" / name)
    job = _write_job(folder, record) if record.recipe.entry is not None else ""
    labels = {**_labels(record), "org.opencontainers.image.base.digest": base_id}
    text = _DOCKERFILE.format(
        title=_plain(f"The environment and the code of run {record.run_id} ({record.name}), on {base}"),
        base=_plain(base_id),
        lock=source.lock_digest,
        own=digest.of_value("own/1", [digest.of_bytes(wheel[1]), source.editables]),
        pip_install=_PIP.format(pip=own_pip[0], prefix=PREFIX),
        compile=_COMPILE.format(prefix=PREFIX, what=""),
        compile_own=_COMPILE.format(prefix=PREFIX, what="/python3*/site-packages/repro"),
        wheel=wheel[0],
        prefix=PREFIX,
        code=CODE,
        job=job,
        environment="ENV " + " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in _variables(record).items()),
        labels=" \\\n      ".join(f"{name}={_quoted(value)}" for name, value in labels.items()),
        folder=_folder(record),
        command=json.dumps(_command(record)),
    )
    (folder / "Dockerfile").write_text(text, encoding="utf-8")
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (0, 0))
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def fetch(store: Store, record: Record, source: Source, folder: Path) -> None:
    """Fetch the file of each pin into a folder, for the recorded Python.

    Raises:
        EnvironmentMismatchError: when one is no longer there, or is not what its hash says.
    """
    folder.mkdir()
    own = folder.parent / "kept"
    for item in source.wheels.values():
        store.objects.restore(item["digest"], own / item["file"])
    lock = folder.parent / "fetch.txt"
    lock.write_text(locks.render(source.pins), encoding="utf-8")
    if source.pins:
        target = recorded.target(record)
        options = ["--quiet", "--no-deps", "--require-hashes", *pip.find_links([own, *source.folders]), *target.options]
        pip.run(["download", *options, "--dest", str(folder), "-r", str(lock)], python=target.python)
    lock.unlink()
    shutil.rmtree(own, ignore_errors=True)


def _moved(text: str, record: Record) -> str:
    """Return a file that finds the source of an editable install, with its place in the image."""
    for live, place in sorted(places(record).items(), key=lambda pair: -len(pair[0])):
        text = text.replace(live, place)
    return text


def places(record: Record) -> dict[str, str]:
    """Return the live places of recorded code with those that it has in an image."""
    project = record.circumstances["project"]
    sources = {str(project["sources"][name]): f"{CODE}/.repro-sources/{name}" for name in record.recipe.sources}
    return {project["root"]: CODE, **sources}


def _variables(record: Record) -> dict[str, str]:
    path = f"{PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    wrong = next((name for name in record.recipe.environment if _VARIABLE.fullmatch(name) is None), None)
    if wrong is not None:
        raise EnvironmentMismatchError(f"the variable {wrong!r} cannot be set in a Dockerfile")
    return {"PATH": path, **record.recipe.environment}


def _command(record: Record) -> list[str]:
    recipe = record.recipe
    if recipe.command is None:
        return [f"{PREFIX}/bin/python", "-m", "repro.worker", "/repro/job"]
    first = recipe.command[0]
    program = f"{PREFIX}/bin/{os.path.basename(first)}" if is_python(first) else first
    return [program, *recipe.command[1:]]


def _write_job(folder: Path, record: Record) -> str:
    """Write the job of an experiment's entry, so that the image runs it by itself; return the lines that copy it."""
    recipe = record.recipe
    job = Job(
        folder="/repro/job",
        run_id=record.run_id,
        seed=int(recipe.seeds.master),
        profile=recipe.profile,
        threads=recipe.threads,
        root=CODE,
        store="/repro",
        started_ns=0,
        replicates=dict(recipe.seeds.replicates),
        params=recipe.params,
        entry=recipe.entry,
        budget=recipe.budget,
        horizon=recipe.horizon,
    )
    place = folder / "job"
    for name in ("observed", "metrics", "trail", "loader", "checkpoints", "artifacts", "inputs"):
        (place / name).mkdir(parents=True)
        (place / name / ".keep").touch()
    (place / "job.json").write_text(json.dumps(job.__dict__, sort_keys=True), encoding="utf-8")
    return "COPY job /repro/job\n"


def _labels(record: Record) -> dict[str, str]:
    recipe = record.recipe
    return {
        "org.opencontainers.image.title": record.name,
        "org.opencontainers.image.created": record.created,
        "org.opencontainers.image.revision": recipe.code,
        "org.opencontainers.image.version": record.run_id,
        "org.opencontainers.image.description": f"run {record.run_id}, {recipe.interpreter}",
        "repro.run": record.run_id,
        "repro.recipe": record.recipe_digest,
    }


def _folder(record: Record) -> str:
    """Return the working folder, as WORKDIR takes it.

    Raises:
        EnvironmentMismatchError: when its name would break the line.
    """
    folder = os.path.normpath(f"{CODE}/{record.recipe.cwd or '.'}")
    if _plain(folder) != folder:
        raise EnvironmentMismatchError(f"the folder {folder!r} cannot be named in a Dockerfile: control characters")
    return folder.replace("\\", "\\\\").replace("$", "\\$")


def _plain(text: str) -> str:
    """Return a text on one line: what breaks a line of a Dockerfile is an instruction of its own."""
    return _CONTROL.sub(" ", text)


def _quoted(text: str) -> str:
    """Return a value of ENV or LABEL: in double quotes, nothing in it expanded."""
    return '"' + _plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$") + '"'


def look(store: Store, engine: Engine, image: Image) -> tuple[Interpreter, packages.Environment]:
    """Return the Python of an image and what is installed in it, asked once of each image."""
    memory = store.cache / "images" / f"{image.id.removeprefix('sha256:')}.json"
    if memory.is_file():
        said = memory.read_text(encoding="utf-8")
    else:
        said = engine.ask(image.id, [f"{PREFIX}/bin/python", "-c", _LOOK])
        memory.parent.mkdir(parents=True, exist_ok=True)
        files.replace(memory, said.encode())
    facts, texts = json.loads(said.splitlines()[-1])
    python = Interpreter(*facts)
    with scratch.folder("image") as place:
        for name, text in texts.items():
            path = Path(f"{place}{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return python, packages.scan([f"{place}{entry}" for entry in python.path], check=False)


def shown_command(record: Record) -> str:
    """Return the command that an image runs by itself, as one types it."""
    return shlex.join(_command(record))


def facts(built: Built) -> dict[str, Any]:
    """Return what a record says of the image that its run had."""
    return {
        "kind": "container",
        "engine": built.engine,
        "image": built.image.id,
        "layers": built.image.layers,
        "base": built.base,
        "lock": built.lock,
        "repro": built.wheel,
        "reproducible": built.reproducible,
    }
