"""The partition function, against exact constants, samples and transitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate

from sde_score.likelihood import (
    PARTITION_METHODS,
    GaussianReference,
    Reference,
    bennett,
    energy_log_prob,
    log_partition,
)
from sde_score.likelihood.partition.annealing import (
    AnnealingPlan,
    ParticleRun,
    anneal,
    resample,
    sequential,
    systematic,
)
from sde_score.likelihood.partition.estimators import (
    effective_size,
    exponential_average,
    thermodynamic,
)
from sde_score.likelihood.partition.geometric_path import GeometricPath
from sde_score.likelihood.partition.schedule import pilot, refine
from sde_score.mcmc import MALA, ULA, Kernel, State, Transition
from sde_score.models import EnergyFunction, GaussianMixture, Marginal, ScoreFunction
from sde_score.models import exact as targets
from sde_score.sdes import VP

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Distribution:
    """A density from a function, with its constant and exact samples where the test has them."""

    def __init__(self, energy, log_z=None, sample=None) -> None:
        self._energy = energy
        if log_z is not None:
            self.log_z = log_z
        if sample is not None:
            self.sample = sample

    def energy(self, x):
        return self._energy(x)

    def score(self, x):
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            energy = self._energy(point)
            (gradient,) = torch.autograd.grad(energy.sum(), point)
        return energy.detach(), -gradient


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_table(energy, low, high):
    """An inverse distribution function on a fine grid."""
    grid = torch.linspace(low, high, 20_001, dtype=torch.float64)
    mass = (-energy(grid)).exp().cumsum(0)

    def sample(shape, generator):
        u = torch.rand(shape, generator=generator, dtype=torch.float64)
        index = torch.searchsorted(mass / mass[-1], u).clamp(max=len(grid) - 1)
        return grid[index]

    return sample


def gaussian(k=4.0, mean=0.0, dim=1, constant=0.0):
    return Distribution(
        lambda x: 0.5 * k * ((x - mean) ** 2).flatten(1).sum(1) + constant,
        dim * (HALF_LOG_TAU - 0.5 * math.log(k)) - constant,
        lambda n, g: mean + randn(g, n, dim) / k**0.5,
    )


def double_well():
    def one(x):
        return 2 * (x**2 - 1) ** 2 + 0.3 * x

    log_z = math.log(integrate.quad(lambda x: math.exp(-one(x)), -6, 6)[0])
    table = by_table(one, -4, 4)
    return Distribution(lambda x: one(x).sum(1), 2 * log_z, lambda n, g: table((n, 2), g))


@dataclass(frozen=True)
class Perfect(Kernel):
    """Draws exactly from the path between N(0, 1) and N(0, 1 / k), whatever the state."""

    k: float = 4.0
    adjusted = True

    def step(self, density, state, noise, tuning):
        precision = (1 - density.beta) + density.beta * self.k
        x = noise() / precision**0.5
        one = torch.ones(len(x))
        return Transition(State(x, x, None), one, one)


@dataclass(frozen=True)
class Still(Kernel):
    """Stays where it is."""

    adjusted = True

    def step(self, density, state, noise, tuning):
        one = torch.ones(len(state.x))
        return Transition(state, one * self.target_acceptance, one)


STANDARD = GaussianReference(torch.zeros(1, dtype=torch.float64))
UNEVEN = [0.0, 0.05, 0.3, 0.4, 1.0]


def walk_perfectly(noise, x, k, plan_of=lambda plan: plan):
    plan = AnnealingPlan(UNEVEN, [0.1] * len(UNEVEN), Perfect(k=k), 1)
    path = GeometricPath(STANDARD, gaussian(k))
    return anneal(path, plan_of(plan), x, noise, lambda: None).log_weights - 0.0


def closed_form(k, lambdas):
    """Mean and variance of sum_j dbeta_j ((1 - k) / 2 x_j^2 + log(2 pi) / 2), x_j ~ N(0, 1/l_j)."""
    steps = np.diff(UNEVEN)
    terms = steps * 0.5 * (1 - k) / np.array(lambdas)
    return terms.sum() + HALF_LOG_TAU, 2 * (terms**2).sum()


@pytest.mark.parametrize("k", [4.0, 0.3])
def test_log_weights_of_perfect_transitions_have_the_exact_mean(k):
    """By Gauss-Hermite nodes in place of the draws: forwards each step is weighed where it starts,
    backwards where it ends, and one lambda too early or late is a different number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z = torch.tensor(nodes)[:, None]
    weights = torch.tensor(weights / weights.sum())
    lambdas = [(1 - b) + b * k for b in UNEVEN]
    forward = walk_perfectly(lambda: z, z, k)
    assert float(weights @ forward) == pytest.approx(closed_form(k, lambdas[:-1])[0], rel=1e-12)
    backward = walk_perfectly(lambda: z, z / k**0.5, k, AnnealingPlan.reverse)
    assert float(weights @ backward) == pytest.approx(-closed_form(k, lambdas[1:])[0], rel=1e-12)


