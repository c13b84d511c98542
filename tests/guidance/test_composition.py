"""Compositions of models against formulas: scores, cost, what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from sde_score import samplers
from sde_score.guidance import (
    Clipped,
    Conjunction,
    Guided,
    Mixture,
    PlusPlus,
    Product,
    RewardGuided,
    Tempered,
)
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.posterior import Mask, Measurement, Posterior
from sde_score.sdes import VE, VP, Rectified

KINDS = ("denoise", "noise", "score", "velocity")
SDES = [VP(), VE(0.01, 20.0), Rectified()]


def normals(sde, *stds):
    return [GaussianMixture([[0.5 * i, -0.2]], std**2, sde) for i, std in enumerate(stds, 1)]


def told(sde):
    """Label c is normal around c + 0.5 and -1 around 0; counts what it is asked."""
    calls = []

    def score(x, t, condition):
        calls.append(condition)
        label = condition["label"] if isinstance(condition, dict) else condition
        mean = torch.where(label >= 0, label + 0.5, 0.0).to(x)[:, None]
        if isinstance(condition, dict):
            mean = mean + condition["shift"].nan_to_num(0.0).to(x)
        time = sde.check_time(t)
        alpha, sigma = (f(time).reshape(-1, 1) for f in (sde.alpha, sde.sigma))
        return -(x - alpha * mean) / ((0.3 * alpha) ** 2 + sigma**2)

    return ScoreFunction(score, sde), calls


def states(sde, batch=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, generator=generator, dtype=torch.float64)
    return x, torch.linspace(0.3, 0.9, batch, dtype=torch.float64) * sde.t_max


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_the_score_of_a_product_is_the_weighted_sum(sde):
    first, second = normals(sde, 0.4, 1.3)
    x, t = states(sde)
    for composed, weights in (
        (Product([first, second]), (1.0, 1.0)),
        (Product([first, second], [1.5, -0.4]), (1.5, -0.4)),
    ):
        parts = composed.scores(x, t)
        torch.testing.assert_close(parts, torch.stack([first.score(x, t), second.score(x, t)]))
        assert composed.weights == weights
        total = weights[0] * parts[0] + weights[1] * parts[1]
        torch.testing.assert_close(composed.score(x, t), total)
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        torch.testing.assert_close(composed.denoise(x, t), (x + sigma**2 * total) / alpha)
        torch.testing.assert_close(composed.noise(x, t), -sigma * total)
    torch.testing.assert_close(Tempered(first, 2.0).score(x, t), 2 * first.score(x, t))


def test_it_starts_with_the_spread_of_the_product():
    """1 / (w_1 / v_1 + w_2 / v_2), with the variances at the last time."""
    sde = VP(beta_max=0.5)
    first, second = normals(sde, 1.0, 1.0)
    first.sigma_data, second.sigma_data = 0.4, 1.3
    alpha, sigma = float(sde.alpha(1.0)), float(sde.sigma(1.0))
    precisions = [1 / ((alpha * std) ** 2 + sigma**2) for std in (0.4, 1.3)]
    product = Product([first, second], [2.0, -0.5])
    assert product.start_std == pytest.approx((2 * precisions[0] - 0.5 * precisions[1]) ** -0.5)
    Product([first, second], [1.0, -1.0])  # the first is the narrower one
    with pytest.raises(ValueError, match=r"at t_max, where each model is normal, .* no bound"):
        Product([first, second], [-1.0, 1.0])
    with pytest.raises(ValueError, match="no bound"):
        Tempered(first, -1.0)


@pytest.mark.parametrize("per_example", [False, True])
def test_a_conjunction_is_one_call_of_all_conditions(per_example):
    sde = VP()
    model, calls = told(sde)
    x, t = states(sde)
    t = t if per_example else 0.4
    both = Conjunction(model, [2, 0], [1.5, -0.5])
    got = both.score(x, t)
    assert [len(call) for call in calls] == [12]
    assert both.nfe == 3
    none, two, zero = (model.score(x, t, torch.full((4,), label)) for label in (-1, 2, 0))
    torch.testing.assert_close(got, none + 1.5 * (two - none) - 0.5 * (zero - none))
    torch.testing.assert_close(both.scores(x, t), torch.stack([none, two, zero]))
    assert both.weights == (0.0, 1.5, -0.5)


def test_a_conjunction_of_dictionaries_lacks_what_each_leaves_out():
    sde = VP()
    model, _ = told(sde)
    x, t = states(sde)
    both = Conjunction(model, [{"label": 1}, {"shift": [0.5, -1.0]}])
    ask = {
        "label": torch.tensor([-1, 1, -1]),
        "shift": torch.tensor([[torch.nan] * 2, [torch.nan] * 2, [0.5, -1.0]]),
    }
    for got, i in zip(both.scores(x, t), range(3), strict=True):
        each = {name: value[i].expand(4, *value.shape[1:]) for name, value in ask.items()}
        torch.testing.assert_close(got, model.score(x, t, each))


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_a_mixture_of_known_densities_is_exact(sde):
    first, second = normals(sde, 0.4, 1.3)
    logs = torch.tensor([0.2, 0.8]).log() + 3.0  # normalized there
    mixed = Mixture([first, second], logs.tolist())
    whole = GaussianMixture(
        [[0.5, -0.2], [1.0, -0.2]], torch.tensor([0.4**2, 1.3**2]), sde, [0.2, 0.8]
    )
    x, t = states(sde)
    torch.testing.assert_close(mixed.log_prob(x, t), whole.log_prob(x, t), rtol=1e-6, atol=1e-6)
    for kind in KINDS:
        got, expected = getattr(mixed, kind)(x, t), getattr(whole, kind)(x, t)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    energy, _ = mixed.energy_and_score(x, t)
    torch.testing.assert_close(energy, -mixed.log_prob(x, t))
    assert mixed.limit == "exact"


def test_evaluations_of_all_parts_are_counted():
    sde = VP()
    model, _ = told(sde)
    (normal,) = normals(sde, 1.0)
    x, t = states(sde)
    labels = torch.arange(4) % 3
    product = Product([Guided(model, "cfg(2)"), normal, normal])
    product.score(x, t, labels)
    assert product.nfe == 4
    product.scores(x, t, labels)
    assert product.nfe == 8
    seen = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.0]), std=0.5)
    mixed = Mixture([normal, *normals(sde, 0.3)])
    mixed.denoise(x, t)
    assert mixed.nfe == 2
    for composed, spent in (
        (Tempered(Product([normal, normal]), 2.0), 2),
        (Clipped(Guided(model, "cfg(2)")), 2),
        (Guided(Clipped(Guided(model, "cfg(2)")), "cfg(2)", negative=1), 4),
        (Guided(Guided(model, "cfg(2)"), "cfg(2)", against=model), 3),
        (Guided(model, "cfg(2)", against=Clipped(model)), 2),
        (Guided(model, "cfg(2)", against=model), 2),
        (RewardGuided(Guided(model, "cfg(2)"), lambda x0: x0.sum(1)), 2),
        (Posterior(Guided(model, "cfg(2)"), seen, "mmps"), 2),
    ):
        composed.score(x, t, labels)
        assert composed.nfe == spent, composed
        assert samplers.create("heun", steps=3).count_nfe(composed) == 5 * spent, composed


def test_a_budget_counts_every_evaluation_of_a_composition():
    """Guidance outside its interval is one evaluation, inside two."""
    sde = VP()
    model, _ = told(sde)
    labels = torch.arange(4) % 3
    (normal,) = normals(sde, 1.0)
    for made in (
        Guided(model, "cfg(2)", interval=(0.5, 2.0)),
        Clipped(Guided(model, "cfg(2)", interval=(0.5, 2.0))),
        Conjunction(model, [1, 0]),
        Mixture([normal, normal]),
        Product([Guided(model, "cfg(2)"), normal]),
    ):
        sampler = samplers.create("heun", nfe=25, model=made)
        told_of = labels if getattr(made, "takes_condition", False) else None
        spent = sampler.run(made, (4, 2), seed=0, condition=told_of, progress=False).nfe
        more = replace(sampler, steps=sampler.steps + 1)
        assert spent == sampler.count_nfe(made) <= 25 < more.count_nfe(made), made
    interval = Guided(model, "cfg(2)", interval=(0.5, 2.0))
    spent = samplers.create("ddim", steps=10).count_nfe(interval)
    ratios = sde.noise_ratio(samplers.create("ddim", steps=10).times(sde))
    assert spent == 10 + int(((ratios > 0.5) & (ratios <= 2)).sum())
    drawn = samplers.run(interval, "ddim(nfe=12)", (2,), 4, condition=labels, progress=False)
    assert 10 <= drawn.nfe <= 12


def test_the_rule_of_given_steps_is_refused_where_steps_are_found():
    guided = Guided(told(VP())[0], "cfg++")
    sampler = samplers.create("ddim", steps=4)
    assert guided.followed_by(sampler).rule == PlusPlus(times=tuple(sampler.times(VP()).tolist()))
    with pytest.raises(ValueError, match="take a sampler of given steps"):
        guided.followed_by(samplers.create("ode"))
    plain = Guided(guided.model, "cfg(2)")
    assert plain.followed_by(sampler) is plain


def test_guidance_is_a_product_of_powers():
    sde = VP()
    model, _ = told(sde)
    x, t = states(sde)
    labels = torch.arange(4) % 3
    guided = Guided(model, "cfg(strength=2)")
    good, worse = guided.scores(x, t, labels)
    assert (guided.weights, guided.nfe) == ((3.0, -2.0), 2)
    torch.testing.assert_close(good, model.score(x, t, labels))
    torch.testing.assert_close(3 * good - 2 * worse, guided.score(x, t, labels))
    assert guided.limit.startswith("biased: at t > 0 the sum")
    assert Guided(model, "cfg(1)").limit == "exact"
    for other in (Guided(model, "cfg(3, rescale=0.7)"), Guided(model, "cfg(3)", interval=(0, 1))):
        assert other.limit.startswith("biased: what is followed")
        with pytest.raises(ValueError, match="no product of powers"):
            _ = other.weights


def test_each_says_whether_it_is_exact():
    first, second = normals(VP(), 0.4, 1.3)
    assert "corrected by posterior.smc" in repr(Product([first, second]))
    assert "corrected by posterior.smc" in Tempered(first, 2.0).limit
    assert Product([first, second], [1.0, 0.0]).limit == "exact"


def test_a_composition_moves_and_copies_its_models():
    product = Product(normals(VP(), 0.4, 1.3))
    moved = copy.deepcopy(product).float()
    assert moved.models[1].means.dtype == torch.float32
    assert product.models[1].means.dtype == torch.float64
    assert len(product.state_dict()) == 2 * len(product.models[0].state_dict())


def test_what_cannot_be_composed_is_refused():
    first, second = normals(VP(), 0.4, 1.3)
    model, _ = told(VP())
    x, t = states(VP())
    with pytest.raises(ValueError, match="models is empty"):
        Product([])
    with pytest.raises(ValueError, match=r"models\[1\] has .*: give models of one diffusion"):
        Product([first, *normals(VE(0.01, 20.0), 1.0)])
    with pytest.raises(TypeError, match=r"models\[1\] is 3; accepted"):
        Product([first, 3])
    with pytest.raises(ValueError, match=r"weights=\[1, 2, 3\] for 2 models"):
        Product([first, second], [1, 2, 3])
    with pytest.raises(ValueError, match=r"weights\[1\]"):
        Product([first, second], [1.0, float("nan")])
    with pytest.raises(TypeError, match=r"models\[1\] is a ScoreFunction without log_prob"):
        Mixture([first, model])
    with pytest.raises(ValueError, match="conditions is empty"):
        Conjunction(model, [])
    with pytest.raises(ValueError, match="strengths"):
        Conjunction(model, [1, 2], [1.0])
    with pytest.raises(TypeError, match="of several kinds"):
        Conjunction(model, [1, {"label": 1}])
    with pytest.raises(ValueError, match="conditions of its own"):
        Conjunction(model, [1]).score(x, t, torch.zeros(4))
    model.needs_condition = True
    with pytest.raises(ValueError, match="condition_dropout"):
        Conjunction(model, [1])
