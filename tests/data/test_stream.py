"""Reading a stream: in whatever pieces the same, apart from the caller's random numbers."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from sde_score.data import DataError, from_stream, load
from sde_score.data.stream import Reading, Stream, is_json

NUMBERS = TensorDataset(torch.arange(90.0).reshape(45, 2))


def drawing():
    """A loader whose sampler draws from its generator again and again."""
    generator = torch.Generator().manual_seed(3)
    sampler = RandomSampler(NUMBERS, replacement=True, num_samples=70, generator=generator)
    return DataLoader(NUMBERS, batch_size=4, sampler=sampler), generator


def test_pieces_change_nothing_and_generators_of_the_caller_stay():
    loader, generator = drawing()
    stream = Stream("loader", loader)
    once, pieces = Reading(stream, 5), Reading(stream, 5)
    whole, _ = stream.batch(once.take(0, 150), 0)
    parts = []
    for first in range(0, 150, 10):
        before = generator.manual_seed(first).get_state()
        taken = pieces.take(first + 3, 7)  # what is passed by counts
        assert torch.equal(generator.get_state(), before)
        assert pieces.take(first + 3, 7) is taken
        parts.append(stream.batch(taken, first)[0])
    kept = torch.arange(150) % 10 > 2
    assert torch.equal(torch.cat(parts), whole[kept])
    assert not torch.equal(whole[:70], whole[70:140])  # another epoch, another order
    again, _ = stream.batch(Reading(stream, 5).take(80, 20), 0)
    assert torch.equal(again, whole[80:100])
    other, _ = stream.batch(Reading(stream, 6).take(0, 20), 0)
    assert not torch.equal(other, whole[:20])


def test_batches_of_any_form_are_cut_into_examples():
    items = [({"x": torch.full((2,), float(i)), "label": i % 2},) for i in range(7)]
    loader = DataLoader([item[0] for item in items], batch_size=3)
    data = from_stream(loader)
    assert data.raw()[:, 0].tolist() == list(range(7))
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    alone = from_stream(DataLoader(NUMBERS, batch_size=None))
    assert torch.equal(alone.raw(), NUMBERS.tensors[0])
    with pytest.raises(DataError, match=r"failed at example 0, .* a batch of the loader"):
        from_stream(DataLoader(["a", "b"], batch_size=2, collate_fn=list))


def test_classes_are_those_of_the_first_examples_or_given():
    def items():
        return ((torch.rand(2), label) for label in [7, 5, 7, 5, 9, 5])

    data = from_stream(items, first=4)
    assert data.class_names == ("5", "7")
    _, told = data.stream.batch(Reading(data.stream).take(0, 4), 0)
    assert told.tolist() == data.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(DataError, match=r"the label 9 is none of the 2 classes.* classes=10"):
        data.stream.batch(Reading(data.stream).take(0, 5), 0)
    given = from_stream(items, first=4, classes=10)
    assert (given.num_classes, given.class_names) == (10, ())
    assert given.stream.batch(Reading(given.stream).take(4, 2), 4)[1].tolist() == [9, 5]
    assert from_stream(items, classes=[*"abcdefghij"]).class_names[9] == "j"


def test_what_is_measured_is_measured_on_the_first_examples():
    data = from_stream(lambda: (torch.full((1,), float(i)) for i in range(100)), first=10)
    assert (len(data), data.scaling.center) == (10, (4.5,))
    train, held_out = data.split(2)
    assert (train.stream, held_out.stream, data.subset(3).stream) == (None, None, None)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (iter([1]), TypeError, r"can be read once: give the function that returns it"),
        (3, TypeError, r"accepted: an IterableDataset, a DataLoader"),
        (list, TypeError, r"accepted: an IterableDataset"),
        (lambda: [], DataError, r"holds no examples"),
        (lambda: 3, DataError, r"failed at example 0, .* TypeError, 'int' object is not iterable"),
        (lambda: ["text"], TypeError, r"is a str"),
        (lambda: [torch.zeros(2), torch.zeros(3)], DataError, r"example 1: is \(3,\).* first is"),
    ],
)
def test_what_is_no_stream_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        from_stream(source)


def test_a_stream_that_cannot_be_repeated_is_refused():
    own = random.Random(0)
    with pytest.raises(DataError, match=r"gives other examples when it is read again"):
        load(lambda: (torch.full((2,), own.random()) for _ in range(20)))
    with pytest.raises(ValueError, match=r"hub.*colour"):
        load("hub:parquet(colour='red')")


@pytest.mark.parametrize(
    ("value", "same"),
    [({"a": [1, None, 2.5]}, True), ({1: 2}, False), ((1,), False), ({"a": torch.zeros(1)}, False)],
)
def test_only_values_of_json_are_a_state(value, same):
    assert is_json(value) is same
    assert not is_json({"a": float("nan")})
