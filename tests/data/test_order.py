from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sde_score.data import EpochOrder


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_every_epoch_is_a_permutation(length):
    order = EpochOrder(length, seed=3)
    for epoch in range(4):
        indices = order.indices(epoch * length, length)
        assert indices.dtype == torch.int64
        assert torch.equal(indices.sort().values, torch.arange(length))


def test_epochs_and_seeds_are_permuted_differently():
    order = EpochOrder(50, seed=3)
    epochs = [tuple(order.indices(50 * e, 50).tolist()) for e in range(5)]
    others = [tuple(EpochOrder(50, seed=s).indices(0, 50).tolist()) for s in (0, 1, 2)]
    assert len({*epochs, *others}) == 8


def test_positions_in_an_epoch_are_uniform_over_the_examples():
    """Over many seeds each example comes first equally often (chi-square: p = 1e-4 at 23.5)."""
    firsts = [int(EpochOrder(5, seed=s).indices(10, 1)) for s in range(1000)]
    counts = torch.tensor(firsts).bincount(minlength=5).double()
    assert ((counts - 200).square() / 200).sum() < 23.5


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 12),
    first=st.integers(0, 60),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_the_sequence_does_not_depend_on_how_it_is_cut(length, first, counts):
    whole = EpochOrder(length, seed=9).indices(first, sum(counts))
    order, position, parts = EpochOrder(length, seed=9), first, []
    for count in counts:
        parts.append(order.indices(position, count))
        position += count
    assert torch.equal(torch.cat(parts), whole)
    one_by_one = [int(EpochOrder(length, seed=9).indices(first + i, 1)) for i in range(len(whole))]
    assert whole.tolist() == one_by_one


def test_asking_backward_gives_the_same_numbers():
    order = EpochOrder(10, seed=1)
    forward = [order.indices(10 * e, 10) for e in range(5)]
    backward = [order.indices(10 * e, 10) for e in reversed(range(5))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_changing_what_was_returned_does_not_change_the_sequence():
    order = EpochOrder(10, seed=1)
    before = order.indices(0, 10).clone()
    order.indices(0, 10).zero_()
    assert torch.equal(order.indices(0, 10), before)


def test_only_the_current_permutations_are_kept():
    order = EpochOrder(10, seed=1)
    order.indices(0, 200)
    assert len(order._cached) <= 2


def test_impossible_positions_are_refused():
    with pytest.raises(ValueError, match="length=0"):
        EpochOrder(0)
    with pytest.raises(ValueError, match="first=-1"):
        EpochOrder(3).indices(-1, 2)
    with pytest.raises(ValueError, match="count=0"):
        EpochOrder(3).indices(0, 0)
