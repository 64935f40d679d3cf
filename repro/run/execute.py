"""The one way anything is executed: capture while the child starts, seal, let it go on, watch, conclude."""

from __future__ import annotations

import errno
import functools
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from repro.base import clock, files, holders, journal
from repro.engines import limits, local
from repro.engines.limits import Over, RunLimits
from repro.engines.signals import ENDING, Relay
from repro.environments.elsewhere import Elsewhere
from repro.errors import StoreError, UsageError
from repro.record.values import LOST_POINTS, OVER_MEMORY, OVER_TIME, Outcome, Record, State, was_limited
from repro.run import conclude, leftovers, recover, resume, seal, setting
from repro.run.metrics import Scanner
from repro.run.request import Request
from repro.store import trust
from repro.store.store import Store
from repro.worker import losses
from repro.worker.job import Job


@dataclass(frozen=True)
class Result:
    """A run that is over; ``told`` says that somebody wanted it to end, also where it had ended by itself by then."""

    record: Record
    record_digest: str
    outcome: Outcome
    folder: Path
    told: bool


@dataclass(frozen=True)
class Options:
    """How a run is made, where that has no bearing on its result.

    ``overrides`` are variables that are set (or, with None, unset) whatever the profile says; ``job`` has further
    fields of the `Job`: where a replay ends early, what it looks at. ``start`` is where a continuation begins.
    ``elsewhere`` is an environment other than the current one.
    ``launch`` is what starts it: `local.launch`, or one that has warm workers. ``limits`` end it. ``enough`` says, by
    its folder and the seconds that it took, that it has gone as far as it is to; ``patience`` is how many seconds it
    has to end once it was told to. It may write to ``layers`` (folders), and what it wrote lies ``at`` another place.
    """

    to_stderr: bool = False
    quiet: bool = False
    given: seal.Given | None = None
    live: tuple[tuple[str, str], ...] = ()
    environment: dict[str, str] | None = None
    say: Callable[[str], None] = lambda _text: None
    sealed: Callable[[Record, list[str]], None] = lambda _record, _said: None
    allow_outside: bool = False
    overrides: Mapping[str, str | None] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)
    start: resume.Start | None = None
    elsewhere: Elsewhere | None = None
    launch: Callable[[local.Command], local.LocalProcess] = local.launch
    limits: RunLimits = RunLimits()  # noqa: RUF009  (never changed)
    enough: Callable[[Path, float], bool] | None = None
    patience: float | None = None
    layers: tuple[str, ...] = ()
    at: Callable[[str], str] = str


def execute(asked: Request, store: Store, options: Options) -> Result:
    """Make one run and return it once its outcome is sealed.

    Raises:
        UsageError: when the program is not there.
        CaptureError, ConfigError: when something of the recipe cannot be captured; nothing was run.
        StoreError: when the store cannot be written.
    """
    seal.check_arguments(asked)
    recover.recover(store)  # before it begins: what was over by then is no run that went on beside it
    execution = _Execution(asked, store, options)
    try:
        return execution.run()
    finally:
        execution.close()


