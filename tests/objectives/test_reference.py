"""Losses and gradients of other implementations, on our objective with their times and noise."""

from __future__ import annotations

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, NoiseScales, linear_betas
from sde_score.objectives import DenoisingScoreMatching, create
from sde_score.objectives.time_samplers import LogNormal
from sde_score.sdes import EDM, VE, VP, SubVP

NAMES = ("W1", "b1", "W2", "b2")
KINDS = {"vp": VP, "subvp": SubVP, "ve": VE}


class Tiny:
    """Their tiny network and the noise it stands for; only what the objective asks."""

    def __init__(self, sde, network, labels, to_noise) -> None:
        self.sde, self.network, self.labels, self.to_noise = sde, network, labels, to_noise

    def noise(self, x, t, condition=None):
        return self.to_noise(self.network(x, self.labels(t)), t)


def linear(x, labels, scale):
    shape = (-1, *(1,) * (x.ndim - 1))
    return 0.8 * x * (1 + 0.5 * (labels / scale).reshape(shape)) + 0.1


def mlp(weights, x, labels, scale):
    w1, b1, w2, b2 = weights
    inputs = torch.cat([x.flatten(1), (labels / scale)[:, None]], 1)
    return (torch.tanh(inputs @ w1.mT + b1) @ w2.mT + b2).reshape(x.shape)


def networks(arrays, scale):
    """The two networks, and the weights of the second."""
    weights = [arrays[f"mlp.{name}"].clone().requires_grad_() for name in NAMES]
    return {
        "linear": lambda x, labels: linear(x, labels, scale),
        "mlp": lambda x, labels: mlp(weights, x, labels, scale),
    }, weights


def check(arrays, case, loss, dims, weights, close):
    """Means over entries are ours; their sums are half the sum."""
    for reduction, factor in (("mean", 1.0), ("sum", dims / 2)):
        key = f"{case[0]}.{reduction}.{case[1]}"
        close(factor * loss, arrays[f"{key}.loss_per_sample"])
        close(factor * loss.mean(), arrays[f"{key}.loss"])
        if case[1] == "mlp":
            grads = torch.autograd.grad(factor * loss.mean(), weights, retain_graph=True)
            for name, grad in zip(NAMES, grads, strict=True):
                close(grad, arrays[f"{key}.grad.{name}"])


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize(("theirs", "ours"), [("plain", "variance"), ("lw", "likelihood")])
@pytest.mark.parametrize("name", KINDS)
def test_continuous_losses_and_gradients_of_score_sde(
    name, theirs, ours, network, reference, close
):
    arrays, description = reference("loss_continuous")
    sde = KINDS[name](*description["params"][name][:2])
    nets, weights = networks(arrays, description["params"]["label_scale"][name])
    t, z, x0 = arrays["t"], arrays["z"], arrays["batch"]
    if name == "ve":  # the network is the score
        labels = sde.sigma
        to_noise = lambda out, t: -sde.sigma(t).reshape(-1, 1, 1, 1) * out  # noqa: E731
    else:  # the network is the noise
        labels = lambda t: 999 * t  # noqa: E731
        to_noise = lambda out, t: out  # noqa: E731
    model = Tiny(sde, nets[network], labels, to_noise)
    loss = DenoisingScoreMatching(weighting=ours).at(model, x0, t, z)
    assert loss.shape == (6,)
    check(arrays, (f"{name}.{theirs}", network), loss, x0[0].numel(), weights, close)


class Levels:
    """The two scales of a table, all that the objective asks of an SDE."""

    def __init__(self, alphas, sigmas) -> None:
        self.alphas, self.sigmas = alphas, sigmas

    def perturb(self, x0, t, noise):
        index, shape = t.long(), (-1, 1, 1, 1)
        return self.alphas[index].reshape(shape) * x0 + self.sigmas[index].reshape(shape) * noise

    def sigma(self, t):
        return self.sigmas[t.long()]


@pytest.mark.parametrize("network", ["linear", "mlp"])
@pytest.mark.parametrize("name", ["smld", "ddpm"])
def test_discrete_losses_of_score_sde_are_the_variance_weighting(name, network, reference, close):
    arrays, description = reference("loss_discrete")
    given = description["params"]
    nets, weights = networks(arrays, given["label_scale"])
    low, high, n = given["ve" if name == "smld" else "vp"]
    if name == "smld":
        sigmas = NoiseScales.geometric(high, low, n).sigmas
        sde = Levels(torch.ones_like(sigmas), sigmas)
        to_noise = lambda out, t: -sde.sigma(t).reshape(-1, 1, 1, 1) * out  # noqa: E731
    else:
        chain = HierarchicalVAE.from_betas(linear_betas(n, low / n, high / n))
        sde, to_noise = Levels(chain.encoder.alphas, chain.encoder.sigmas), lambda out, t: out
    model = Tiny(sde, nets[network], lambda t: t, to_noise)
    t = arrays[f"{name}.labels"].double()
    loss = DenoisingScoreMatching().at(model, arrays["batch"], t, arrays["z"])
    check(arrays, (name, network), loss, 24, weights, close)


class StoredDenoiser:
    """D(x; sigma) = x b / (1 + sigma^2) + c, as noise."""

    def __init__(self, sde, b, c) -> None:
        self.sde, self.b, self.c = sde, b, c

    def noise(self, x, t, condition=None):
        alpha, sigma = (s(t).reshape(-1, 1, 1, 1) for s in (self.sde.alpha, self.sde.sigma))
        level = sigma / alpha
        return (x / alpha - (x / alpha * self.b / (1 + level**2) + self.c)) / level


def test_edm_loss(reference, close):
    arrays, description = reference("edm_losses")
    given = description["params"]
    sde, case = EDM(), given["cases"]["edm"]
    model = StoredDenoiser(sde, given["b"], given["c"])
    u = torch.special.ndtr(arrays["edm.u"].flatten())
    t = LogNormal(mean=case["P_mean"], std=case["P_std"]).quantile(sde, u)
    close(t, arrays["edm.sigma"].flatten())
    objective = create("denoising", weighting=f"edm(sigma_data={case['sigma_data']})")
    loss = objective.at(model, arrays["images"], t, arrays["edm.z"])
    close(loss, arrays["edm.loss"].flatten(1).mean(1))


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_vp_and_ve_losses_of_edm(name, reference, close):
    """Theirs weigh the data error by 1 / sigma^2: the noise error with weight 1."""
    arrays, description = reference("edm_losses")
    given = description["params"]
    if name == "vp":
        sde, t = VP(), 1 + arrays["vp.u"].flatten() * (1e-5 - 1)
    else:
        sde, t = VE(0.02, 100.0), arrays["ve.u"].flatten()
    close(sde.sigma(t) / sde.alpha(t), arrays[f"{name}.sigma"].flatten())
    model = StoredDenoiser(sde, given["b"], given["c"])
    loss = DenoisingScoreMatching().at(model, arrays["images"], t, arrays[f"{name}.z"])
    close(loss, arrays[f"{name}.loss"].flatten(1).mean(1))