def test_log_weights_of_perfect_transitions_have_the_exact_variance():
    k, n, generator = 4.0, 40_000, seeded()
    lambdas = [(1 - b) + b * k for b in UNEVEN]
    forward = walk_perfectly(lambda: randn(generator, n, 1), randn(generator, n, 1), k)
    mean, variance = closed_form(k, lambdas[:-1])
    assert forward.mean().item() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)
    # The variance of a variance of squares is at most 15 / n times its square.
    assert forward.var().item() == pytest.approx(variance, abs=4 * variance * (15 / n) ** 0.5)


def test_the_way_back_makes_the_same_stops_with_the_same_steps():
    there = AnnealingPlan([0.0, 0.3, 1.0], [3.0, 2.0, 1.0], MALA(), 4)
    assert there.reverse() == AnnealingPlan([1.0, 0.3, 0.0], [1.0, 2.0, 3.0], MALA(), 4)


def crude(distribution, event, betas, moves=1):
    """A path from the standard normal distribution and a plan with an untuned kernel."""
    path = GeometricPath(GaussianReference(torch.zeros(event).double()), distribution)
    return path, AnnealingPlan(betas, [0.1] * len(betas), MALA(), moves)


@pytest.mark.parametrize("name", ["double_well", "gaussian"])
def test_weights_are_unbiased_both_ways_however_bad_the_walk(name):
    """Three stops and an untuned kernel: E[w] = Z, and E[w] = 1 / Z backwards."""
    distribution = {"double_well": double_well(), "gaussian": gaussian(4.0, 0.5, 5)}[name]
    n, generator = 30_000, seeded()
    path, plan = crude(
        distribution, distribution.sample(2, seeded()).shape[1:], [0, 0.1, 0.4, 1.0], moves=2
    )
    for sign, planned, x in (
        (1, plan, path.reference.sample(n, generator)),
        (-1, plan.reverse(), distribution.sample(n, generator)),
    ):
        walk = anneal(path, planned, x, lambda x=x: randn(generator, *x.shape), lambda: None)
        w = (walk.log_weights - sign * distribution.log_z).exp()
        assert w.mean().item() == pytest.approx(1, abs=4 * w.std().item() / n**0.5)


def test_sequential_populations_of_four_are_unbiased():
    """Many tiny populations, resampled at nearly every stop: any bias of the resampling, or a
    weight kept or lost by it, shows in the mean."""
    distribution, n, generator = double_well(), 10_000, seeded()
    for betas in ([0, 0.02, 0.1, 0.3, 1.0], [0, 1.0]):
        path, plan = crude(distribution, (2,), betas)
        x = path.reference.sample(4 * n, generator)
        noise = lambda: randn(generator, 4 * n, 2)  # noqa: E731
        walk = sequential(path, plan, x, noise, n, generator, lambda: None)
        resample(walk, n, generator, threshold=2.0)
        w = (walk.log_gain - distribution.log_z).exp()
        assert w.mean().item() == pytest.approx(1, abs=4 * w.std().item() / n**0.5)
        assert not walk.log_weights.any()


