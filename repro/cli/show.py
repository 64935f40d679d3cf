"""``repro show``: one run, whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from repro.cli import common
from repro.record import devices
from repro.record.values import FileDigest, Outcome, Record
from repro.run import metrics, observed
from repro.store import names
from repro.store.store import Store

Pairs = list[tuple[str, str | None]]
_MOST = 30  # lines of a section
_CHANGED = "the script changed "  # told with the determinism


@click.command("show")
@click.argument("run")
@common.json_option
def command(run: str, as_json: bool) -> int:
    """Show what RUN was, what its processes observed, and how it ended."""
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run)
    record = store.record(run_id)
    state, outcome = store.state(run_id)
    seen = observed.read(store.run_folder(run_id))
    if as_json:
        common.emit(_document(store, record, outcome, seen, state))
        return 0
    _print(store, record, outcome, seen, state)
    return 0


def _document(
    store: Store, record: Record, outcome: Outcome | None, seen: observed.Observed, state: str
) -> dict[str, Any]:
    folder = store.run_folder(record.run_id)
    return {
        "run_id": record.run_id,
        "state": state,
        "metrics": outcome.metrics if outcome is not None else metrics.last(folder),
        "record": record,
        "observed": seen.document(),
        "outcome": outcome,
        "attachments": store.attachments(record.run_id),
        "path": folder,
    }


def _print(store: Store, record: Record, outcome: Outcome | None, seen: observed.Observed, state: str) -> None:
    folder = store.run_folder(record.run_id)
    values = outcome.metrics if outcome is not None else metrics.last(folder)
    common.echo(f"{record.run_id}  {record.name}", bold=True)
    _lines(_end(record, outcome, state, folder))
    _section("what ran", _what(record))
    _section("code", _code(record))
    _section("environment", _environment(record, seen))
    _section("determinism", _determinism(record, seen))
    _section("data", _data(record, seen))
    _section("metrics", [(name, common.number(value)) for name, value in sorted(values.items())])
    if outcome is not None:
        trails = [(item.process, item.frames, common.short(item.digest, 16)) for item in outcome.trails]
        _section("trail", [(process, f"{common.count(frames, 'step')}, {chain}") for process, frames, chain in trails])
        _section("files read beside the code", [(item.path, common.short(item.digest)) for item in outcome.inputs])
        _section("files left", [_file(item) for item in outcome.outputs])
        _section("artifacts", [_file(item) for item in outcome.artifacts])
        told = {value for _, value in _determinism(record, seen)}
        _section("notes", [("", note) for note in outcome.notes if note not in told and not note.startswith(_CHANGED)])
    gaps = [*record.gaps, *(outcome.gaps if outcome is not None else [])]
    _section("not captured", [(gap.what, gap.reason) for gap in gaps])
    verdicts = [note.body for note in store.attachments(record.run_id) if note.kind == "verdict"]
    _section("verdict", [(body["verdict"], f"as a replay of {body['of']}") for body in verdicts])


def _end(record: Record, outcome: Outcome | None, state: str, folder: Path) -> Pairs:
    return [
        ("state", state),
        ("reason", None if outcome is None else outcome.reason),
        ("started", record.created),
        ("ended", None if outcome is None else outcome.ended),
        ("replay of", record.replay_of),
        ("goes on from", record.circumstances.get("resumed", {}).get("run")),
        ("recipe", common.short(record.recipe_digest, 16)),
        ("kept in", str(folder)),
    ]


def _what(record: Record) -> Pairs:
    recipe = record.recipe
    what = shlex.join(recipe.command) if recipe.command is not None else recipe.entry
    folder = recipe.cwd and f"{recipe.cwd} in {record.circumstances.get('project', {}).get('root')}"
    params = [(f"params.{name}", str(value)) for name, value in recipe.params.items()]
    return [("command" if recipe.command is not None else "entry", what), ("folder", folder), *params]


def _code(record: Record) -> Pairs:
    git = _fact(record, "git")
    commit = None
    if git.get("commit"):
        commit = f"{git['commit'][:12]} on {git['branch'] or 'a detached HEAD'}{', dirty' if git['dirty'] else ''}"
    sources = [(f"source {name}", tree) for name, tree in record.recipe.sources.items()]
    return [("tree", record.recipe.code), ("commit", commit), *sources]


def _kind(record: Record) -> str:
    """Say by what digest an environment goes, and what kind it was where that is not the current one."""
    found = record.circumstances.get("environment", {})
    kind = "" if found.get("kind") in (None, "current") else f", {found['kind']}"
    return f", {common.shown(found['digest'])}{kind}" if "digest" in found else ""


def _environment(record: Record, seen: observed.Observed) -> Pairs:
    lock = _fact(record, "lock")
    matches = "matches" if lock.get("matches") else common.count(lock.get("differ", 0), "difference")
    versions = [seen.software.get(name) for name in ("cuda", "cudnn", "nccl")]
    return [
        ("python", record.recipe.interpreter),
        ("packages", f"{len(record.recipe.packages)} installed{_kind(record)}"),
        ("lock", lock.get("lock") and f"{lock['lock']}, {matches}"),
        ("torch", seen.software.get("torch")),
        ("cuda, cudnn, nccl", ", ".join(map(str, versions)) if any(versions) else None),
        ("processor", _fact(record, "processor").get("model")),
        ("gpus", ", ".join(map(str, devices.seen(record) or []))),
        ("caches", ", ".join(sorted(seen.caches))),
    ]


def _determinism(record: Record, seen: observed.Observed) -> Pairs:
    recipe = record.recipe
    default = "" if record.circumstances.get("launch", {}).get("seed_given", True) else " (the default)"
    return [
        ("profile", recipe.profile),
        ("promise", record.circumstances.get("launch", {}).get("promise")),
        ("threads", str(recipe.threads)),
        ("seed", recipe.seeds.master + default),
        *((f"replicate of {name}", str(index)) for name, index in recipe.seeds.replicates.items()),
        *((f"changed {name}", f"{old} -> {new}") for name, (old, new) in seen.overridden().items()),
        *(("seeded by", f"{item['call']}({item['value']}) at {item['file']}:{item['line']}") for item in seen.seeds),
    ]


def _data(record: Record, seen: observed.Observed) -> Pairs:
    declared = [(f"declared {name}", common.short(value)) for name, value in record.recipe.data.items()]
    return [*declared, *((f"in memory {name}", common.short(value)) for name, value in seen.data.items())]


def _file(item: FileDigest) -> tuple[str, str]:
    return item.path, f"{common.count(item.size, 'byte')}, {common.short(item.digest)}"


def _fact(record: Record, name: str) -> dict[str, Any]:
    """Return what a provider found, or nothing where it failed."""
    found = record.circumstances.get(name, {}).get("value")
    return found if isinstance(found, dict) else {}


def _section(title: str, pairs: Pairs) -> None:
    if any(value for _, value in pairs):
        common.echo(title, bold=True)
        _lines(pairs)


def _lines(pairs: Pairs) -> None:
    shown = [(name, value) for name, value in pairs if value]
    width = min(40, max([18, *(len(name) for name, _ in shown)]))
    for name, value in shown[:_MOST]:
        common.echo(f"  {name.ljust(width)}  " if name else "  ", nl=False)
        common.echo(value, fg=common.STATE_STYLE.get(value) if name == "state" else None)
    if len(shown) > _MOST:
        common.echo(f"  ... and {len(shown) - _MOST:,} more (--json has all)")
