"""Facts and settings of the samplers, and what they refuse."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.sdes import VP

NOISY = {
    "euler-maruyama", "reverse-diffusion", "ancestral", "dpm-2s-ancestral", "dpmpp-2s-ancestral",
    "dpmpp-sde", "seeds-1", "seeds-2", "seeds-3", "stochastic-heun", "dpmpp-1-sde", "dpmpp-2m-sde",
    "dpmpp-3m-sde", "sa-solver", "adams-sde", "er-sde", "adaptive-sde", "restart", "pc",
    "annealed-langevin", "mcmc",
}  # fmt: skip


OTHERS = (
    "ode",
    "adaptive-sde",
    "dpm-adaptive",
    "singlestep",
    "parallel",
    "restart",
)  # bars of their own


def draw(spec, start, **given):
    distribution = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    return samplers.create(spec, steps=2)(distribution, start, progress=False, **given)


def test_every_name_has_its_facts_and_settings_are_frozen():
    for name in samplers.available():
        sampler, method = samplers.create(name), samplers.METHODS[name]
        assert sampler.convergence_order >= 1
        assert re.match(r"[A-Z].* (et al\. )?(19|20)\d\d, https://\S+$", method.paper), name
        assert re.match(r"any$|\d+-", method.good_at)
        assert samplers.create(name) == sampler
        with pytest.raises(FrozenInstanceError):
            sampler.steps = 3
    noisy = {name for name in samplers.available() if samplers.create(name).stochastic}
    assert noisy == NOISY
    assert samplers.create("heun").convergence_order == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ddim(steps=0)", "steps=0 must be an integer of at least 1"),
        ("ddim(steps=2.5)", "steps=2.5"),
        ("ddim(eta=1.5)", r"eta=1.5 must lie in \[0, 1\]"),
        ("ddim(eta=-0.1)", "eta=-0.1"),
        ("ddim(churn=1)", "does not take churn; accepted: .*eta"),
        ("ddmi", "unknown sampler 'ddmi'; did you mean 'ddim'"),
        ("euler-maruyama(eta=-1)", "eta=-1 must be at least 0"),
        ("reverse-diffusion(eta=float('nan'))", "cannot read"),
        ("reverse-diffusion(eta=-1)", "eta=-1 must be at least 0"),
        ("ancestral(variance='large')", "unknown variance 'large'; accepted: posterior, tran"),
        ("heun(churn=-1)", "churn=-1 must be at least 0"),
        ("heun(churn_noise=0)", "churn_noise=0"),
        ("heun(churn_min=2, churn_max=1)", "churn_min=2 and churn_max=1"),
        ("heun(churn_min=-1)", "churn_min=-1"),
        ("ode(rtol=0)", "rtol=0"),
        ("ode(steps=1)", "steps=1 must be an integer of at least 2"),
        ("ode(atol=-1)", "atol=-1"),
        ("ode(solver='rk4')", "solver='rk4' is not known; accepted: dopri5, torchdiffeq, scipy"),
        ("pc(predictor='eul')", "unknown predictor 'eul'"),
        ("pc(corrector='mala')", "unknown corrector 'mala'; accepted: langevin, none"),
        ("pc(corrector='langevin(snr=0)')", "snr=0"),
        ("pc(corrector='langevin(snr=-0.1)')", "snr=-0.1"),
        ("pc(corrector='langevin(steps=-1)')", "steps=-1"),
        ("pc(corrector='langevin(rule=\"mean\")')", "rule='mean' is not known; accepted: marginal"),
        ("annealed-langevin(steps_each=0)", "steps_each=0"),
        ("annealed-langevin(step_ratio=0)", "step_ratio=0"),
        ("annealed-langevin(data_std=-1)", "data_std=-1 must be a standard deviation"),
        ("annealed-langevin(data_std=())", r"data_std=\(\) must be a standard deviation"),
        ("mcmc(kernel='malla')", "unknown kernel 'malla'; did you mean 'mala'"),
        ("mcmc(kernel='mala(step_size=0)')", "step_size=0"),
        ("mcmc(start_std=0)", "start_std=0"),
        ("mcmc(warmup=-1)", "warmup=-1"),
        ("mcmc(adapt_mass=True)", "adapt_mass=True, but MALA has no mass"),
        ("mcmc(grid='karras')", "does not take grid; accepted: steps, denoise"),
        ("ddim(nfe=0)", "nfe=0"),
        ("ddim(nfe=5, steps=5)", "nfe=5 and steps=5 both say how long"),
        ("restart(nfe=5)", "nfe=5 is too small: 2 steps make 21 evaluations"),
        ("ode(nfe=50)", "nfe=50 cannot be met by ode, whose tolerance decides"),
    ],
)
def test_wrong_settings_are_refused_on_construction(spec, message):
    with pytest.raises(ValueError, match=message):
        samplers.create(spec)


@pytest.mark.parametrize("shape", [(0, 2), (-1, 2), (2, 0)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"start\[\d\]="):
        draw("ddim", shape)


def test_wrong_starts_are_refused():
    with pytest.raises(ValueError, match=r"start\[0\]=2.0"):
        draw("ddim", (2.0, 3))
    with pytest.raises(TypeError, match="start must be a floating-point tensor"):
        draw("ddim", torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="batch"):
        draw("ddim", torch.tensor(1.0))
    with pytest.raises(ValueError, match="seed has 2 entries for 3 examples"):
        draw("ddim", (3, 2), seed=[1, 2])


def test_the_bar_counts_steps_and_waits_two_seconds(bars):
    distribution = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    for spec in [name for name in samplers.available() if name not in OTHERS]:
        sampler = samplers.create(spec, steps=5, denoise=True)
        sampler(distribution, (2, 2), seed=0)
        assert bars[-1].given["delay"] == 2
        assert bars[-1].given["disable"] is False
        denoising = not sampler.ends_at_data  # is not one of its steps
        assert bars[-1].count == bars[-1].given["total"] == 5 - denoising
    draw("ddim", (2, 2))
    assert bars[-1].given["disable"] is True
    run = samplers.create("ode", denoise=False)(distribution, (2, 2), seed=0, trajectory=True)
    assert bars[-1].given["total"] is None
    assert bars[-1].count == run.nfe > 5


def test_seeds_steps_and_shapes_of_numpy_mean_the_same():
    model = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    plain = samplers.create("ddim(steps=5)")(model, (2, 2), seed=3, progress=False)
    sampler = samplers.create("ddim", steps=np.int64(5))
    assert str(sampler) == "ddim(steps=5)"
    for seed, shape in ((np.int64(3), np.array([2, 2])), (np.array(3), (np.int32(2), 2))):
        assert torch.equal(sampler(model, shape, seed=seed, progress=False), plain)
    each = sampler(model, (2, 2), seed=np.array([7, 8]), progress=False)
    assert torch.equal(each, sampler(model, (2, 2), seed=[7, 8], progress=False))


@pytest.mark.parametrize("seed", [3.0, "3", True, [1.5, 2], {}, object()])
def test_what_is_no_seed_is_refused_by_name(seed):
    model = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    with pytest.raises(ValueError, match="seed"):
        samplers.create("ddim", steps=2)(model, (2, 2), seed=seed, progress=False)


def test_an_integer_for_a_shape_and_more_samples_than_memory_are_refused():
    model = GaussianMixture([[0.0, 0.0]], 1.0, VP())
    with pytest.raises(TypeError, match=r"start=5 must be a tuple of integers: \(batch, "):
        samplers.create("ddim", steps=2)(model, 5, progress=False)
    with pytest.raises(ValueError, match=r"num=1000000000000000 samples of shape .* GB"):
        samplers.sample(model, "ddim", (2,), 10**15, progress=False)
