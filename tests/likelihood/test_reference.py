"""Against recorded likelihoods of Song et al. 2021 for Gaussian data with a full covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from sde_score.likelihood import log_prob
from sde_score.models import GaussianMixture
from sde_score.sdes import VE, VP, SubVP


@dataclass(frozen=True)
class LateVE(VE):
    """The recorded runs start at 1e-5 on every diffusion."""

    t_min = 1e-5


SDES = {"vp": VP(0.1, 20.0), "subvp": SubVP(0.1, 20.0), "ve": LateVE(0.01, 50.0)}


@pytest.fixture
def recorded(reference):
    return reference("ode_likelihood")[0]


def bits(found):
    """Bits per dimension of the recorded runs: identity scaling, 8 bits of bin width."""
    return -found.log_prob / (8 * math.log(2)) + 8


@pytest.fixture
def model(recorded):
    return lambda name: GaussianMixture(recorded["m"][None], recorded["S"][None], SDES[name])


@pytest.mark.parametrize("name", SDES)
def test_exact_trace_and_latent(name, recorded, model):
    found = log_prob(model(name), recorded["x"], rtol=1e-9, atol=1e-9)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(bits(found), recorded[f"{name}.exact.bpd"], **close)
    torch.testing.assert_close(found.latent, recorded[f"{name}.exact.z"], **close)


@pytest.mark.parametrize(
    ("name", "distribution"), [("vp", "gaussian"), ("subvp", "rademacher"), ("ve", "gaussian")]
)
def test_estimates_with_the_recorded_probes(name, distribution, recorded, model):
    found = log_prob(
        model(name),
        recorded["x"],
        divergence="hutchinson",
        probes=recorded[f"epsilon.{distribution}"][None],
        rtol=1e-9,
        atol=1e-9,
    )
    run = f"{name}.f64.tight.{distribution}"
    torch.testing.assert_close(bits(found), recorded[f"{run}.bpd"], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(found.latent, recorded[f"{run}.z"], rtol=1e-7, atol=1e-8)
    assert found.nfe < 2 * int(recorded[f"{run}.nfe"])
