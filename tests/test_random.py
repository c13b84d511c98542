"""Draws depend on the example, never on how the batch was cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from sde_score.random import (
    BatchSlice,
    ExampleStreams,
    example_seeds,
    generator_from,
    mix,
    normal,
    stratified,
    uniform,
)

EVENTS = [(1,), (3,), (2, 3), (1000,), (1024,), (3, 20, 20)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cut(draw, total, parts):
    """Rows drawn by several processes, each with its slice of the batch, put together."""
    starts = np.cumsum([0, *parts[:-1]]).tolist()
    assert sum(parts) == total
    rows = [draw(n, BatchSlice(seeded(), at, total)) for at, n in zip(starts, parts, strict=True)]
    return torch.cat(rows)


def draw_normal(batch, generator):
    return normal(torch.empty(batch, 2, 3, dtype=torch.float64), generator)


@pytest.mark.parametrize("draw", [draw_normal, uniform, stratified])
@pytest.mark.parametrize("parts", [[12], [6, 6], [1, 4, 7], [1] * 12])
def test_slices_of_a_batch_are_rows_of_the_whole_draw(draw, parts):
    whole = draw(12, seeded())
    assert len(whole) == 12
    assert torch.equal(cut(draw, 12, parts), whole)


def test_processes_stay_together_from_one_step_to_the_next():
    """A slice consumes what the whole batch would: the next draw lines up as well."""
    one, two = seeded(), seeded()
    for _ in range(3):
        for draw in (draw_normal, uniform, stratified):
            assert torch.equal(draw(8, one)[5:7], draw(2, BatchSlice(two, 5, 8)))


def test_normal_draws_are_standard_normal_in_the_dtype_of_the_example():
    draw = normal(torch.empty(3000, 2), seeded())
    assert draw.dtype == torch.float32
    assert draw.shape == (3000, 2)
    assert kstest(draw.flatten().numpy(), "norm").pvalue > 1e-3
    assert normal(torch.empty(2, 2).double(), seeded()).dtype == torch.float64
    assert not torch.equal(normal(draw), normal(draw))


def test_uniform_draws_are_uniform_in_float64():
    draw = uniform(5000, seeded())
    assert draw.dtype == torch.float64
    assert draw.shape == (5000,)
    assert kstest(draw.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_stratified_draws_cover_evenly(batch):
    """Each cell [i / n, (i + 1) / n) holds exactly one point, all at the same place of it."""
    for seed in range(5):
        draw = stratified(batch, seeded(seed))
        assert draw.dtype == torch.float64
        assert sorted((draw * batch).long().tolist()) == list(range(batch))
        place = draw * batch % 1
        spread = (place - place[0] + 0.5) % 1 - 0.5
        assert spread.abs().max().item() < 1e-9


def test_each_stratified_draw_is_uniform_on_its_own():
    draws = torch.stack([stratified(4, generator_from(1, i)) for i in range(3000)])
    for column in draws.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_streams_depend_on_their_seed_alone(event):
    """The same example in a batch of 1, 7 or 64, at any place of it, over several steps."""
    steps = 5
    seeds = [mix(9, i) for i in range(64)]

    def rows(chosen):
        streams = ExampleStreams(chosen, torch.empty(len(chosen), *event))
        return torch.stack([streams().clone() for _ in range(steps)])

    whole = rows(seeds)
    assert whole.shape == (steps, 64, *event)
    assert torch.equal(rows(seeds[:7]), whole[:, :7])
    assert torch.equal(rows(seeds[20:13:-1]), whole[:, range(20, 13, -1)])
    assert torch.equal(rows([seeds[33]]), whole[:, 33:34])


@pytest.mark.parametrize("event", EVENTS, ids=str)
def test_no_draw_of_a_stream_comes_twice(event):
    """Across blocks too: 2500 steps of a small event cross several."""
    steps = 2500 if len(event) == 1 and event[0] < 10 else 8
    streams = ExampleStreams([1, 2], torch.empty(2, *event, dtype=torch.float64))
    draws = torch.stack([streams().clone() for _ in range(steps)]).reshape(2 * steps, -1)
    assert len(draws.unique(dim=0)) == 2 * steps
    assert kstest(draws.flatten()[:8000].numpy(), "norm").pvalue > 1e-3
    neighbors = (draws[:-2] * draws[2:]).mean().item()
    assert abs(neighbors) < 5 / np.sqrt(draws[2:].numel())


def test_streams_of_different_seeds_are_independent():
    streams = ExampleStreams(list(range(200)), torch.empty(200, 50, dtype=torch.float64))
    correlation = streams().clone().numpy() @ streams().numpy().T / 50
    assert np.abs(correlation).max() < 7 / np.sqrt(50)


@pytest.mark.parametrize(("event", "calls"), [((1,), 1), ((1024,), 3), ((1023,), 2), ((5000,), 3)])
def test_small_events_are_drawn_in_blocks_and_large_ones_step_by_step(event, calls, monkeypatch):
    """Three steps of one example cost `calls` generator calls."""
    count = 0
    plain = torch.Tensor.normal_

    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "normal_", counted)
    streams = ExampleStreams([0], torch.empty(1, *event))
    for _ in range(3):
        assert streams().shape == (1, *event)
    assert count == calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streams_have_the_dtype_of_the_batch(dtype):
    assert ExampleStreams([0], torch.empty(1, 3, dtype=dtype))().dtype == dtype


def test_streams_need_one_seed_per_example():
    with pytest.raises(ValueError, match="2 seeds were given for a batch of 3"):
        ExampleStreams([0, 1], torch.empty(3, 2))


def test_mixing_avalanches():
    """Flipping any bit of any number flips each bit of the hash about half the time."""
    bits = np.zeros(63)
    trials = 0
    for base in range(40):
        numbers = [mix(base), base, 7 * base]
        for place in range(3):
            for bit in range(0, 64, 7):
                other = list(numbers)
                other[place] ^= 1 << bit
                change = mix(*numbers) ^ mix(*other)
                bits += [(change >> i) & 1 for i in range(63)]
                trials += 1
    assert np.all(np.abs(bits / trials - 0.5) < 0.08)


def test_mixing_is_a_seed_and_knows_order_and_length():
    values = {mix(1, 2), mix(2, 1), mix(1), mix(1, 0), mix(0, 1), mix(0), mix(0, 0), mix(-1), mix()}
    assert len(values) == 9
    assert all(0 <= value < 1 << 63 for value in values)
    assert mix(3, 4) == mix(3, 4)
    assert len({mix(0, i) for i in range(5000)} | {mix(1, i) for i in range(5000)}) == 10_000


def test_mixing_never_changes():
    """The numbers are part of the format: samples of a seed must outlive a release.

    The first two are outputs of SplitMix64 from state 0 and 1, without their last bit."""
    assert mix(0) == 0xE220A8397B1DCDAF >> 1
    assert mix(1) == 0x910A2DEC89025CC1 >> 1
    assert generator_from(0).initial_seed() == mix(0)
    assert generator_from(1, 2).initial_seed() == mix(1, 2)


def test_seeds_of_a_family_do_not_depend_on_how_it_is_cut():
    whole = example_seeds(5, 10)
    assert len(set(whole)) == 10
    assert example_seeds(5, 4) + example_seeds(5, 6, first=4) == whole
    assert set(example_seeds(6, 10)).isdisjoint(whole)


def test_seeds_of_each_example_are_taken_as_given():
    assert example_seeds([4, 2, 9], 3) == [4, 2, 9]
    assert example_seeds(tuple(np.arange(2)), 2) == [0, 1]
    with pytest.raises(ValueError, match="seed has 3 entries for 4 examples"):
        example_seeds([4, 2, 9], 4)


def test_no_seed_is_a_family_at_random():
    torch.manual_seed(0)
    first, second = example_seeds(None, 3), example_seeds(None, 3)
    assert len({*first, *second}) == 6
    torch.manual_seed(0)
    assert example_seeds(None, 3) == first


def test_a_stream_is_the_generator_of_its_seed():
    """So that a row can be drawn again anywhere, by hand."""
    streams = ExampleStreams(example_seeds(0, 2), torch.empty(2, 2000, dtype=torch.float64))
    again = torch.randn(2000, generator=generator_from(mix(0, 1)), dtype=torch.float64)
    assert torch.equal(streams()[1], again)


def test_slice_that_leaves_the_global_batch_is_refused():
    with pytest.raises(ValueError, match=r"rows 3 to 5 do not lie in a batch of 4"):
        normal(torch.zeros(2, 1), BatchSlice(generator_from(0), start=3, total=4))
