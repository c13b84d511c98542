"""Guidance by gradients, against Bayes' rule of normal distributions."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.guidance import ClassifierGuided, RewardGuided
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.sdes import VE, VP, Rectified

SDES = [VP(), VE(0.01, 20.0), Rectified()]


def states(sde, t=0.4):
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    t = sde.t_min + t * (sde.t_max - sde.t_min)
    return sde.perturb(x0, t, noise), t


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_a_classifier_of_noisy_data_gives_each_class(sde):
    """With p(y | x, t) known exactly, the guided score is that of the component."""
    means, stds = [[-1.0, 0.3], [0.8, 1.0]], [0.3, 0.6]
    mixture = GaussianMixture(means, stds, sde, [0.3, 0.7])
    parts = [GaussianMixture([m], s, sde) for m, s in zip(means, stds, strict=True)]

    def log_prob(x, t, condition):
        weights = x.new_tensor([0.3, 0.7]).log()[:, None]
        joint = torch.stack([part.log_prob(x, t) for part in parts]) + weights
        return joint.log_softmax(0).gather(0, condition[None])[0]

    guided = ClassifierGuided(mixture, log_prob)
    x, t = states(sde)
    for label, part in enumerate(parts):
        labels = torch.full((5,), label)
        for kind in ("denoise", "noise", "score", "velocity"):
            got = getattr(guided, kind)(x, t, labels)
            torch.testing.assert_close(got, getattr(part, kind)(x, t), rtol=1e-8, atol=1e-9)
        # also at every other x: the gradient is that at x_t, not at the start
        sampler = samplers.create("ddim", steps=5)
        drawn = sampler(guided, x, condition=labels, progress=False)
        torch.testing.assert_close(drawn, sampler(part, x, progress=False), rtol=1e-7, atol=1e-8)
    twice = ClassifierGuided(mixture, log_prob, scale=2.0).score(x, t, labels)
    expected = 2 * parts[1].score(x, t) - mixture.score(x, t)
    torch.testing.assert_close(twice, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_a_reward_of_the_denoised_mean_goes_through_the_model(sde):
    """D is linear for a normal distribution: the gradient of r(D(x)) is dD/dx times r'."""
    model = GaussianMixture([[0.5, -0.2]], 0.49, sde)
    x, t = states(sde)
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = sde.alpha(time), sde.sigma(time)
    slope = alpha * 0.49 / (alpha**2 * 0.49 + sigma**2)
    target = torch.tensor([1.0, 2.0], dtype=torch.float64)
    guided = RewardGuided(model, lambda x0: -((x0 - target) ** 2).sum(1), scale=1.5)
    gradient = -2 * slope * (model.denoise(x, t) - target)
    torch.testing.assert_close(guided.score(x, t), model.score(x, t) + 1.5 * gradient)
    with torch.inference_mode():
        inside = guided.score(x, t)
    torch.testing.assert_close(inside.clone(), model.score(x, t) + 1.5 * gradient)
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(guided.score(x, t).sum(), x)
    (plain,) = torch.autograd.grad(model.score(x, t).sum(), x)
    torch.testing.assert_close(slopes, plain - 3 * slope**2)


def test_a_reward_may_know_the_condition():
    model = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    x, t = states(VP())
    guided = RewardGuided(model, lambda x0, condition: condition * x0.sum(1))
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    change = guided.score(x, t, signs) - model.score(x, t)
    torch.testing.assert_close(change / change[0], signs[:, None].expand(5, 2))


def test_a_label_made_in_inference_mode_reaches_model_and_reward():
    """Autograd keeps the condition, where a network or reward multiplies by it."""

    def score(x, t, condition):
        return -(x**3) * condition[:, None]

    with torch.inference_mode():
        x, t = states(VP())
        signs = torch.ones(5, dtype=torch.float64) + 1
        model = ScoreFunction(score, VP())
        told = RewardGuided(model, lambda x0, condition: condition * (x0**2).sum(1))
        inside = (
            told.score(x, t, signs),
            RewardGuided(model, lambda x0: x0.sum(1)).score(x, t, signs),
        )
    x, signs = x.clone(), signs.clone()
    torch.testing.assert_close(inside[0].clone(), told.score(x, t, signs).detach())
    assert inside[1].isfinite().all()


def test_samples_follow_the_classifier():
    sde = VP()
    target = GaussianMixture([[-2.0, 0.0], [2.0, 0.0]], 0.3, sde)

    def log_prob(x, t, condition):
        parts = [GaussianMixture([m], 0.3, sde) for m in ([-2.0, 0.0], [2.0, 0.0])]
        logs = torch.stack([p.log_prob(x, t) for p in parts]).log_softmax(0)
        return logs.gather(0, condition[None])[0]

    labels = torch.tensor([0, 1] * 8)
    drawn = samplers.sample(
        ClassifierGuided(target, log_prob), "dpmpp-2m(steps=20)", (2,), 16, condition=labels,
        progress=False,
    )  # fmt: skip
    assert torch.equal(drawn[:, 0] > 0, labels == 1)


def test_wrong_rewards_are_refused():
    model = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    x, t = states(VP())
    with pytest.raises(ValueError, match=r"the reward returned \(\); accepted: one number each"):
        RewardGuided(model, lambda x0: x0.sum()).score(x, t)
    with pytest.raises(ValueError, match="scale"):
        RewardGuided(model, lambda x0: x0.sum(1), scale=float("nan"))
