from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import sde_score.data.info as info_module
from sde_score._core.statistics import chunks, largest_distance, moments
from sde_score.data import Batch, DataError, Scaling, from_tensor, from_torch, is_image, load
from sde_score.random import generator_from


@pytest.fixture
def small():
    """Six labelled examples of shape (2, 3), all numbers different."""
    x = torch.arange(36, dtype=torch.uint8).reshape(6, 2, 3)
    return from_tensor(x, torch.tensor([0, 1, 2, 0, 1, 2]), name="small")


def test_a_batch_holds_the_examples_asked_for_with_their_own_labels(small):
    batch = small.batch(torch.tensor([4, 0, 4]))
    assert isinstance(batch, Batch)
    x0, condition = batch
    assert x0.dtype == torch.float32
    expected = (torch.arange(36).reshape(6, 2, 3)[[4, 0, 4]] + 0.5) / 128 - 1
    torch.testing.assert_close(x0, expected)
    assert condition.tolist() == [1, 0, 1]
    assert condition.dtype == torch.int64
    assert torch.equal(small.raw(torch.tensor([5]))[0], torch.arange(30, 36).reshape(2, 3).byte())


def test_what_a_data_set_says_of_itself(small):
    assert len(small) == 6
    assert small.event_shape == (2, 3)
    assert small.num_classes == 3
    assert "small" in repr(small)
    assert from_tensor(torch.randn(4, 2)).batch(torch.arange(2)).condition is None
    assert from_tensor(torch.randn(4, 2)).num_classes == 0


def test_tensor_is_every_example_in_model_range_in_order(small):
    everything = small.batch(torch.arange(6)).x0
    assert torch.equal(small.tensor(), everything)
    assert torch.equal(small.tensor(4), everything[:4])
    assert len(small.tensor(100)) == 6


@pytest.mark.parametrize(
    ("indices", "error"),
    [
        (torch.tensor([6]), ValueError),
        (torch.tensor([-1]), ValueError),
        (torch.tensor([0.0]), TypeError),
        (torch.tensor([[0]]), TypeError),
        ([0.5], TypeError),
    ],
)
def test_indices_that_name_no_example_are_refused(small, indices, error):
    for part in (small, small.split(1)[0]):
        with pytest.raises(error, match="indices"):
            part.batch(indices)


