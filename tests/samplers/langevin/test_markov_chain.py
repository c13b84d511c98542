"""Chains at one time as a sampler: the same steps as `run_chains`, and what a sampler promises."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.mcmc import KERNELS, run_chains
from sde_score.models import EnergyFunction, GaussianMixture, Marginal, ScoreFunction
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import MCMC
from sde_score.sdes import VE, VP

SDE = VE(0.05, 9.0)


def mixture(sde=SDE):
    return GaussianMixture([[-1.0, 0.4], [1.0, 0.2]], 0.3, sde, [0.25, 0.75])


@pytest.mark.parametrize("t", [None, 0.5])
@pytest.mark.parametrize("spec", ["mala(step_size=0.2)", "baoab", "hmc"])
def test_the_steps_are_those_of_run_chains(spec, t):
    """The first draw is the start, times start_std; the rest are the kernel's."""
    kernel = KERNELS.create(spec)
    mass = kernel.uses_mass
    sampler = MCMC(steps=6, kernel=spec, t=t, start_std=2.5, warmup=25, adapt_mass=mass)
    model = mixture()
    got = sampler(model, (4, 2), seed=3, trajectory=True, progress=False)
    streams = ExampleStreams(example_seeds(3, 4), torch.empty(4, 2).double())
    start = 2.5 * streams()
    density = Marginal(model, SDE.t_min if t is None else t)
    chains = run_chains(
        density, start, kernel, draws=6, warmup=25, adapt_mass=mass, noise=streams, progress=False
    )
    assert torch.equal(got.states, torch.cat([start[None], chains.samples]))
    assert torch.equal(got.samples, chains.state.x)
    assert got.times.tolist() == [SDE.t_min if t is None else t] * 7


def test_without_adjustment_of_the_step_a_start_is_enough():
    given = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).double()
    got = samplers.create("mcmc(kernel='ula(step_size=0.05)')", steps=3)(
        mixture(), given, seed=1, progress=False
    )
    want = run_chains(Marginal(mixture()), given, "ula(step_size=0.05)", draws=3, seed=1,
                      progress=False)  # fmt: skip
    assert torch.equal(got, want.state.x)


def test_denoising_is_the_last_step():
    sampler = MCMC(steps=5, t=0.6, denoise=True)
    run = sampler(mixture(), (4, 2), seed=0, trajectory=True, progress=False)
    assert run.times.tolist() == [0.6] * 5 + [0.0]
    torch.testing.assert_close(run.samples, mixture().denoise(run.states[-2], 0.6))
    assert run.nfe == 1 + 4 + 1
    assert MCMC().denoise is False
    one = MCMC(steps=1, denoise=True)(mixture(), (4, 2), seed=0, trajectory=True, progress=False)
    assert one.states.shape == (2, 4, 2)


def test_the_warm_up_moves_the_bar_and_is_not_yielded(bars):
    run = MCMC(steps=4, warmup=9)(mixture(), (2, 2), seed=0, trajectory=True)
    assert bars[0].count == bars[0].given["total"] == 13
    assert run.states.shape == (5, 2, 2)
    assert run.nfe == 1 + 13


@pytest.mark.parametrize("kernel", ["mala(step_size=0.3)", "mala-score(step_size=0.3)", "hmc"])
def test_distribution_of_a_model_at_one_time(kernel):
    """At a noise that joins the modes; the marginal's moments and weights are exact."""
    t = SDE.time_of_log_snr(torch.tensor(0.0)).item()  # sigma = 1
    model = mixture()
    sampler = MCMC(steps=40, kernel=kernel, t=t, start_std=1.5)
    x = sampler(model, (1000, 2), seed=5, progress=False)
    mean, covariance = model.mean(), model.covariance() + torch.eye(2)
    error = (covariance.diag() / 1000).sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4.5 * error).all())
    spread = (x - mean).pow(2)
    assert bool(
        ((spread.mean(0) - covariance.diag()).abs() < 4.5 * spread.std(0) / 1000**0.5).all()
    )


def test_energies_without_noise_are_sampled_as_they_are():
    """A quartic on the plane: E[|x|^2] of exp(-|x|^4) is Gamma(1) / Gamma(1/2)."""
    model = EnergyFunction(lambda x, t: (x**2).sum(1) ** 2, VP())
    sampler = samplers.create("mcmc(kernel='mala(step_size=0.1)', warmup=50)", steps=100)
    x = sampler(model.double(), torch.zeros(2000, 2).double(), seed=0, progress=False)
    square = (x**2).sum(1)
    assert square.mean().item() == pytest.approx(
        torch.pi**-0.5, abs=4.5 * square.std().item() / 2000**0.5
    )


def test_each_sample_has_its_own_condition():
    model = ScoreFunction(lambda x, t, c: c[:, None] - x, VP())
    condition = torch.tensor([3.0, -3.0]).repeat_interleave(500)
    x = MCMC(steps=60, kernel="mala-score(step_size=0.5)")(
        model, torch.zeros(1000, 1), seed=0, condition=condition, progress=False
    )
    assert x[:500].mean().item() == pytest.approx(3, abs=0.2)
    assert x[500:].mean().item() == pytest.approx(-3, abs=0.2)


@pytest.mark.parametrize("kernel", ["mala", "hmc", "nuts"])
def test_a_score_alone_is_refused_with_the_way_out(kernel):
    model = ScoreFunction(lambda x, t: -x, VP())
    with pytest.raises(TypeError, match=r"needs an energy and ScoreFunction.*mala-score"):
        MCMC(kernel=kernel)(model, (2, 2), progress=False)
    MCMC(kernel="mala-score", steps=2)(model, (2, 2), progress=False)


@pytest.mark.parametrize("t", [-0.1, 1.5])
def test_times_outside_the_diffusion_are_refused(t):
    with pytest.raises(ValueError, match="leaves"):
        MCMC(t=t)(mixture(), (2, 2), progress=False)
    with pytest.raises(ValueError, match="t=nan must be a finite number or None"):
        MCMC(t=float("nan"))


def test_chains_do_not_change_modes_far_apart():
    """Which is what noise levels are for: shares stay those of the start."""
    distribution = GaussianMixture([[-4.0], [4.0]], 0.1, VE(0.01, 20.0), [0.2, 0.8])
    start = torch.tensor([[-4.0], [4.0]]).double().repeat(200, 1)
    x = MCMC(steps=200, kernel="mala(step_size=0.1)")(distribution, start, seed=0, progress=False)
    assert bool((x.sign() == start.sign()).all())
    assert 0.05 < x[:, 0].abs().var() < 0.2
