"""The values that are sealed: Recipe, Record and Outcome, with their digests.

Each is a frozen struct with a schema version; its canonical bytes (`seal`) are what lies on the disk, and their
SHA-256 is its digest. `docs/reference/record.md` describes every field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from repro.base import canonical, digest
from repro.errors import StoreDamagedError, UnsafeRecordError
from repro.record import names, seeds

Profile = Literal["strict", "portable", "warn", "off"]
State = Literal["RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST", "UNKNOWN"]
Verdict = Literal["IDENTICAL", "WITHIN_TOLERANCE", "COMPATIBLE", "DIFFERENT", "NOT_REPLAYABLE"]
Direction = Literal["maximize", "minimize"]


class Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all values."""


class Package(Frozen, frozen=True, kw_only=True):
    """One installed distribution: PEP 503 name, version, and the digest of its files as RECORD lists them."""

    name: str
    version: str
    digest: str


class SeedPlan(Frozen, frozen=True, kw_only=True):
    """One master seed (as text: it may exceed 2**53) and the replicate index of every stream that is not 0.

    ``order@5`` is the index that the stream has from epoch 5 on: it begins anew there (docs/adr/0015-seed-studies.md).
    """

    master: str
    replicates: dict[str, int] = {}


class TrailSchedule(Frozen, frozen=True, kw_only=True):
    """Which frames of the trail are full: a pure function of the step and of static sizes (`record.trail`)."""

    enabled: bool = True
    first: int = 10
    budget_us: int = 200
    thin_after: int = 1_000


class Recipe(Frozen, frozen=True, kw_only=True):
    """All that should determine the result: the closed list of the design's section 4."""

    schema: Literal[1] = 1
    code: str
    sources: dict[str, str]
    cwd: str | None
    command: list[str] | None
    entry: str | None
    params: dict[str, Any]
    interpreter: str
    packages: list[Package]
    data: dict[str, str]
    seeds: SeedPlan
    profile: Profile
    settings: dict[str, Any]
    threads: int | None
    budget: dict[str, int]
    horizon: dict[str, int]
    trail: TrailSchedule
    environment: dict[str, str]


class Gap(Frozen, frozen=True, kw_only=True):
    """Something that could not be captured, and why."""

    what: str
    reason: str


class Tolerance(Frozen, frozen=True, kw_only=True):
    """How far a metric may be off and still be called equal: ``abs`` in its unit, ``rel`` as a fraction."""

    abs: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    rel: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class MetricSpec(Frozen, frozen=True, kw_only=True):
    """What is declared of a metric."""

    direction: Direction | None = None
    tolerance: Tolerance | None = None
    compare: Literal["always", "never"] = "always"


class Record(Frozen, frozen=True, kw_only=True):
    """Recipe, circumstances and gaps: sealed before user code runs."""

    schema: Literal[1] = 1
    run_id: str
    created: str
    name: str
    repro: str
    recipe: Recipe
    recipe_digest: str
    circumstances: dict[str, Any]
    gaps: list[Gap]
    metrics: dict[str, MetricSpec] = {}
    replay_of: str | None = None


class FileDigest(Frozen, frozen=True, kw_only=True):
    """A file by path, size in bytes and digest; ``digest`` is None where it could not be read, see ``note``."""

    path: str
    size: int
    digest: str | None
    note: str | None = None


#: The note on an input that an earlier run had left: its bytes are an object of the store.
KEPT = "left by an earlier run; kept in the store"
#: The note on an input in a cache of what programs fetch (`repro.base.caches`): one that is gone is fetched again.
FETCHED = "in a cache of what is fetched"


#: How the reason of an outcome begins that a limit of the user's brought about: of time, of memory.
OVER_TIME = "time limit of "
OVER_MEMORY = "memory limit of "
#: The reason of an outcome whose metric points the disk refused: such a run is no result.
LOST_POINTS = "the disk refused points that it logged"


class TrailSummary(Frozen, frozen=True, kw_only=True):
    """One process's trail: its key (rank and order), frames, and the chain's last digest."""

    process: str
    frames: int
    digest: str


class Outcome(Frozen, frozen=True, kw_only=True):
    """How a run ended, and the digest of everything it left: written once."""

    schema: Literal[1] = 1
    run_id: str
    record_digest: str
    state: State
    exit_code: int | None
    signal: str | None
    reason: str | None
    started: str
    ended: str
    metrics: dict[str, float]
    trail_digest: str | None
    trails: list[TrailSummary]
    files: dict[str, str]
    inputs: list[FileDigest]
    outputs: list[FileDigest]
    artifacts: list[FileDigest]
    notes: list[str]
    gaps: list[Gap]


def was_limited(outcome: Outcome) -> bool:
    """Say whether a run was ended for a limit of time or memory: that tells nothing of its recipe."""
    return (outcome.reason or "").startswith((OVER_TIME, OVER_MEMORY))


class Attachment(Frozen, frozen=True, kw_only=True):
    """Something learnt later about a sealed thing, named by its digest."""

    schema: Literal[1] = 1
    kind: str
    about: str
    run_id: str
    created: str
    body: dict[str, Any]


T = TypeVar("T", Record, Outcome, Attachment)


def seal(value: Record | Outcome | Attachment) -> bytes:
    """Return the canonical bytes of a value: what lies on the disk, with a newline at the end."""
    return canonical.dumps(msgspec.to_builtins(value)) + b"\n"


def unseal(data: bytes, kind: type[T], where: str) -> T:
    """Return the value that `seal` made ``data`` from; ``where`` names the file in errors.

    Raises:
        StoreDamagedError: when ``data`` is not such a value.
        UnsafeRecordError: when it names what it must not (`repro.record.names`).
    """
    try:
        value = msgspec.convert(canonical.loads(data), kind)
    except (ValueError, msgspec.ValidationError) as error:
        hint = "repro verify lists every file that is not as it was sealed"
        raise StoreDamagedError(f"{where} is not a valid {kind.__name__}: {error}", hint=hint) from error
    try:
        names.check(value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "repro never writes such a name: somebody else did; nothing of this record is used"
        raise UnsafeRecordError(f"{where} is not safe to use: {error}", hint=hint) from error
    return value


def recipe_digest(recipe: Recipe) -> str:
    """Return the digest that "the same run" means."""
    return digest.of_value("recipe/1", msgspec.to_builtins(recipe))


def study_of(recipe: Recipe) -> str:
    """Return the digest of a recipe less its master seed: equal for those that differ in that alone.

    In the words of the command, the number drawn from the seed counts as ``{seed}``.
    """
    number = str(seeds.integer(int(recipe.seeds.master), "command", 32))
    words = None if recipe.command is None else [word.replace(number, "{seed}") for word in recipe.command]
    plan = msgspec.structs.replace(recipe.seeds, master="")
    return recipe_digest(msgspec.structs.replace(recipe, seeds=plan, command=words))
