"""A normal prior, and observations of it whose noise the network is told."""

from __future__ import annotations

import pytest
import torch

from sde_score._core.checks import expand_like
from sde_score.models import BaseModel, parametrization
from sde_score.sdes import create

PRIOR = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


class NormalPosterior(BaseModel):
    """theta ~ N(0, PRIOR) given y = theta + noise, exactly; told (y_1, y_2, v_1, v_2), v the
    variances of the noise; NaN for no observation."""

    takes_condition = True

    def __init__(self, sde="edm"):
        self._sde = create(sde)
        self.rows = []

    def moments(self, told):
        """Means `(batch, 2)` and covariances `(batch, 2, 2)`."""
        seen = ~told.isnan().any(1)
        gain = torch.where(seen[:, None], 1 / told[:, 2:], 0.0)
        y = torch.where(seen[:, None], told[:, :2], 0.0)
        covariance = torch.linalg.inv(torch.linalg.inv(PRIOR) + torch.diag_embed(gain))
        return (covariance @ (gain * y)[..., None])[..., 0], covariance

    def _predict(self, x, at, condition):
        self.rows.append(len(x))
        none = torch.full((len(x), 4), torch.nan, dtype=torch.float64)
        mean, covariance = self.moments(none if condition is None else condition)
        alpha, sigma = (expand_like(v, x) for v in (at.alpha, at.sigma))
        noisy = alpha[..., None] ** 2 * covariance + sigma[..., None] ** 2 * torch.eye(2)
        gain = alpha[..., None] * covariance @ torch.linalg.inv(noisy)
        return mean + (gain @ (x - alpha * mean)[..., None])[..., 0]

    def _coefficients(self, at):
        return parametrization.data(at)


@pytest.fixture
def normal_posterior():
    return NormalPosterior


def closed_form(told):
    """Mean and covariance of theta given all observations."""
    precision = torch.linalg.inv(PRIOR) + torch.diag((1 / told[:, 2:]).sum(0))
    covariance = torch.linalg.inv(precision)
    return covariance @ (told[:, :2] / told[:, 2:]).sum(0), covariance


@pytest.fixture
def observed():
    """Five observations of unequal variances, with the posterior's mean and covariance."""
    told = torch.tensor(
        [
            [1.0, -0.5, 0.3, 2.0],
            [0.2, 0.9, 1.0, 0.1],
            [1.5, 0.4, 0.5, 0.8],
            [0.6, 0.0, 4.0, 0.2],
            [0.9, 0.3, 0.2, 1.5],
        ],
        dtype=torch.float64,
    )
    return told, *closed_form(told)
