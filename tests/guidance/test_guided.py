"""Guidance by a worse prediction: its rules against formulas, its cost, its refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score import samplers
from sde_score.guidance import RULES, ClassifierFree, Guided, PlusPlus
from sde_score.models import GaussianMixture, ScoreFunction, ScoreModel
from sde_score.nn import MLP
from sde_score.sdes import VE, VP, Rectified

KINDS = ("denoise", "noise", "score", "velocity")
SDES = [VP(), VE(0.01, 20.0), Rectified()]


def labelled(sde, shape=(2,)):
    """Class c is a normal distribution around c + 0.5 of deviation 1 / (c + 2); -1 is one of 1.5
    around 0."""

    def score(x, t, condition):
        known = (condition >= 0).to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        label = condition.to(x.dtype).reshape(known.shape)
        mean, std = known * (label + 0.5), torch.where(known > 0, 1 / (label + 2), 1.5)
        time = sde.check_time(t)
        alpha, sigma = (f(time).reshape(-1, *(1,) * (x.ndim - 1)) for f in (sde.alpha, sde.sigma))
        return -(x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)

    return ScoreFunction(score, sde)


def states(sde, shape=(2,), batch=5, share=0.4):
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, batch, *shape, generator=generator, dtype=torch.float64)
    t = sde.t_min + share * (sde.t_max - sde.t_min)
    return sde.perturb(x0, t, noise), t, torch.arange(batch) % 3


def both(model, kind, x, t, labels):
    """The answers with labels and without, one by one."""
    return getattr(model, kind)(x, t, labels), getattr(model, kind)(x, t, -torch.ones_like(labels))


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("per_example", [False, True])
def test_the_weight_is_the_same_in_all_four_answers(sde, per_example):
    model = labelled(sde)
    x, t, labels = states(sde)
    if per_example:
        t = torch.linspace(t, sde.t_max, len(x), dtype=torch.float64)
    for guided in (Guided(model, "cfg(3)"), Guided(model, ClassifierFree(strength=2.0))):
        for kind in KINDS:
            good, worse = both(model, kind, x, t, labels)
            torch.testing.assert_close(
                getattr(guided, kind)(x, t, labels), worse + 3 * (good - worse)
            )


def test_a_guided_pair_is_one_call_of_two_evaluations():
    calls = []
    inner = labelled(VP())
    network = inner.function

    def counted(x, t, condition):
        calls.append(len(x))
        return network(x, t, condition)

    guided = Guided(ScoreFunction(counted, VP()), "cfg(3)")
    x, t, labels = states(VP())
    guided.score(x, t, labels)
    assert (calls, guided.nfe) == ([10], 2)


@pytest.mark.parametrize("per_example", [False, True])
def test_outside_its_interval_guidance_is_off(per_example):
    """The interval is of sigma / alpha, open below and closed above."""
    sde = VE(0.01, 20.0)
    x, _, labels = states(sde)
    model = labelled(sde)
    guided = Guided(model, "cfg(3)", interval=(0.5, 2.0))
    ratios = torch.tensor([0.4, 0.5, 1.0, 2.0, 2.1], dtype=torch.float64)
    times = sde.time_of_noise_ratio(ratios)
    low, high = float(sde.noise_ratio(times[1])), float(sde.noise_ratio(times[3]))
    guided = Guided(model, "cfg(3)", interval=(low, high))
    inside = [False, False, True, True, False]
    if per_example:
        good, worse = both(model, "denoise", x, times, labels)
        expected = torch.where(torch.tensor(inside)[:, None], worse + 3 * (good - worse), good)
        torch.testing.assert_close(guided.denoise(x, times, labels), expected)
        return
    for t, acts in zip(times, inside, strict=True):
        good, worse = both(model, "denoise", x, t, labels)
        before = guided.nfe
        got = guided.denoise(x, t, labels)
        torch.testing.assert_close(got, worse + 3 * (good - worse) if acts else good)
        assert guided.nfe - before == 1 + acts


def test_autoguidance_asks_both_models_under_the_same_condition():
    sde = VP()
    good = labelled(sde)
    weak = ScoreFunction(lambda x, t, c: 0.7 * good.function(x, t, c + 1), sde)
    guided = Guided(good, "autoguidance(2)", against=weak)
    x, t, labels = states(sde)
    expected = 2 * good.score(x, t, labels) - weak.score(x, t, labels)
    torch.testing.assert_close(guided.score(x, t, labels), expected)
    mixture, wide = (GaussianMixture([[0.0, 1.0]], std, sde) for std in (0.5, 0.9))
    expected = 2 * mixture.score(x, t) - wide.score(x, t)
    torch.testing.assert_close(Guided(mixture, "cfg(2)", against=wide).score(x, t), expected)


def test_a_negative_condition_takes_the_place_of_none():
    model = labelled(VP())
    x, t, labels = states(VP())
    guided = Guided(model, "cfg(4)", negative=2)
    good, worse = model.score(x, t, labels), model.score(x, t, torch.full_like(labels, 2))
    torch.testing.assert_close(guided.score(x, t, labels), worse + 4 * (good - worse))


def test_rescaling_gives_back_the_contrast_of_each_example():
    shape = (2, 4, 4)
    model = labelled(VP())
    x, t, labels = states(VP(), shape)
    plain = Guided(model, "cfg(5)").denoise(x, t, labels)
    good = model.denoise(x, t, labels)
    for share in (0.7, 1.0):
        got = Guided(model, f"cfg(5, rescale={share})").denoise(x, t, labels)
        for one, was, wanted in zip(got, plain, good, strict=True):
            torch.testing.assert_close(one, was * (share * wanted.std() / was.std() + 1 - share))


def test_projected_guidance_is_that_of_its_paper():
    """Written out for one example at a time, with vectors."""
    shape = (1, 3, 3)
    model = labelled(VP())
    x, t, labels = states(VP(), shape)
    good, worse = both(model, "denoise", x, t, labels)
    guided = Guided(model, "apg(weight=4, parallel=0.3, radius=4)").denoise(x, t, labels)
    sizes = []
    for i in range(len(x)):
        d, change = good[i].flatten(), (good[i] - worse[i]).flatten()
        sizes.append(float(change.norm()))
        change = change * min(1.0, 4 / float(change.norm()))
        parallel = (change @ d) / (d @ d) * d
        expected = d + 3 * ((change - parallel) + 0.3 * parallel)
        torch.testing.assert_close(guided[i].flatten(), expected)
    assert min(sizes) < 4 < max(sizes)  # the radius binds some


def test_momentum_is_kept_while_the_time_falls():
    model = labelled(VP())
    x, _, labels = states(VP())
    guided = Guided(model, "apg(weight=3, parallel=1, momentum=-0.5)")

    def change(t):
        good, worse = both(model, "denoise", x, t, labels)
        return good, good - worse

    average = 0
    for t in (0.9, 0.6, 0.3):
        good, now = change(t)
        average = now - 0.5 * average
        torch.testing.assert_close(guided.denoise(x, t, labels), good + 2 * average)
    good, now = change(0.9)
    torch.testing.assert_close(guided.denoise(x, 0.9, labels), good + 2 * now)  # others begin
    good, now = change(0.5)
    got = guided.denoise(x[:2], 0.5, labels[:2])  # another batch
    torch.testing.assert_close(got, (good + 2 * now)[:2])


def test_zero_star_scales_the_worse_velocity():
    for sde in SDES:
        model = labelled(sde)
        x, t, labels = states(sde)
        good, worse = both(model, "velocity", x, t, labels)
        scale = (good * worse).sum(1, keepdim=True) / (worse * worse).sum(1, keepdim=True)
        expected = scale * worse + 3 * (good - scale * worse)
        guided = Guided(model, f"cfg-zero-star(3, zero_above={t})")
        torch.testing.assert_close(guided.velocity(x, t, labels), expected)
        later = t + 0.01
        still = guided.velocity(x, later, labels)
        torch.testing.assert_close(still, torch.zeros_like(x), atol=1e-10, rtol=0)


def test_bands_of_a_difference_have_their_own_weights():
    shape = (1, 4, 6)
    model = labelled(VP())
    x, t, labels = states(VP(), shape)
    good, worse = both(model, "denoise", x, t, labels)
    alike = Guided(model, "frequency-decoupled(3, 3)").denoise(x, t, labels)
    torch.testing.assert_close(alike, worse + 3 * (good - worse))
    got = Guided(model, "frequency-decoupled(low=1, high=2)").denoise(x, t, labels)
    change = good - worse
    blocks = change.reshape(5, 1, 2, 2, 3, 2).mean((3, 5))
    coarse = nn.functional.interpolate(blocks, (4, 6), mode="bilinear")
    torch.testing.assert_close(got, worse + coarse + 2 * (change - coarse))


def test_plus_plus_renoises_with_the_noise_of_no_condition():
    """Steps of DDIM by hand: x_s = alpha_s D_lambda + sigma_s noise_0."""
    sde, scale = VP(), 0.6
    model = labelled(sde)
    sampler = samplers.create("ddim", steps=6)
    guided = Guided(model, PlusPlus(scale), sampler=sampler)
    start = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2])
    got = sampler(guided, start, condition=labels, progress=False)
    x, times = start, sampler.times(sde)
    for t, s in zip(times, [*times[1:], None], strict=True):
        good, worse = both(model, "denoise", x, t, labels)
        noise = model.noise(x, t, -torch.ones_like(labels))
        x0 = worse + scale * (good - worse)
        x = x0 if s is None else sde.alpha(s) * x0 + sde.sigma(s) * noise
    torch.testing.assert_close(got, x)


@pytest.mark.parametrize("rule", ["cfg(2)", "apg(weight=2, radius=3)", "cfg-zero-star(2)", "cfg++"])
def test_sample_i_is_the_same_in_any_batch(rule):
    sampler = samplers.create("heun", steps=5)
    guided = Guided(labelled(VP()), rule, sampler=sampler)
    labels = torch.arange(6) % 3
    whole = samplers.sample(guided, sampler, (2,), 6, condition=labels, progress=False)
    parts = samplers.sample(
        guided, sampler, (2,), 6, condition=labels, batch_size=4, progress=False
    )
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=1e-6)


def test_a_network_with_vectors_is_guided_away_from_none():
    torch.manual_seed(0)
    network = MLP((2,), width=8, depth=1, condition_shape=(3,))
    nn.init.normal_(network.last.weight)
    model = ScoreModel(network, VP())
    x, t, _ = states(VP())
    vectors = torch.randn(5, 3)
    x = x.float()
    good, worse = model.score(x, t, vectors), model.score(x, t, torch.full((5, 3), torch.nan))
    assert (good - worse).abs().max() > 1e-3
    torch.testing.assert_close(
        Guided(model, "cfg(3)").score(x, t, vectors), worse + 3 * (good - worse)
    )


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_prints_what_makes_it(rule):
    arguments = {"frequency-decoupled": "(1.0, 2.0)", "cfgpp": ""}.get(rule, "(2.0)")
    made = RULES.create(rule + arguments)
    text = RULES.text_of(made)
    assert text is not None
    assert RULES.create(text) == made


def test_what_cannot_guide_is_refused():
    model = labelled(VP())
    x, t, labels = states(VP())
    with pytest.raises(ValueError, match=r"condition is missing: guidance goes away"):
        Guided(model, "cfg(2)").score(x, t)
    with pytest.raises(ValueError, match=r"give one of them; weight=1"):
        Guided(model, "cfg")
    with pytest.raises(ValueError, match=r"interval=\(2, 1\)"):
        Guided(model, "cfg(2)", interval=(2, 1))
    with pytest.raises(ValueError, match="against has"):
        Guided(model, "cfg(2)", against=labelled(VE(0.01, 20.0)))
    with pytest.raises(ValueError, match="both say what is worse"):
        Guided(model, "cfg(2)", against=model, negative=1)
    with pytest.raises(ValueError, match=r"CFG\+\+ has no times"):
        Guided(model, "cfg++").score(x, t, labels)
    with pytest.raises(ValueError, match="no sides that tell structure"):
        Guided(model, "frequency-decoupled(1, 2)").score(x, t, labels)
    always = labelled(VP())
    always.needs_condition = True
    with pytest.raises(ValueError, match="condition_dropout"):
        Guided(always, "cfg(2)")
