"""The forms of sealed values never change unnoticed: fixed values, their digests, and the files of every version.

Whoever changes a form on purpose changes a digest here, and says why in `docs/adr/`. From release 1.0 on the files in
`tests/golden/` are kept for ever, and new ones are added beside them.
"""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repro.base import digest
from repro.errors import StoreDamagedError
from repro.record.values import (
    Attachment,
    FileDigest,
    Gap,
    MetricSpec,
    Outcome,
    Package,
    Recipe,
    Record,
    SeedPlan,
    Tolerance,
    TrailSchedule,
    TrailSummary,
    recipe_digest,
    seal,
    unseal,
)

GOLDEN = Path(__file__).with_name("golden")
SHA = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

RECIPE = Recipe(
    code="git:4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    sources={"helpers": "git:83baae61804e65cc73a7201a7252750c76066a30"},
    cwd="experiments/digits",
    command=None,
    entry="experiments/digits/train.py:train",
    params={
        "epochs": 50,
        "lr": 0.05,
        "momentum": 1.0,
        "optimizer": "sgd",
        "seed": 2**63,
        "widths": [16, 32],
        "x": None,
    },
    interpreter="CPython 3.11.7",
    packages=[Package(name="torch", version="2.9.0+cpu", digest=SHA)],
    data={"images": SHA},
    seeds=SeedPlan(master="18446744073709551615", replicates={"init": 1}),
    profile="strict",
    settings={"use_deterministic_algorithms": True, "warn_only": False},
    threads=1,
    budget={"epochs": 50},
    horizon={"epochs": 50},
    trail=TrailSchedule(thin_after=10_000),
    environment={"OMP_NUM_THREADS": "1"},
)
RECORD = Record(
    run_id="20261124-063315-k3f9x2ab",
    created="2026-11-24T06:33:15.123Z",
    name="digits",
    repro="0.1.0",
    recipe=RECIPE,
    recipe_digest=recipe_digest(RECIPE),
    circumstances={"gpus": {"error": "no driver"}, "host": {"ms": 0.25, "value": {"name": "ada"}}},
    gaps=[Gap(what="gpus", reason="no driver")],
    metrics={"acc": MetricSpec(direction="maximize", tolerance=Tolerance(abs=0.01)), "ms": MetricSpec(compare="never")},
    replay_of="20261124-063314-aaaaaaaa",
)
OUTCOME = Outcome(
    run_id=RECORD.run_id,
    record_digest=SHA,
    state="FAILED",
    exit_code=None,
    signal="SIGKILL",
    reason="ended by SIGKILL",
    started="2026-11-24T06:33:15.200Z",
    ended="2026-11-24T06:33:17.000Z",
    metrics={"acc": 1.0, "loss": math.nan, "val_loss": 0.1},
    trail_digest=SHA,
    trails=[TrailSummary(process="rank 0", frames=12, digest="xxh3:00000000000000000000000000000000")],
    files={"stdout.log": SHA},
    inputs=[FileDigest(path="data/a.npy", size=3, digest=None, note="cannot be read any more")],
    outputs=[FileDigest(path="out/\udcff.txt", size=0, digest=SHA)],
    artifacts=[FileDigest(path="model.pt", size=2**54, digest=SHA)],
    notes=["torch.manual_seed(3407) at train.py:12"],
    gaps=[],
)
ATTACHMENT = Attachment(
    kind="verdict",
    about=SHA,
    run_id=RECORD.run_id,
    created="2026-11-24T06:40:00.000Z",
    body={"first_difference": None, "of": RECORD.replay_of, "verdict": "IDENTICAL"},
)

VALUES = [
    ("record-1.json", RECORD, "sha256:d70913bfbc1a1ac52ed000d00f45c6558ebb9e8bad3cb9813bd9c9e8460ed82a"),
    ("outcome-1.json", OUTCOME, "sha256:527e49de5cc386021f4463835c124ccaf97d381ee682b9de06d5ee3bbe379c5f"),
    ("attachment-1.json", ATTACHMENT, "sha256:dc16a2a93df7e43ef281eb945663edc0c0e31fd0c91b9743e52c94cd5ff8c7e7"),
]


@pytest.mark.parametrize(("name", "value", "expected"), VALUES)
def test_the_digest_of_a_fixed_value_is_fixed(name: str, value: Any, expected: str) -> None:
    """Record, outcome and attachment have the digest that they had when this version of their form was made."""
    assert digest.of_bytes(seal(value)) == expected, name


def test_the_digest_of_a_fixed_recipe_is_fixed() -> None:
    """What "the same run" means is the same in every version of this program."""
    assert recipe_digest(RECIPE) == "sha256:85f374eedcf00c667f7e95ee88ec2fa1488c2e7cf3517059cbc8252bd80001d9"


@pytest.mark.parametrize(("name", "value", "_expected"), VALUES)
def test_a_file_of_this_version_is_read_back(name: str, value: Any, _expected: str) -> None:
    """The kept file has the sealed bytes, and reading it gives the value; NaN, big numbers and odd names included."""
    data = (GOLDEN / name).read_bytes()
    assert data == seal(value)
    assert repr(unseal(data, type(value), name)) == repr(value)


@pytest.mark.parametrize("field", list(Recipe.__struct_fields__))
def test_every_field_of_the_recipe_counts(field: str) -> None:
    """A recipe that differs in any one field has another digest."""
    if field == "schema":
        changed = msgspec.to_builtins(RECIPE) | {"schema": 2}
        assert digest.of_value("recipe/1", changed) != recipe_digest(RECIPE)
        return
    other = {"profile": "warn", "threads": 2, "command": ["a"], "entry": None, "packages": [], "cwd": None}
    other |= {"params": RECIPE.params | {"momentum": 1}, "seeds": SeedPlan(master="0"), "trail": TrailSchedule(first=9)}
    empty = {"sources": {}, "data": {}, "settings": {}, "budget": {}, "horizon": {}, "environment": {}}
    value = (other | empty | {"code": "git:0", "interpreter": "PyPy"})[field]
    assert recipe_digest(msgspec.structs.replace(RECIPE, **{field: value})) != recipe_digest(RECIPE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "Record"),
        (b"{}", "missing required field"),
        (b"[1]", "Record"),
        (b"\xff", "Record"),
        (seal(RECORD).replace(b'"schema":1', b'"schema":9'), "schema"),
        (seal(RECORD).replace(b'"name"', b'"nome"'), "nome"),
        (seal(OUTCOME), "Record"),
    ],
)
def test_anything_else_is_said_to_be_damaged(data: bytes, words: str) -> None:
    """A file that is no record is a damaged store: the file is named, and the command that says more."""
    with pytest.raises(StoreDamagedError, match=words) as caught:
        unseal(data, Record, "runs/x/record.json")
    assert "runs/x/record.json" in str(caught.value)
    assert "repro verify" in str(caught.value.hint)