def test_particles_follow_the_density():
    distribution = double_well()
    result = log_partition(distribution, (2,), method="smc", chains=1024, steps=60, progress=False)
    exact = distribution.sample(40_000, seeded(3))
    for power in (1, 2):
        got = (result.samples**power).reshape(16, -1, 2).mean(1)
        off = (got.mean(0) - (exact**power).mean(0)) / (got.std(0) / 4)
        assert off.abs().max() < 4.5


@pytest.mark.parametrize("name", targets.available())
def test_the_truth_lies_in_the_sandwich(name):
    """On every target, within the error bars; and all methods agree with it."""
    distribution = targets.create(name)
    start = GaussianReference.fit(distribution.sample(4000, seeded(5)), 1.3)
    settings = {"seed": 1, "progress": False}
    result = log_partition(distribution, start, method="bridge", chains=192, steps=60, **settings)
    assert result.lower.value - 4 * result.lower.standard_error < distribution.log_z
    assert result.upper.value + 4 * result.upper.standard_error > distribution.log_z
    # Backwards the walk cannot leave the support of a distribution that has an edge, so the upper
    # bound stays above by -log of the share of the start that lies inside.
    assert result.upper.value - result.lower.value < (1.2 if name == "exponential" else 0.6)
    assert result.value == pytest.approx(distribution.log_z, abs=4 * result.standard_error)
    assert result.standard_error < 0.12
    rough = name in ("exponential", "funnel")  # energies without a mean under the start
    settings |= {"method": "smc" if rough else "thermodynamic", "chains": 256, "steps": 30}
    sequence = log_partition(distribution, start, **settings)
    assert sequence.value == pytest.approx(distribution.log_z, abs=5 * sequence.standard_error)
    lower, error = sequence.lower  # that of `smc` in either case
    assert lower == pytest.approx(distribution.log_z, abs=5 * error)


@pytest.mark.parametrize(("method", "chains"), [("bridge", 96), ("thermodynamic", 288)])
def test_error_bars_are_honest(method, chains):
    """z-scores over 40 seeds have mean 0 and standard deviation 1, as far as 40 can tell: of each
    method and of its bounds, which are those of `ais`, `reverse-ais` and `smc`."""
    distribution, scores = gaussian(1.8, 0.5, dim=2), []
    for seed in range(40):
        result = log_partition(
            distribution,
            (2,),
            method=method,
            chains=chains,
            betas=np.linspace(0, 1, 9).tolist(),
            kernel=MALA(0.3),
            tune=False,
            seed=seed,
            populations=12,
            progress=False,
        )
        estimates = [(result.value, result.standard_error), result.lower, result.upper]
        scores.append(
            [(value - distribution.log_z) / error for value, error in filter(None, estimates)]
        )
    assert np.abs(np.mean(scores, 0)).max() < 4 / 40**0.5
    assert np.std(scores, 0).min() > 0.65
    assert np.std(scores, 0).max() < 1.4


def test_methods_share_their_walks():
    """The bounds of `bridge` and `thermodynamic` are the estimates of the simpler methods."""
    settings = {"chains": 64, "steps": 6, "progress": False}
    run = {m: log_partition(double_well(), (2,), method=m, **settings) for m in PARTITION_METHODS}
    assert run["bridge"].lower.value == run["ais"].value
    assert run["bridge"].upper.value == run["reverse-ais"].value
    assert run["thermodynamic"].lower.value == run["smc"].value


