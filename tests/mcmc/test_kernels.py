"""The contract of every kernel: its distribution, any event shape, and independent chains."""

from __future__ import annotations

import pytest
import torch

from sde_score.mcmc import KERNELS, Tuning, run_chains

MINE = ["ula", "mala", "mala-score", "mala-score(rule='trapezoid')", "baoab", "obabo"]
COVARIANCE = torch.tensor([[1.2, 0.5], [0.5, 0.8]], dtype=torch.float64)


class Gaussian:
    """N(mean, COVARIANCE), by multiplications and additions in a fixed order."""

    mean = torch.tensor([0.7, -0.4], dtype=torch.float64)
    precision = torch.linalg.inv(COVARIANCE)

    def energy(self, x):
        return -0.5 * ((x - self.mean) * self.score(x)).sum(1)

    def score(self, x):
        off, p = x - self.mean, self.precision
        rows = [p[i, 0] * off[:, 0] + p[i, 1] * off[:, 1] for i in range(2)]
        return -torch.stack(rows, 1)

    def energy_and_score(self, x):
        return self.energy(x), self.score(x)


class Elementwise:
    """E = sum of x^2 + x^4 / 4 over any event."""

    def energy(self, x):
        # Products, because float32 powers round differently at the end of a batch.
        return (x * x + 0.25 * (x * x) * (x * x)).reshape(x.shape[0], -1).sum(1)

    def score(self, x):
        return -2 * x - x * x * x

    def energy_and_score(self, x):
        return self.energy(x), self.score(x)


STEPS = {"ula": 0.05, "baoab": 0.2, "obabo": 0.1}


def moments(chains, power):
    """Mean of x^power over all draws, and its standard error from the effective draws."""
    value = chains.samples**power
    powered = type(chains)(
        value, chains.acceptance, chains.energy_error, chains.tuning, chains.state
    )
    error = value.flatten(0, 1).std(0) / powered.ess().sqrt()
    return value.mean((0, 1)), error


@pytest.mark.parametrize("name", [n for n in KERNELS if not KERNELS.create(n).discrete])
def test_every_kernel_has_the_distribution_of_a_gaussian(name):
    """Means and squares within 5 standard errors; unadjusted ones may be off by what they say."""
    step = {"step_size": STEPS[name]} if name in STEPS else {}
    kernel = KERNELS.create(name, **step)
    start = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)).double()
    draws = 60 if name == "nuts" else 250
    thin = 1 if kernel.adjusted else 6
    chains = run_chains(
        Gaussian(), start, kernel, draws=draws, warmup=80, thin=thin, seed=3, progress=False
    )
    bias = 0.0 if kernel.adjusted else 0.06
    squares = COVARIANCE.diag() + Gaussian.mean**2
    for power, truth in ((1, Gaussian.mean), (2, squares)):
        got, error = moments(chains, power)
        assert bool(((got - truth).abs() < 5 * error + bias * (power - 1) * truth).all()), name
        assert bool((error < 0.12).all()), error  # tight enough to say something
    assert bool((chains.split_r_hat() < 1.1).all())


@pytest.mark.parametrize("name", ["mala", "mala-score", "baoab"])
def test_distributions_that_are_not_gaussian(name, curve):
    """At T = 0.8: on the line, so that the truth is a quadrature."""
    step = {"baoab": 0.15}.get(name, 0.2)
    kernel = KERNELS.create(name, step_size=step, temperature=0.8)
    start = curve.sample(300, torch.Generator().manual_seed(0), temperature=0.8)
    chains = run_chains(
        curve, start, kernel, draws=40, thin=10, seed=4, adapt=False, progress=False
    )
    weight = (-(curve.on_grid - curve.on_grid.min()) / 0.8).exp()
    for power in (1, 2, 3):
        truth = (weight * curve.grid**power).sum() / weight.sum()
        got, error = moments(chains, power)
        assert (got - truth).abs().item() < 5 * error.item() + 0.01 * power


