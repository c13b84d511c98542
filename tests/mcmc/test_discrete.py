"""Kernels on discrete states: transition matrices keep the target, and steps follow them."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import BlockGibbs, GibbsWithGradients, Tempering, create, run_chains
from sde_score.models import (
    GaussianMixture,
    IndependentSites,
    Ising,
    Marginal,
    Potts,
    RestrictedBoltzmann,
    Sites,
)
from sde_score.sdes import VP

F64 = torch.float64


def machine(marginal=False):
    generator = torch.Generator().manual_seed(3)
    shapes = [(3, 3), (3,), (3,)]
    numbers = [1.5 * torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]
    return RestrictedBoltzmann(*numbers, marginal=marginal)


class Cubic:
    """Three spins with an energy that is linear in none of them."""

    sites = Sites((3,), (-1.0, 2.0))

    def energy(self, x):
        return (x**3).sum(1) * 0.1 + x.prod(1) ** 2 * 0.2 - 0.7 * x[:, 0] * x[:, 1]

    def score(self, x):
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            energy = self.energy(point)
            (gradient,) = torch.autograd.grad(energy.sum(), point)
        return energy.detach(), -gradient


LINEAR = [machine(), Ising(2, 3, 0.6, 0.3), Potts(2, 2, 3, 0.9, 0.4), Ising(1, 4, -0.8, 0.2)]
ANY = [*LINEAR, machine(marginal=True), Cubic()]
CASES = [("gibbs", model) for model in LINEAR] + [("gwg", model) for model in ANY]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("name", "model"), CASES)
def test_the_target_is_kept_in_detailed_balance(name, model, temperature):
    kernel = create(name, temperature=temperature)
    pi = (-model.energy(model.sites.states()) / temperature).softmax(0)
    matrix = kernel.transition_matrix(model)
    one = torch.ones(len(pi), dtype=F64)
    torch.testing.assert_close(matrix.sum(1), one, rtol=0, atol=1e-12)
    assert float(matrix.min()) >= -1e-15
    torch.testing.assert_close(pi @ matrix, pi, rtol=0, atol=1e-12)
    flow = pi[:, None] * matrix
    torch.testing.assert_close(flow, flow.mT, rtol=0, atol=1e-12)
    # Every state is reached: the second eigenvalue stays below one.
    alike = torch.linalg.eigvalsh(pi.sqrt()[:, None] * matrix / pi.sqrt())
    assert float(alike[-2]) < 1 - 1e-4


@pytest.mark.parametrize(("name", "model"), [CASES[0], CASES[2], CASES[4], CASES[-1]])
def test_steps_follow_the_transition_matrix(name, model):
    """One step of 3000 chains from each of 4 states: counts against the row of the matrix."""
    kernel, every = create(name, temperature=0.7), model.sites.states()
    rows = torch.linspace(0, len(every) - 1, 4).long()
    each = 3000
    x = every[rows].repeat_interleave(each, 0)
    source, draw = torch.Generator().manual_seed(0), torch.empty_like(x)

    def noise():
        return draw.normal_(generator=source)  # in place: valid until the next call

    state = kernel.start(model, x, noise)
    taken = kernel.step(model, state, noise, kernel.tuning(x))
    end = taken.state
    torch.testing.assert_close(end.score, model.score(end.x))
    if kernel.needs_energy:
        torch.testing.assert_close(end.energy, model.energy(end.x))
    place = model.sites.choices ** torch.arange(model.sites.count)
    ends = (model.sites.indices(end.x) * place).sum(1).reshape(4, each)
    matrix = kernel.transition_matrix(model)[rows]
    counts = torch.stack([torch.bincount(row, minlength=len(every)) for row in ends])
    assert int(counts[matrix < 1e-14].sum()) == 0
    seen = matrix > 1e-14
    error = (counts - each * matrix)[seen] / (each * matrix * (1 - matrix) + 1)[seen].sqrt()
    assert float(error.abs().max()) < 5
    moved = (end.x != x).flatten(1).any(1).double().reshape(4, each).mean(1)
    if name == "gwg":  # the mean acceptance is the chance to move
        accepted = taken.acceptance.reshape(4, each).mean(1)
        torch.testing.assert_close(accepted, moved, rtol=0, atol=5 * 0.5 / math.sqrt(each))


@pytest.mark.parametrize("name", ["gibbs", "gibbs-gradients"])
def test_a_temperature_is_a_factor_on_the_energy(name):
    warm, cold = Ising(2, 2, 0.5, 0.3), Ising(2, 2, 1.0, 0.6)
    matrix = create(name, temperature=0.5).transition_matrix(warm)
    torch.testing.assert_close(matrix, create(name).transition_matrix(cold))


@pytest.mark.parametrize("name", ["gibbs", "gibbs-gradients"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_chains_stay_on_states_and_do_not_depend_on_each_other(name, dtype):
    model = Potts(2, 2)
    start = IndependentSites(model.sites).sample(6, torch.Generator().manual_seed(0)).to(dtype)

    def run(start):
        return run_chains(model, start, name, draws=5, warmup=3, seed=4, progress=False)

    whole = run(start)
    assert whole.samples.dtype == dtype
    model.sites.require_states("x", whole.samples.flatten(0, 1))
    assert torch.equal(run(start[:2]).samples, whole.samples[:, :2])
    assert bool((whole.tuning.step_size == 1).all())  # nothing is tuned


def test_chains_have_the_magnetization_of_the_model():
    model = Ising(3, 3, 0.3, 0.2)
    every = model.sites.states()
    truth = float((model.log_prob(every).exp() * every.mean((1, 2))).sum())
    for kernel, thin in ((BlockGibbs(), 1), (GibbsWithGradients(), 6)):
        start = IndependentSites(model.sites).sample(400, torch.Generator().manual_seed(0))
        draws = run_chains(model, start, kernel, draws=20, warmup=30, thin=thin, seed=1).samples
        each = draws.mean((0, 2, 3))  # of independent chains
        assert abs(float(each.mean()) - truth) < 5 * float(each.std()) / 20


def test_kernels_and_densities_of_the_other_kind_are_refused():
    normal = Marginal(GaussianMixture([[0.0]], 1.0, VP()))
    one = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=r"density is a Marginal, which has no sites"):
        run_chains(normal, one, "gibbs", draws=1)
    with pytest.raises(TypeError, match=r"Ising has discrete states and MALA moves on continuous"):
        run_chains(Ising(1, 1), one[None], "mala", draws=1)
    with pytest.raises(ValueError, match=r"density has no blocks .*gibbs-gradients"):
        run_chains(Cubic(), -torch.ones(1, 3), "gibbs", draws=1)
    with pytest.raises(ValueError, match=r"start has entries .* accepted: -1 or 1"):
        run_chains(Ising(1, 1), one[None], "gibbs", draws=1)
    with pytest.raises(ValueError, match=r"inner='gwg' must keep"):
        Tempering(inner="gwg")
    with pytest.raises(ValueError, match=r"mass"):
        run_chains(Ising(1, 1), one[None] + 1, "gibbs", draws=1, adapt_mass=True)
