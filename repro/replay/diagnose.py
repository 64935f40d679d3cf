"""`repro diagnose`: two runs of the same thing differ; name the operator, the seed, the draw or the order that does it.

A replay is compared with the run; where they differ, two more are made under tracing, until the step at which the first
two came apart, and their logs are compared (`culprit`). The logs are taken away afterwards.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from repro.replay import compare, culprit, replay, traces
from repro.replay.restore import NotReplayableError
from repro.run import observed, trails
from repro.store.store import Store

#: So many traced replays are made at most where the first two of them do not differ.
_TRIES = 4


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: ``found`` says whether two runs differed; ``finding`` is None where the reason has no name.

    ``step``, ``column`` and ``tensor`` are those of the trails; ``replays`` are the runs that were made for it.
    """

    run_id: str
    found: bool
    text: str
    step: int | None
    column: str | None
    tensor: str | None
    finding: culprit.Finding | None
    replays: list[str]
    gaps: list[str]


@dataclass(frozen=True)
class Asked:
    """How it is done; ``runs`` is how many runs are compared before they are said to agree."""

    runs: int = 2
    to_stderr: bool = False
    allow_outside: bool = False
    say: Callable[[str], None] = lambda _text: None


def diagnose(store: Store, run_id: str, asked: Asked) -> Diagnosis:
    """Find out why a run differs from itself.

    Raises:
        NotReplayableError: when it cannot be replayed.
        StoreDamagedError, StoreError: as `replay` does.
    """
    return _Search(store, run_id, asked).run()


