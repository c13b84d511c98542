"""Slips at the doors of models, losses, likelihoods and views, and the fix that is advised."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sde_score import discrete, likelihood, samplers, sdes
from sde_score import nn as networks
from sde_score.models import (
    EmpiricalDistribution,
    GaussianMixture,
    Marginal,
    ScoreFunction,
    ScoreModel,
)
from sde_score.objectives import OBJECTIVES

VP = sdes.VP()
NETWORK = networks.create("mlp(width=8, depth=1)", (2,))
MODEL = ScoreModel(NETWORK, VP)
X = torch.linspace(-1, 1, 8).reshape(4, 2)
LOSS = OBJECTIVES.create("denoising")
RUN = SimpleNamespace(model=MODEL, sde=VP)

MISTAKES = {
    "an index for a time": (
        lambda: MODEL.score(X, 500),
        r"^t=500 leaves \[1e-05, 1\], .*t is continuous, and index i of n has the time "
        r"sde.discrete_times\(n\)\[i\]",
    ),
    "indices for times": (lambda: MODEL.score(X, torch.arange(4)), r"t=0..3 .*t is continuous"),
    "no noise": (lambda: MODEL.score(X, 0), "t=0 leaves .*: t_min stands for the data"),
    "time is text": (lambda: MODEL.score(X, "0.5"), "t='0.5' must be a number"),
    "one example": (lambda: MODEL.score(X[0], 0.5), r"\(2,\) does not .*one example as x\[None\]"),
    "another event": (lambda: MODEL.score(X.mT, 0.5), r"event_shape=tuple\(x.shape\[1:\]\)"),
    "a list": (lambda: MODEL.score([[1.0, 2.0]], 0.5), r"got list: try torch.tensor\(x"),
    "an array": (lambda: MODEL.score(X.numpy(), 0.5), r"NumPy array.*try torch.from_numpy\(x\)"),
    "8-bit images": (lambda: MODEL.score(X.byte(), 0.5), r"Scaling.discrete\(256\).to_model\(x\)"),
    "a model for data": (lambda: MODEL.score(MODEL, 0.5), "got ScoreModel, which is no data"),
    "labels of an exact model": (
        lambda: GaussianMixture([[0.0]], 1.0, VP).score(X[:, :1], 0.5, torch.zeros(4)),
        "GaussianMixture takes no condition: leave it out",
    ),
    "arguments exchanged": (lambda: ScoreModel(VP, NETWORK), r"backbone=VP\(.*must be a network"),
    "an integer for an SDE": (lambda: ScoreModel(NETWORK, 3), "sde=3 is no SDE: accepted are text"),
    "a class for an SDE": (lambda: ScoreFunction(NETWORK, sdes.VP), "sde="),
    "a misspelt SDE": (lambda: ScoreModel(NETWORK, "pv"), "unknown .*'pv'.*accepted"),
    "an SDE for the mixture": (lambda: GaussianMixture([[0.0]], 1.0, 2), "sde=2 is no SDE"),
    "marginal of a run": (lambda: Marginal(RUN), "give model.model, the model inside"),
    "marginal of a network": (lambda: Marginal(NETWORK), r"ScoreModel\(network, sde\) makes a mod"),
    "NaN data": (lambda: LOSS(MODEL, X * torch.nan), "x0 is not finite in 4 of 4 examples"),
    "an empty batch": (lambda: LOSS(MODEL, X[:0]), "holds no examples: give at least one"),
    "gray levels": (
        lambda: LOSS(MODEL, torch.linspace(0, 255, 8).reshape(4, 2)),
        r"x0 runs from 0 to 255, and the model is for data of standard deviation sigma_data=1 .*"
        r"Scaling.discrete\(256\).to_model\(x0\), others .*standardize\(x0\).to_model\(x0\)",
    ),
    "a run for a loss": (lambda: LOSS(RUN, X), "give model.model, the model inside"),
    "loss arguments exchanged": (lambda: LOSS(X, MODEL), "model is a Tensor; accepted: a ScoreM"),
    "a seed for a generator": (
        lambda: LOSS(MODEL, X, None, 3),
        r"generator=3 must be a torch.Generator or None: try torch.Generator\(\).manual_seed\(3\)",
    ),
    "a generator for a condition": (
        lambda: LOSS(MODEL, X, torch.Generator()),
        "condition=.* must be a tensor with one entry per example",
    ),
    "an integer for a shape": (lambda: VP.prior(5), r"shape=5 must be a .*: \(batch, \*event\)"),
    "an integer to start from": (
        lambda: samplers.create("ddim", steps=2)(MODEL, 2),
        r"start=2 must be a tuple of integers: \(batch, \*event\), or a tensor",
    ),
    "an integer for an event": (lambda: networks.create("mlp", 2), r"event_shape=2 .*write \(2,\)"),
    "an event of log Z": (
        lambda: likelihood.log_partition(GaussianMixture([[0.0]], 1.0, VP), 1),
        r"start is 1; accepted: an event shape .*: write \(1,\)",
    ),
    "log Z of a network": (
        lambda: likelihood.log_partition(NETWORK, (2,)),
        "density is a MLP; accepted: an energy-based model",
    ),
    "levels of an ELBO": (
        lambda: discrete.HierarchicalVAE.from_sde(VP, 3).elbo(MODEL, X.byte(), levels=256),
        r"x0 must be .*Scaling.discrete\(256\).to_model\(x0\)",
    ),
    "data of a ladder": (lambda: discrete.design(X.numpy()), "the data as a tensor, not data=a fl"),
    "NaN in the empirical distribution": (
        lambda: EmpiricalDistribution(X * torch.nan, VP),
        "finite, not empty",
    ),
}


@pytest.mark.parametrize("slip", MISTAKES)
def test_the_message_for_a_mistake_says_what_to_do(slip):
    make, message = MISTAKES[slip]
    with pytest.raises(ValueError, match=message):
        make()


def test_what_the_messages_advise_works():
    from sde_score.scaling import Scaling

    x0 = torch.linspace(0, 255, 8).reshape(4, 2)
    LOSS(MODEL, Scaling.discrete(256).to_model(x0.byte()))
    LOSS(MODEL, Scaling.standardize(x0).to_model(x0))
    LOSS(ScoreModel(NETWORK, VP, sigma_data=150.0), x0)
    MODEL.score(X, VP.discrete_times(1000)[500])
    MODEL.score(X[0][None], VP.t_min)


def test_names_of_diffusions_are_diffusions():
    x, named = X.double(), ScoreFunction(lambda x, t: -x, "ve(sigma_max=9.0)")
    assert named.sde == sdes.VE(sigma_max=9.0)
    assert ScoreModel(nn.Bilinear(2, 1, 2), "vp").sde == VP
    torch.testing.assert_close(GaussianMixture([[0.0, 0.0]], 1.0, "vp").score(x, 0.5), -x)
    assert EmpiricalDistribution(X, "vp").sde == VP
