"""A study of which nothing came to its end: it ends with an error that names the first reason."""

from __future__ import annotations

from collections.abc import Mapping

from repro.errors import ReproError
from repro.record.values import Outcome
from repro.store.store import Store

#: So much of the end of standard error is looked through, in bytes, and so much of a line is said, in characters.
_TAIL = 1 << 14
_MOST_SAID = 300


class NothingCompletedError(ReproError):
    """All runs of a study failed."""


def need_one_completed(store: Store, run_ids: Mapping[str, str | None], what: str) -> None:
    """Raise unless one of the runs, by name, came to its end; where there are none, nothing failed.

    Raises:
        NothingCompletedError: which says how the first one ended; ``what`` is the word for all of them.
    """
    outcomes = {name: None if run_id is None else store.outcome(run_id) for name, run_id in run_ids.items()}
    ends = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
    if not ends or any(outcome.state == "COMPLETED" for outcome in ends.values()):
        return
    name, first = next(iter(ends.items()))
    count = f"none of the {len(ends)} {what} completed" if len(ends) > 1 else f"the only {what[:-1]} did not complete"
    message = f"{count}; {name} {first.state}: {reason(store, first)}"
    raise NothingCompletedError(message, hint=f"repro show {first.run_id}")


def reason(store: Store, outcome: Outcome) -> str:
    """Return why a run failed: the exception that it ended with, else how its process ended."""
    ended = outcome.reason or outcome.signal or f"exit code {outcome.exit_code}"
    if outcome.state != "FAILED" or outcome.signal is not None:
        return ended
    return next(filter(_names_exception, reversed(_last_lines(store, outcome))), ended)[:_MOST_SAID]


def _names_exception(line: str) -> bool:
    name = line.partition(":")[0]
    is_one = name.endswith(("Error", "Exception", "Exit", "Interrupt")) or (":" in line and "." in name)
    return is_one and name.replace(".", "").isidentifier()


def _last_lines(store: Store, outcome: Outcome) -> list[str]:
    path = store.run_folder(outcome.run_id) / "stderr.log"
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - _TAIL))
            return handle.read().decode(errors="replace").splitlines()
    except OSError:
        return []