def test_bennett_on_two_gaussians_has_the_known_value_and_variance():
    """One step from N(0, 1) to N(1, 1/2) with unequal numbers of samples: the mean over repeats is
    log Z, and the spread is Meng & Wong's optimal one, by quadrature."""
    k, mean, n, m, repeats = 2.0, 1.0, 300, 900, 200
    log_z = HALF_LOG_TAU - 0.5 * math.log(k)

    def densities(x):
        start = math.exp(-0.5 * x * x - HALF_LOG_TAU)
        return start, math.exp(-0.5 * k * (x - mean) ** 2 - log_z)

    def overlap(x):
        a, b = densities(x)
        return a * b / (n / (n + m) * a + m / (n + m) * b)

    integral = integrate.quad(overlap, -12, 12)[0]
    variance = (1 / integral - 1) * (n + m) / (n * m)
    generator, values, errors = seeded(), [], []
    for _ in range(repeats):
        x, y = randn(generator, n), mean + randn(generator, m) / k**0.5
        a, b = (0.5 * z**2 + HALF_LOG_TAU - 0.5 * k * (z - mean) ** 2 for z in (x, y))
        estimate = bennett(a, -b)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.mean(values) == pytest.approx(log_z, abs=4 * (variance / repeats) ** 0.5)
    assert np.var(values) == pytest.approx(variance, rel=4 * (2 / repeats) ** 0.5)
    assert np.mean(errors) == pytest.approx(variance**0.5, rel=0.02)
    swapped = bennett(-b, a)
    assert swapped.value == pytest.approx(-estimate.value, abs=1e-10)
    assert swapped.standard_error == pytest.approx(estimate.standard_error)
    shifted = bennett(a + 800, -b - 800)
    assert shifted.value == pytest.approx(estimate.value + 800, abs=1e-8)


def test_thermodynamic_integration_of_exact_moments_is_of_fourth_order():
    """Mean and variance of the gap by quadrature at each stop: the rule tends to log Z like h^4,
    the trapezoid alone would like h^2."""
    k = 4.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z, w = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    errors = []
    for steps in (8, 16):
        betas = np.linspace(0, 1, steps + 1).tolist()
        walk = ParticleRun(z, z, z)
        for beta in betas:
            square = z**2 / ((1 - beta) + beta * k)
            walk.gaps.append(((k - 1) / 2 * square - HALF_LOG_TAU).expand(2, 5))
            walk.weights.append(w.expand(2, 5))
        value, error = thermodynamic(walk, betas)
        truth = HALF_LOG_TAU - 0.5 * math.log(k)
        errors.append(abs(value - truth))
        assert errors[-1] < error
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.3)


def test_thermodynamic_integration_weighs_its_particles():
    """Importance weights and no moves at all: the averages must be the weighted ones."""
    distribution, n = gaussian(2.0), 10_000
    betas = np.linspace(0, 1, 41).tolist()
    plan = AnnealingPlan(betas, [1e-9] * 41, MALA(1e-9), 1)
    x = randn(seeded(), n, 1)
    generator = seeded(2)
    walk = sequential(
        GeometricPath(STANDARD, distribution),
        plan,
        x,
        lambda: randn(generator, n, 1),
        2,
        seeded(1),
        lambda: None,
        0,
    )
    assert thermodynamic(walk, betas).value == pytest.approx(distribution.log_z, abs=0.03)


def test_systematic_resampling_draws_floor_or_ceil_and_the_right_mean():
    weights = torch.tensor([[0.05, 0.0, 0.4, 0.3, 0.25], [1.0, 0.0, 0.0, 0.0, 0.0]]).double()
    counts = torch.stack(
        [
            torch.stack([torch.bincount(row, minlength=5) for row in systematic(weights, g)])
            for g in map(seeded, range(1000))
        ]
    ).double()
    expected = 5 * weights
    assert bool((counts >= expected.floor()).all())
    assert bool((counts <= (expected - 1e-9).ceil().clamp(min=0)).all())
    assert (counts.mean(0) - expected).abs().max() < 4 * 0.5 / 1000**0.5


def test_a_constant_on_the_energy_leaves_log_z():
    """log Z(E + c) = log Z(E) - c, with the same seed, for every method."""
    for method in PARTITION_METHODS:
        values = [
            log_partition(
                gaussian(3.0, 0.4, 2, constant=c),
                (2,),
                method=method,
                chains=64,
                steps=5,
                seed=3,
                progress=False,
            )
            for c in (0.0, 5.0)
        ]
        assert values[1].value == pytest.approx(values[0].value - 5, abs=1e-9)
        assert values[1].standard_error == pytest.approx(values[0].standard_error, rel=1e-6)