class _Execution:
    """The steps of one run, in order, and what they hand on to one another."""

    def __init__(self, asked: Request, store: Store, options: Options) -> None:
        self.asked = asked
        self.store = store
        self.options = options
        self.settings, self.env, self.command, self.python, self.early = setting.settle(
            asked, options.environment, options.overrides, options.elsewhere
        )
        self.run_id = clock.new_run_id()
        self._journal_end = journal.end(store.journal)
        self.folder, self._lock = store.new_run(self.run_id)
        self.lease = holders.Lease(self._lock)
        self.env |= {"REPRO_JOB": str(self.folder)}
        with files.disk_errors("write", self.folder):
            losses.make(str(self.folder))
        self.scanner = Scanner(self.folder, asked.patterns) if asked.patterns else None
        self.process: local.LocalProcess | None = None
        self.relay = Relay()
        self.started = clock.now()
        self.started_ns = time.time_ns()
        self._sealed = False
        self._over = False

    def run(self) -> Result:
        if self.early:
            self._launch()
        outputs = leftovers.not_code(self.store, self.asked.root) if self.options.given is None else {}
        if self.options.start is not None and self.options.given is None:
            outputs |= resume.left_by(self.options.start, self.store, self.asked.root)
        captured = seal.capture(
            self.asked, self.store, self.run_id, self.python, self.settings, self._seen(), outputs, self.options.given
        )
        if self.options.start is not None:
            captured = self._continue(captured, self.options.start)
        captured = _telling(captured, launch=captured.record.circumstances["launch"] | self._launched())
        self.relay.begin()  # from here to its outcome nothing that is sent may lose the run
        digest = self.store.seal_record(captured.record)
        if captured.record.replay_of is None:  # of a replay, the run that it replays is what is asked about
            trust.note_made_here(self.store, digest)
        self._sealed = True
        with files.disk_errors("write", self.folder / "job.json"):
            self._job(list(outputs)).write()
        self.options.sealed(captured.record, self.settings.said)
        if self.process is None:
            self._launch()
        assert self.process is not None  # noqa: S101
        self.process.patience = self.options.patience
        if self.options.enough is not None:
            self.process.enough = functools.partial(self.options.enough, self.folder)
        self.process.release()
        self.lease.begin()
        end = self.process.wait()
        self._over = True
        return self._conclude(captured, digest, end)

    def _launched(self) -> dict[str, Any]:
        """Return what is told of the launch beyond what was captured."""
        found: dict[str, Any] = {"warm": True} if self.process is not None and self.process.warm else {}
        limited = self.options.limits != RunLimits()
        return found | {"limits": self.options.limits._asdict()} if limited else found

    def _seen(self) -> dict[str, str]:
        """Return the variables as the record tells of them: less what leads to another environment."""
        return self.env if self.options.elsewhere is None else self.options.elsewhere.unseen(self.env)

    def _continue(self, captured: seal.Captured, start: resume.Start) -> seal.Captured:
        """Check that the recipe is that of the run which is continued, and hand over what there is of it."""
        resume.check_recipe(start, captured.record, self.store)
        resume.hand_over(start, self.store, self.folder)
        return _telling(captured, resumed=start.circumstances())

    def _launch(self) -> None:
        command = [*self.command, str(self.folder)] if self.asked.entry is not None else self.command
        try:
            self.process = self.options.launch(
                local.Command(
                    command,
                    self.asked.working_folder,
                    self.env,
                    self.folder,
                    gated=self.early,
                    to_stderr=self.options.to_stderr,
                    quiet=self.options.quiet,
                    silent=self.options.given is not None,
                    stdin=self.asked.program,
                    listener=self.scanner,
                    limits=self.options.limits,
                    relay=self.relay,
                )
            )
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # that says nothing of the program
                raise
            raise UsageError(f"cannot start {command[0]}: {error.strerror}", hint="can it be executed here?") from error

    def _job(self, keep: list[str]) -> Job:
        place = str(self.asked.place)
        return Job(
            folder=str(self.folder),
            run_id=self.run_id,
            seed=self.asked.seed,
            replicates=self.asked.replicates,
            profile=self.asked.profile,
            threads=self.settings.threads if self.asked.profile != "off" else None,
            root=place,
            store=str(self.store.folder),
            started_ns=self.started_ns,
            params=self.asked.params,
            data=self.asked.data,
            entry=self.asked.entry,
            trail={name: getattr(self.asked.trail, name) for name in self.asked.trail.__struct_fields__},
            live=[list(pair) for pair in self.options.live],
            protect=bool(self.options.live) and not self.options.allow_outside,
            layers=list(self.options.layers),
            keep=[os.path.join(place, name) for name in keep],
            budget=self.asked.budget,
            horizon=self.asked.horizon,
            resume={} if self.options.start is None else self.options.start.points,
            **self.options.job,
        )

    def _conclude(self, captured: seal.Captured, digest: str, end: local.End) -> Result:
        if self.scanner is not None:
            self.scanner.finish()
        self._check_room(end)
        is_short = "metrics" in losses.read(str(self.folder)) and _state(end) in ("COMPLETED", "FAILED")
        alone = not self.store.others_since(self._journal_end, self.run_id)
        place = self.asked.place
        files = conclude.look(
            captured.record,
            self.store,
            place,
            captured.code.stats,
            self.started_ns,
            alone=alone,
            at=self.options.at,
        )
        outcome = conclude.outcome_of(
            captured.record,
            digest,
            self.store,
            state="LOST" if is_short else _state(end),
            started=self.started,
            exit_code=end.code,
            signal_number=None if _is_enough(end) else end.signal,
            files=files,
            notes=[] if self.scanner is None else self.scanner.notes(),
        )
        sealed: list[Outcome] = []

        def complete(outcome: Outcome) -> Outcome:
            told = self._told(end)
            notes = [*outcome.notes, *_beside(end, told)]
            sealed.append(
                msgspec.structs.replace(outcome, reason=LOST_POINTS if is_short else _reason(end, told), notes=notes)
            )
            return sealed[0]

        self.store.seal_outcome(outcome, complete)
        if self.options.given is None:
            leftovers.remember_outputs(self.store, self.asked.root, files.stats)
        return Result(captured.record, digest, sealed[0], self.folder, bool(self._told(end)))

    def _told(self, end: local.End) -> list[int]:
        """Return the signals that meant the run to end, until now."""
        return [number for number in (*end.forwarded, *self.relay.late) if number in ENDING]

    def _check_room(self, end: local.End) -> None:
        """Raise StoreError where a run failed on a full disk: that tells nothing of its recipe. It is LOST then."""
        if _state(end) == "FAILED":
            files.check_room(f"run {self.run_id} failed in {self.folder}", self.folder)

    def close(self) -> None:
        """Let go of the run; one that was never sealed leaves nothing behind."""
        if self.process is not None and not self._over:
            self.process.abandon()
        self.lease.end()
        os.close(self._lock)
        if not self._sealed:
            self.store.settle(self.run_id)
        self.relay.end()


