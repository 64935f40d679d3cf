"""Named random streams: where every number comes from, and what never moves it."""

import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Project, clean_environment
from hypothesis import given
from hypothesis import strategies as st

from repro.record import seeds
from repro.worker import generators, streams
from repro.worker.job import Job
from repro.worker.session import Run


def run(seed: int = 0, **replicates: int) -> Run:
    """Return a run with a master seed that keeps nothing."""
    job = Job("", "", seed, "strict", 1, "/", "/", 0, replicates=replicates)
    found = Run(job)
    found._metrics = None
    return found


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """No test here moves the global generators of the others."""
    before = streams.get_all()
    yield
    streams.set_all(before)


def test_golden_values() -> None:
    """These numbers never change: a seed derivation that moved them would make every recorded run another one."""
    name = (1055620758, 3852264463, 2628886665, 3669624735, 3600414342, 2050029155, 1257789193, 1739732826)
    assert seeds.spawn_key("order") == (0, *name, 0, 0, 0, 0)
    words = seeds.sequence(7, "dropout", replicate=2, rank=1, at=(3, 4)).generate_state(3)
    assert words.tolist() == [4248648786, 554707137, 406537910]
    assert seeds.integer(0, "global.torch", 64) == 497255733856290767
    assert seeds.integer(2**80 + 5, "command", 32, replicate=1) == 2918643686
    stream = run().rng("order")
    assert stream.integers(0, 1000, 4).tolist() == [42, 609, 649, 673]
    assert torch.randperm(8, generator=stream).tolist() == [5, 0, 2, 1, 7, 3, 6, 4]
    assert run(1).rng("augment", 2, 3).integers(0, 1000, 4).tolist() == [333, 730, 159, 454]
    with run().stream("init"):
        drawn = random.getrandbits(16), int(np.random.randint(2**16)), int(torch.randint(2**16, ()))  # noqa: NPY002
    assert drawn == (551, 18303, 62045)


NAMES = st.text(max_size=5)
NUMBERS = st.integers(0, 2**63)
KEYS = st.tuples(NAMES, NUMBERS, NUMBERS, st.lists(NUMBERS, max_size=3).map(tuple))


@given(KEYS, KEYS)
def test_every_use_has_a_key_of_its_own(a: Any, b: Any) -> None:
    """Name, replicate, rank and indices are told apart at fixed width: two uses share a key only if they are one."""

    def key(use: Any) -> tuple[int, ...]:
        name, replicate, rank, at = use
        return seeds.spawn_key(name, replicate=replicate, rank=rank, at=at)

    shared = [(name, replicate, 0 if name in seeds.WITHOUT_RANK else rank, at) for name, replicate, rank, at in (a, b)]
    assert (key(a) == key(b)) == (shared[0] == shared[1])
    assert seeds.spawn_key("x") != seeds.spawn_key("x", purpose="suggest")


def test_numbers_that_collide_as_entropy_do_not_collide_here() -> None:
    """``SeedSequence([7 + 3 * 2**32, 0])`` is ``SeedSequence([7, 3])``: our keys keep the two apart."""
    one, other = np.random.SeedSequence([7 + 3 * 2**32, 0]), np.random.SeedSequence([7, 3])
    assert one.generate_state(4).tolist() == other.generate_state(4).tolist()
    found = [
        seeds.sequence(master, "order", replicate=replicate).generate_state(4).tolist()
        for master, replicate in [(7 + 3 * 2**32, 0), (7, 3), (7, 3 * 2**32), (7 * 2**32 + 3, 0)]
    ]
    assert len({tuple(item) for item in found}) == 4
    with pytest.raises(ValueError, match="negative"):
        seeds.spawn_key("order", replicate=-1)
    with pytest.raises(KeyError):
        seeds.spawn_key("order", purpose="fun")


