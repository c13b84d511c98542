"""Hutchinson probes: independent over examples and probes, each example's from its own seed."""

from __future__ import annotations

import pytest
import torch

from sde_score.likelihood import draw_probes
from sde_score.random import PROBE_DISTRIBUTIONS


@pytest.mark.parametrize("distribution", PROBE_DISTRIBUTIONS)
def test_probes_are_independent_draws_of_unit_covariance(distribution):
    """All 2000 probes of an event of 500 numbers differ, across probes and across examples."""
    probes = draw_probes(20, torch.zeros(100, 500, dtype=torch.float64), distribution).flatten(0, 1)
    assert len(probes.unique(dim=0)) == 2000
    assert abs(float(probes.mean())) < 4e-3
    assert abs(float(probes.square().mean()) - 1) < 6e-3


@pytest.mark.parametrize("distribution", PROBE_DISTRIBUTIONS)
def test_probes_depend_on_the_examples_seed_alone(distribution):
    x = torch.zeros(4, 2, 3, dtype=torch.float64)
    together = draw_probes(3, x, distribution, seed=[10, 11, 12, 13])
    alone = draw_probes(3, x[:1], distribution, seed=[12])
    assert torch.equal(together[:, 2:3], alone)
    assert torch.equal(
        draw_probes(2, x, distribution, seed=5), draw_probes(2, x, distribution, seed=5)
    )


def test_refusals():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="probes=0 must be a"):
        draw_probes(0, x)
    with pytest.raises(
        ValueError, match="probe_distribution='cauchy' is not known; accepted: rademacher"
    ):
        draw_probes(1, x, "cauchy")