def test_a_change_of_units_moves_log_z_by_the_volume():
    """E(x / s) from a reference and steps in the same units: log Z + D log s, the same seed."""
    distribution, s, betas = double_well(), 3.0, np.linspace(0, 1, 15).tolist()
    wide = Distribution(lambda x: distribution.energy(x / s))
    small, large = (
        log_partition(
            density,
            GaussianReference(torch.zeros(2).double(), scale),
            chains=64,
            betas=betas,
            kernel=MALA(0.1 * scale**2),
            tune=False,
            progress=False,
        )
        for density, scale in ((distribution, 1.0), (wide, s))
    )
    assert large.value == pytest.approx(small.value + 2 * math.log(s), abs=1e-9)


def test_a_change_of_temperature_is_the_closed_form():
    """Quadratic energy over T: log Z + D / 2 log T."""
    for temperature in (0.5, 3.0):
        distribution = gaussian(2.0, dim=3)
        hot = Distribution(
            lambda x, distribution=distribution, t=temperature: distribution.energy(x) / t
        )
        got = log_partition(hot, (3,), chains=512, steps=60, progress=False)
        want = distribution.log_z + 1.5 * math.log(temperature)
        assert got.value == pytest.approx(want, abs=4 * got.standard_error)
        assert got.standard_error < 0.03


def test_any_density_of_known_constant_is_a_start():
    """An unnormalized reference gives the numbers of the normalized one."""
    off = 2.5
    start = Distribution(
        lambda x: STANDARD.energy(x) + off, -off, lambda n, g: STANDARD.sample(n, generator=g)
    )
    assert isinstance(start, Reference)
    distribution, settings = gaussian(3.0, 0.4), {"chains": 64, "steps": 10, "progress": False}
    for method in ("ais", "bridge"):
        want = log_partition(distribution, STANDARD, method=method, **settings)
        got = log_partition(distribution, start, method=method, **settings)
        assert got.value == pytest.approx(want.value, abs=1e-9)


def test_a_fitted_reference_has_the_moments_of_its_samples():
    samples = randn(seeded(), 500, 2, 3) * 2 + 1
    reference = GaussianReference.fit(samples, 1.5)
    assert torch.equal(reference.mean, samples.mean(0))
    torch.testing.assert_close(reference.std, 1.5 * samples.std(0))
    draws = reference.sample(10_000, seeded(1))
    assert ((draws.mean(0) - reference.mean) / reference.std).abs().max() < 4.5 / 10_000**0.5
    assert (draws.std(0) / reference.std - 1).abs().max() < 4.5 / 20_000**0.5
    want = torch.distributions.Normal(reference.mean, reference.std).log_prob(draws)
    torch.testing.assert_close(reference.energy(draws), -want.sum((1, 2)))
    torch.testing.assert_close(reference.score(draws), Distribution(reference.energy).score(draws))


def test_the_pilot_finds_even_weights_and_the_step_sizes_that_are_accepted():
    """Each stop keeps 0.7 of the sample size: Z(b + d)^2 / (Z(b) Z(b + 2 d)) in closed form."""
    k, m, dim = 50.0, 0.3, 4
    path, generator = (
        GeometricPath(GaussianReference(torch.zeros(dim).double()), gaussian(k, m, dim)),
        seeded(),
    )
    x = path.reference.sample(1000, generator)
    plan = pilot(path, MALA(0.1), x, lambda: randn(generator, 1000, dim), generator, lambda: None)

    def log_z(beta):
        precision = (1 - beta) + beta * k
        return dim / 2 * ((beta * k * m) ** 2 / precision - beta * k * m**2 - math.log(precision))

    steps = list(pairwise(plan.betas))
    assert plan.betas[0] == 0
    assert plan.betas[-1] == 1
    for low, high in steps[:-1]:
        kept = math.exp(2 * log_z(high) - log_z(low) - log_z(2 * high - low))
        assert kept == pytest.approx(0.7, abs=0.08)
    result = log_partition(path.density, (dim,), chains=500, steps=60, progress=False)
    # Before the first stop of the pilot the distribution is wider, and its steps are kept.
    assert (result.acceptance[8:] - 0.574).abs().max() < 0.12
    assert 0.5 < result.acceptance[:8].min() < result.acceptance[:8].max() < 0.85
    assert result.step_sizes[-1] < result.step_sizes[1] / 5
    assert result.value == pytest.approx(path.density.log_z, abs=4 * result.standard_error)
    timid = pilot(path, MALA(1e-4), x, lambda: randn(generator, 1000, dim), generator, lambda: None)
    assert timid.step_sizes[-1] == pytest.approx(plan.step_sizes[-1], rel=0.3)
    even = refine(plan, 2 * (len(plan.betas) - 1), 3)
    assert even.betas[::2] == pytest.approx(plan.betas)
    assert even.step_sizes[::2] == pytest.approx(plan.step_sizes)
    assert even.betas[1] == pytest.approx(plan.betas[1] / 2)
    given = refine(plan, plan.betas[::3] + [1.0] * (len(plan.betas) % 3 != 1), 1)
    assert given.step_sizes[1] == pytest.approx(plan.step_sizes[3])


