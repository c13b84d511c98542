"""Map-style data sets of torch: random items are read anew, a function of draw and number."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from sde_score.data import DataError, Fingerprint, Scaling, from_tensor, from_torch, load
from sde_score.data.formats import torch_dataset


class Noisy(torch.utils.data.Dataset):
    """Ramps with noise of one of the global generators, counting how often items are read."""

    def __init__(self, draw, told=None, count=40):
        self.draw, self.told, self.count, self.reads = draw, told, count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        x = torch.arange(12.0).reshape(1, 3, 4) + index + self.draw()
        return x if self.told is None else (x, self.told(index, x))


def of_torch():
    return float(torch.rand(()))


def of_numpy():
    return float(np.random.rand())  # noqa: NPY002


def of_python():
    return random.random()


GLOBAL = {"torch": of_torch, "numpy": of_numpy, "python": of_python}


def states():
    return torch.get_rng_state(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("draw", GLOBAL.values(), ids=GLOBAL)
def test_random_items_are_a_function_of_draw_and_number_alone(draw):
    """In any order and company, in a copy elsewhere, and the caller's random numbers stay."""
    torch.manual_seed(7)
    before = states()
    data = from_torch(Noisy(draw))
    assert data.is_random
    draws = torch.tensor([5, 6, 5])
    one = data.read([3, 4, 4], draws).raw
    assert torch.equal(one, data.read([4, 3, 4], torch.tensor([5, 5, 6])).raw[[1, 2, 0]])
    assert torch.equal(
        one, pickle.loads(pickle.dumps(data._source))[data.read([3, 4, 4], draws).rows]
    )
    noise = one - data[[3, 4, 4]]
    assert len({round(float(each.mean()), 5) for each in noise}) == 3
    assert torch.equal(data[[3]], data[[4, 3]][1:])  # fixed where it is measured
    after = states()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_items_without_random_numbers_are_read_once():
    source = Noisy(lambda: 0.0, lambda index, x: index % 3)
    data = from_torch(source)
    reads = source.reads
    assert not data.is_lazy
    assert torch.equal(data.batch([4, 5], torch.tensor([1, 2])).x0, data.batch([4, 5]).x0)
    assert source.reads == reads


def test_what_is_measured_once_is_that_of_all_read_with_fixed_draws():
    told = lambda index, x: index % 3 + 5  # noqa: E731
    frozen, lazy = (from_torch(Noisy(random.random, told), frozen=f) for f in (True, False))
    assert torch.equal(frozen.raw(), lazy.raw())
    assert lazy.scaling == frozen.scaling
    assert Fingerprint.of(lazy) == Fingerprint.of(frozen)
    assert lazy.class_names == frozen.class_names == ("5", "6", "7")
    assert torch.equal(lazy.labels, frozen.labels)
    assert (lazy.is_random, frozen.is_lazy) == (True, False)
    train, held_out = lazy.split(0.25)
    assert torch.equal(held_out.raw(), frozen.split(0.25)[1].raw())
    drawn = train.batch([2, 3], torch.tensor([9, 9]))
    assert torch.equal(drawn.condition, train.labels_at([2, 3]))
    assert not torch.equal(drawn.x0, train.batch([2, 3]).x0)


def test_conditions_are_of_the_same_reading_as_their_examples():
    data = from_torch(
        Noisy(random.random, lambda i, x: {"mean": x.mean().reshape(1), "kind": i % 4})
    )
    assert dict(data.condition_shape) == {"mean": (1,), "kind": 4}
    read = data.read([3, 8, 39], torch.tensor([1, 2, 3]))
    told = data.conditions_of(read.rows)
    means = data.condition_scaling["mean"].from_model(told["mean"])
    torch.testing.assert_close(means[:, 0], read.raw.mean((1, 2, 3)), rtol=0, atol=1e-4)
    assert told["kind"].tolist() == [3, 0, 3]
    vectors = from_torch(Noisy(random.random, lambda i, x: x.flatten()[:2]))
    assert vectors.condition_shape == (2,)
    assert vectors.batch([1], torch.tensor([4])).condition.shape == (1, 2)
    assert Fingerprint.of(vectors).labels


def test_a_generator_of_the_items_own_is_said_or_refused():
    own = np.random.default_rng(0)
    with pytest.warns(UserWarning, match=r"Noisy gives other items under the same seed.* stay as"):
        data = from_torch(Noisy(own.random))
    assert not data.is_lazy
    with pytest.raises(DataError, match=r"draw by the functions of torch.* or frozen=True"):
        from_torch(Noisy(own.random), frozen=False)


def test_large_data_are_read_when_they_are_asked_for(monkeypatch):
    source = Noisy(lambda: 0.0)
    monkeypatch.setattr(torch_dataset, "_KEPT", 100)
    data = from_torch(source, Scaling(1.0, 2.0))
    assert (data.is_lazy, data.is_random) == (True, False)
    assert torch.equal(data[7], torch.arange(12.0).reshape(1, 3, 4) + 7)
    assert data.scaling == Scaling(1.0, 2.0)


def test_labels_are_taken_from_targets_only_where_they_are_those_of_the_items(monkeypatch):
    monkeypatch.setattr(torch_dataset, "_MEASURED", 10)
    for offset, read_all in ((0, False), (1, True)):
        source = Noisy(random.random, lambda index, x: index % 3)
        source.targets = [(index + offset) % 3 for index in range(40)]
        labels = from_torch(source).labels
        assert labels.tolist() == [index % 3 for index in range(40)]
        assert (source.reads > 90) is read_all


def test_items_that_are_dictionaries_name_their_parts():
    items = [{"pixels": np.full((1, 4, 4), i, np.uint8), "kind": i % 2, "id": i} for i in range(9)]
    data = from_torch(items, label="kind")
    assert (data.event_shape, data.num_classes) == ((1, 4, 4), 2)
    assert load([{"image": one["pixels"], "label": 3} for one in items]).class_names == ("3",)
    both = [{**one, "mask": one["pixels"]} for one in items]
    with pytest.raises(DataError, match=r"item 0: .* pixels, mask may be the example: .*example="):
        from_torch(both)
    assert from_torch(both, example="mask").labels is None
    with pytest.raises(DataError, match=r"item 0: holds pixels, kind, id, mask, and no 'picture'"):
        from_torch(both, example="picture")


def test_an_item_that_fails_later_is_named_and_channels_go_where_they_belong():
    source = Noisy(random.random)
    data = from_torch(source, channels="last")
    assert data.event_shape == (4, 1, 3)
    assert torch.equal(data[5], from_tensor(data[5][None]).raw()[0])
    source.draw = lambda: float("nan")
    with pytest.raises(DataError, match=r"holds NaN"):
        data[7]
    source.draw = lambda: {}["gone"]
    with pytest.raises(DataError, match=r"item 6: cannot be read as an item.* \('gone'\)"):
        data[6]
