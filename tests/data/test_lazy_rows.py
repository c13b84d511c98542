"""Rows that are read when they are asked for: the same data set as in memory, and few rows of many
are read to measure and recognize it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score.data import (
    DataError,
    EpochOrder,
    Fingerprint,
    Scaling,
    fingerprint,
    from_tensor,
    info,
)
from sde_score.data.sources.base import Part, Rows, few


class Numbers(Rows):
    """Rows of a tensor, with a record of those that were read; some cannot be."""

    def __init__(self, x, blocks=None, parts=(), bad=(), cause=None):
        self.x, self.shape, self.dtype = x, tuple(x.shape), x.dtype
        self.blocks, self.parts = blocks, parts
        self.bad, self.cause = set(bad), cause
        self.seen = set()

    def __getitem__(self, rows):
        self.seen |= set(rows.tolist())
        if wrong := [row for row in rows.tolist() if row in self.bad]:
            raise DataError(f"row {wrong[0]} is damaged") from self.cause
        return self.x[rows]


@pytest.fixture
def images():
    return torch.randint(256, (60, 1, 4, 5), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def pair(images):
    """The same images in memory and read lazily, with labels."""
    inside = from_tensor(images, torch.arange(60) % 3, Scaling.discrete(256))
    return inside, replace(inside, _source=Numbers(images))


def test_everything_is_as_in_memory(pair):
    inside, lazy = pair
    assert (len(lazy), lazy.event_shape, lazy.is_lazy, inside.is_lazy) == (
        60,
        (1, 4, 5),
        True,
        False,
    )
    assert lazy.info() == inside.info()
    assert lazy.value_range() == inside.value_range()
    assert Fingerprint.of(lazy) == Fingerprint.of(inside)
    for one, other in zip((inside, *inside.split(0.3)), (lazy, *lazy.split(0.3)), strict=True):
        assert torch.equal(one.raw(), other.raw())
        assert torch.equal(one.tensor(), other.tensor())
        assert torch.equal(one[5:2:-1], other[5:2:-1])
        assert one.sigma_data == other.sigma_data
        assert torch.equal(one.batch([4, 0, 4]).x0, other.batch([4, 0, 4]).x0)
        assert torch.equal(one.labels_at([4, 0, 4]), other.labels_at([4, 0, 4]))
        assert torch.equal(one.subset(7).raw(), other.subset(7).raw())


def test_many_rows_are_measured_on_a_random_subset_and_that_is_said(images, monkeypatch):
    monkeypatch.setattr(info, "_MEASURED_EXAMPLES", 20)
    monkeypatch.setattr(info, "_DISTANCE_EXAMPLES", 10)
    source = Numbers(images)
    part, _ = replace(from_tensor(images), _source=source).split(0.5)
    found = part.info()
    assert (found.count, found.measured_examples, found.sigma_max_examples) == (30, 20, 10)
    assert 20 <= len(source.seen) <= 30
    assert source.seen <= set(part.rows.tolist())
    chosen = few(source, part.rows, 20)
    x = images[chosen].double()
    assert (found.raw_min, found.raw_max) == (x.min(), x.max())
    assert found.sigma_data == pytest.approx(((2 * x + 1) / 256 - 1).square().mean().sqrt().item())
    assert part.sigma_data == found.sigma_data


def test_a_random_subset_comes_from_few_blocks(images):
    source = Numbers(torch.zeros(6400, 1), blocks=torch.arange(0, 6401, 10))
    chosen = few(source, None, 128)
    assert len(chosen) == len(chosen.unique()) == 128
    assert torch.equal(chosen, chosen.sort().values)
    assert len((chosen // 10).unique()) == 64
    odd = torch.arange(1, 6400, 2)
    inside = few(source, odd, 256)
    assert len(inside) == 256
    assert bool((inside % 2 == 1).all())
    assert torch.equal(few(source, odd[:5], 128), odd[:5])


def _fingerprint(images, parts=(), count=None, like=None):
    source = Numbers(images, parts=parts)
    found = Fingerprint.of(replace(from_tensor(images), _source=source), count, like)
    return found, source.seen


@pytest.fixture
def few_are_read(monkeypatch):
    monkeypatch.setattr(fingerprint, "_ALL", 20)
    monkeypatch.setattr(fingerprint, "_FEW", 4)


PARTS = (Part("a", 20, 9, "x"), Part("b", 20, 9, "y"), Part("c", 20, 9, "z"))


def test_many_rows_are_recognized_by_a_few(images, few_are_read):
    before, seen = _fingerprint(images, PARTS)
    assert seen == {0, 20, 39, 59}
    assert (before.examples, before.parts) == (4, PARTS)
    assert Fingerprint.from_record(before.record()) == before
    changed = images.clone()
    changed[39] += 1
    assert not _fingerprint(changed, PARTS)[0].same_rows(before)
    inside = Fingerprint.of(from_tensor(images), like=before)
    assert inside.same_rows(before)
    assert not Fingerprint.of(from_tensor(images)).same_rows(before)


CHANGES = {
    "b is gone": (PARTS[0], PARTS[2]),
    "aa is new": (PARTS[0], Part("aa", 1, 1), *PARTS[1:]),
    "b holds 21 examples, held 20": (PARTS[0], Part("b", 21, 9, "y"), PARTS[2]),
    "b takes 8 bytes, took 9": (PARTS[0], Part("b", 20, 8, "y"), PARTS[2]),
    "b holds others": (PARTS[0], Part("b", 20, 9, "other"), PARTS[2]),
    "another order": PARTS[::-1],
}


@pytest.mark.parametrize("text", CHANGES)
def test_a_file_that_changed_is_named(images, few_are_read, text):
    before, _ = _fingerprint(images, PARTS)
    now, _ = _fingerprint(images, CHANGES[text], like=before)
    assert text in "; ".join(now.changed_parts(before))
    assert not now.same_rows(before)


def test_files_behind_the_first_rows_are_not_asked_for(images, few_are_read):
    before, _ = _fingerprint(images[:40], PARTS[:2])
    assert _fingerprint(images, PARTS, count=40)[0] == before


def _damaged(images, bad, how="skip", cause=None, labels=None):
    whole = from_tensor(images, labels, Scaling.discrete(256))
    return replace(whole, _source=Numbers(images, bad=bad, cause=cause), on_bad_example=how)


def test_the_next_example_of_the_part_stands_in_for_one_that_cannot_be_read(images):
    """Not a neighbor of another part, and with its own label; after the last comes the first."""
    labels = torch.arange(60)
    part = replace(_damaged(images, {6, 8, 58}, labels=labels), rows=torch.arange(0, 60, 2))
    found = part.read([0, 3, 4, 29])
    assert found.rows.tolist() == [0, 10, 10, 0]
    assert (found.skipped, len(found.reasons)) == (3, 4)
    assert torch.equal(found.raw, images[[0, 10, 10, 0]])
    assert part.read([4]).reasons == ("row 8 is damaged",)
    assert part.labels_at([3, 4]).tolist() == [10, 10]
    batch = part.batch([4])
    assert torch.equal(batch.x0, part.scaling.to_model(images[[10]]))
    assert batch.condition.tolist() == [10]
    fresh = replace(_damaged(images, {6, 8, 58}, labels=labels), rows=torch.arange(0, 60, 2))
    assert fresh.labels_at([3, 29]).tolist() == [10, 0]
    assert torch.equal(fresh.tensor(4)[3], part.scaling.to_model(images[[10]])[0])


def test_a_damaged_example_is_named_unless_it_is_to_be_skipped(images):
    stopping = _damaged(images, {7}, how="stop")
    for read in (lambda: stopping[7], lambda: stopping.info(), lambda: stopping.raw()):
        with pytest.raises(DataError, match="row 7 is damaged"):
            read()
    skipping = _damaged(images, {7})
    others = images[[row for row in range(60) if row != 7]].double()
    assert skipping.info().raw_max == others.max()
    assert skipping.sigma_data == from_tensor(others.byte(), None, Scaling.discrete(256)).sigma_data


def test_what_cannot_be_read_for_want_of_memory_is_not_skipped(images):
    """Another machine, or the same one a minute later, would read it."""
    for cause in (MemoryError(), OSError(24, "Too many open files")):
        with pytest.raises(DataError, match="row 7 is damaged"):
            _damaged(images, {7}, cause=cause).raw([7])
    assert _damaged(images, {7}, cause=OSError(5, "Input/output error")).raw([7]).shape[0] == 1


def test_a_set_that_is_damaged_as_a_whole_is_not_skipped(images):
    with pytest.raises(DataError, match="60 examples in a row cannot be read, the last as row 5"):
        _damaged(images, range(60)).raw([5])


def test_a_fingerprint_knows_where_an_example_cannot_be_read(images):
    one, other = (Fingerprint.of(_damaged(images, {row})) for row in (7, 8))
    assert one == Fingerprint.of(_damaged(images, {7}, how="stop"))
    assert not one.same_rows(other)
    assert not one.same_rows(Fingerprint.of(_damaged(images, ())))


def test_the_order_of_a_part_follows_the_blocks_of_its_source(images):
    source = Numbers(images, blocks=torch.tensor([0, 20, 21, 60]))
    whole = replace(from_tensor(images), _source=source)
    assert whole.order(3).blocks.tolist() == [0, 20, 21, 60]
    part = replace(whole, rows=torch.arange(0, 60, 2))
    assert part.order(3).blocks.tolist() == [0, 10, 11, 30]
    gap = replace(whole, rows=torch.arange(1, 60, 2))
    assert gap.order(3).blocks.tolist() == [0, 10, 30]  # no example of the second block
    met = torch.bucketize(part.order(3).indices(0, 30), part.order(3).blocks, right=True)
    assert len(met.unique_consecutive()) == 3
    inside = from_tensor(images)
    assert torch.equal(inside.order(3).indices(0, 90), EpochOrder(60, 3).indices(0, 90))
