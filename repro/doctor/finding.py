"""One thing that will not hold, and the remedy of each rule."""

from __future__ import annotations

from typing import Literal

import msgspec

Rule = Literal[
    "lock-missing",
    "lock-mismatch",
    "large-files",
    "loader-without-generator",
    "persistent-workers",
    "out-of-order-loader",
    "global-draw-in-worker",
    "unseeded-generator",
    "changing-seed",
    "unsorted-listing",
    "set-iteration",
    "nondeterministic-operator",
    "threads-from-machine",
    "thread-variable",
    "unparsable",
]

#: What helps, where the finding itself does not say it better.
REMEDIES: dict[Rule, str] = {
    "loader-without-generator": 'generator=torch.Generator().manual_seed(...), or run.rng("order")',
    "persistent-workers": "leave persistent_workers out",
    "out-of-order-loader": "leave in_order out",
    "global-draw-in-worker": "np.random.default_rng([seed, epoch, index]), or run.rng(name, epoch, index)",
    "unseeded-generator": "give it a number, or take run.rng(name)",
    "changing-seed": "a number; `repro run --seed random` draws one and records it",
    "unsorted-listing": "sorted(...)",
    "set-iteration": "sorted(...), or dict.fromkeys(...) in place of the set",
    "nondeterministic-operator": "another operator, or --determinism warn, which runs it and names it",
    "unparsable": "python -m py_compile says what is wrong",
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding; ``file`` is relative to the project's root, and ``line`` counts from 1: None where there is none."""

    rule: Rule
    file: str | None
    line: int | None
    text: str
    remedy: str


def found(rule: Rule, file: str | None, line: int | None, text: str, remedy: str | None = None) -> Finding:
    """Return a finding with the rule's own remedy unless another is given."""
    return Finding(rule=rule, file=file, line=line, text=text, remedy=remedy or REMEDIES[rule])
