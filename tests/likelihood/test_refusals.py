"""What `log_prob` refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score.likelihood import SOLVERS, log_prob
from sde_score.models import GaussianMixture
from sde_score.sdes import VP

REFUSED = [
    ({"divergence": "trace"}, "divergence='trace' is not known; accepted: exact, hutchinson"),
    ({"method": "euler"}, "method='euler' is not known; accepted: dopri5, scipy"),
    ({"divergence": "hutchinson", "probe_law": "x"}, "probe_law='x' is not known"),
    ({"divergence": "hutchinson", "probes": 0}, "probes=0 must be a whole number"),
    ({"probes": 4}, "probes are for divergence='hutchinson'"),
    ({"divergence": "hutchinson", "probes": torch.ones(2, 3)}, r"probes has shape \(2, 3\)"),
    ({"divergence": "hutchinson", "seed": [1]}, "seed has 1 entries for 2 examples"),
    ({"rtol": 0.0}, "rtol=0.0 must be a finite number greater than 0"),
    ({"condition": torch.zeros(3)}, r"condition has shape \(3,\) for 2 examples"),
    ({"x": torch.full((2, 3), torch.nan)}, "must be finite"),
    ({"x": torch.zeros(0, 3)}, "not empty"),
    ({"x": torch.zeros(())}, r"x must have shape \(batch, \*event\)"),
    ({"x": torch.zeros(1, 5000)}, "exact' needs 5000 backward passes.*hutchinson"),
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
