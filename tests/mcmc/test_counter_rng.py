"""Uniform numbers by address: the hash is the reference one, the numbers are uniform."""

from __future__ import annotations

import itertools

import pytest
import torch

from sde_score import random
from sde_score.mcmc.counter_rng import Uniforms
from sde_score.random import ExampleStreams, mix_tensor

WORDS = [0, 1, 2, -1, 12345, (1 << 63) - 1, -(1 << 63), 0x1234567890ABCDEF]


def table(count, seed=0):
    keys = torch.randint(-(1 << 62), 1 << 62, (count,), generator=random.generator_from(seed))
    return Uniforms(keys)


@pytest.mark.parametrize("number", WORDS)
def test_the_hash_is_the_one_of_whole_numbers(number):
    """`random.mix` computes it with Python's unbounded integers and drops the lowest bit."""
    words = torch.tensor(WORDS)
    mixed = mix_tensor(mix_tensor(torch.zeros((), dtype=torch.int64), words), number)
    for word, got in zip(WORDS, mixed.tolist(), strict=True):
        assert (got & ((1 << 64) - 1)) >> 1 == random.mix(word, number)


@pytest.mark.parametrize("axis", ["key", "stream", "index"])
def test_numbers_are_uniform_along_every_axis_and_neighbors_are_independent(exact, axis):
    n = 20_000
    u = {
        "key": lambda: table(n).log(1, 7, 8)[0],
        "stream": lambda: torch.cat([table(1).log(s, 7, 8)[0] for s in range(n // 10)]),
        "index": lambda: table(1).log(1, 0, n)[:, 0],
    }[axis]().exp()
    assert u.min() > 0
    assert u.max() < 1
    assert exact.kolmogorov(u) < 2.3
    assert abs(float(torch.corrcoef(torch.stack([u[1:], u[:-1]]))[0, 1])) < 4 / len(u) ** 0.5


def test_coins_are_fair_and_independent_of_the_numbers_beside_them():
    n = 40_000
    tables = table(n)
    coins = torch.stack([tables.coin(0, i) for i in range(3)]).double()
    assert ((coins.mean(1) - 0.5).abs() < 4 * 0.5 / n**0.5).all()
    every = torch.cat([coins, tables.log(1, 0, 2).exp()])
    off = torch.corrcoef(every) - torch.eye(5)
    assert off.abs().max() < 4.5 / n**0.5


def test_a_number_has_an_address_and_not_an_order():
    tables = table(5)
    assert torch.equal(tables.log(2, 3, 9)[4], tables.log(2, 7, 8)[0])
    assert not torch.equal(tables.log(2, 3, 4), tables.log(1, 3, 4))


def test_keys_come_from_two_draws_of_each_chain_alone(normals):
    like = torch.zeros(50, 2, 2)
    noise = normals(like)
    tables = Uniforms.draw(noise)
    assert noise.calls == 2
    u = tables.log(0, 0, 1)[0]
    assert len(set(u.tolist())) == 50
    part = Uniforms.draw(ExampleStreams([3], like[:1]))
    whole = Uniforms.draw(ExampleStreams(range(5), like[:5]))
    assert torch.equal(part.log(0, 0, 4)[:, 0], whole.log(0, 0, 4)[:, 3])
    a, b, c = (normals(like, seed=i)() for i in range(3))
    by_pair = [Uniforms.draw(iter(p).__next__).log(0, 0, 1) for p in ((a, b), (a, c), (c, b))]
    assert not any((x == y).any() for x, y in itertools.combinations(by_pair, 2))


def test_the_extremes_stay_within_zero_and_one(monkeypatch):
    extremes = torch.tensor([[0], [-1]])
    monkeypatch.setattr(Uniforms, "_bits", lambda *address: extremes)
    assert torch.equal(table(1).log(0, 0, 2)[:, 0].isfinite(), torch.tensor([True, True]))
    assert (table(1).log(0, 0, 2) < 0).all()
    assert table(1).coin(0, 0).tolist() == [False]