def test_the_pilot_resamples_towards_the_density():
    """With a kernel that never moves, the second stop is even only if the particles were resampled
    to the distribution of the first."""
    k, n, generator = 300.0, 20_000, seeded()
    path, x = GeometricPath(STANDARD, gaussian(k)), randn(generator, n, 1)
    plan = pilot(path, Still(), x, lambda: x, generator, lambda: None)
    assert len(plan.betas) > 4
    for low, high in list(pairwise(plan.betas))[:3]:
        lambdas = [(1 - b) + b * k for b in (low, high, 2 * high - low)]
        kept = (lambdas[0] * lambdas[2]) ** 0.5 / lambdas[1]
        assert kept == pytest.approx(0.7, abs=0.03)


def test_the_last_weights_of_a_population_count():
    """One step that is too even to be resampled on the way: its weights are the whole estimate."""
    distribution = gaussian(1.5)
    result = log_partition(distribution, (1,), method="smc", betas=[0, 1], progress=False)
    assert result.value == pytest.approx(distribution.log_z, abs=4 * result.standard_error)
    assert result.standard_error < 0.03
    assert (result.samples**2).mean().item() == pytest.approx(1 / 1.5, abs=4 * (2 / 1024) ** 0.5)


def test_more_moves_even_out_the_weights():
    distribution, settings = double_well(), {"chains": 256, "steps": 10, "progress": False}
    few, many = (log_partition(distribution, (2,), moves=moves, **settings).ess for moves in (1, 8))
    assert many > 1.3 * few


@pytest.mark.parametrize("event", [(), (2, 1, 3)])
def test_any_event_shape_is_the_flattened_problem(event):
    size = math.prod(event)
    scale = torch.linspace(1.0, 3.0, size).double().reshape(event)
    distribution = Distribution(lambda x: 0.5 * (scale * x**2).reshape(len(x), -1).sum(1))
    flat = Distribution(lambda x: 0.5 * (scale.reshape(-1) * x**2).sum(1))
    settings = {"chains": 64, "steps": 5, "progress": False}
    got = log_partition(distribution, event, **settings)
    want = log_partition(flat, (size,), **settings)
    assert got.value == pytest.approx(want.value, abs=1e-9)


@pytest.mark.parametrize("method", list(PARTITION_METHODS))
def test_the_seed_decides_everything(method):
    settings = {"method": method, "chains": 32, "steps": 4, "progress": False}
    runs = [log_partition(double_well(), (2,), seed=s, **settings) for s in (1, 1, 2, None)]
    assert runs[0].value == runs[1].value
    assert len({run.value for run in runs}) == 3


def test_samples_that_are_given_start_the_reverse_walk():
    distribution = double_well()
    silent = Distribution(distribution.energy)
    samples = distribution.sample(300, seeded(7))
    before = samples.clone()
    for method in ("bridge", "reverse-ais"):
        result = log_partition(
            silent, (2,), method=method, chains=64, steps=25, samples=samples, progress=False
        )
        assert result.reverse.shape == (300,)
        assert result.upper.value == pytest.approx(
            distribution.log_z, abs=4 * result.upper.standard_error + 0.1
        )
        with pytest.raises(ValueError, match=r"no sample\(count, generator\); give samples="):
            log_partition(silent, (2,), method=method, chains=64, steps=5, progress=False)
    assert torch.equal(samples, before)


