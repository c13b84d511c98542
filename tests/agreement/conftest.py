"""One network read in four ways, and two distributions whose every quantity is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score.models import GaussianMixture, ScoreModel
from sde_score.nn import MLP
from sde_score.sdes import VP

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)


class Reread(nn.Module):
    """The backbone that says the same as `model` in the words of another prediction."""

    def __init__(self, model: ScoreModel, prediction: str) -> None:
        super().__init__()
        self.model, self.prediction = model, prediction

    def forward(self, scaled, noise_level, condition=None):
        sde = self.model.sde
        t = sde.time_of_log_snr(-8 * noise_level)
        shape = (-1, *(1,) * (scaled.ndim - 1))
        x = scaled * (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt().reshape(shape)
        if self.prediction == "score":  # sigma times the score
            return -self.model.noise(x, t)
        if self.prediction == "data":
            return self.model.denoise(x, t)
        return getattr(self.model, self.prediction)(x, t)


@pytest.fixture(scope="session")
def network():
    """A float64 network with random weights, predicting noise on VP; no output is trivial."""
    torch.manual_seed(0)
    backbone = MLP((2,), width=16, depth=1).double()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.4)
    return ScoreModel(backbone, VP()).eval()


@pytest.fixture(scope="session")
def rereadings(network):
    """The same model as networks of noise, data, velocity and score."""
    others = ("data", "velocity", "score")
    return {
        "noise": network,
        **{p: ScoreModel(Reread(network, p), network.sde, p).eval() for p in others},
    }


@pytest.fixture(scope="session")
def gaussian():
    """`sde -> model` of data N(m, S) with a full covariance."""
    return lambda sde: GaussianMixture(MEAN[None], COVARIANCE[None], sde)


@pytest.fixture(scope="session")
def mixture():
    """`sde -> model` of three components in the plane, one narrow."""
    means = [[1.5, 0.0], [-1.0, -1.0], [0.0, 1.2]]
    return lambda sde: GaussianMixture(means, [0.05, 0.2, 0.4], sde, weights=[0.5, 0.3, 0.2])
