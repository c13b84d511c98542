"""Which chains a batch visits, what becomes of them."""

from __future__ import annotations

import pytest
import torch

from sde_score.objectives import ReplayBuffer
from sde_score.random import BatchSlice

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(shape, generator=seeded(9), dtype=F64)


def filled(size, restart, examples):
    buffer = ReplayBuffer(size, restart)
    buffer.fill(examples, seeded(1))
    return buffer


def test_a_batch_visits_different_slots_and_each_as_often_as_any_other():
    size, batch, rounds = 12, 5, 1500
    buffer, source, like = filled(size, 0.0, data(4, 2)), seeded(2), data(batch, 2)
    counts, pairs = torch.zeros(size), 0
    for _ in range(rounds):
        slots = buffer.visit(like, source).slots
        assert len(slots.unique()) == batch
        counts[slots] += 1
        pairs += bool((slots == 3).any() and (slots == 4).any())
    share = batch / size
    tolerance = 4.5 * (rounds * share * (1 - share)) ** 0.5
    assert (counts - rounds * share).abs().max() < tolerance
    # Neighbours are not visited together: the chance is that of drawing without replacement.
    both = share * (batch - 1) / (size - 1)
    assert abs(pairs - rounds * both) < 4 * (rounds * both * (1 - both)) ** 0.5


def test_a_batch_as_large_as_the_buffer_visits_all_of_it():
    buffer = filled(7, 0.0, data(4, 2))
    visit = buffer.visit(data(7, 2), seeded(3))
    assert sorted(visit.slots.tolist()) == list(range(7))
    assert visit.slots.tolist() != list(range(7))
    assert torch.equal(visit.start, buffer.states[visit.slots])


def test_chains_go_back_to_the_slots_they_came_from():
    buffer, like = filled(10, 0.0, data(4, 2, 3)), data(4, 2, 3)
    before = buffer.states.clone()
    visit = buffer.visit(like, seeded(4))
    new = data(4, 2, 3) + 100
    buffer.write(visit, new, 1)
    assert torch.equal(buffer.states[visit.slots], new)
    others = torch.ones(10, dtype=torch.bool)
    others[visit.slots] = False
    assert others.sum() == 6
    assert torch.equal(buffer.states[others], before[others])
    assert torch.equal(buffer.ages.bool(), ~others)


def test_chains_restart_with_the_probability_that_is_said():
    restart, batch, rounds = 0.3, 50, 100
    buffer, source, like = filled(60, restart, data(4, 2)), seeded(5), data(batch, 2)
    counts = torch.zeros(rounds)
    for i in range(rounds):
        visit = buffer.visit(like, source)
        kept = buffer.states[visit.slots]
        fresh = (visit.start != kept).all(1)
        assert torch.equal(fresh, visit.restarted)
        assert torch.equal(visit.start[~fresh], kept[~fresh])
        counts[i] = fresh.sum()
    total = batch * rounds
    assert abs(counts.sum() - total * restart) < 4 * (total * restart * (1 - restart)) ** 0.5
    # Binomial, not a fixed number per batch: the variance over batches is n p (1 - p).
    variance = batch * restart * (1 - restart)
    assert abs(counts.var() - variance) < 4 * variance * (2 / rounds) ** 0.5
    assert not filled(60, 0.0, data(4, 2)).visit(like, seeded()).restarted.any()
    assert filled(60, 1.0, data(4, 2)).visit(like, seeded()).restarted.all()


def test_fresh_chains_have_the_mean_and_deviation_of_each_entry():
    examples = data(500, 3) * torch.tensor([0.5, 1.0, 4.0]) + torch.tensor([2.0, 0.0, -5.0])
    n = 8000
    buffer = ReplayBuffer(n, 1.0)
    buffer.fill(examples, seeded(6))
    start = buffer.visit(data(n, 3), seeded(7)).start
    assert not torch.equal(start.sort(0)[0], buffer.states.sort(0)[0])
    for states in (buffer.states, start):
        off = (states - examples.mean(0)) / examples.std(0, correction=0)
        assert off.mean(0).abs().max() < 4.5 / n**0.5
        assert (off.var(0) - 1).abs().max() < 4.5 * (2 / n) ** 0.5
        correlation = torch.corrcoef(off.mT) - torch.eye(3)
        assert correlation.abs().max() < 4.5 / n**0.5


def test_ages_count_steps_since_the_last_start():
    buffer, like, source = filled(6, 0.4, data(4, 2)), data(4, 2), seeded(8)
    ages, restarts = [0] * 6, 0
    for _ in range(30):
        visit = buffer.visit(like, source)
        buffer.write(visit, visit.start, 3)
        for slot, fresh in zip(visit.slots.tolist(), visit.restarted.tolist(), strict=True):
            ages[slot] = 3 if fresh else ages[slot] + 3
            restarts += fresh
        assert buffer.ages.tolist() == ages
    assert 20 < restarts < 80


def test_all_randomness_comes_from_the_generator():
    buffer, like = filled(20, 0.5, data(4, 2)), data(5, 2)
    before = torch.get_rng_state()
    first, again, other = (buffer.visit(like, seeded(i)) for i in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.start, again.start)
    assert torch.equal(first.slots, again.slots)
    assert not torch.equal(first.slots, other.slots)
    torch.manual_seed(0)
    one = buffer.visit(like)
    assert not torch.equal(one.slots, buffer.visit(like).slots)


def test_what_does_not_fit_is_refused():
    for size in (0, 2.5):
        with pytest.raises(ValueError, match="buffer_size"):
            ReplayBuffer(size, 0.1)
    for restart in (-0.1, 1.1, float("nan"), "often"):
        with pytest.raises(ValueError, match=r"restart=.* must be a probability"):
            ReplayBuffer(5, restart)
    with pytest.raises(RuntimeError, match="call setup"):
        ReplayBuffer(5, 0.1).visit(data(2, 2))
    buffer = filled(5, 0.1, data(4, 2))
    with pytest.raises(ValueError, match="buffer_size=5 holds fewer chains than a batch of 6"):
        buffer.visit(data(6, 2))
    with pytest.raises(ValueError, match="a batch of 6 visits"):
        buffer.visit(data(2, 2), BatchSlice(seeded(), 0, 6))
    with pytest.raises(ValueError, match="do not lie in a batch"):
        buffer.visit(data(2, 2), BatchSlice(seeded(), 3, 4))
    with pytest.raises(ValueError, match=r"event shape \(3,\), the chains have \(2,\)"):
        buffer.visit(data(2, 3))
    with pytest.raises(TypeError, match="examples must be a floating-point tensor"):
        buffer.fill(torch.ones(3, 2, dtype=torch.long))