@pytest.mark.parametrize(("held_out", "count"), [(2, 2), (0.5, 3), (5, 5)])
def test_a_split_is_a_partition_that_keeps_labels_with_examples(small, held_out, count):
    train, held = small.split(held_out, seed=4)
    assert (len(train), len(held)) == (6 - count, count)
    seen = torch.cat([part.raw(torch.arange(len(part)))[:, 0, 0] for part in (train, held)])
    assert sorted(seen.tolist()) == [0, 6, 12, 18, 24, 30]
    for part in (train, held):
        examples, labels = part.raw(torch.arange(len(part))), part.batch(torch.arange(len(part)))[1]
        assert torch.equal(labels, (examples[:, 0, 0] // 6 % 3).long())
        assert torch.equal(part.tensor(), small.scaling.to_model(examples))
        assert part.num_classes == 3


def test_a_split_is_named_by_its_seed():
    data = load("ring(n=100)")
    held = [data.split(20, seed=s)[1].tensor() for s in (1, 1, 2)]
    assert torch.equal(held[0], held[1])
    assert not torch.equal(held[0], held[2])


def test_a_part_can_be_split_again(small):
    train, _ = small.split(2)
    first, second = train.split(0.25)
    parts = torch.cat([first.tensor(), second.tensor()]).flatten(1).sum(1)
    torch.testing.assert_close(parts.sort().values, train.tensor().flatten(1).sum(1).sort().values)


@pytest.mark.parametrize("held_out", [0, 6, 7, -1, 0.0, 1.0, 0.01, True, math.nan, math.inf])
def test_a_split_that_empties_a_part_is_refused(small, held_out):
    with pytest.raises(ValueError, match="held_out="):
        small.split(held_out)


def test_info_agrees_with_brute_force():
    data = load("digits").split(300, seed=1)[1]
    info, x = data.info(), data.tensor().double().flatten(1).numpy()
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    assert info.sigma_max == pytest.approx(distances.max(), rel=1e-12)
    assert info.sigma_data == pytest.approx(np.sqrt((x**2).mean()), rel=1e-9)
    assert info.deviation == pytest.approx(np.sqrt(x.var(axis=0).mean()), rel=1e-9)
    assert (info.raw_min, info.raw_max) == (0, 16)
    assert (info.count, info.event_shape, info.levels, info.num_classes) == (300, (1, 8, 8), 17, 10)
    assert info.sigma_max_is_exact


def test_sigma_max_of_a_large_set_says_that_a_subset_was_measured(monkeypatch):
    monkeypatch.setattr(info_module, "_DISTANCE_EXAMPLES", 50)
    data = load("ring(n=400)")
    info = data.info()
    assert (info.sigma_max_examples, info.sigma_max_is_exact) == (50, False)
    assert 0 < info.sigma_max <= largest_distance(data.tensor())
    monkeypatch.setattr(info_module, "_DISTANCE_NUMBERS", 40)
    assert data.info().sigma_max_examples == 20
    assert data.info() == data.info()


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_the_largest_distance_is_found_in_whatever_pieces(rows):
    x = torch.randn(31, 2, 2, generator=generator_from(0)) + 1e4
    pairs = (x[:, None] - x[None]).double().flatten(2).norm(dim=2)
    assert largest_distance(x, rows) == pytest.approx(pairs.max().item(), rel=1e-6)


def test_moments_do_not_lose_digits_far_from_zero_and_do_not_depend_on_pieces(monkeypatch):
    x = 1e8 + torch.randn(101, 3, dtype=torch.float64, generator=generator_from(0))
    monkeypatch.setattr("sde_score._core.statistics._CHUNK", 30)
    assert [len(piece) for piece in chunks(x)] == [10] * 10 + [1]
    mean, variance = moments(x)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(variance, x.var(0, correction=0), rtol=1e-7, atol=0)


def test_floating_point_is_continuous_and_uint8_discrete_unless_said_otherwise():
    x = torch.randn(50, 1, 4, 4, generator=generator_from(0)) * 3 + 1
    data = from_tensor(x)
    assert data.scaling == Scaling.standardize(x)
    assert from_tensor((25 * x).clamp(0).byte()).scaling == Scaling.discrete(256)
    seventeen = from_tensor(torch.tensor([[0.0], [16.0]]), scaling=Scaling.discrete(17))
    assert seventeen.raw(torch.arange(2)).dtype == torch.uint8
    assert seventeen.raw(torch.arange(2)).flatten().tolist() == [0, 16]
    many = from_tensor(torch.tensor([[0], [300]]), scaling=Scaling.discrete(301))
    assert many.raw(torch.arange(2)).flatten().tolist() == [0, 300]
    half = from_tensor(torch.tensor([[0.0], [1.0]]).half())
    assert half.tensor().flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("x", "labels", "scaling", "error", "message"),
    [
        ([[1.0]], None, None, TypeError, "got list"),
        (torch.zeros(3, 2, dtype=torch.cfloat), None, None, TypeError, "complex64"),
        (torch.zeros(3, 2, dtype=torch.bool), None, None, TypeError, "bool"),
        (torch.zeros(3, 2, dtype=torch.long), None, None, TypeError, "discrete\\(levels\\)"),
        (torch.zeros(3), None, None, DataError, "reshape"),
        (torch.zeros(0, 3), None, None, DataError, "at least one"),
        (torch.zeros(3, 0), None, None, DataError, "at least one"),
        (torch.tensor([[0.0], [math.nan]]), None, None, DataError, "example 1 holds NaN"),
        (torch.tensor([[math.inf], [0.0]]), None, Scaling(), DataError, "example 0 holds NaN"),
        (torch.tensor([[17.0]]), None, Scaling.discrete(17), DataError, "run from 17 to 17"),
        (torch.tensor([[-1]]), None, Scaling.discrete(17), DataError, "run from -1 to -1"),
        (torch.tensor([[0.5]]), None, Scaling.discrete(17), DataError, "not integers"),
        (torch.zeros(3, 2), None, Scaling((0.0,), (1.0,)), ValueError, "does not fit"),
        (torch.rand(3, 2), torch.zeros(3), None, TypeError, "labels"),
        (torch.rand(3, 2), torch.zeros(2).long(), None, DataError, "for 3 examples"),
        (torch.rand(3, 2), torch.tensor([0, 1, -1]), None, DataError, "run from -1 to 1"),
    ],
)
def test_unusable_tensors_are_refused(x, labels, scaling, error, message):
    with pytest.raises(error, match=message):
        from_tensor(x, labels, scaling)


def test_labels_beyond_the_class_names_are_refused():
    x, names = torch.rand(3, 2), ("cat", "dog", "eel", "fox")
    assert from_tensor(x, torch.tensor([0, 1, 1]), class_names=names).num_classes == 4
    with pytest.raises(DataError, match="accepted: integers from 0 to 3"):
        from_tensor(x, torch.tensor([0, 1, 4]), class_names=names)


def test_any_torch_data_set_is_read_with_its_labels(pictures):
    labels = torch.arange(12) % 5
    data = from_torch(torch.utils.data.TensorDataset(pictures, labels))
    assert (data.name, data.num_classes) == ("TensorDataset", 5)
    assert torch.equal(data.raw(torch.arange(12)), pictures)
    assert torch.equal(data.batch(torch.arange(12)).condition, labels)
    assert data.scaling == Scaling.discrete(256)
    assert from_torch(torch.utils.data.TensorDataset(pictures)).labels is None


def test_items_may_be_arrays_or_pictures_and_labels_numbers(pictures, png):
    image_module = pytest.importorskip("PIL.Image")
    arrays = [(p.numpy(), np.int64(i)) for i, p in enumerate(pictures)]
    images = [image_module.fromarray(p.permute(1, 2, 0).numpy()) for p in pictures]
    for items in (arrays, images):
        assert torch.equal(from_torch(items, name="mine").raw(torch.arange(12)), pictures)
    scaled = from_torch([torch.tensor([1]), torch.tensor([3])], Scaling.discrete(4))
    assert scaled.raw(torch.arange(2)).flatten().tolist() == [1, 3]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (iter([1]), TypeError, "map-style"),
        ([], DataError, "no examples"),
        ([torch.zeros(2), torch.zeros(3)], DataError, "item 1: is \\(3,\\)"),
        ([torch.zeros(2), torch.zeros(2).byte()], DataError, "item 1: is"),
        ([torch.zeros(2), (torch.zeros(2), 1)], DataError, "item 1: has a label"),
        ([(torch.zeros(2), 1), torch.zeros(2)], DataError, "item 1: has a label"),
        ([(torch.zeros(2), 1, 2)], DataError, "item 0: has 3 parts"),
        ([(torch.zeros(2), 0.5)], TypeError, "label=0.5"),
        (["text"], TypeError, "is a str"),
    ],
)
def test_unusable_torch_data_sets_are_refused(items, error, message):
    with pytest.raises(error, match=message):
        from_torch(items)


