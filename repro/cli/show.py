"""``repro show``: one run, whole."""

from __future__ import annotations

from typing import Any

import click

from repro.cli import common
from repro.record.values import Outcome, Record
from repro.run import metrics, observed
from repro.store import names
from repro.store.store import Store


@click.command("show")
@click.argument("run")
@common.json_option
def command(run: str, as_json: bool) -> int:
    """Show what RUN was, what its processes observed, and how it ended."""
    store = common.open_store()
    common.needs_runs(store)
    run_id = names.resolve(store, run)
    record, outcome = store.record(run_id), store.outcome(run_id)
    seen = observed.read(store.run_folder(run_id))
    state = outcome.state if outcome is not None else store.alive(run_id)
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
    recipe, facts = record.recipe, record.circumstances
    values = outcome.metrics if outcome is not None else metrics.last(store.run_folder(record.run_id))
    _section(f"{record.run_id}  {record.name}", {"state": click.style(state, fg=common.STATE_STYLE.get(state))})
    if outcome is not None:
        _section("", {"reason": outcome.reason, "ended": outcome.ended})
    _section(
        "", {"started": record.created, "replay of": record.replay_of, "recipe": common.short(record.recipe_digest, 16)}
    )
    _section(
        "what ran",
        {
            "command": " ".join(recipe.command) if recipe.command else recipe.entry,
            "folder": recipe.cwd,
            **{f"params.{name}": value for name, value in recipe.params.items()},
        },
    )
    git = facts.get("git", {}).get("value") or {}
    _section(
        "code",
        {
            "tree": recipe.code,
            "commit": git.get("commit")
            and f"{git['commit'][:12]} on {git['branch'] or 'a detached HEAD'}{', dirty' if git['dirty'] else ''}",
            **{f"source {name}": tree for name, tree in recipe.sources.items()},
        },
    )
    lock = facts.get("lock", {}).get("value") or {}
    _section(
        "environment",
        {
            "python": recipe.interpreter,
            "packages": f"{len(recipe.packages)} installed",
            "lock": lock.get("lock")
            and f"{lock['lock']}, {'matches' if lock['matches'] else str(lock['differ']) + ' differences'}",
            "torch": seen.software.get("torch"),
            "cuda, cudnn, nccl": _versions(seen.software),
            "processor": (facts.get("processor", {}).get("value") or {}).get("model"),
            "gpus": ", ".join(gpu["name"] for gpu in (facts.get("gpus", {}).get("value") or {}).get("devices", []))
            or None,
        },
    )
    _section(
        "determinism",
        {
            "profile": recipe.profile,
            "threads": recipe.threads,
            "seed": recipe.seeds.master,
            **{f"changed {name}": f"{old} -> {new}" for name, (old, new) in seen.overridden().items()},
            **{
                f"seeded {index}": f"{item['call']}({item['value']}) at {item['file']}:{item['line']}"
                for index, item in enumerate(seen.seeds, 1)
            },
        },
    )
    _section(
        "data",
        {
            **{f"declared {name}": common.short(value) for name, value in recipe.data.items()},
            **{f"in memory {name}": common.short(value) for name, value in seen.data.items()},
        },
    )
    _section("metrics", {name: common.number(value) for name, value in sorted(values.items())})
    if outcome is not None:
        _section(
            "trail",
            {item.process: f"{item.frames:,} steps, {common.short(item.digest, 16)}" for item in outcome.trails},
        )
        _section("files read beside the code", {item.path: common.short(item.digest) for item in outcome.inputs})
        _section(
            "files left",
            {
                item.path: f"{item.size:,} bytes, {common.short(item.digest)}"
                for item in [*outcome.outputs, *outcome.artifacts]
            },
        )
    gaps = [*record.gaps, *(outcome.gaps if outcome is not None else [])]
    _section("gaps", {gap.what: gap.reason for gap in gaps})
    verdicts = [note.body for note in store.attachments(record.run_id) if note.kind == "verdict"]
    _section("verdict", {body["verdict"]: f"replay of {body['of']}" for body in verdicts})


def _versions(software: dict[str, Any]) -> str | None:
    found = [software.get(name) for name in ("cuda", "cudnn", "nccl")]
    return ", ".join(map(str, found)) if any(found) else None


def _section(title: str, items: dict[str, Any]) -> None:
    shown = {name: value for name, value in items.items() if value not in (None, "")}
    if not shown:
        return
    if title:
        click.secho(title, bold=True)
    length = max(18, *(len(name) for name in shown)) if shown else 18
    for name, value in shown.items():
        click.echo(f"  {name.ljust(min(length, 40))}  {value}")
