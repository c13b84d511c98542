"""Stochastic samplers by the distance of their samples from fine ones."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import rank_stochastic
from sde_score.samplers.tuning.stochastic import Ranked, Ranking, _floor, energy_distance
from sde_score.sdes import EDM

MODEL = GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.04, EDM())

FINE = samplers.create("adams", steps=25)


def normal(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return shift + torch.randn(count, 1, generator=generator, dtype=torch.float64)


def test_the_distance_is_that_of_normal_distributions_and_unbiased():
    """E|N(m, 2)| = 2 phi(m / sqrt 2) sqrt 2 + m (2 Phi(m / sqrt 2) - 1), with m the shift."""
    m = 1.5
    phi = math.exp(-(m**2) / 4) / math.sqrt(2 * math.pi)
    between = 2 * math.sqrt(2) * phi + m * math.erf(m / 2)
    expected = 2 * between - 4 / math.sqrt(math.pi)
    found = [energy_distance(normal(60, k, m), normal(90, 999 + k)) for k in range(300)]
    assert sum(found) / 300 == pytest.approx(expected, rel=0.03)
    null = [energy_distance(normal(10, k), normal(10, 999 + k)) for k in range(900)]
    assert abs(sum(null) / 900) < 0.012  # three standard errors; the biased one gives .2


def test_the_floor_is_the_deviation_of_chance():
    """Of a set from another of twice as many."""
    null = [energy_distance(normal(40, k), normal(80, 999 + k)) for k in range(300)]
    deviation = torch.tensor(null).std().item()
    floors = [_floor(normal(80, k), 0) for k in range(40)]
    assert sum(floors) / 40 == pytest.approx(deviation, rel=0.2)


def test_a_sampler_that_misses_the_distribution_is_last_and_no_tie():
    specs = ["euler-maruyama(grid='uniform')", "dpmpp-2m-sde", "ddim"]
    found = rank_stochastic(MODEL, 12, candidates=specs, num=256, reference=FINE)
    assert [each.sampler.name for each in found.entries][-1] == "euler-maruyama"
    assert found.entries[-1] not in found.ties
    assert all(each.sampler.steps == 12 for each in found.entries)
    again = rank_stochastic(MODEL, 12, candidates=specs, num=256, reference=FINE)
    assert [e.distance for e in again.entries] == [e.distance for e in found.entries]


def test_ties_are_within_two_floors_of_the_best():
    entries = tuple(Ranked(None, d) for d in (-0.1, 0.05, 0.2))
    assert Ranking(entries, 0.1).ties == entries[:2]


def test_all_names_are_ranked_on_several_grids():
    found = rank_stochastic(MODEL, 6, num=8, reference=FINE)
    assert len(found.entries) == 6
    assert all(each.sampler.stochastic for each in found.entries)


def test_a_budget_below_all_is_refused():
    with pytest.raises(ValueError, match=r"nfe=5: no sampler"):
        rank_stochastic(MODEL, 5, candidates=["adaptive-sde"], num=8)
    with pytest.raises(ValueError, match=r"num"):
        rank_stochastic(MODEL, 5, num=4)