def test_what_is_known_depends_on_the_method():
    distribution, settings = gaussian(2.0), {"chains": 64, "steps": 5, "progress": False}
    known = {m: log_partition(distribution, (1,), method=m, **settings) for m in PARTITION_METHODS}
    assert [m for m, r in known.items() if r.lower] == ["ais", "bridge", "smc", "thermodynamic"]
    assert [m for m, r in known.items() if r.upper] == ["reverse-ais", "bridge"]
    assert known["ais"].value == known["ais"].lower.value
    assert known["reverse-ais"].value == known["reverse-ais"].upper.value
    assert known["smc"].forward.shape == (16,)
    assert known["ais"].forward.shape == (64,)
    assert known["thermodynamic"].samples.shape == (64, 1)
    assert known["thermodynamic"].value != known["smc"].value
    both = known["bridge"]
    assert both.ess == min(effective_size(both.forward), effective_size(both.reverse))
    assert effective_size(both.forward) != effective_size(both.reverse)
    assert "lower" in str(known["bridge"])
    assert "upper" in str(known["bridge"])


def test_averages_and_sizes_are_those_of_the_plain_formulas():
    log_weights = torch.tensor([0.1, -0.4, 0.9, 0.0]).double()
    w = log_weights.exp()
    for shift in (0.0, 900.0):
        value, error = exponential_average(log_weights + shift)
        assert value == pytest.approx(math.log(w.mean()) + shift)
        assert error == pytest.approx(float(w.std() / w.mean() / 2))
        size = effective_size(log_weights + shift)
        assert size == pytest.approx(float(w.sum() ** 2 / (w**2).sum()))
    assert exponential_average(torch.full((3,), -torch.inf))[0] == -math.inf


def test_an_energy_model_has_a_log_likelihood_in_nats():
    """A normal energy up to a constant, as a model: log p is the normal density."""
    model = EnergyFunction(lambda x, t: (x**2 / 0.5).sum(1) + 3.0, VP())
    partition = log_partition(model, (2,), chains=256, steps=25, progress=False, seed=4)
    x = randn(seeded(), 6, 2)
    got = energy_log_prob(model, x, partition)
    want = torch.distributions.Normal(0.0, 0.5).log_prob(x).sum(1)
    assert got.log_prob.dtype == torch.float64
    assert got.standard_error == partition.standard_error
    assert not got.log_prob.requires_grad
    torch.testing.assert_close(got.log_prob, want, rtol=0, atol=4 * partition.standard_error)
    torch.testing.assert_close(got.upper, -model.energy(x, VP().t_min) - partition.lower.value)
    assert got.lower is None
    exact = Distribution(gaussian(4.0, 0.0, 2).energy, None, gaussian(4.0, 0.0, 2).sample)
    both = log_partition(exact, (2,), method="bridge", chains=64, steps=30, progress=False)
    sandwich = energy_log_prob(exact, x, both)
    torch.testing.assert_close(sandwich.lower, -exact.energy(x) - both.upper.value)


def test_a_model_stands_for_its_distribution_at_the_least_noise_and_marginals_for_any():
    """A diffused mixture is normalized at every t, and a condition reaches the energy."""
    distribution = GaussianMixture(torch.tensor([[0.5, -0.5]]).double(), 0.3, VP())
    for density in (distribution, Marginal(distribution, 0.4)):
        got = log_partition(density, (2,), chains=256, steps=30, progress=False)
        assert abs(got.value) < 4 * got.standard_error
    model = EnergyFunction(lambda x, t, c: 0.5 * c * (x**2).sum(1), VP())
    got = log_partition(
        Marginal(model, None, torch.tensor(3.0)), (1,), chains=256, steps=30, progress=False
    )
    want = HALF_LOG_TAU - 0.5 * math.log(3)
    assert got.value == pytest.approx(want, abs=4 * got.standard_error)


