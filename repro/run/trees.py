"""The further trees of a run: code outside the project (editable installs, search paths), and a piped program."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from repro.capture import code as code_capture
from repro.capture import outside, packages, program
from repro.capture.walk import Layout
from repro.errors import CaptureError
from repro.record.values import Gap, Recipe
from repro.run.request import Request
from repro.store.store import Store


def editables(found: packages.Environment, request: Request, store: Store, gaps: list[Gap]) -> dict[str, Path]:
    """Return the editable installs whose source lies outside the project: each is captured as a further tree."""
    sources = {}
    for item in found.distributions:
        if item.editable is None or item.name == packages.SELF or Path(item.editable).is_relative_to(request.root):
            continue
        if os.path.isdir(item.editable) and not store.folder.is_relative_to(item.editable):
            sources[item.name] = Path(item.editable)
        else:
            gaps.append(
                Gap(what=f"package {item.name}", reason=f"its editable source {item.editable} cannot be captured")
            )
    return sources


def beyond(
    request: Request,
    store: Store,
    code: code_capture.Code,
    environment: Mapping[str, str],
    sources: Mapping[str, Path],
) -> dict[str, tuple[Path, code_capture.Code]]:
    """Capture the folders outside the project from which the run takes code; one that cannot be is a gap."""
    words, pythonpath = request.command or (), environment.get("PYTHONPATH", "")
    found = outside.find(request.root, request.working_folder, store.folder, code.stats, words, pythonpath, sources)
    code.gaps.extend(
        Gap(what=f"code in {folder}", reason=f"the folder {reason}: what is imported from it is an input")
        for folder, reason in found.left.items()
    )
    captured = {}
    for name, path in found.folders.items():
        try:
            captured[name] = (path, code_capture.capture(path, store.folder, store.code, outputs={}))
        except CaptureError as error:
            code.gaps.append(Gap(what=f"code in {path}", reason=f"{error}: what is imported from it is an input"))
    return captured


def given_places(names: Iterable[str], project: Mapping[str, Any]) -> dict[str, Path]:
    """Return the live places of trees that were captured earlier, of a run in ``project``."""
    return {name: Path(project["sources"][name]) for name in names}


def of_program(text: bytes, store: Store) -> code_capture.Code:
    """Capture the program of standard input as a tree of its own."""
    return code_capture.Code(store.code.snapshot_of(program.NAME, text), Layout([], {}, complete=True), {}, [], [])


def program_of(recipe: Recipe, store: Store) -> bytes | None:
    """Return the program that a run of this recipe reads from standard input; None where it reads none."""
    tree = recipe.sources.get(program.NAME)
    return None if tree is None else store.code.read(tree, program.NAME)


def capture(sources: Mapping[str, Path], store: Store) -> dict[str, code_capture.Code]:
    """Capture each source as a tree. Raises CaptureError."""
    return {name: code_capture.capture(path, store.folder, store.code, outputs={}) for name, path in sources.items()}


def given_codes(
    trees: Mapping[str, str], project: Mapping[str, Any], request: Request, store: Store
) -> dict[str, code_capture.Code]:
    """Return the sources of a replay: they lie in its mirror of the disk as the project does."""
    mirror = str(request.place).removesuffix(str(request.root))
    found = {}
    for name, tree in trees.items():
        stats = code_capture.stats(Path(mirror + project["sources"][name]), store.code.paths(tree))
        found[name] = code_capture.Code(tree, Layout([], {}, complete=True), stats, [], [])
    return found


def stats_of(sources: Mapping[str, Path], codes: Mapping[str, code_capture.Code]) -> dict[str, code_capture.Stat]:
    """Return the stat of each file of a source outside the project, by absolute path."""
    return {f"{sources[name]}/{path}": stat for name, code in codes.items() for path, stat in code.stats.items()}


def gaps_of(sources: Mapping[str, Path], codes: Mapping[str, code_capture.Code]) -> list[Gap]:
    """Return the gaps of the sources, by absolute path."""
    return [
        Gap(what=f"{sources[name]}/{gap.what}", reason=gap.reason) for name, code in codes.items() for gap in code.gaps
    ]
