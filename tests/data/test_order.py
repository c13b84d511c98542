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


BLOCKS = torch.tensor([0, 3, 4, 9, 14, 15, 23])


@pytest.mark.parametrize("window", [1, 2, 4, 6, 9])
def test_with_blocks_every_epoch_is_a_permutation(window):
    order = EpochOrder(23, 3, BLOCKS, window)
    epochs = [order.indices(23 * epoch, 23) for epoch in range(4)]
    assert all(torch.equal(each.sort().values, torch.arange(23)) for each in epochs)
    assert len({tuple(each.tolist()) for each in epochs}) == 4


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 7),
    first=st.integers(0, 60),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
)
def test_with_blocks_the_sequence_does_not_depend_on_how_it_is_cut(window, first, counts):
    whole = EpochOrder(23, 9, BLOCKS, window).indices(0, first + sum(counts))[first:]
    order, position, parts = EpochOrder(23, 9, BLOCKS, window), first, []
    for count in counts:
        parts.append(order.indices(position, count))
        position += count
    assert torch.equal(torch.cat(parts), whole)
    assert int(EpochOrder(23, 9, BLOCKS, window).indices(first, 1)) == whole[0]


def test_examples_are_mixed_across_a_window_and_no_block_is_met_again_after_it():
    """Eight blocks of 50, four in a window: each half of an epoch holds four whole blocks, in which
    a block lies everywhere alike (the mean place of its examples has deviation 200 / sqrt(12 50),
    so that no one of 800 is five of them off)."""
    blocks = torch.arange(0, 401, 50)
    order, places = EpochOrder(400, 0, blocks, 4), torch.arange(200).double()
    met = torch.zeros(8, 8)
    for epoch in range(100):
        for half in range(2):
            of = order.indices(400 * epoch + 200 * half, 200) // 50
            inside = of.unique().tolist()
            assert len(inside) == 4
            for block in inside:
                assert abs(places[of == block].mean() - 99.5) < 5 * 200 / (12 * 50) ** 0.5
                met[block, inside] += 1
    assert (met.diagonal() == 100).all()
    pairs = met[~torch.eye(8, dtype=torch.bool)]  # 100 epochs, probability 3 / 7
    assert (pairs - 100 * 3 / 7).abs().max() < 5 * (100 * 12 / 49) ** 0.5


def test_only_the_current_windows_are_kept():
    order = EpochOrder(400, 0, torch.arange(0, 401, 50), 2)
    order.indices(0, 1500)
    assert len(order._cached) <= 4


@pytest.mark.parametrize("blocks", [[0, 5], [1, 10], [0, 4, 4, 10], [0, 6, 4, 10]])
def test_blocks_that_do_not_cover_the_examples_are_refused(blocks):
    with pytest.raises(ValueError, match="blocks must increase from 0 to length=10"):
        EpochOrder(10, 0, torch.tensor(blocks))