def test_states_have_the_precision_of_the_network():
    seen, net = set(), torch.nn.Linear(2, 2)

    def energy(x, t):
        seen.add(x.dtype)
        return 0.5 * (x**2).sum(1) + 0 * net(x).sum(1)

    model = EnergyFunction(energy, VP())
    model.net = net
    result = log_partition(model, (2,), method="smc", chains=64, steps=5, progress=False)
    assert seen == {torch.float32}
    assert result.forward.dtype == torch.float64
    assert result.value == pytest.approx(2 * HALF_LOG_TAU, abs=1e-3)


def test_hmc_walks_too_and_its_cost_is_counted():
    calls = []
    distribution = gaussian(5.0, 0.2, dim=3)
    counted = Distribution(lambda x: calls.append(len(x)) or distribution.energy(x))
    for kernel, each in (("mala", 1), ("hmc(leapfrogs=3)", 3)):
        result = log_partition(
            counted, (3,), chains=200, steps=20, moves=2, kernel=kernel, progress=False
        )
        # The walk itself: no move before the first stop, and none after the last.
        assert calls.count(200) == 20 + 19 * (1 + 2 * each)
        assert result.value == pytest.approx(distribution.log_z, abs=4 * result.standard_error)
        calls.clear()


def test_the_bar_counts_every_stop(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total=None, desc="", disable=False, **rest) -> None:
            self.total, self.count, self.disable = total, 0, disable
            bars.append(self)

        def update(self, n=1):
            self.count += n

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    for method in PARTITION_METHODS:
        log_partition(gaussian(2.0), (1,), method=method, chains=64, steps=7)
        assert bars[-1].count == bars[-1].total
        assert bars[-2].count > 0
    assert not any(bar.disable for bar in bars)
    log_partition(gaussian(2.0), (1,), chains=64, steps=7, progress=False)
    assert bars[-1].disable


def test_wrong_arguments_are_refused():
    distribution = gaussian(2.0)

    def run(density=distribution, start=(1,), **arguments):
        return log_partition(density, start, progress=False, **arguments)

    for arguments, message in (
        ({"method": "harmonic"}, "unknown partition method 'harmonic'; accepted: ais"),
        ({"kernel": ULA(0.1)}, "does not keep exp"),
        ({"kernel": MALA(0.1, temperature=2.0)}, "temperature 1"),
        ({"kernel": "malla"}, "unknown kernel 'malla'; did you mean 'mala'"),
        ({"chains": 1}, "chains=1 must be an integer of at least 2"),
        ({"steps": 0}, "steps=0"),
        ({"moves": 0}, "moves=0"),
        ({"populations": 1}, "populations=1"),
        ({"method": "smc", "chains": 40}, "chains=40 must be a multiple of populations=16"),
        ({"method": "smc", "chains": 16}, "at least 2 in each"),
        ({"betas": [0, 0.5, 0.5, 1]}, "must increase from 0 to 1"),
        ({"betas": [0.1, 1]}, "must increase from 0 to 1"),
        ({"betas": [0, 0.9]}, "must increase from 0 to 1"),
        ({"tune": False}, "tune=False needs betas"),
        ({"samples": torch.zeros(1, 1)}, "number of samples=1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**arguments)
    with pytest.raises(TypeError, match="start is a Distribution; accepted: an event shape"):
        run(start=Distribution(distribution.energy))
    with pytest.raises(TypeError, match="has a score but no energy"):
        run(density=ScoreFunction(lambda x, t: -x, VP()))
    with pytest.raises(RuntimeError, match="the energy is not finite on any sample of start"):
        run(density=Distribution(lambda x: x.sum(1) * torch.nan))
    with pytest.raises(RuntimeError, match="the mean energy on the path is not finite"):
        run(targets.create("exponential"), (2,), method="thermodynamic", chains=256)
    for std in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="std must be finite and greater than 0"):
            GaussianReference(torch.zeros(2), std)
    with pytest.raises(ValueError, match="number of samples=1"):
        GaussianReference.fit(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="mean must be a floating-point tensor"):
        GaussianReference(torch.zeros(2, dtype=torch.long))
