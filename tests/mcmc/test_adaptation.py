"""Adaptation in a warm-up, against the same formulas on plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from sde_score.mcmc import BAOAB, MALA, Kernel, State, Transition, run_chains
from sde_score.mcmc.adaptation import DualAveraging, RunningVariance, Warmup, mass_windows

SCALES = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)


class Stretched:
    """N(0, SCALES^2)."""

    def energy(self, x):
        return 0.5 * ((x / SCALES) ** 2).sum(1)

    def score(self, x):
        return -x / SCALES**2

    def energy_and_score(self, x):
        return self.energy(x), self.score(x)


def dual_averaging(first, target, history):
    """Algorithm 5 of Hoffman & Gelman on numbers: every step size, and the average."""
    gamma, t0, kappa = 0.05, 10, 0.75
    mean_error, log_average, sizes = 0.0, 0.0, []
    for m, acceptance in enumerate(history, 1):
        mean_error = (1 - 1 / (m + t0)) * mean_error + (target - acceptance) / (m + t0)
        sizes.append(math.exp(math.log(10 * first) - math.sqrt(m) / gamma * mean_error))
        eta = m**-kappa
        log_average = eta * math.log(sizes[-1]) + (1 - eta) * log_average
    return sizes, math.exp(log_average)


def test_dual_averaging_is_algorithm_5_for_each_chain():
    history = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)).double()
    first = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    averaging = DualAveraging(first, 0.65)
    assert torch.equal(averaging.average, first)
    sizes = []
    for acceptance in history:
        averaging.update(acceptance)
        sizes.append(averaging.step_size)
    for i in range(4):
        want, average = dual_averaging(first[i].item(), 0.65, history[:, i].tolist())
        assert torch.stack(sizes)[:, i].tolist() == pytest.approx(want, rel=1e-10)
        assert averaging.average[i].item() == pytest.approx(average, rel=1e-10)


@pytest.mark.parametrize("first", [1e-3, 0.5, 20.0])
def test_the_step_size_meets_its_target_from_far_away(first):
    start = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)).double() * SCALES
    chains = run_chains(
        Stretched(), start, MALA(first), draws=300, warmup=400, seed=1, progress=False
    )
    assert chains.tuning.step_size.shape == (24,)
    by_chain = chains.acceptance.mean(0)
    # Of one chain within what 400 noisy steps can tell, of all much closer.
    assert bool(((by_chain - 0.574).abs() < 0.2).all())
    assert by_chain.mean().item() == pytest.approx(0.574, abs=0.04)


def test_running_variance_is_the_variance_drawn_to_a_thousandth():
    draws = 3 + torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    running = RunningVariance(draws[0])
    for draw in draws:
        running.update(draw)
    want = (40 * draws.var(0) + 5 * 1e-3) / 45
    torch.testing.assert_close(running.variance(), want, rtol=1e-12, atol=0)
    still = RunningVariance(draws[0])
    for _ in range(5):
        still.update(draws[0])
    torch.testing.assert_close(still.variance(), torch.full_like(draws[0], 5e-4))


def test_windows_are_those_of_stan():
    assert mass_windows(1000) == [75, 100, 150, 250, 450, 950]
    assert mass_windows(150) == [75, 100]
    assert mass_windows(200) == [75, 100, 150]
    assert mass_windows(100) == [15, 90]
    assert mass_windows(20) == [3, 18]
    assert mass_windows(19) == mass_windows(0) == []
    for steps in range(20, 700):
        ends = mass_windows(steps)
        assert ends == sorted(set(ends))
        assert 0 < ends[0] < ends[-1] < steps


@dataclass(frozen=True)
class Scripted(Kernel):
    """Goes where it is told, and says how likely that was."""

    adjusted = True
    uses_mass = True
    target_acceptance = 0.6

    def step(self, density, state, noise, tuning):
        raise NotImplementedError


def told(warmup, x, acceptance, momentum=None):
    flat = torch.full(x.shape[:1], acceptance, dtype=x.dtype)
    return warmup.update(Transition(State(x, x, None, momentum), flat, flat))


def test_a_warm_up_collects_windows_and_starts_the_step_size_anew_in_each():
    """100 steps: 15 to find the distribution, 75 for the mass, 10 for the step size alone."""
    draws = torch.randn(100, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    kernel = Scripted(0.3, temperature=2.0)
    warmup = Warmup(kernel, draws[0], 100, step_size=True, mass=True)
    momentum = torch.ones(2, 3).double()
    history = torch.rand(100, generator=torch.Generator().manual_seed(1)).tolist()
    for index, (x, acceptance) in enumerate(zip(draws, history, strict=True), 1):
        state = told(warmup, x, acceptance, momentum)
        assert torch.equal(state.x, x)
        if index == 90:
            mass = 2.0 / ((75 * draws[15:90].var(0) + 5e-3) / 80)
            torch.testing.assert_close(warmup.tuning.mass, mass, rtol=1e-12, atol=0)
            torch.testing.assert_close(state.momentum, mass.sqrt(), rtol=1e-12, atol=0)
            _, average = dual_averaging(0.3, 0.6, history[:90])
            assert warmup.tuning.step_size[0].item() == pytest.approx(average, rel=1e-10)
        else:
            assert state.momentum is momentum
            assert (warmup.tuning.mass is None) == (index < 90)
        if index == 89:
            sizes, _ = dual_averaging(0.3, 0.6, history[:89])
            assert warmup.tuning.step_size[1].item() == pytest.approx(sizes[-1], rel=1e-10)
    _, final = dual_averaging(average, 0.6, history[90:])
    assert warmup.tuning.step_size.tolist() == pytest.approx([final, final], rel=1e-10)


def test_momenta_follow_the_mass_from_window_to_window():
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 3).double()
    warmup = Warmup(Scripted(), x, 300, step_size=False, mass=True)
    momentum = torch.ones(2, 3).double()
    for _ in range(300):
        draw = torch.randn(2, 3, generator=generator).double() * SCALES
        momentum = told(warmup, draw, 0.5, momentum).momentum
    assert len(mass_windows(300)) > 3
    torch.testing.assert_close(momentum, warmup.tuning.mass.sqrt(), rtol=1e-12, atol=0)
    assert warmup.tuning.step_size.ndim == 0  # as the kernel says, not tuned


def test_an_unadjusted_kernel_accepts_all_and_keeps_its_step():
    x = torch.zeros(2, 3).double()
    warmup = Warmup(BAOAB(0.4), x, 5, step_size=True, mass=False)
    for _ in range(5):
        told(warmup, x, 1.0)
    assert warmup.tuning.step_size.item() == pytest.approx(0.4)
    assert warmup.tuning.mass is None


def test_masses_become_temperature_over_variance():
    """Each chain learns its own, from its own draws."""
    start = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double() * SCALES
    chains = run_chains(
        Stretched(), start, BAOAB(0.25, temperature=3.0), draws=60, warmup=1000, thin=4, seed=1,
        adapt_mass=True, progress=False,
    )  # fmt: skip
    mass = chains.tuning.mass
    assert mass.shape == (20, 3)
    # Where the distribution is 3 SCALES^2, T / variance is 1 / SCALES^2.
    ratio = mass * SCALES**2
    assert bool(((ratio > 0.3) & (ratio < 4)).all())
    torch.testing.assert_close(ratio.log().mean(0), torch.zeros(3).double(), rtol=0, atol=0.35)
    variance = chains.flat().var(0) / (3 * SCALES**2)
    torch.testing.assert_close(variance, torch.ones(3).double(), rtol=0, atol=0.25)
