"""The trail's arithmetic: digests of tensors, which frames are full, rows that can be torn, the first that differs."""

import struct

import pytest
import torch
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repro.record import trail as form
from repro.record.values import TrailSchedule
from repro.worker import bits
from repro.worker.batches import Batches

WORDS = st.lists(st.integers(0, 255), min_size=1, max_size=60)


def of(values: list[int], chunk: int = 1 << 22) -> int:
    """Return the digest that a device would compute for some bytes, in chunks of so many words."""
    before, bits._CHUNK = bits._CHUNK, chunk
    try:
        return int(bits.on_device(torch.tensor(values, dtype=torch.uint8), 7))
    finally:
        bits._CHUNK = before


@given(WORDS, st.integers(0, 59), st.integers(0, 7), st.sampled_from([1, 2, 3, 1 << 22]))
def test_on_a_device_one_changed_bit_changes_the_digest(values: list[int], place: int, bit: int, chunk: int) -> None:
    """Whichever bit of whichever byte, also at the border of a chunk."""
    changed = list(values)
    changed[place % len(values)] ^= 1 << bit
    assert of(values, chunk) != of(changed, chunk)
    assert of(values, chunk) == of(list(values), chunk)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=20), st.data(), st.sampled_from([2, 3, 1 << 22]))
def test_on_a_device_another_order_changes_the_digest(values: list[int], data: st.DataObject, chunk: int) -> None:
    """A permutation of the same numbers is told apart, within a chunk and across two: no XOR."""
    other = data.draw(st.permutations(values))
    assume(other != values)
    one, two = (list(torch.tensor(item, dtype=torch.int32).view(torch.uint8).tolist()) for item in (values, other))
    assert of(one, chunk) != of(two, chunk)


def test_on_a_device_simple_tensors_have_no_simple_digest() -> None:
    """Zeros of different lengths, the identity, equal rows: none cancels out, and the seed counts."""
    tensors = [torch.zeros(4), torch.zeros(5), torch.eye(4), torch.eye(5), torch.ones(4), torch.ones(2, 2) * 2]
    found = [int(bits.on_device(tensor, bits.salt(tensor, "w"))) for tensor in tensors]
    assert len(set(found)) == len(found)
    assert 0 not in found
    assert bits.on_device(torch.ones(3), 1) != bits.on_device(torch.ones(3), 2)
    assert bits.on_device(torch.zeros(0), 5) == 5
    assert bits.on_device(torch.ones(3, dtype=torch.bfloat16), 0).dtype == torch.int64
    transposed = torch.arange(6.0).view(2, 3).t()
    assert bits.on_device(transposed, 0) == bits.on_device(transposed.contiguous(), 0)


def test_digests_read_back_from_a_device_are_the_numbers_that_were_computed() -> None:
    """Late digests are packed beside ints, as 64 bits without a sign."""
    late = [bits.on_device(torch.randn(3), seed) for seed in range(4)]
    packed = bits.pack([5, *late, 2**64 - 1])
    assert struct.unpack("<6Q", packed) == (5, *(int(item) % 2**64 for item in late), 2**64 - 1)


def digest(tensor: torch.Tensor, name: str = "w") -> int:
    """Return a tensor's digest under a name, as the trail has it."""
    return int(bits.digest(tensor, bits.salt(tensor, name)))


def test_every_bit_counts() -> None:
    """-0.0 is not 0.0, NaN payloads differ, and so do a name, a dtype and a shape over the same bytes."""
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    payloads = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert torch.isnan(payloads).all()
    assert digest(payloads[:1]) != digest(payloads[1:])
    zeros = torch.zeros(4)
    others = [zeros.view(torch.int32), zeros.view(2, 2), zeros.view(4, 1), zeros.view(torch.int16), zeros[:3]]
    assert len({digest(zeros), digest(zeros, "v"), *map(digest, others)}) == 7
    expected = xxhash.xxh3_64_intdigest(b"\0" * 16, xxhash.xxh3_64_intdigest(b"w|torch.float32|(4,)"))
    assert digest(zeros) == expected


def test_a_tensors_layout_does_not_count_only_its_values() -> None:
    """A view, a transposed, a channels-last, a conjugated and a negated tensor have the digest of their plain copy."""
    base = torch.randn(2, 3, 4, 5)
    complex_ = torch.randn(3, dtype=torch.complex64)
    for tensor in (
        base.transpose(0, 2),
        base.to(memory_format=torch.channels_last),
        base[:, 1:, ::2],
        base.expand(2, 2, 3, 4, 5),
        complex_.conj(),
        complex_.conj().imag,
    ):
        plain = torch.tensor(tensor.tolist(), dtype=tensor.dtype)
        assert digest(tensor) == digest(plain)
    assert digest(torch.zeros(0, 3)) != digest(torch.zeros(0, 4))
    assert digest(torch.zeros(3).requires_grad_()) == digest(torch.zeros(3))