def _telling(captured: seal.Captured, **facts: Any) -> seal.Captured:
    """Let the record tell further circumstances."""
    found = captured.record.circumstances | facts
    return captured._replace(record=msgspec.structs.replace(captured.record, circumstances=found))


def _state(end: local.End) -> State:
    """Return CANCELLED for a run that was told to end, even where its handler then ended it with 0.

    LOST is one that was taken along by what it was forked from.
    """
    if not ENDING.isdisjoint(end.forwarded):
        return "CANCELLED"
    if end.lost:
        return "LOST"
    if _is_enough(end):
        return "COMPLETED"
    if end.over is not None:  # whatever it made of the signal
        return "TIMED_OUT" if end.over.what == "time" else "FAILED"
    return "COMPLETED" if end.code == 0 else "FAILED"


def _reason(end: local.End, told: list[int]) -> str | None:
    if end.lost:
        return end.lost
    if _is_enough(end):
        return "ended by repro: it had gone as far as it was to"
    is_cancelled = not ENDING.isdisjoint(end.forwarded)
    if end.over is not None and not is_cancelled:
        return _broken(end.over)
    how = f"exit code {end.code}" if end.code else None
    if end.signal is not None:
        how = f"ended by {signal.Signals(end.signal).name}" + ("" if end.begun else " before its first line")
    if not is_cancelled or told == [end.signal]:
        return how
    return "; ".join(filter(None, [f"told to end by {_named(told)}", how]))


def _named(numbers: list[int]) -> str:
    return ", ".join(dict.fromkeys(signal.Signals(number).name for number in numbers))


def _beside(end: local.End, told: list[int]) -> list[str]:
    """Say what of its output got lost on its way, and what came for a run that had ended by itself."""
    notes = [f"{name} could not be written ({why}): the run's log has it" for name, why in end.unwritten.items()]
    if told and ENDING.isdisjoint(end.forwarded):
        notes.append(f"{_named(told)} came when it was over, and changed nothing")
    return notes


def _is_enough(end: local.End) -> bool:
    return end.over is not None and end.over.what == "enough" and ENDING.isdisjoint(end.forwarded)


def _broken(over: Over) -> str:
    if over.what == "time":
        return f"{OVER_TIME}{limits.in_seconds(over.limit)}"
    most, seen = (limits.in_bytes(value, over.limit) for value in (over.limit, over.seen))
    return f"{OVER_MEMORY}{most}: {seen} in use"


def exit_code(result: Result) -> int:
    """Return what the command line ends with: the child's own code; 128 and the signal's number as a shell has it.

    Beyond a limit it is 124 as of `timeout`, and 137 as where the kernel takes back memory.
    """
    outcome = result.outcome
    if was_limited(outcome):
        return 124 if outcome.state == "TIMED_OUT" else 137
    if outcome.reason == LOST_POINTS:
        return StoreError.exit_code
    if outcome.signal is not None:
        return 128 + int(signal.Signals[outcome.signal])
    return 0 if outcome.exit_code is None else outcome.exit_code
