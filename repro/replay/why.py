"""`repro replay --why`: which differences between then and now make the run come apart, proved by undoing them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from repro.errors import ReproError, UsageError
from repro.record.differences import Difference
from repro.record.values import Outcome, Record
from repro.replay import compare, cuts, environment, restore
from repro.replay.plan import Plan, PutBack, Repackage, Step, Unset, as_recorded, rebuild, steps
from repro.replay.replay import Asked, Replayed, replay
from repro.replay.series import Extent
from repro.store.store import Store

T = TypeVar("T")
_PACKAGES = "packages."
#: A try is made so often where replays do not agree with one another: one may be identical by luck.
_TRIES = 3


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest set of differences that, undone, restores identity, and breaks it where any of them is put back.

    ``undone`` is how many replays were made without it, all IDENTICAL; ``put_back`` with it, or a part of it: none was.
    """

    proved: bool
    differences: list[Difference]
    replays: int
    undone: int
    put_back: int


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: the cause, or None and why there is none; and how many replays that took."""

    cause: Cause | None
    reason: str
    hint: str | None
    replays: int
    not_undone: list[Difference]


def smallest(things: Sequence[T], holds: Callable[[Sequence[T]], bool]) -> list[T] | None:
    """Return a smallest set of ``things`` for which ``holds``: none of its members can be left out; None if all fail.

    First each alone, in the order given, for most have one cause; then delta debugging on all of them.
    Source: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28(2), 2002 (ddmin).
    """
    for thing in things:
        if holds([thing]):
            return [thing]
    found = list(things)
    if len(found) < 2 or not holds(found):  # noqa: PLR2004
        return None
    parts = 2
    while len(found) > 1:
        chunks = [found[index * len(found) // parts : (index + 1) * len(found) // parts] for index in range(parts)]
        smaller = next((chunk for chunk in chunks if 1 < len(chunk) < len(found) and holds(chunk)), None)
        if smaller is not None:
            found, parts = smaller, 2
            continue
        rests = ([thing for thing in found if thing not in chunk] for chunk in chunks)
        rest = next((rest for rest in rests if 1 < len(rest) < len(found) and holds(rest)), None)
        if rest is not None:
            found, parts = rest, max(parts - 1, 2)
        elif parts >= len(found):
            break
        else:
            parts = min(len(found), 2 * parts)
    return found


def why(store: Store, run_id: str, now: Plan, first: Replayed, asked: Asked) -> Why:
    """Return the proved cause of the difference that ``first``, a replay by the plan ``now``, has found.

    Raises:
        as `replay` does.
    """
    return _Search(store, run_id, now, first, asked).run()


class _Search:
    """The replays that lead to a cause; every one of them is recorded as a replay of the run."""

    def __init__(self, store: Store, run_id: str, now: Plan, first: Replayed, asked: Asked) -> None:
        self.store = store
        self.run_id = run_id
        self.now = now
        self.first = first
        self.asked = replace(asked, keep=False, until=None, quiet=True)
        self.record = store.record(run_id)
        self.outcome = store.outcome(run_id)
        self.replays = 1
        self.agree = True
        self.known: dict[frozenset[str], bool] = {}
        #: Inputs whose old bytes did not reach the script: it reads them past the replay's folder.
        self.out_of_reach: set[str] = set()
        #: Why the recorded packages cannot be had.
        self.unavailable: str | None = None

    def run(self) -> Why:
        """Replay unchanged once more, search, and prove what was found."""
        if self.first.killed:
            return self._none("the replay was killed, and no cause is looked for", f"repro replay --why {self.run_id}")
        if self.first.run_id is None or self.first.comparison is None:
            return self._none(self.first.reason or "it could not be replayed", self.first.hint)
        if self.first.verdict == "IDENTICAL":
            return self._none("the replay is identical: there is nothing to explain")
        try:
            return self._cause()
        except _KilledError as error:
            return self._none(str(error), error.hint)

    def _cause(self) -> Why:
        self.asked.say("repro: replay 2: the same again")
        again = self._replay(self.now, whole=True)
        if again.verdict == "IDENTICAL":
            return self._refuted("of two replays that were made alike, one was identical and one was not")
        self.agree = self._agree(self.first, again)
        found = smallest(self._steps(), self._restores)
        if found is None:
            if not self.agree:
                return self._none("two replays differ from one another: the run differs from itself", self._diagnose())
            return self._none(self._nothing_restores())
        self.asked.say(f"repro: {_names(found)} it seems; now the proof")
        return self._proved(found)

    def _proved(self, found: list[Step]) -> Why:
        """Run without the set to the end, and with each member put back, in turns: identical, and not.

        Whatever comes out otherwise refutes it: the run differs from itself. Where replays do not agree with one
        another, one may be identical by luck: everything is done more often.
        """
        tries = 1 if self.agree else _TRIES
        undone, put_back = tries, 2  # what led here: the search, and the replays with all differences
        for _ in range(2 if self.agree else _TRIES):
            self._say(f"without {_names(found)}, to its end")
            if self._replay(self._without(found), whole=True).verdict != "IDENTICAL":
                return self._refuted(f"without {_names(found)} it was identical {undone} of {undone + 1} times")
            undone += 1
            for step in found:
                self._say(f"with {_names([step])} put back")
                if self._replay(self._without(item for item in found if item is not step)).verdict == "IDENTICAL":
                    return self._refuted(f"with {_names([step])} put back it was identical as well")
                put_back += 1
        its = "it" if len(found) == 1 else "them"
        part = "" if len(found) == 1 else " or one of them"
        cause = Cause(
            proved=True,
            differences=[step.difference for step in found],
            replays=self.replays,
            undone=undone,
            put_back=put_back,
        )
        reason = f"{undone} without {its}: identical each time; {put_back} with {its}{part}: not once"
        return Why(cause=cause, reason=reason, hint=None, replays=self.replays, not_undone=self._not_undone())

    def _refuted(self, evidence: str) -> Why:
        return self._none(f"the run differs from itself: {evidence}", self._diagnose())

    def _say(self, text: str) -> None:
        self.asked.say(f"repro: replay {self.replays + 1}: {text}")

    def _none(self, reason: str, hint: str | None = None) -> Why:
        return Why(cause=None, reason=reason, hint=hint, replays=self.replays, not_undone=self._not_undone())

    def _diagnose(self) -> str:
        return f"repro diagnose {self.run_id}"

    def _nothing_restores(self) -> str:
        if self.out_of_reach:
            names = ", ".join(sorted(path.removeprefix("inputs.") for path in self.out_of_reach))
            return f"{names}: read past the replay's folder, by an absolute path or a link, where nothing is put back"
        packages = f"; the recorded packages cannot be had: {self.unavailable}" if self.unavailable else ""
        if not self._steps():
            return f"nothing that differs can be undone here{packages}"
        count = len(self._steps())
        return f"none of the {count} differences that can be undone restores identity, nor all together{packages}"

    def _replay(self, plan: Plan, *, whole: bool = False) -> Replayed:
        """Replay by a plan; it ends at the first step that is not as recorded, unless the ``whole`` is asked for."""
        self.replays += 1
        against = None if whole else self.store.run_folder(self.run_id) / "trail"
        found = replay(self.store, self.run_id, plan, replace(self.asked, against=against))
        if found.killed:
            raise _KilledError(f"replay {self.replays} of them: {found.reason}", hint=found.hint)
        return found

    def _restores(self, undone: Sequence[Step]) -> bool:
        """Say whether the run is identical with these differences undone."""
        key = frozenset(step.difference.path for step in undone)
        if key not in self.known:
            self._say(f"without {_names(undone)}")
            plan = self._without(undone)
            self.known[key] = all(self._is_identical(plan, key) for _ in range(1 if self.agree else _TRIES))
        return self.known[key]

    def _is_identical(self, plan: Plan, undone: frozenset[str]) -> bool:
        replayed = self._replay(plan)
        self.out_of_reach |= {item.path for item in replayed.differences if item.kind == "data"} & undone
        return replayed.verdict == "IDENTICAL"

    def _without(self, undone: Iterable[Step]) -> Plan:
        plan = self.now
        for step in undone:
            plan = step.undo(plan)
        return plan

    def _agree(self, one: Replayed, other: Replayed) -> bool:
        return agree(self.store, self.record, [one, other])

    def _steps(self) -> list[Step]:
        """Return what can be undone, the likely first: what was changed on purpose, code, data, variables."""
        then = as_recorded(self.record)
        unkept = dict.fromkeys(self.record.circumstances["launch"]["variables"], "set (the value is not kept)")
        known = unkept | self.record.recipe.environment
        seen = {name: known.get(name) for name in self.now.variables}
        return [
            *steps(then, self.now, seen),
            *self._files(then),
            *self._data(),
            *self._packages,
            *self._variables(),
        ]

    def _files(self, then: Plan) -> list[Step]:
        """Return the files that differ between the recorded code and the one that was replayed."""
        code = self.store.code
        found = []
        for change in code.changes(then.code, self.now.code):
            before, after = (code.file(tree, change.path) for tree in (then.code, self.now.code))
            difference = Difference(kind="code", path=change.path, before=before, after=after, prior="certain")
            found.append(Step(difference, _File(self.store, then.code, change.path)))
        return found

    def _data(self) -> list[Step]:
        """Return the files that the run read and that have changed since, where the store has the old bytes."""
        return [
            Step(item, PutBack(item.path.removeprefix("inputs.")))
            for item in self.first.differences
            if item.path.startswith("inputs.") and self._has(item)
        ]

    def _has(self, item: Difference) -> bool:
        is_kept = isinstance(item.before, str) and self.store.objects.path(item.before).exists()
        return is_kept and item.path not in self.out_of_reach

    @cached_property
    def _packages(self) -> list[Step]:
        """Return the packages that differ, where the recorded ones can be had: each is laid over the current ones.

        A package that was not there, or another Python, is undone in the recorded environment as a whole.
        """
        found = [item for item in self.first.differences if item.kind == "package" and item.path.startswith(_PACKAGES)]
        if not found or self.now.environment != "current":
            return []
        self.unavailable = environment.obstacle(self.store, self.record, self.asked.say)
        if self.unavailable is not None:
            return []
        laid = [Step(item, Repackage(item.path.removeprefix("packages."))) for item in found if item.before]
        added = [item.path.removeprefix("packages.") for item in found if not item.before]
        if not added:
            return laid
        whole = Difference(kind="package", path="packages", before=None, after=", ".join(added), prior="probable")
        return [*laid, Step(whole, rebuild)]

    def _variables(self) -> list[Step]:
        """Return the variables of the user's own that are set now and were not: of others no value is known."""
        return [
            Step(item, Unset(item.path.removeprefix("variables.")))
            for item in self.first.differences
            if item.path.startswith("variables.") and item.before is None
        ]

    def _not_undone(self) -> list[Difference]:
        """Return the differences that no replay here can undo: packages, hardware, lost data, unknown values."""
        undone = {step.difference.path for step in self._steps()} if self.first.comparison is not None else set()
        undone |= {f"variables.{name}" for name in self.now.variables}
        return [
            item
            for item in self.first.differences
            if item.path not in undone and (item.kind in ("package", "hardware") or self._is_lost(item))
        ]

    def _is_lost(self, item: Difference) -> bool:
        return item.path.startswith(("inputs.", "variables.")) and item.before is not None and not self._has(item)


