"""Energy discrepancy against its formula, its closed form on Gaussians, and both of its limits."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.models import EnergyFunction, Marginal
from sde_score.objectives import EnergyDiscrepancy
from sde_score.sdes import VP

F64 = torch.float64
SPREAD = 0.7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def well(w, t=None):
    return Marginal(EnergyFunction(lambda x, t: 0.5 * w * x[:, 0] ** 2, VP()), t)


@pytest.mark.parametrize(("samples", "stabilizer"), [(1, 0.0), (1, 1.0), (3, 0.0), (4, 0.7)])
def test_the_loss_is_the_formula(nonlinear, samples, stabilizer):
    """log(w / M + mean of exp(E(x) - E(x + sqrt tau xi + sqrt tau xi'))), with no tricks."""
    marginal, _ = nonlinear((2,), energy=True)
    tau, x, outer = 0.3, draws(5, 2), draws(5, 2, seed=1)
    inner = draws(samples, 5, 2, seed=2)
    total = torch.full((5,), stabilizer / samples, dtype=F64)
    for i in range(samples):
        y = x + tau**0.5 * outer + tau**0.5 * inner[i]
        total = total + torch.exp(marginal.energy(x) - marginal.energy(y)) / samples
    objective = EnergyDiscrepancy(variance=tau, samples=samples, stabilizer=stabilizer)
    torch.testing.assert_close(objective.at(marginal, x, outer, inner), total.log())


def test_the_call_draws_one_shared_and_m_own_noises(nonlinear):
    marginal, _ = nonlinear((2,), energy=True)
    x, source = draws(5, 2), seeded(3)
    noise = [torch.randn(5, 2, generator=source, dtype=F64) for _ in range(4)]
    objective = EnergyDiscrepancy(samples=3)
    got = objective(marginal.model, x, generator=seeded(3))
    torch.testing.assert_close(got, objective.at(marginal, x, noise[0], torch.stack(noise[1:])))


@pytest.mark.parametrize("tau", [0.1, 2.0])
def test_one_sample_compares_energies_at_twice_the_variance(hermite, tau):
    """With M = 1 and w = 0 the expected loss is that of E(x) - E(x + sqrt(2 tau) z): -w tau."""
    nodes, weights = hermite(3, 3)
    objective = EnergyDiscrepancy(variance=tau, samples=1, stabilizer=0.0)
    x, outer, inner = (nodes[:, i : i + 1] for i in range(3))
    loss = weights @ objective.at(well(1.3), SPREAD**0.5 * x, outer, inner[None])
    assert loss.item() == pytest.approx(-1.3 * tau, abs=1e-12)


def exact(hermite, w, tau, count=48):
    """Expected loss in the limit of many samples, by quadrature over x, xi and xi'.

    The objective weighs its samples alike. A second entry, of energy -y, gives each the weight of
    its node: it is 0 in x and xi, and log(M weight) in what is added to x.
    """
    nodes, weights = hermite(6, 2)
    at, share = hermite(count, 1)
    tilt = (count * share).log()[:, None] / tau**0.5
    inner = torch.cat([at, tilt], 1)[:, None].expand(count, len(nodes), 2)
    x, outer = (torch.stack([n, 0 * n], 1) for n in nodes.unbind(1))
    model = EnergyFunction(lambda x, t: 0.5 * w * x[:, 0] ** 2 - x[:, 1], VP())
    objective = EnergyDiscrepancy(variance=tau, samples=count, stabilizer=0.0)
    return weights @ objective.at(Marginal(model), SPREAD**0.5 * x, outer, inner)


def closed_form(w, tau):
    blurred = 1 + w * tau
    return 0.5 * (w * SPREAD - math.log(blurred) - w * (SPREAD + tau) / blurred)


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_on_gaussians_it_has_its_closed_form(hermite, factor, tau):
    """(w S - log(1 + w tau) - w (S + tau) / (1 + w tau)) / 2."""
    w = factor / SPREAD
    assert exact(hermite, w, tau).item() == pytest.approx(closed_form(w, tau), abs=1e-9)


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_its_minimum_is_the_precision_of_the_data_whatever_tau(hermite, tau):
    slopes = []
    for factor in (0.8, 1.0, 1.25):
        w = torch.tensor(factor / SPREAD, dtype=F64, requires_grad=True)
        slopes.append(torch.autograd.grad(exact(hermite, w, tau), w)[0].item())
    assert slopes[0] < -5e-3
    assert abs(slopes[1]) < 1e-8
    assert slopes[2] > 5e-3


def test_over_tau_it_goes_to_implicit_score_matching(hermite):
    """w^2 S / 2 - w, the loss of implicit score matching on Gaussians."""
    w, tau = 1.1, 1e-6
    want = 0.5 * w**2 * SPREAD - w
    assert exact(hermite, w, tau).item() / tau == pytest.approx(want, rel=1e-5)


def test_the_stabilizer_bounds_each_loss_from_below():
    """log(w / M), however far below its neighbors an example lies in energy."""
    steep = well(1e5)
    objective = EnergyDiscrepancy(variance=1.0, samples=4, stabilizer=2.0)
    losses = objective(steep.model, torch.zeros(6, 1, dtype=F64), generator=seeded())
    torch.testing.assert_close(losses, torch.full((6,), math.log(0.5), dtype=F64))
    leaf = torch.tensor(1e5, dtype=F64, requires_grad=True)
    losses = objective(well(leaf).model, torch.zeros(6, 1, dtype=F64), generator=seeded())
    assert torch.autograd.grad(losses.sum(), leaf)[0] == 0


def test_large_differences_do_not_overflow():
    """An example far up: the loss is the largest difference less log M, in the thousands."""
    x = torch.full((3, 1), 100.0)
    losses = EnergyDiscrepancy(samples=2)(well(1.0).model, x, generator=seeded())
    assert bool(losses.isfinite().all())
    assert losses.abs().max() > 50


@pytest.mark.parametrize("t", [0.2, 0.8])
def test_at_a_noise_level_tau_is_in_units_of_sigma_squared(t):
    sigma, x = VP().sigma(t).item(), draws(5, 1)
    outer, inner = draws(5, 1, seed=1), draws(3, 5, 1, seed=2)
    noisy = EnergyDiscrepancy(time_sampler="uniform", variance=0.4, samples=3)
    clean = EnergyDiscrepancy(variance=0.4 * sigma**2, samples=3)
    got, want = (o.at(well(1.4, t), x, outer, inner) for o in (noisy, clean))
    torch.testing.assert_close(got, want / sigma**2)


def test_wrong_arguments_are_refused():
    for wrong in ({"variance": 0.0}, {"samples": 0}, {"samples": 1.5}, {"stabilizer": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EnergyDiscrepancy(**wrong)
    with pytest.raises(ValueError, match="unknown weighting"):
        EnergyDiscrepancy(time_sampler="uniform", weighting="varianc")