def test_an_argument_that_is_conjugated_lazily_is_not_taken_for_its_bytes() -> None:
    """Also where these bytes were read before: its digest does not depend on what was seen."""
    values = torch.randn(3, dtype=torch.complex64)
    first = bits.of_argument(values.conj())
    plain = bits.of_argument(values)
    assert bits.of_argument(values.conj()) == first != plain
    imaginary = values.conj().imag
    plain = torch.tensor(imaginary.tolist())
    assert bits.of_argument(imaginary) == bits.of_argument(plain) == bits.digest(plain, bits.salt(plain, ""))


def test_sparse_and_nested_tensors_are_read_and_unreadable_ones_counted() -> None:
    """All sparse layouts and nested tensors have digests that depend on values and places; a meta tensor is counted."""
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    other = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    with pytest.warns(UserWarning, match="beta state"):
        dense.to_sparse_csr()
    for convert in (torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc):
        assert digest(convert(dense)) == digest(convert(dense)) != digest(convert(other))
    nested = [torch.nested.nested_tensor([dense[0], item], layout=torch.jagged) for item in (dense[1], other[0])]
    assert digest(nested[0]) != digest(nested[1])
    before = bits.unreadable
    assert bits.digest(torch.ones(2, device="meta")) == bits.UNREADABLE
    assert bits.unreadable == before + 1


def test_a_bank_follows_its_tensors_wherever_they_go() -> None:
    """Read again and again, a bank sees each change: in place, moved, resized, of another dtype, gone and back."""
    tensor, other = torch.arange(6.0), torch.ones(3)
    bank = bits.Bank([tensor, other], ["a", "b"])

    def check(*tensors: torch.Tensor | None) -> None:
        def one(tensor: torch.Tensor | None, seed: int) -> int:
            if tensor is None:
                return 0
            if tensor.is_sparse:
                return bits.combine([one(tensor._indices(), seed), one(tensor._values(), seed)])
            return xxhash.xxh3_64_intdigest(tensor.contiguous().numpy().tobytes(), seed)

        expected = [one(tensor, seed) for tensor, seed in zip(tensors, bank.seeds, strict=True)]
        for _ in range(2):
            assert bank.digests(tensors) == expected

    check(tensor, other)
    tensor[2] = 9
    check(tensor, other)
    check(None, other)
    check(tensor, None)
    whole = torch.arange(100.0)
    check(whole[:6], other)
    check(whole[:3], other)
    check(whole[:12:2], other)
    check(whole[:6].view(torch.int32), other)
    check(tensor.clone(), other.to_sparse())
    check(tensor, other)
    seen = []
    torch.func.vmap(lambda row: (seen.append(bank.digests([row, None])), row)[1])(torch.ones(2, 6))
    assert seen == [[bits.UNREADABLE, 0]]
    check(tensor, other)


def test_the_quick_ways_to_read_a_bank_see_what_the_slow_one_sees() -> None:
    """Parameters that are moved, freed or changed in place; gradients made anew, expanded, transposed, sparse, none."""
    parameters = [torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)), torch.nn.Parameter(torch.ones(4))]
    bank = bits.Bank(parameters, ["a", "b"])

    def check() -> list[int]:
        found = bank.again(parameters)
        assert found == bank.again(parameters) == bank.digests(parameters)
        return found

    seen = [check()]
    parameters[0].data[1, 1] = -0.0
    seen.append(check())
    parameters[0].data = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    seen.append(check())
    parameters[1].data = torch.zeros(8)[::2]
    seen.append(check())
    parameters[1].untyped_storage().resize_(0)
    assert check()[1] == bits.UNREADABLE
    assert len({tuple(item) for item in seen}) == 4
    one, other = torch.randn(2, 3), torch.randn(4)
    for _ in range(3):
        for first in (one.clone(), one[:1].expand(2, 3), one.reshape(3, 2).t(), one.to_sparse(), None):
            assert not isinstance(first, torch.Tensor) or first.is_sparse or bank.are_like([first, other])
            assert bank.like([first, other.clone()]) == bank.digests([first, other])
    assert not bank.are_like([one.half(), other])


