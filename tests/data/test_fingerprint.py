"""Fingerprints: the same for the same examples in the same order, and for nothing else."""

from __future__ import annotations

import pytest
import torch

from sde_score.data import Fingerprint, Scaling, fingerprint, from_tensor


@pytest.fixture
def blobs():
    """Fifty points in the plane with labels."""
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    return lambda change=None: from_tensor(
        x if change is None else change(x), torch.arange(50) % 8, Scaling()
    )


def _swapped(x):
    return x[[1, 0, *range(2, len(x))]]


def _one_number(x):
    return x.clone().index_put_((torch.tensor(7), torch.tensor(1)), torch.tensor(0.5))


CHANGES = {
    "order": _swapped,
    "one number": _one_number,
    "sign": lambda x: -x,
    "last bit": lambda x: torch.nextafter(x, x + 1),
    "dtype": lambda x: x.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_the_examples_is_seen(blobs, change):
    assert not Fingerprint.of(blobs()).same_rows(Fingerprint.of(blobs(change)))


@pytest.mark.parametrize("name", CHANGES)
def test_rounding_alone_is_forgiven_where_it_is_asked_for(blobs, name):
    other = Fingerprint.of(blobs(CHANGES[name]))
    same = Fingerprint.of(blobs()).same_rows(other, rounded=True)
    assert same == (name in ("last bit", "dtype"))


def test_whole_numbers_have_no_rounding():
    x = torch.arange(12, dtype=torch.uint8).reshape(6, 2)
    one, other = (Fingerprint.of(from_tensor(v)) for v in (x, x.flip(0)))
    assert not one.same_rows(other, rounded=True)


def test_labels_have_a_fingerprint_of_their_own(blobs):
    x = blobs().raw()
    other = Fingerprint.of(from_tensor(x, (torch.arange(50) + 1) % 8, Scaling()))
    assert Fingerprint.of(blobs()).same_rows(other)
    assert Fingerprint.of(blobs()).labels != other.labels
    assert Fingerprint.of(from_tensor(x)).labels == ""


def test_the_first_examples_of_a_larger_set_have_the_fingerprint_of_the_smaller(blobs, monkeypatch):
    whole = blobs()
    part = from_tensor(whole.raw()[:30], whole.labels[:30], Scaling())
    assert Fingerprint.of(whole, 30) == Fingerprint.of(part)
    assert Fingerprint.of(whole, 30) != Fingerprint.of(whole)
    before = Fingerprint.of(whole)
    monkeypatch.setattr(fingerprint, "_CHUNK", 14)
    pieces = Fingerprint.of(whole)
    assert (pieces.rows, pieces.labels) == (before.rows, before.labels)
    assert pieces.projection == pytest.approx(before.projection, rel=1e-12)


def test_the_rows_of_a_part_are_those_that_count(blobs):
    train, held_out = blobs().split(10)
    assert Fingerprint.of(train) == Fingerprint.of(from_tensor(train.raw(), _labels(train), SAME))
    assert Fingerprint.of(train) != Fingerprint.of(held_out)


SAME = Scaling()


def _labels(dataset):
    return dataset.labels_at(torch.arange(len(dataset)))
