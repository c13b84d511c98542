"""Calibration of a run: held-out examples among draws under their own conditions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sde_score._core.checks import expand_like
from sde_score.evaluation import calibrate
from sde_score.models import BaseModel, parametrization
from sde_score.posterior.simulation import pairs
from sde_score.training import TrainConfig, train


def simulator(theta, generator):
    """y = theta + noise of the same variance."""
    return theta + torch.randn(theta.shape, generator=generator)


class Exact(BaseModel):
    """theta given y in model range, where both are standardized: mean y / sqrt 2, variance 1/2."""

    takes_condition, device = True, torch.device("cpu")

    def __init__(self, sde, slope=0.5**0.5):
        self._sde, self.slope = sde, slope

    def _predict(self, x, at, condition):
        alpha, sigma = (expand_like(v, x) for v in (at.alpha, at.sigma))
        mean = self.slope * condition
        return mean + alpha * 0.5 / (alpha**2 * 0.5 + sigma**2) * (x - alpha * mean)

    def _coefficients(self, at):
        return parametrization.data(at)

    def parameters(self):
        return iter([torch.zeros(())])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    prior = torch.distributions.Normal(torch.tensor([50.0]), torch.tensor([1.0]))
    found = pairs(prior, simulator, 2000, names=("height",))
    config = TrainConfig(conditional=True, backbone="mlp(width=8, depth=1)", steps=1)
    return train(config, tmp_path_factory.mktemp("run"), data=found, progress=False)


def test_an_exact_model_is_calibrated_and_one_that_mistakes_y_is_not(run):
    options = {"count": 150, "draws": 19, "sampler": "dpmpp-2m(steps=12)"}
    exact = calibrate(replace(run, model=Exact(run.model.sde)), **options)
    assert exact.sbc.names == ("height",)
    assert exact.truth.shape == (150, 1)
    assert exact.draws.shape == (150, 19, 1)
    assert float(exact.draws.mean()) == pytest.approx(50, abs=0.3)  # in the data's own terms
    assert float(exact.sbc.p_values()) > 0.01
    wrong = calibrate(replace(run, model=Exact(run.model.sde, slope=-0.7)), **options)
    assert float(wrong.sbc.p_values()) < 1e-6


def test_a_run_without_conditions_has_no_posteriors(run):
    with pytest.raises(ValueError, match="no condition"):
        calibrate(replace(run, config=TrainConfig()))
