"""What likelihoods refuse, and how they say so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sde_score.discrete import HierarchicalVAE
from sde_score.guidance import Clipped
from sde_score.likelihood import (
    DEQUANTIZATIONS,
    LIKELIHOODS,
    SOLVERS,
    ContinuousBound,
    LogPartition,
    VariationalDequantization,
    bits_per_dim,
    energy_bits_per_dim,
    log_prob,
    variational_bound,
)
from sde_score.models import EnergyFunction, GaussianMixture, ScoreFunction
from sde_score.objectives import OBJECTIVES
from sde_score.samplers import create, sample
from sde_score.scaling import Scaling
from sde_score.sdes import VP

REFUSED = [
    ({"divergence": "trace"}, "divergence='trace' is not known; accepted: exact, hutchinson"),
    (
        {"method": "euler"},
        "method='euler' is not known; accepted: dopri5, torchdiffeq, scipy, quadrature",
    ),
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
    ({"x": torch.full((2, 3), torch.nan)}, "is not finite in 2 of 2 examples"),
    ({"x": torch.zeros(0, 3)}, "holds no examples"),
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


@pytest.mark.parametrize("method", [*SOLVERS, "quadrature"])
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
    coarse = {"rtol": 1e-2, "atol": 1e-2}
    assert log_prob(model, fine, **coarse).log_prob.isfinite()
    with pytest.raises(RuntimeError, match="a step shrank to nothing"):
        log_prob(model, torch.cat([fine, broken]), **coarse)


GRAY = Scaling.discrete(17)
NO_LEVELS = {
    "model range": (GRAY.to_model, "fractional values from -0.* to 0"),
    "from 0 to 1": (lambda raw: raw / 16, "fractional values from 0 to 1"),
    "0 to 256": (lambda raw: raw * 16, "values from 0 to 256"),
    "from -1": (lambda raw: raw.long() - 1, "values from -1 to 15"),
    "one too many": (lambda raw: raw + 1, "values from 1 to 17"),
}
DOORS = {
    name: lambda model, raw, name=name: LIKELIHOODS.create(name)(model, raw, GRAY, seeds=[0])
    for name in LIKELIHOODS
}
DOORS |= {
    f"dequantization {name}": lambda model, raw, name=name: DEQUANTIZATIONS.create(name)(
        raw, GRAY, model.sde, [0]
    )
    for name in DEQUANTIZATIONS
}
DOORS |= {
    "variational dequantization": lambda model, raw: VariationalDequantization(
        lambda raw, noise: (torch.special.ndtr(noise), torch.zeros(len(raw)))
    )(raw, GRAY, model.sde, [0]),
    "bits_per_dim": lambda model, raw: bits_per_dim(model, raw, GRAY),
    "an object": lambda model, raw: bits_per_dim(model, raw, GRAY, ContinuousBound(times=1)),
    "energy_bits_per_dim": lambda model, raw: energy_bits_per_dim(
        model, raw, GRAY, LogPartition(0.0, 0.1, *[None] * 5, [0.0, 1.0], [], torch.ones(1))
    ),
}


@pytest.mark.parametrize("wrong", NO_LEVELS)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_level_is_refused_by_every_likelihood(door, wrong):
    """Each of these is a distribution of other numbers, and got a number of bits."""
    change, said = NO_LEVELS[wrong]
    model = GaussianMixture(torch.zeros(1, 17), 1.0, VP())
    raw = change(torch.arange(17).reshape(1, 17).float())
    with pytest.raises(ValueError, match=rf"raw has {said}.*levels 0 \.\.\. 16"):
        DOORS[door](model, raw)
    assert model.nfe == 0


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("x", "raw='x' must be a tensor or array of numbers"),
        ([[1.0]], r"raw=\[\[1.0\]\] must be .*: try torch.tensor\(raw\)"),
        (torch.zeros(0, 17), r"raw has shape \(0, 17\); accepted: \(examples, \*event\)"),
        (torch.full((1, 17), torch.nan), "raw holds NaN or infinity"),
    ],
    ids=["text", "list", "empty", "nan"],
)
def test_what_is_no_data_is_refused_by_every_likelihood(door, raw, said):
    with pytest.raises(ValueError, match=said):
        DOORS[door](GaussianMixture(torch.zeros(1, 17), 1.0, VP()), raw)


@pytest.mark.parametrize("model", ["a run", "a network", "a class", "text"])
def test_what_is_no_model_is_refused_with_the_way_to_one(model):
    wrong, said = {
        "a run": (SimpleNamespace(model=GaussianMixture([[0.0]], 1.0, VP())), r"give model.model"),
        "a network": (nn.Linear(3, 3), r"ScoreModel\(network, sde\) makes a model of a network"),
        "a class": (GaussianMixture, r"write GaussianMixture\(...\)"),
        "text": ("vp", "model is 'vp'; accepted: a ScoreModel"),
    }[model]
    x = torch.zeros(2, 3)
    for door in (
        lambda: log_prob(wrong, x),
        lambda: variational_bound(wrong, x),
        lambda: bits_per_dim(wrong, x, Scaling()),
        lambda: ContinuousBound()(wrong, x, Scaling(), seeds=[0, 1]),
        lambda: HierarchicalVAE.from_sde(VP(), 2).elbo(wrong, x),
        lambda: Clipped(wrong),
        lambda: create("ddim", steps=2)(wrong, (2, 3)),
        lambda: sample(wrong, "ddim", (3,), 2),
        lambda: OBJECTIVES.create("denoising")(wrong, x),
    ):
        with pytest.raises(TypeError, match=said):
            door()


def test_arrays_and_their_seeds_mean_what_tensors_mean():
    model = GaussianMixture(torch.zeros(1, 3), 1.0, VP())
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    tensor, seeds = torch.from_numpy(x), np.array([3, 4])
    quick = {"rtol": 1e-2, "atol": 1e-2}
    assert torch.equal(
        log_prob(model, x, **quick).log_prob, log_prob(model, tensor, **quick).log_prob
    )
    found = variational_bound(model, x, seed=seeds, draws=np.int64(2), times=np.int64(2))
    want = variational_bound(model, tensor, seed=[3, 4], draws=2, times=2)
    assert torch.equal(found.nats, want.nats)
    raw = np.array([[0, 1, 2], [3, 2, 1]], dtype=np.uint16)[:, ::-1]
    by = "flow(rtol=1e-2, atol=1e-2)"
    found = bits_per_dim(model, raw, Scaling.discrete(4), by, seed=np.int32(3), batch_size=1)
    want = bits_per_dim(model, torch.tensor(raw.astype(int)), Scaling.discrete(4), by, seed=3)
    torch.testing.assert_close(found.values, want.values)
    for by in ("bound(times=1)", "elbo(layers=2)"):
        assert bits_per_dim(model, raw, Scaling.discrete(4), by).values.isfinite().all()
    loss = OBJECTIVES.create("denoising")
    draw = [loss(model, data, generator=torch.Generator().manual_seed(0)) for data in (x, tensor)]
    assert torch.equal(*draw)
