"""What `log_prob` refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score.likelihood import SOLVERS, bits_per_dim, log_prob
from sde_score.models import EnergyFunction, GaussianMixture, ScoreFunction
from sde_score.scaling import Scaling
from sde_score.sdes import VP

REFUSED = [
    ({"divergence": "trace"}, "divergence='trace' is not known; accepted: exact, hutchinson"),
    ({"method": "euler"}, "method='euler' is not known; accepted: dopri5, torchdiffeq, scipy"),
    (
        {"divergence": "hutchinson", "probe_distribution": "x"},
        "probe_distribution='x' is not known",
    ),
    ({"divergence": "hutchinson", "probes": 0}, "probes=0 must be an integer"),
    ({"probes": 4}, "probes are for divergence='hutchinson'"),
    ({"divergence": "hutchinson", "probes": torch.ones(2, 3)}, r"probes has shape \(2, 3\)"),
    ({"divergence": "hutchinson", "seed": [1]}, "seed has 1 entries for 2 examples"),
    ({"mode": "backward"}, "mode='backward' is not known; accepted: reverse, forward"),
    ({"rtol": 0.0}, "rtol=0.0 must be a finite number greater than 0"),
    ({"start": 1.0}, r"start=1.0 must be a time in \[1e-05, 1\)"),
    ({"start": 0.0}, "start=0.0 must be a time in"),
    ({"condition": torch.zeros(3)}, r"condition has shape \(3,\) for 2 examples"),
    ({"x": torch.full((2, 3), torch.nan)}, "must be finite"),
    ({"x": torch.zeros(0, 3)}, "not empty"),
    ({"x": torch.zeros(())}, r"x must have shape \(batch, \*event\)"),
    ({"x": torch.zeros(1, 5000)}, "exact' needs 5000 derivatives.*hutchinson"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_wrong_arguments_are_refused_before_the_model_is_paid_for(
    arguments, message, gaussian_flow
):
    model = gaussian_flow(VP()).model
    with pytest.raises(ValueError, match=message):
        log_prob(model, **{"x": torch.zeros(2, 3), **arguments})
    assert model.nfe == 0


def test_wrong_types_are_refused(gaussian_flow):
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        log_prob(gaussian_flow(VP()).model, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="model is a Linear; accepted: a ScoreModel"):
        log_prob(nn.Linear(3, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("method", SOLVERS)
def test_a_model_that_returns_nan_is_an_error_not_a_number(method):
    class Broken(GaussianMixture):
        def _predict(self, x, at, condition):
            return super()._predict(x, at, condition) * torch.nan

    with pytest.raises(RuntimeError, match="the solver gave up"):
        log_prob(Broken(torch.zeros(1, 2), 1.0, VP()), torch.ones(1, 2), method=method)


def test_forward_mode_through_an_energy_is_refused():
    """The score is a gradient taken inside, through which tangents do not travel."""
    energy = EnergyFunction(lambda x, t: 0.5 * x.square().sum(1), VP())
    with pytest.raises(ValueError, match="mode='forward' does not reach through EnergyFunction"):
        log_prob(energy, torch.ones(1, 2), mode="forward")
    assert log_prob(energy, torch.ones(1, 2), rtol=1e-3, atol=1e-3).log_prob.isfinite()


def test_forward_mode_is_refused_where_tangents_are_dropped_in_silence():
    """A score that cuts its graph on one path differs between the modes, and is found out."""

    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0])

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0].cos()

        @staticmethod
        def jvp(ctx, tangent):
            return torch.zeros_like(tangent)

    model = ScoreFunction(lambda x, t: -x + 0.3 * Cut.apply(x), VP())
    x = torch.full((1, 4), 0.4)
    with pytest.raises(ValueError, match="give this model different divergences"):
        log_prob(model, x, mode="forward")


def test_a_solve_that_never_arrives_is_an_error(monkeypatch):
    monkeypatch.setattr("sde_score.samplers.adaptive.engine._MOST_ROUNDS", 3)
    model = GaussianMixture(torch.zeros(1, 2), 1.0, VP())
    with pytest.raises(RuntimeError, match="not there in 3 attempts"):
        log_prob(model, torch.ones(1, 2))


def test_one_broken_example_stops_the_batch():
    class Spoiled(GaussianMixture):
        def _predict(self, x, at, condition):
            late = (at.t > 0.5) & (x[:, 0] > 5)
            return super()._predict(x, at, condition) + torch.where(late, torch.nan, 0.0)[:, None]

    model = Spoiled(torch.zeros(1, 2), 1.0, VP())
    fine, broken = torch.zeros(1, 2), torch.full((1, 2), 1e3)
    assert log_prob(model, fine).log_prob.isfinite()
    with pytest.raises(RuntimeError, match="a step shrank to nothing"):
        log_prob(model, torch.cat([fine, broken]))


@pytest.mark.parametrize("by", ["flow", "bound", "elbo(layers=3)"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: Scaling.discrete(17).to_model(raw), "fractional values from -0"),
        (lambda raw: raw / 16, "fractional values from 0 to 1"),
        (lambda raw: raw * 16, "values from 0 to 256"),
        (lambda raw: raw.long() - 1, "values from -1"),
    ],
)
def test_what_is_no_level_is_refused_by_every_likelihood(by, change, said):
    """Each of these is a distribution of other numbers, and got a number of bits."""
    raw = torch.arange(17, dtype=torch.uint8).reshape(1, 17).float()
    model = GaussianMixture(torch.zeros(1, 17), 1.0, VP())
    with pytest.raises(ValueError, match=rf"raw has {said}.*levels 0 \.\.\. 16"):
        bits_per_dim(model, change(raw), Scaling.discrete(17), by)
