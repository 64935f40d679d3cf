"""Parts of a dataset: stratified, nested, the same for a seed; whatever holds the labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

import repro
from repro.worker import subsets


def shuffled(count: int) -> list[int]:
    """An order that depends on the number alone."""
    return sorted(range(count), key=lambda at: (at * 7919 + 13) % 10007)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 10**6), st.integers(1, 10**6))
def test_nested_and_stratified(labels, one, other):
    """A smaller share lies within a larger; each label has its share, rounded up; all is all."""
    small, large = (set(subsets.indices(labels, share, shuffled)) for share in sorted((one, other)))
    assert small <= large
    for label in set(labels):
        count = labels.count(label)
        assert sum(labels[at] == label for at in small) == -(-count * min(one, other) // 10**6)
    assert subsets.indices(labels, 10**6, shuffled) == list(range(len(labels)))


class Own:
    """A dataset with labels of its own."""

    targets = (0, 1, 0, 1)

    def __len__(self):
        """Return its size."""
        return 4

    def __getitem__(self, at):
        """Return an example without its label."""
        return at


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (Own(), [0, 1, 0, 1]),
        (TensorDataset(torch.zeros(3, 2), torch.tensor([1, 0, 1])), [1, 0, 1]),
        ([(5, "x"), (6, "y")], ["x", "y"]),
        (range(5), None),
        ([1, 2, 3], None),
    ],
)
def test_where_labels_are(dataset, expected):
    """Labels are the dataset's own, or the last of each example; a list without any has none."""
    assert subsets.labels_of(dataset) == expected


def test_without_a_run_it_is_all():
    """Under plain python `run.subset` returns the dataset itself."""
    dataset = Own()
    assert repro.current().subset(dataset) is dataset
