"""Averaged models that need the user's module: soups, the averages of single runs, and what a member costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch

from repro.worker import averaging_models as models
from repro.worker import averaging_rebasin as rebasin
from repro.worker import averaging_soup as soup
from repro.worker.averaging import _FAR, Files, Plan, Result, Scores, best_of, check_reproduced
from repro.worker.averaging_models import Evaluation, UserModule
from repro.worker.averaging_predictions import Refused, loss
from repro.worker.averaging_soup import Kitchen


class _Members(NamedTuple):
    """The members: their weights, and what they do on both splits."""

    states: list[Mapping[str, Any]]
    test: list[Evaluation]
    validation: list[Evaluation]
    notes: list[str]

    @property
    def losses(self) -> list[float]:
        return [loss(item.scores) for item in self.validation]


def _module(plan: Plan, root: str) -> UserModule | None:
    path = None if plan.module is None else os.path.join(root, plan.module)
    return None if path is None else UserModule(path, plan.params, plan.seeds)


def costs(plan: Plan, paths: Sequence[str], root: str) -> list[Scores]:
    """Return each member's number of weights, and the time of one evaluation where there is a module for it."""
    module = _module(plan, root)
    found: list[Scores] = []
    for number, path in enumerate(paths):
        checkpoint = models.read(path)
        if module is None:
            count = models.parameters_in(checkpoint)
            found.append({} if count is None else {"parameters": float(count)})
        else:
            model = module.build()
            state = models.state_of(checkpoint, model, number)
            found.append(_cost(module, models.loaded(model, state), plan.test))
    return found


def _cost(module: UserModule, model: torch.nn.Module, split: str) -> Scores:
    count = float(models.count_of(model.state_dict()))
    return {"parameters": count, "inference_seconds": module.seconds(model, split)}


def of_weights(plan: Plan, files: Files, root: str) -> Result:
    """Make a model whose weights are averaged, and evaluate it beside its members.

    Raises:
        Refused: where that would not be sound.
    """
    module = _module(plan, root)
    assert module is not None  # noqa: S101  (whoever asked for this run has looked)
    assert plan.validation is not None  # noqa: S101  (likewise)
    kitchen = Kitchen(module)
    members = _members(plan, files, module, kitchen)
    best = best_of([item.scores for item in members.validation])
    state, details = _METHODS[plan.method](plan, files, kitchen, members)
    model = kitchen.averaged(state)
    test, validation = (module.evaluate(model, split) for split in (plan.test, plan.validation))
    cost = _cost(module, model, plan.test)
    splits = {plan.test: test.predictions, plan.validation: validation.predictions}
    return Result(
        singles=[item.scores | cost for item in members.test],  # one network: it takes what the averaged one takes
        best=best,
        averaged=test.scores | cost,
        predictions={split: found for split, found in splits.items() if found is not None},
        details={"method": plan.method, "notes": members.notes} | details,
        state={name: value.clone() for name, value in model.state_dict().items()},
    )


def _members(plan: Plan, files: Files, module: UserModule, kitchen: Kitchen) -> _Members:
    found = _Members([], [], [], [])
    wanted = module.build()
    for number in range(len(plan.members)):
        state = models.state_of(models.read(str(files.path(number, "weights"))), wanted, number)
        found.states.append(state)
        for split, into in ((plan.test, found.test), (str(plan.validation), found.validation)):
            done = module.evaluate(kitchen.member(state), split)
            note = check_reproduced(split, number, done.predictions, files.predictions(number, split))
            found.notes.extend([] if note is None else [note])
            into.append(done)
    return found


def _soup(plan: Plan, _files: Files, kitchen: Kitchen, members: _Members) -> tuple[Mapping[str, Any], dict[str, Any]]:
    states, details = _mixable(plan, kitchen, members)
    taken = list(range(len(states)))
    if plan.method == "greedy-soup":
        taken = soup.greedy(kitchen, states, members.validation, str(plan.validation))
    return kitchen.mean([states[index] for index in taken]), details | {"taken": taken}


def _mixable(plan: Plan, kitchen: Kitchen, members: _Members) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    """Return the members' weights, matched where that was asked for, with the barriers between them.

    Raises:
        Refused: where they may not be averaged.
    """
    states = list(members.states)
    if plan.rebasin:
        states = _matched(plan, kitchen, members)
    found = soup.barriers(kitchen, states, members.losses, str(plan.validation))
    pairs = combinations(range(len(states)), 2)
    highest = max(found, key=lambda value: (value != value, value), default=0.0)  # noqa: PLR0124  (NaN is the highest)
    soup.check_barrier(highest, plan.max_barrier, shared=plan.shared)
    each = [[i, j, value] for (i, j), value in zip(pairs, found, strict=True)]
    return states, {"barrier": highest, "barriers": each, "max_barrier": plan.max_barrier, "shared": plan.shared}


def _matched(plan: Plan, kitchen: Kitchen, members: _Members) -> list[Mapping[str, Any]]:
    """Return the weights of all members in the order of the first one's units.

    Raises:
        Refused: where a member is not the same function any more.
    """
    first, *rest = members.states
    chain = rebasin.layers(kitchen.member(first))
    states = [first, *(rebasin.matched(chain, first, state) for state in rest)]
    for number, (state, before) in enumerate(zip(states, members.losses, strict=True)):
        now = loss(kitchen.evaluate(state, str(plan.validation)).scores)
        if not abs(now - before) <= _FAR * max(1.0, abs(before)):
            moved = (
                f"member {number} is another function with its units in another order (loss {before:.4g}, {now:.4g})"
            )
            raise Refused(f"--rebasin is for MLPs whose hidden units may change places: {moved}", "--method ensemble")
    return states


def _within_one(
    plan: Plan, files: Files, kitchen: Kitchen, members: _Members
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the average that one run made of its own weights: of the members, the one that is best on validation."""
    found = [models.read(str(files.path(number, "average"))) for number in range(len(members.states))]
    states = [item["state"] for item in found]
    scores = [kitchen.evaluate(state, str(plan.validation)).scores for state in states]
    best = best_of(scores)
    return states[best], {"taken": [best], "steps": found[best]["steps"]}


#: How the weights of each method are made.
_METHODS: Mapping[str, Callable[..., tuple[Mapping[str, Any], dict[str, Any]]]] = {
    "soup": _soup,
    "greedy-soup": _soup,
    "ema": _within_one,
    "swa": _within_one,
    "last": _within_one,
}
