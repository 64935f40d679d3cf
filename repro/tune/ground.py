"""What a study of an experiment stands on: its code above all, kept where no run opened what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from repro.base import clock
from repro.errors import UsageError
from repro.record.values import Recipe, Record, recipe_digest
from repro.run import relevance
from repro.store.store import Store
from repro.store.studies import StudyFolder
from repro.trials.slot import Template
from repro.tune import known, study, used
from repro.tune.base import Base
from repro.tune.specification import Study

_SHOWN = 6


class Options(NamedTuple):
    """How a study is run, where that has no bearing on its decisions."""

    workers: int | None = None
    new: bool = False
    recorded: bool = False
    exact: bool = False
    cold: bool = False
    patterns: Sequence[str] = ()
    retry: bool = False


def _ground(base: Base, recipe: Recipe, inputs: Mapping[str, str | None]) -> study.Ground:
    """Return what a study of an experiment stands on: its own parameters, the code, and all else of the recipe."""
    bare = msgspec.structs.replace(
        recipe,
        code="",
        sources={},
        params={},
        command=None,
        budget={},
        horizon={},
        seeds=msgspec.structs.replace(recipe.seeds, master=""),
    )
    experiment = {
        "params": dict(base.params),
        "entry": base.request.entry,
        "command": base.command,
        "seed": str(base.request.seed),
        "environment": recipe_digest(bare),
    }
    digests = {"experiment": experiment, "code": known.code_of(recipe), **({used.INPUTS: inputs} if inputs else {})}
    return study.Ground(digests, {"recipe": msgspec.to_builtins(recipe), "root": str(base.request.root)})


def begin(
    store: Store,
    root: Path,
    asked: Study,
    base: Base,
    template: Template,
    options: Options,
    said: Callable[[str], None],
) -> tuple[StudyFolder, Template]:
    """Return the study to go on with, and the template under the code that it has.

    The code of the study before, of the same file, is kept where no run of it opened what has changed since.

    Raises:
        UsageError: where a study of this file was begun otherwise, unless a new one is asked for.
    """

    def identity(recipe: Recipe) -> dict[str, Any]:
        return study.identity(root, asked, _ground(base, recipe, {}))

    recipe = template.record.recipe
    earlier = [one for one in study.of_file(store, identity(recipe)["path"]) if "code" in _identity(one)]
    same = [one for one in earlier if _less_inputs(one) == identity(known.with_code(recipe, _identity(one)["code"]))]
    later: list[str] = []
    must = bool(same) and not options.new
    new = options.new or options.retry
    if earlier:
        before = same[-1] if must else earlier[-1]
        new = new or (must and _have_failures_changed(store, base, before, recipe, options, later.append))
        template = _keep_code(store, before, template, options, later.append, must=must and not new)
    code = known.code_of(template.record.recipe)
    inputs = _inputs(store, base, [one for one in same if _identity(one)["code"] == code], new=new)
    if options.retry:
        inputs = {**inputs, used.RETRIED: clock.now()}
    folder, words = study.open_study(store, root, asked, _ground(base, template.record.recipe, inputs), new=new)
    for text in [*later, *words]:
        said(text)
    return folder, template


def _have_failures_changed(
    store: Store, base: Base, before: StudyFolder, recipe: Recipe, options: Options, said: Callable[[str], None]
) -> bool:
    """Say whether something has changed that runs of a study read which failed, and nothing that the others read.

    Then the study goes on as a new one by itself: what failed is run again, all else still holds.
    """
    if (
        options.recorded
        or options.exact
        or known.code_of(known.with_code(recipe, _identity(before)["code"])).keys() != (known.code_of(recipe).keys())
    ):
        return False
    records = _records(store, before.study_id)
    touched: dict[bool, set[str]] = {True: set(), False: set()}
    for one in records:
        outcome = store.outcome(one.run_id)
        changes = {item.path for item in relevance.of_code(store, one, recipe.code)}
        touched[outcome is not None and outcome.state == "FAILED"] |= changes
    inputs = (used.changed(store, base.request.root, before, states) for states in (("FAILED",), ("COMPLETED",)))
    failed, others = (touched[is_failed] | {*read} for is_failed, read in zip((True, False), inputs, strict=True))
    if not failed or others:
        return False
    names = ", ".join(sorted(failed)[:_SHOWN])
    said(f"what failed in study {before.study_id} read {names}, which has changed: a new study")
    return True


def _identity(one: StudyFolder) -> dict[str, Any]:
    found: dict[str, Any] = one.specification()["identity"]
    return found


def _less_inputs(one: StudyFolder) -> dict[str, Any]:
    return {name: value for name, value in _identity(one).items() if name != used.INPUTS}


def _inputs(store: Store, base: Base, same: Sequence[StudyFolder], *, new: bool) -> Mapping[str, str | None]:
    """Return the files that tell a study from others of the same file and code: that of a study whose data is there.

    Where data has changed since, the files that have, as they are now: for a new study.

    Raises:
        UsageError: where data has changed, unless a new study is asked for.
    """
    changes = [used.changed(store, base.request.root, one) for one in same]
    fitting = [_identity(one).get(used.INPUTS, {}) for one, now in zip(same, changes, strict=True) if not now]
    if fitting or not same:
        return dict(fitting[-1]) if fitting else {}
    if not new:
        names = [path if digest else f"{path} (gone)" for path, digest in changes[-1].items()]
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        raise UsageError(
            f"what the runs of study {same[-1].study_id} read has changed: {shown}",
            hint="put that back to go on with it, or --new: a new study, which reads what still holds",
        )
    return {**_identity(same[-1]).get(used.INPUTS, {}), **changes[-1]}


def _keep_code(
    store: Store,
    before: StudyFolder,
    template: Template,
    options: Options,
    said: Callable[[str], None],
    *,
    must: bool,
) -> Template:
    """Return the template under the code of an earlier study where that may be; refuse other code where it must be.

    Raises:
        UsageError: where the study is to go on, and a run of it opened what has changed.
    """
    recipe, code = template.record.recipe, _identity(before)["code"]
    now, then = known.code_of(recipe), known.with_code(recipe, code)
    if code == now:
        return template
    kept = template._replace(record=msgspec.structs.replace(template.record, recipe=then))
    names = [name for name in {*code, *now} if code.get(name) != now.get(name) and name != known.PROJECT]
    changed = [item.path for item in store.code.changes(then.code, recipe.code)]
    shown = ", ".join([*sorted(changed)[:_SHOWN], *sorted(names)])
    if must and options.recorded:
        said(f"going on with the code that study {before.study_id} was begun with, not as it is now ({shown})")
        return kept
    records = [] if options.exact or names else _records(store, before.study_id)
    touched = sorted({item.path for one in records for item in relevance.of_code(store, one, recipe.code)})
    if records and not touched:
        said(f"the code counts as the same: no run of study {before.study_id} opened what has changed ({shown})")
        return kept
    if must:
        raise UsageError(
            f"the code has changed since study {before.study_id} began: {', '.join(touched[:_SHOWN]) or shown}",
            hint="--code recorded goes on with the code as it was; --new begins a study that reads what still holds",
        )
    return template


def _records(store: Store, study_id: str) -> list[Record]:
    """Return the records of a study's runs that are over."""
    records = (store.record(run_id) for run_id in store.run_ids() if store.outcome(run_id) is not None)
    return [one for one in records if one.circumstances["launch"].get("study") == study_id]


def earlier_codes(store: Store, folder: StudyFolder) -> list[Mapping[str, str]]:
    """Return the codes of the other studies of this file: what their runs found may still hold."""
    others = [one for one in study.of_file(store, _identity(folder)["path"]) if one.study_id != folder.study_id]
    return [identity["code"] for identity in map(_identity, others) if "code" in identity]