def test_memory_that_is_gone_is_not_read() -> None:
    """A tensor whose storage was freed or cut behind it (as sharding does) is unreadable, and no crash."""
    freed, cut = torch.ones(1000, 3), torch.ones(1000)
    bank = bits.Bank([freed, cut], ["a", "b"])
    assert bits.UNREADABLE not in bank.digests([freed, cut])
    freed.untyped_storage().resize_(0)
    cut.untyped_storage().resize_(8)
    assert bank.digests([freed, cut])[0] == bits.UNREADABLE
    assert digest(freed) == digest(cut) == bits.UNREADABLE


def test_calls_without_a_step_do_not_pile_up() -> None:
    """A script that calls its network or `backward` for ever and never steps keeps a bounded number of digests."""
    batches = Batches()
    model = torch.nn.Linear(2, 1)
    x = torch.ones(1, 2)
    for _ in range(2500):
        batches._take(model, (x,), {})
        batches.backward(x)
    assert len(batches.batch) <= 1001
    assert len(batches.loss) <= 1001
    before = batches.batch[0]
    batches._take(model, (x + 1,), {})
    assert batches.batch[0] == before
    assert len(batches.roots()) == 1


SCHEDULE = TrailSchedule()


@given(st.integers(0, 100_000), st.integers(0, 10**12), st.integers(1, 10_000))
def test_the_stride_holds_the_mean_cost_to_the_budget(tensors: int, size: int, budget: int) -> None:
    """The estimated cost of full frames, spread over the stride, is within the budget, and no stride is too long."""
    every = form.stride(tensors, size, budget_us=budget)
    cost = int(1.5 * tensors + size / 15_000)
    assert every >= 1
    assert cost / every <= budget
    assert every == 1 or cost / (every - 1) > budget


@given(st.integers(1, 5000), st.integers(0, 3_000_000))
def test_full_frames_are_a_function_of_step_and_stride(every: int, step: int) -> None:
    """The first ten steps are full, then each ``every``-th, ten times rarer with each decade from 1,000 on."""
    expected = step < 10
    rarer = every * 10 ** max(0, len(str(step)) - 3)
    expected |= step % rarer == 0
    assert form.is_full(step, every, SCHEDULE) == expected


def test_a_million_steps_stay_small_on_disk() -> None:
    """A network of 100 tensors leaves under 100 MB of full frames in a million steps, and a row of 120 bytes a step."""
    every = form.stride(400, 5 * 4 * 10**6, budget_us=SCHEDULE.budget_us)
    full = sum(form.is_full(step, every, SCHEDULE) for step in range(1_000_000))
    assert full * (4 * 100 + 1) * 8 < 100e6
    assert form.ROW.size <= 120


def rows(columns: list[int]) -> list[form.Frame]:
    """Return chained frames whose columns all have the given values."""
    chain = bytes(16)
    found = []
    for step, value in enumerate(columns):
        frame = form.Frame(step, 0, 1, 0, (value,) * 9, chain)
        chain = xxhash.xxh3_128_digest(form.pack(frame))
        found.append(frame._replace(chain=chain))
    return found


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_the_first_unequal_frame_is_found_by_its_chain(a: list[int], b: list[int], shared: int) -> None:
    """Binary search finds what a look at each frame finds, also where one trail goes on longer."""
    one, other = rows(a), rows(a[:shared] + b)
    pairs = zip(a, a[:shared] + b, strict=False)
    expected = next((index for index, (x, y) in enumerate(pairs) if x != y), None)
    assert form.first_unequal(one, other) == expected


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5), st.integers(0, 119))
def test_a_torn_last_row_is_left_out(columns: list[int], torn: int) -> None:
    """All whole rows are read back as they were written, whatever piece of a further one is there."""
    frames = rows(columns)
    data = b"".join(map(form.pack, frames))
    assert form.unpack(data + form.pack(form.Frame(9, 9, 9, 9, (9,) * 9, bytes(16)))[: torn % form.ROW.size]) == frames


def test_the_first_column_in_causal_order_is_named() -> None:
    """Of several unequal columns the earliest counts; other steps, optimizers and flags are told apart in words."""
    frame = form.Frame(3, 0, 1, 0, tuple(range(9)), bytes(16))
    for first in range(9):
        columns = tuple(value if value < first else value + 100 for value in range(9))
        assert form.first_column(frame, frame._replace(columns=columns)) == first
    assert form.first_column(frame, frame._replace(optimizer=1)) == "order of steps"
    assert form.first_column(frame, frame._replace(flags=3)) == "kind of step"