class _KilledError(ReproError):
    """A replay was killed: it says nothing of what it was to show."""


def _names(undone: Sequence[Step]) -> str:
    return ", ".join(step.difference.path for step in undone)


class _File:
    """Undoes the change of one file of the code."""

    def __init__(self, store: Store, tree: str, path: str) -> None:
        self._store, self._tree, self._path = store, tree, path

    def __call__(self, plan: Plan) -> Plan:
        return replace(plan, code=self._store.code.compose(plan.code, self._tree, [self._path]))


def agree(store: Store, record: Record, found: Sequence[Replayed]) -> bool:
    """Say whether replays agree with one another, bit for bit; one that could not be started agrees with none.

    Those that were killed are left out. Of a run that was cut, replays end within moments of one another.
    """
    original = store.outcome(record.run_id)
    extent: Extent = "common" if original is None or cuts.is_cut(original) else "whole"
    ends: list[tuple[Path, Outcome]] = []
    for item in found:
        if item.killed:
            continue
        outcome = None if item.run_id is None else store.outcome(item.run_id)
        if item.run_id is None or outcome is None:
            return False
        ends.append((store.run_folder(item.run_id), outcome))
    return bool(ends) and all(
        compare.compare(ends[0], end, record.metrics, extent).verdict == "IDENTICAL" for end in ends[1:]
    )


def current_code(store: Store, record: Record) -> str:
    """Capture the project as it is now, and return its tree. Raises CaptureError, UsageError."""
    from repro.capture import code
    from repro.run import leftovers

    root = restore.where_now(store, record)
    if not root.is_dir():
        raise UsageError(f"there is no project in {root} any more", hint="--code recorded needs none")
    outputs = leftovers.not_code(store, root)
    return code.capture(root, store.folder, store.code, outputs=outputs).tree
