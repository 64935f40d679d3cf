"""The errors that a user can meet: each says what failed, and after ``hint:`` what helps."""

from __future__ import annotations


class ReproError(Exception):
    """Base of every error that is the world's or the user's doing, not a bug.

    ``hint`` names the command or the edit that helps; ``exit_code`` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InterruptedReplay(KeyboardInterrupt):
    """A replay was told to end (Ctrl-C, SIGTERM): nothing more is made, and nothing is said of the run."""


class UsageError(ReproError):
    """A command line or a configuration that cannot be understood."""

    exit_code = 2


class ConfigError(UsageError):
    """An experiment file that breaks its schema."""


class RunNotFoundError(UsageError):
    """No run, or more than one, answers to the name that was given."""


class ProjectRootError(UsageError):
    """The project root would be the home folder or the whole disk."""


class CaptureError(ReproError):
    """Something that belongs to the recipe could not be captured, so the run does not start."""

    exit_code = 4


class EnvironmentMismatchError(ReproError):
    """The environment of a record cannot be had here: an interpreter, a wheel, an engine or an image is missing."""

    exit_code = 4


class StaleLockError(ReproError):
    """A lock is not what its inputs ask for."""

    exit_code = 3


class StoreError(ReproError):
    """The store cannot be read or written: damaged, read-only, or the disk is full."""

    exit_code = 5


class StoreDamagedError(StoreError):
    """The store's own structure is broken."""


class UnsafeRecordError(StoreDamagedError):
    """A record is as it was sealed, and names a file or a folder where none of its belongs: it is not used."""