@pytest.mark.parametrize("event", [(), (6,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("name", MINE)
def test_events_of_any_shape_are_vectors(name, event):
    size = 6 if event else 1
    start = torch.randn(4, size, generator=torch.Generator().manual_seed(0)).double()

    def run(shape):
        generator = torch.Generator().manual_seed(5)
        draws = run_chains(
            Elementwise(), start.reshape(4, *shape), name, draws=6, warmup=25, progress=False,
            noise=lambda: torch.randn(4, size, generator=generator).double().reshape(4, *shape),
        )  # fmt: skip
        assert draws.samples.shape == (6, 4, *shape)
        assert draws.acceptance.shape == draws.energy_error.shape == (6, 4)
        return draws.samples.reshape(6, 4, size)

    assert torch.equal(run(event), run((size,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MINE)
def test_chain_i_depends_on_seed_and_i_alone_bit_for_bit(name, dtype):
    """Through the warm-up too, where step sizes and masses are tuned."""
    mass = KERNELS.create(name).uses_mass
    start = torch.randn(33, 2, 5, generator=torch.Generator().manual_seed(0)).to(dtype)

    def run(start, seed):
        return run_chains(
            Elementwise(), start, name, draws=8, warmup=30, thin=2, seed=seed, adapt_mass=mass,
            progress=False,
        )  # fmt: skip

    whole = run(start, 7)
    assert len({tuple(row.flatten().tolist()) for row in whole.samples[-1]}) == 33
    others = torch.cat([start[:3], 3 + start[3:9]])
    for part in (run(start[:1], 7), run(start[:5], 7), run(others, 7)):
        count = min(part.samples.shape[1], 3)
        for got, want in (
            (part.samples, whole.samples),
            (part.acceptance, whole.acceptance),
            (part.energy_error, whole.energy_error),
        ):
            assert torch.equal(got[:, :count], want[:, :count])
    if whole.tuning.step_size.ndim:
        assert len(set(whole.tuning.step_size.tolist())) == 33
    assert not torch.equal(run(start[:1], 8).samples, whole.samples[:, :1])


@pytest.mark.parametrize("name", MINE)
def test_tunings_may_differ_from_chain_to_chain(name):
    kernel = KERNELS.create(name)
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(3, 4, generator=generator).double() for _ in range(2))
    sizes = torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64)
    masses = 0.5 + torch.rand(3, 4, generator=generator).double() if kernel.uses_mass else None

    def step(rows, size, mass):
        state = kernel.start(Elementwise(), x[rows], lambda: z[rows])
        return kernel.step(Elementwise(), state, lambda: z[rows], Tuning(size, mass))

    together = step(slice(None), sizes, masses)
    for i in range(3):
        mass = None if masses is None else masses[i]  # of an event, for all chains
        alone = step(slice(i, i + 1), sizes[i], mass)
        assert torch.equal(alone.state.x[0], together.state.x[i])
        assert torch.equal(alone.energy_error[0], together.energy_error[i])


@pytest.mark.parametrize("name", MINE)
def test_a_state_is_left_as_it_is_and_knows_its_place(name):
    kernel = KERNELS.create(name, step_size=0.3)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).double()
    state = kernel.start(Elementwise(), x, lambda: z)
    before = x.clone()
    taken = kernel.step(Elementwise(), state, lambda: z, kernel.tuning(x))
    assert torch.equal(x, before)
    assert state.x is x
    end = taken.state
    assert torch.equal(end.score, Elementwise().score(end.x))
    assert (end.energy is not None) == kernel.needs_energy
    if end.energy is not None:
        assert torch.equal(end.energy, Elementwise().energy(end.x))
    assert (end.momentum is not None) == (name in ("baoab", "obabo"))
    if not kernel.adjusted:
        assert bool((taken.acceptance == 1).all())
        assert bool((taken.energy_error == 0).all())


def test_every_kernel_has_its_facts():
    for name in KERNELS:
        kernel = KERNELS.create(name)
        assert "http" in kernel.reference
        assert 0 < kernel.target_acceptance < 1
        assert KERNELS.create(name) == kernel
        assert kernel.evaluations
    assert [n for n in KERNELS if not KERNELS.create(n).adjusted] == ["ula", "baoab", "obabo"]
    assert KERNELS.create("mala").target_acceptance == 0.574
    assert KERNELS.create("mala-score").target_acceptance == 0.574
