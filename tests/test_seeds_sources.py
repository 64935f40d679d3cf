"""`repro seeds --vary`, `--crossed` and `--fork-at`: which source of chance moves a number; runs that share epochs."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from repro import stats
from repro.errors import UsageError
from repro.record import seeds as derivation
from repro.replay import grade
from repro.seeds import plan, report, sources, studies, vary
from repro.seeds.plan import Replicate
from repro.store.store import Store
from repro.worker import fork
from repro.worker.job import Job
from repro.worker.session import Run

#: Uses four streams, asks for a fifth and does not draw from it; logs a time; goes on from its checkpoints.
SOURCES = """\
import time

import torch
from torch import nn


def train(run):
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(3))
    y = x.sum(1, keepdim=True)
    with run.stream("init"):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=run.params.lr)
    run.rng("idle")
    run.resume(model=model, optimizer=optimizer)
    for epoch in run.epochs():
        for i, index in enumerate(torch.randperm(48, generator=run.rng("order")).split(16)):
            noise = torch.from_numpy(run.rng("augment", epoch, i).normal(size=(16, 6))).float()
            with run.stream("dropout"):
                loss = ((model(x[index] + 0.1 * noise) - y[index]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.checkpoint(model=model, optimizer=optimizer)
    run.log(loss=loss.item(), seconds=time.time())
"""
EXPERIMENT = """\
name: sources
entry: train.py:train
params: {lr: 0.05, epochs: 3}
threads: 1
metrics: {loss: {direction: minimize}}
"""
STREAMS = "init,order,dropout,augment,split,idle"

#: Shuffles by a DataLoader that draws globally and by one with a generator of its own, or by a bare permutation.
GLOBAL = """\
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(run):
    data = TensorDataset(torch.arange(24.0).view(24, 1) / 24)
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mine = torch.Generator().manual_seed(5)
    loaders = [DataLoader(data, 8, shuffle=True), DataLoader(data, 8, shuffle=True, generator=mine)]
    loaders = loaders if run.params.kind == "loaders" else []
    parts = {"model": model, "optimizer": optimizer, "mine": mine}
    run.resume(**parts)
    for epoch in run.epochs():
        with run.stream("eval"):
            torch.rand(1)
        picked = torch.randperm(24, generator=mine).split(8)
        batches = zip(*loaders) if loaders else [([data.tensors[0][index]],) for index in picked]
        for batch in batches:
            loss = sum(((model(x) - x) ** 2).mean() for (x,) in batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.checkpoint(**parts)
    run.log(loss=loss.item())
"""


@pytest.fixture
def experiment(project: Project) -> Project:
    """A project with an experiment that uses streams."""
    return project.with_experiment(SOURCES, EXPERIMENT)


def test_each_stream_alone(experiment: Project, make_project: Callable[[str], Project]) -> None:
    """One stream after the other takes indices 0 to n - 1, all others stay at 0; every run is an ordinary record.

    The run with all held is made twice and equal to the bit; a stream that is not used, or moves nothing, says so. A
    second call runs nothing; another store gives the same text, with another number of workers; one replays.
    """
    words = ["--vary", STREAMS, "--n", "3", "experiment.yaml"]
    found = experiment.seeds("--workers", "2", *words)
    runs = {run["varied"]: run for run in found["runs"]}
    varied = [f"{name} {index}" for name in ("init", "order", "dropout", "augment", "idle") for index in (1, 2)]
    assert list(runs) == ["all held", *varied, "same seed again"]
    assert (found["n"], found["failed"], found["run_now"], found["trusted"]) == (12, 0, 12, True)
    twice = found["same_seed_twice"]
    assert (twice["metrics"], twice["not_compared"], twice["trail"]) == ({"loss": 0.0}, ["seconds"], True)
    assert len({*twice["run_ids"], runs["all held"]["run_id"]}) == 2
    store = Store(experiment.store)
    assert [store.record(runs[name]["run_id"]).recipe.seeds.replicates for name in ("all held", "order 2")] == [
        {},
        {"order": 2},
    ]
    assert len(grade.other_seeds(store, store.record(runs["all held"]["run_id"]))) == 1
    variances = []
    for name in ("init", "order", "dropout", "augment"):
        source = found["sources"][name]
        values = [runs[label]["metrics"]["loss"] for label in ("all held", f"{name} 1", f"{name} 2")]
        assert list(source["metrics"]["loss"]["values"].values()) == values
        assert len(set(values)) == 3
        assert (source["used"], source["note"]) == (True, None)
        assert source["metrics"]["loss"]["sd"] == pytest.approx(np.std(values, ddof=1))
        variances.append(source["metrics"]["loss"]["sd"] ** 2)
    shares = [found["sources"][name]["metrics"]["loss"]["share"] for name in ("init", "order", "dropout", "augment")]
    assert shares == pytest.approx([variance / sum(variances) for variance in variances])
    assert found["sources"]["split"] == {
        "used": False,
        "note": "not used by the run",
        "n": 0,
        "failed": 0,
        "metrics": {},
    }
    assert found["sources"]["idle"]["note"] == "used, but changes nothing"
    assert found["sources"]["idle"]["metrics"]["loss"]["sd"] == 0
    again = experiment.repro("seeds", *words, check=0)
    assert "12 read, not run" in again.err
    assert {*experiment.seeds(*words)["same_seed_twice"]["run_ids"]} == {*twice["run_ids"]}
    other = make_project("elsewhere").with_experiment(SOURCES, EXPERIMENT).repro("seeds", *words, check=0)
    assert other.out == again.out
    assert again.out.endswith("or are declared `compare: never`: seconds\n")
    assert "same seed twice    2   difference exactly 0" in again.out
    assert "not used by the run" in again.out
    assert experiment.replay(runs["dropout 2"]["run_id"], check=0)["verdict"] == "IDENTICAL"


def test_two_streams_crossed(experiment: Project) -> None:
    """Every pair of an index of init and one of order; the variances are those of the table."""
    found = experiment.seeds("--crossed", "--n", "2", "--workers", "2", "experiment.yaml")
    runs = {run["varied"]: run["metrics"]["loss"] for run in found["runs"]}
    assert list(runs) == ["all held", "init 1", "order 1", "init 1, order 1", "same seed again"]
    table = [[runs["all held"], runs["order 1"]], [runs["init 1"], runs["init 1, order 1"]]]
    crossed = found["crossed"]["loss"]
    parts = stats.crossed(table)
    assert crossed["values"] == table
    assert crossed["variance"] == {"init": parts.a, "order": parts.b, "init x order": parts.interaction}
    assert list(found["sources"]) == ["init", "order"]
    text = experiment.repro("seeds", "--crossed", "--n", "2", "experiment.yaml", check=0).out
    assert "init x order crossed, 4 runs: variance of" in text


def test_the_same_seed_twice_that_differs_spoils_the_report(project: Project) -> None:
    """What no seed controls moves the metric: the report says first and last that it is not to be trusted; exit 3."""
    script = SOURCES.replace("loss=loss.item()", "loss=loss.item() + int.from_bytes(os.urandom(6), 'big')")
    project.write("train.py", "import os\n" + script)
    project.write("experiment.yaml", EXPERIMENT)
    words = ["--vary", "init", "--n", "2", "experiment.yaml"]
    found = project.seeds(*words, check=3)
    assert (found["trusted"], found["same_seed_twice"]["equal"]) == (False, False)
    assert found["same_seed_twice"]["metrics"]["loss"] != 0
    lines = project.repro("seeds", "--stable-within", "1e99", *words, check=3).out.splitlines()
    assert lines[0].startswith("THESE NUMBERS ARE NOT TO BE TRUSTED: the same seed twice is not the same result (loss")
    assert lines[0] in lines[-5:]
    assert lines[-1] == "unstable"
    assert "NOT EQUAL" in "".join(lines)


def test_a_fork_goes_on_from_one_checkpoint_under_other_orders(
    experiment: Project, make_project: Callable[[str], Project]
) -> None:
    """Members share their first epochs, and each is a record that names run and checkpoint; order 0 is the run itself.

    The replay of one comes all the way from the start and is IDENTICAL: its recipe says where the order begins anew.
    The same fork elsewhere leaves the same bits; a second call runs nothing; the members are a study.
    """
    words = ["--fork-at", "2", "--n", "3", "experiment.yaml"]
    found = experiment.seeds("--workers", "2", *words)
    parent, members = found["forked"]["run_id"], [run["run_id"] for run in found["runs"]]
    assert (found["run_now"], found["forked"]["began_anew"], found["trusted"]) == (4, "stream order", True)
    store = Store(experiment.store)
    for index, run_id in enumerate(members):
        record = store.record(run_id)
        start = record.circumstances["resumed"]
        assert (start["run"], start["epoch"], len(start["checkpoints"])) == (parent, 1, 1)
        assert record.recipe.seeds.replicates == ({"order@2": index} if index else {})
    trails = [store.outcome(run_id).trail_digest for run_id in (parent, *members)]  # type: ignore[union-attr]
    assert trails[0] == trails[1]
    assert len(set(trails)) == 3
    assert len({run["metrics"]["loss"] for run in found["runs"]}) == 3
    assert experiment.replay(members[2], check=0)["verdict"] == "IDENTICAL"
    again = experiment.repro("seeds", *words, check=0)
    assert "4 read, not run" in again.err
    elsewhere = make_project("elsewhere").with_experiment(SOURCES, EXPERIMENT)
    other = elsewhere.seeds(*words)
    bits = [Store(elsewhere.store).outcome(run["run_id"]).trail_digest for run in other["runs"]]  # type: ignore[union-attr]
    assert bits == trails[1:]
    members_found = studies.find(store, found["study_id"])
    assert members_found.fork
    assert [(item.seed, item.run_id) for item in members_found.replicates] == list(enumerate(members))
    assert studies.find(store, "last").study_id == found["study_id"] == other["study_id"]
    assert "order@2" in experiment.repro("show", members[1], check=0).out


@pytest.mark.parametrize("kind", ["loaders", "bare"])
def test_a_fork_finds_what_draws_the_order(project: Project, kind: str) -> None:
    """Without a stream `order`: what DataLoaders draw from, or all that is no named stream; a replay is IDENTICAL."""
    project.write("train.py", GLOBAL)
    project.write(
        "experiment.yaml", f"name: fork\nentry: train.py:train\nparams: {{epochs: 3, kind: {kind}}}\nthreads: 1\n"
    )
    found = project.seeds("--fork-at", "1", "--seeds", "0,4", "--workers", "2", "experiment.yaml")
    assert (found["forked"]["began_anew"], found["trusted"]) == ("generator mine, the global generators", True)
    assert len({run["metrics"]["loss"] for run in found["runs"]}) == 2
    assert project.replay(found["runs"][1]["run_id"], check=0)["verdict"] == "IDENTICAL"


def test_what_no_stream_has_is_varied_by_the_name_global(project: Project) -> None:
    """The global generators are a source as well, also of a plain command without any stream."""
    project.write("train.py", "import torch, repro\nrepro.current().log(w=torch.rand(1).item())\n")
    found = project.seeds("--vary", "global,init", "--n", "2", "--", "python", "train.py")
    assert found["sources"]["global"]["metrics"]["w"]["sd"] > 0
    assert (found["sources"]["init"]["note"], found["trusted"]) == ("not used by the run", True)


def test_what_cannot_be_varied_or_forked_is_refused(project: Project) -> None:
    """A run without streams, one without a checkpoint, a run that fails: each says what is missing, and what helps."""
    project.write("train.py", "import torch, repro\nrepro.current().log(w=torch.rand(1).item())\n")
    words = ["--n", "2", "--", "python", "train.py"]
    done = project.repro("seeds", "--vary", "init", *words, check=2)
    assert "this run uses no named stream: there is nothing to vary alone" in done.err
    assert 'run.rng("order")' in done.err
    done = project.repro("seeds", "--fork-at", "1", *words, check=2)
    assert "has no checkpoint after 1 epochs: it made none" in done.err
    assert "run.checkpoint(model=model, optimizer=optimizer) at the end of each epoch" in done.err
    assert len(project.repro("ls", "--json", check=0).json) == 2
    project.write("fail.py", "import repro\nrepro.current().rng('init')\n1 / 0\n")
    done = project.repro("seeds", "--vary", "init", "--n", "2", "--", "python", "fail.py", check=1)
    assert "FAILED: it is the run that all others go by" in done.err
    project.with_experiment(SOURCES, EXPERIMENT)
    for given, said in [
        (["--fork-at", "3"], "the run has 3 epochs, nothing is left to train"),
        (["--fork-at", "1", "--crossed"], "--fork-at varies the order alone"),
        (["--vary", "init,init"], "init is there twice"),
        (["--vary", "init,"], "'' is no stream"),
        (["--vary", "order@3"], "'order@3' is no stream"),
    ]:
        assert said in project.repro("seeds", *given, "experiment.yaml", check=2).err


def test_golden_values_of_the_seed_plan() -> None:
    """These numbers never change: replicates draw from sequences of their own, at a fixed place of the spawn key."""
    name = (3142846090, 3934648999, 3834073856, 2201381865, 2518913199, 2184072305, 4011510384, 868761190)
    assert derivation.spawn_key("init", replicate=3) == (0, *name, 0, 3, 0, 0)
    assert derivation.spawn_key("init", replicate=2**32 + 1, rank=5) == (0, *name, 1, 1, 0, 0)
    words = derivation.sequence(0, "order", replicate=2).generate_state(3)
    assert words.tolist() == [3071043166, 3185838781, 94811683]
    assert derivation.integer(0, "global.torch", 64, replicate=1) == 7933242353965283383


def run_of(params: dict[str, Any] | None = None, seed: int = 0, **replicates: int) -> Run:
    """Return a run that keeps nothing."""
    job = Job("", "", seed, "strict", 1, "/", "/", 0, replicates=replicates, params=params or {})
    found = Run(job)
    found._metrics = None
    return found


def drawn(run: Run, *names: str) -> list[list[int]]:
    """Return what each stream draws: by rng, and as a block of the global generators."""
    found = []
    for name in names:
        with run.stream(name):
            inside = torch.randint(2**31, (2,)).tolist()
        found.append([*run.rng(name).integers(0, 2**31, 2).tolist(), *inside])
    return found


def test_configurations_pair_and_streams_keep_apart() -> None:
    """One seed gives two configurations the same draws; a stream that comes in or has another index moves no other."""
    names = ("init", "order", "dropout")
    before = drawn(run_of({"lr": 1}), *names)
    assert drawn(run_of({"lr": 2, "width": 9}), *names) == before
    assert drawn(run_of(), "more", *names)[1:] == before
    moved = drawn(run_of(order=1), *names)
    assert [one == other for one, other in zip(moved, before, strict=True)] == [True, False, True]
    assert drawn(run_of(seed=1), *names)[0] != before[0]


def test_a_stream_begins_anew_in_place() -> None:
    """What holds the stream draws from another replicate's start on; counter-based draws follow; others do not move."""
    run, fresh = run_of(), run_of(order=7)
    stream = run.rng("order")
    drawn(run, "order", "init")
    kept = run.rng("init").integers(0, 2**31, 2).tolist()
    other = run_of()
    drawn(other, "init")
    assert other.rng("init").integers(0, 2**31, 2).tolist() == kept
    run._sources.restart("order", 7)
    assert stream is run.rng("order")
    assert drawn(run, "order") == drawn(fresh, "order")
    assert torch.randperm(9, generator=stream).tolist() == torch.randperm(9, generator=fresh.rng("order")).tolist()
    assert run.rng("order", 3, 1).integers(0, 99, 5).tolist() == fresh.rng("order", 3, 1).integers(0, 99, 5).tolist()
    with run.stream("order"):
        run._sources.restart("order", 8)
        inside = torch.rand(3).tolist()
    with run_of(order=8).stream("order"):
        assert torch.rand(3).tolist() == inside


class Endless(IterableDataset):
    """Data that can only be gone through."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(9))


def test_what_draws_the_order_is_told() -> None:
    """The stream, and what DataLoaders that shuffle draw from; without both all that is no named stream."""
    data, mine = TensorDataset(torch.arange(6)), torch.Generator()
    run = run_of()
    parts = {("mine",): mine, ("rest", 0): np.random.default_rng(1), ("flip",): run.rng("flip"), ("n",): 3}

    def told(*loaders: DataLoader) -> fork.Drawn:
        return fork.drawn_from(run._sources, parts, loaders)

    plain = DataLoader(data, generator=mine)
    everything = fork.Drawn([], [("mine",), ("rest", 0)], is_global=True)
    assert told() == told(plain) == everything
    assert told(plain, DataLoader(data, shuffle=True)) == fork.Drawn([], [], is_global=True)
    assert told(DataLoader(data, shuffle=True, generator=mine)) == fork.Drawn([], [("mine",)], is_global=False)
    batches = BatchSampler(RandomSampler(data, generator=mine), 2, drop_last=False)
    assert told(DataLoader(data, batch_sampler=batches)) == fork.Drawn([], [("mine",)], is_global=False)
    assert told(DataLoader(Endless(), generator=mine)) == fork.Drawn([], [("mine",)], is_global=False)
    assert told(DataLoader(data, shuffle=True, generator=run.rng("flip"))) == fork.Drawn(["flip"], [], is_global=False)
    run.rng("order", 1)
    assert told(plain) == fork.Drawn(["order"], [], is_global=False)
    assert told(DataLoader(data, shuffle=True)) == fork.Drawn(["order"], [], is_global=True)


def test_generators_begin_anew_by_their_place() -> None:
    """Each kind is seeded from seed, replicate and number alone; what it had drawn before does not matter."""

    def draws(replicate: int, seed: int, before: int) -> list[Any]:
        parts = {
            ("a",): torch.Generator(),
            ("b",): np.random.default_rng(before),
            ("c",): np.random.RandomState(before),
            ("d",): random.Random(before),  # noqa: S311  (it is one that is not to be trusted with secrets)
            ("e",): torch.Generator(),
        }
        parts["a",].manual_seed(before)
        drawn = fork.Drawn([], list(parts), is_global=False)
        fork.restart(drawn, parts, run_of(seed=seed)._sources, replicate)
        first, last = (torch.rand(2, generator=parts[key]).tolist() for key in (("a",), ("e",)))
        return [first, parts["b",].random(), parts["c",].random_sample(), parts["d",].random(), last]

    found = draws(1, 0, before=5)
    assert draws(1, 0, before=6) == found
    assert found[0] != found[4]
    for other in (draws(2, 0, before=5), draws(1, 1, before=5)):
        assert all(a != b for a, b in zip(found, other, strict=True))


def test_a_seed_plan_until_an_epoch() -> None:
    """``order@5`` has an effect from epoch 5 on: two plans that differ in it are one until then."""
    found = {"init": 1, "order@5": 2, "a@b": 3}
    assert derivation.restarts(found, 5) == {"order": 2}
    assert derivation.restarts(found, 4) == {}
    assert derivation.until(found, 5) == {"init": 1, "a@b": 3}
    assert derivation.until(found, 6) == found


def test_designs() -> None:
    """A point for each index of a stream, 0 with all held; crossed, every pair; none twice."""
    assert plan.design(["init", "x"], [0, 1], crossed=False) == [{}, {"init": 1}, {"x": 1}]
    found = plan.design(["init", "order"], [0, 1, 2], crossed=True)
    assert len(found) == 9
    assert plan.label(found[-1]) == "init 2, order 2"
    assert plan.streams("order", crossed=True) == ["order", "init"]
    with pytest.raises(UsageError, match="the run does not use order"):
        plan.check_used(["init", "order"], frozenset({"init"}), crossed=True)
    assert plan.check_used(["split", "init"], frozenset({"init"}), crossed=False) == ["init"]


def made(index: int, trail: str | None = "t", **metrics: float) -> Replicate:
    """Return a completed replicate."""
    return Replicate(index, f"run-{index}", "COMPLETED", metrics, trail, ())


def test_one_seed_twice_is_equal_to_the_bit() -> None:
    """NaN equals NaN; a last bit, a metric that one lacks and another trail do not pass; times are not compared."""
    same = sources.twice(made(0, loss=float("nan"), seconds=1.0), made(1, loss=float("nan"), seconds=2.0), {})
    assert (same["equal"], same["metrics"], same["not_compared"]) == (True, {"loss": 0.0}, ["seconds"])
    assert sources.distrust(same) == []
    for other in (
        made(1, loss=float(np.nextafter(1, 2))),
        made(1, loss=1.0, more=1.0),
        made(1),
        made(1, trail="u", loss=1.0),
        made(1, loss=1.0)._replace(state="FAILED"),
    ):
        found = sources.twice(made(0, loss=1.0), other, {})
        assert not found["equal"]
        assert len(sources.distrust(found)) == 2


def test_failed_and_diverged_replicates_of_a_source_are_counted() -> None:
    """They are in its row, and left out of its figures."""
    group = [made(0, loss=1.0), made(1, loss=float("inf")), made(2, loss=2.0)._replace(state="FAILED")]
    runs = {plan.HELD: group[0], "init 1": group[1], "init 2": group[2]}
    found = vary.Varied("", {"init": group}, [], runs, group[0], 0, 0)
    again = sources.twice(group[0], group[0], {})
    document = {"same_seed_twice": again, "sources": sources.values(found, {})}
    source = document["sources"]["init"]
    assert (source["n"], source["failed"]) == (3, 1)
    assert (source["metrics"]["loss"]["n"], source["metrics"]["loss"]["diverged"]) == (1, 1)
    row = next(line for line in sources.lines(found, {}, document) if line.startswith("  init"))
    assert "too few values; 1 not completed; 1 diverged" in row
    assert report.diverged(group[1]) == ["loss"]
    assert sources.unstable(found, 9.0, {}, again) == ["init varied: seed 2 FAILED", "init varied: loss: 1 diverged"]