def test_a_stream_is_one_object_that_torch_and_numpy_take() -> None:
    """The same object on each call; a torch generator wherever one is taken, with numpy's methods beside."""
    mine = run()
    stream = mine.rng("order")
    assert mine.rng("order") is stream
    assert isinstance(stream, torch.Generator)
    assert isinstance(stream.numpy, np.random.Generator)
    assert torch.rand(2, generator=stream).shape == (2,)
    torch.nn.init.normal_(torch.empty(2, 2), generator=stream)
    loader = torch.utils.data.DataLoader([*range(10)], shuffle=True, generator=stream, batch_size=10)
    first, second = (batch.tolist() for epoch in range(2) for batch in loader)
    assert sorted(first) == sorted(second) == [*range(10)]
    assert first != second
    assert sorted(stream.permutation(5)) == [*range(5)]
    assert stream.normal(size=3).shape == stream.integers(0, 9, size=3).shape == (3,)
    assert 0 <= stream.random() < 1
    with pytest.raises(AttributeError):
        stream.no_such_method  # noqa: B018


def test_without_torch_a_stream_is_numpys_generator_alone() -> None:
    """A script that never imports torch does not pay for it, and draws the numbers that it would with it."""
    code = (
        "import sys, repro; stream = repro.current().rng('order'); print(stream.integers(0, 1000, 4).tolist(),"
        " 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{run().rng('order').integers(0, 1000, 4).tolist()} False"


def test_one_stream_never_moves_another() -> None:
    """Drawing from other streams, before or between, leaves a stream's numbers as they are."""

    def draws(*others: str) -> list[float]:
        mine = run(3)
        found = []
        for _ in range(3):
            for name in others:
                mine.rng(name).random(7)
                torch.rand(3, generator=mine.rng(name))
            found += [mine.rng("order").random(), torch.rand(1, generator=mine.rng("order")).item()]
        return found

    assert draws() == draws("augment") == draws("split", "dropout", "a name of my own")


def test_global_state_neither_matters_nor_changes() -> None:
    """Whatever the global generators are seeded with, streams draw the same, and leave them where they were."""
    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = streams.get_all()
        mine = run(5)
        draws = [mine.rng("order").random(), torch.rand(1, generator=mine.rng("order")).item()]
        draws += mine.rng("augment", 1, 2).random(2).tolist()
        with mine.stream("init"):
            draws += [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002, S311
        after = streams.get_all()
        assert before[0] == after[0]
        assert (before[1][1] == after[1][1]).all()
        assert before[1][2:] == after[1][2:]
        assert torch.equal(before[2], after[2])
        found.append(draws)
    assert found[0] == found[1]


def test_seed_name_replicate_and_rank_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed, name, replicate or index draws other numbers; another rank as well, except for order and init."""

    def draw(mine: Run, name: str = "dropout", *at: int) -> float:
        return float(mine.rng(name, *at).random())

    found = [draw(run()), draw(run(1)), draw(run(), "augment"), draw(run(dropout=1)), draw(run(), "dropout", 0)]
    found += [draw(run(), "dropout", 1), draw(run(), "dropout", 1, 0), draw(run(2**64)), draw(run(2**32))]
    assert len(set(found)) == len(found)
    alone = [draw(run(), name) for name in ("order", "init", "dropout", "augment")]
    monkeypatch.setenv("RANK", "1")
    ranked = [draw(run(), name) for name in ("order", "init", "dropout", "augment")]
    assert [a == b for a, b in zip(alone, ranked, strict=True)] == [True, True, False, False]


def test_a_counter_based_stream_depends_on_nothing_but_its_key() -> None:
    """``rng("augment", epoch, index)`` is new at each call, in any order, whatever was drawn before."""
    mine = run()
    backwards = {(e, i): mine.rng("augment", e, i).random() for e in (1, 0) for i in (2, 1, 0)}
    again = {key: run().rng("augment", *key).random() for key in sorted(backwards)}
    assert backwards == again
    assert len(set(again.values())) == 6
    assert mine.rng("augment", 0, 0) is not mine.rng("augment", 0, 0)
    with pytest.raises(ValueError, match="negative"):
        mine.rng("augment", -1)


def test_a_block_draws_from_its_stream_and_goes_on_where_it_stopped() -> None:
    """``with run.stream("init")``: layers start from the stream, whatever is around; an error restores as well."""

    def layers(noise: int) -> list[torch.Tensor]:
        torch.manual_seed(noise)
        mine = run()
        found = []
        for _ in range(2):
            torch.rand(noise)
            with mine.stream("init"):
                found.append(torch.nn.Linear(3, 3).weight)
        return found

    one, other = layers(1), layers(2)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], one[1])
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), run().stream("dropout"):
        torch.rand(3).view(2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", ["both halves", "numpy alone", "by public calls"])
def test_the_generators_column_sees_every_draw(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw by either half of a stream gives a state not seen before, also half a draw, and a draw that was kept.

    (numpy keeps the other half of 64 bits, torch the second of two normal numbers.) And it does where a torch
    generator's memory is not as expected, so that it is read by the public call.
    """
    if kind == "by public calls":
        monkeypatch.setattr(generators, "_normal_flag", lambda: 0)
    stream = run().rng("order")
    found = generators.Generators()
    found.follow(stream.numpy if kind == "numpy alone" else stream)
    seen = [found.digest()]
    assert found.digest() == seen[0]
    draws = [stream.random, lambda: stream.integers(0, 9, dtype=np.uint32)]
    if kind != "numpy alone":
        draws += [
            lambda: torch.rand(1, generator=stream),
            lambda: torch.randn(1, generator=stream),
            lambda: torch.randperm(2000, generator=stream),
        ]
    draws += [lambda: torch.randn(1), lambda: torch.rand(1), np.random.random, random.random]
    for draw in [*draws, *draws, draws[1], *draws]:
        draw()
        assert found.digest() not in seen
        seen.append(found.digest())


def test_another_global_bit_generator_of_numpy_is_followed() -> None:
    """The state is read where it lies now, of whatever kind it is, and the old one's memory is not touched again."""
    old = np.random.get_bit_generator()
    found = generators.Generators()
    try:
        for new in (np.random.MT19937(1), np.random.PCG64(2)):
            np.random.set_bit_generator(new)
            before = found.digest()
            assert found.digest() == generators.Generators().digest() == before
            np.random.random()  # noqa: NPY002  (the global generator)
            assert found.digest() != before
    finally:
        np.random.set_bit_generator(old)


def test_a_torch_generator_is_read_where_it_lies() -> None:
    """This torch's generators are read from memory, not by the slow call; and a state that is set is seen."""
    stream = torch.Generator()
    stream.manual_seed(7)
    places = generators.mersenne(stream)
    assert isinstance(places, tuple)
    first, state = [*map(bytes, places)], stream.get_state()
    torch.randn(3, generator=stream)
    assert [*map(bytes, places)] != first
    stream.set_state(state)
    assert [*map(bytes, places)] == first
    stream.manual_seed(8)
    assert [*map(bytes, places)] != first


def test_in_a_run_streams_follow_the_seed(project: Project) -> None:
    """Under ``repro run --seed`` streams and unseeded global generators follow it; alone, the stand-in draws with 0."""
    project.write(
        "a.py",
        "import random, sys\nimport repro\nrun = repro.current()\n"
        "print(run.rng('order').random(), *([random.random()] if run.id else []))\n",
    )
    alone = subprocess.run(
        [sys.executable, "a.py"], cwd=project.root, env=clean_environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    runs = [
        project.repro("run", *words, "--", "python", "a.py", check=0).out.split() for words in ([], ["--seed", "9"])
    ]
    again = project.repro("run", "--", "python", "a.py", check=0).out.split()
    assert runs[0][0] == alone[0]
    assert runs[0] == again
    assert runs[0][0] != runs[1][0]
    assert runs[0][1] != runs[1][1]