def test_large_data_are_handled_in_pieces_without_a_trace(monkeypatch):
    x = torch.arange(22, dtype=torch.float64).reshape(11, 2)
    whole = from_tensor(x)
    monkeypatch.setattr("sde_score._core.statistics._CHUNK", 6)
    pieces = from_tensor(x)
    assert pieces.scaling == whole.scaling
    assert torch.equal(pieces.tensor(), whole.scaling.to_model(x))
    for row in (2, 3, 10):
        damaged = x.clone()
        damaged[row, 1] = math.nan
        with pytest.raises(DataError, match=f"example {row} holds NaN"):
            from_tensor(damaged)
    with pytest.raises(DataError, match="not integers"):
        from_tensor(x + torch.eye(11, 2) / 2, scaling=Scaling.discrete(30))


def test_a_data_set_is_read_like_a_list_of_its_raw_examples(small):
    part, _ = small.split(2, seed=4)
    everything = part.raw()
    assert torch.equal(everything, part.raw(torch.arange(4)))
    assert torch.equal(part[1:3], everything[1:3])
    assert torch.equal(part[::-1], everything.flip(0))
    assert torch.equal(part[-1], everything[3])
    assert torch.equal(part[torch.tensor([3, 0])], everything[[3, 0]])
    assert torch.equal(torch.stack(list(part)), everything)
    assert part[:0].shape == (0, 2, 3)
    with pytest.raises(IndexError):
        part[4]


def test_a_subset_is_a_random_choice_in_order_named_by_its_seed(small):
    chosen = small.subset(3, seed=1)
    values = chosen.raw()[:, 0, 0].tolist()
    assert values == sorted(values)
    assert torch.equal(chosen.batch(torch.arange(3)).condition, (chosen.raw()[:, 0, 0] // 6 % 3))
    assert torch.equal(small.subset(9).raw(), small.raw())
    assert {tuple(small.subset(3, seed=s).raw()[:, 0, 0].tolist()) for s in range(9)} > {
        tuple(values)
    }
    with pytest.raises(ValueError, match="count="):
        small.subset(0)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((1, 4, 4), True), ((7, 4, 9), True), ((3, 3, 9), False), ((8, 8), False), ((2,), False)],
)
def test_an_image_has_channels_and_at_least_four_by_four_pixels(shape, image):
    assert is_image(shape) is image
    assert from_tensor(torch.randn(2, *shape), channels="first").is_image is image