class _Search:
    """The replays of one diagnosis, and what they tell."""

    def __init__(self, store: Store, run_id: str, asked: Asked) -> None:
        self.store = store
        self.run_id = run_id
        self.asked = asked
        self.how = replay.Asked(asked.to_stderr, allow_outside=asked.allow_outside)
        self.metrics = store.record(run_id).metrics
        self.replays: list[str] = []

    def run(self) -> Diagnosis:
        """Compare replays with the run, and trace where one differs."""
        first, blind = None, False
        for number in range(2, self.asked.runs + 1):
            self.asked.say(f"repro: run {number} of {self.run_id}")
            found = self._replay(against=self._folder(self.run_id) / "trail")
            assert found.comparison is not None  # noqa: S101
            blind = "nothing to compare" in (found.reason or "")
            if found.comparison.verdict != "IDENTICAL":
                first = found.comparison.first_difference
                break
        else:
            return self._agree(f"{self.asked.runs} runs agree to the bit")
        window = self._window(self.run_id, first) if first is not None else compare.Window(0, 0, None)
        return self._trace(window, first, blind=blind)

    def _trace(self, window: compare.Window, first: compare.FirstDifference | None, *, blind: bool) -> Diagnosis:
        one = self._traced(window)
        try:
            for _ in range(1 if blind else _TRIES - 1):
                other = self._traced(window)
                try:
                    found = self._compared(one, other)
                    finding = culprit.find(self._side(one), self._side(other), blind=blind)
                    earlier = found.first_difference
                    if earlier is not None and (again := self._window(one, earlier)).start < window.start:
                        return self._trace(again, earlier, blind=False)
                    if finding is not None and (blind or found.verdict == "DIFFERENT" or finding.operator):
                        return self._named(finding, earlier or first, (one, other))
                    if found.verdict == "DIFFERENT":
                        return self._unnamed(earlier or first, (one, other))
                finally:
                    self._clear(other)
        finally:
            self._clear(one)
        return self._not_again(first, blind=blind)

    def _not_again(self, first: compare.FirstDifference | None, *, blind: bool) -> Diagnosis:
        """Return what is to be said where traced runs do not differ from one another up to the window's end."""
        if blind:
            return self._agree("there is nothing to compare, and the operators of two runs agree to the bit")
        one = self._replay()
        other = self._replay(against=self._folder(str(one.run_id)) / "trail")
        found = self._compared(str(one.run_id), str(other.run_id))
        if found.verdict != "DIFFERENT":
            text = "replays agree with one another, but not with the run: something differs between then and now"
            return self._agree(text, hint=True)
        return self._unnamed(found.first_difference or first, ())

    def _replay(self, **how: object) -> replay.Replayed:
        found = replay.replay(self.store, self.run_id, asked=replace(self.how, **how))  # type: ignore[arg-type]
        if found.run_id is None or found.killed or "writes outside" in (found.reason or ""):
            raise NotReplayableError(found.reason or "it cannot be replayed", hint=found.hint)
        self.replays.append(found.run_id)
        return found

    def _traced(self, window: compare.Window) -> str:
        end = "to its end" if window.until is None else f"up to step {window.until}"
        self.asked.say(f"repro: run {len(self.replays) + 2} of {self.run_id}, traced, {end}")
        return str(self._replay(trace=window.start, until=window.until).run_id)

    def _compared(self, one: str, other: str) -> compare.Comparison:
        sides = []
        stopped = False
        for run_id in (one, other):
            outcome = self.store.outcome(run_id)
            assert outcome is not None  # noqa: S101
            stopped = stopped or bool(observed.read(self._folder(run_id)).stopped)
            sides.append((self._folder(run_id), outcome))
        return compare.compare(sides[0], sides[1], self.metrics, "common" if stopped else "whole")

    def _window(self, run_id: str, first: compare.FirstDifference) -> compare.Window:
        """Return where to log operators: from the last step whose parameters are known to be equal."""
        trail = next(item for item in trails.read(self._folder(run_id)) if item.process == first.process)
        return compare.window(trail.frames, first)

    def _folder(self, run_id: str) -> Path:
        return self.store.run_folder(run_id)

    def _side(self, run_id: str) -> traces.Side:
        place = self.store.record(run_id).circumstances["project"]["place"]
        return traces.Side(self._folder(run_id) / "trace", str(place))

    def _clear(self, run_id: str) -> None:
        shutil.rmtree(self._folder(run_id) / "trace", ignore_errors=True)

    def _agree(self, text: str, *, hint: bool = False) -> Diagnosis:
        return Diagnosis(
            run_id=self.run_id,
            found=False,
            text=f"{text}; repro replay --why {self.run_id} looks for it" if hint else text,
            step=None,
            column=None,
            tensor=None,
            finding=None,
            replays=self.replays,
            gaps=[],
        )

    def _named(
        self, finding: culprit.Finding, first: compare.FirstDifference | None, sides: tuple[str, str]
    ) -> Diagnosis:
        return Diagnosis(
            run_id=self.run_id,
            found=True,
            text=finding.text + self._hashing(finding),
            step=finding.step if first is None else first.step,
            column=None if first is None else first.column,
            tensor=None if first is None else first.tensor,
            finding=finding,
            replays=self.replays,
            gaps=self._gaps(sides),
        )

    def _hashing(self, finding: culprit.Finding) -> str:
        """Say what may order values otherwise in each process, where no other reason is known."""
        recipe = self.store.record(self.run_id).recipe
        is_free = recipe.environment.get("PYTHONHASHSEED", "random") == "random"
        if finding.kind not in ("order", "input", "control") or not is_free:
            return ""
        return "; PYTHONHASHSEED is not set, so that sets of texts have another order in each process"

    def _unnamed(self, first: compare.FirstDifference | None, sides: tuple[str, ...]) -> Diagnosis:
        return Diagnosis(
            run_id=self.run_id,
            found=True,
            text="two runs differ, and nothing that was logged differs before",
            step=None if first is None else first.step,
            column=None if first is None else first.column,
            tensor=None if first is None else first.tensor,
            finding=None,
            replays=self.replays,
            gaps=self._gaps(sides),
        )

    def _gaps(self, sides: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(gap for run_id in sides for gap in traces.failures(self._side(run_id))))
