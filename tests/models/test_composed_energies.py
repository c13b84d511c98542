"""Composed energies, against products, powers and mixtures of Gaussians of unequal variances."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import run_chains
from sde_score.models import (
    TARGETS,
    EmpiricalDistribution,
    EnergyBased,
    EnergyFunction,
    EnergyMixture,
    EnergySum,
    GaussianMixture,
    Marginal,
    ScoreFunction,
)
from sde_score.models.tails import integrable
from sde_score.sdes import VE, VP

F64 = torch.float64
SDE = VP()
NARROW, WIDE = (
    GaussianMixture([[m]], torch.tensor([v], dtype=F64), SDE) for m, v in ((1, 0.25), (-1, 1.0))
)
X = torch.linspace(-2, 3, 7, dtype=F64)[:, None]


def marginal(model, t):
    """Mean and variance of a single Gaussian at t."""
    alpha, sigma = float(SDE.alpha(t)), float(SDE.sigma(t))
    return alpha * float(model.means), alpha**2 * float(model.variances) + sigma**2


def product(weights, t):
    """Mean and variance of the product of powers of NARROW and WIDE at t."""
    each = [marginal(model, t) for model in (NARROW, WIDE)]
    precision = sum(w / v for w, (_, v) in zip(weights, each, strict=True))
    return sum(
        w * m / v for w, (m, v) in zip(weights, each, strict=True)
    ) / precision, 1 / precision


def tilted(sde=SDE):
    """An energy that a condition moves: N(c, 1) up to a constant of 3 nats, at every t."""
    return EnergyFunction(lambda x, t, c: 0.5 * (x[:, 0] - c) ** 2 + 3.0, sde)


@pytest.mark.parametrize("weights", [(1, 1), (0.5, 0.5), (2, 1), (1, -0.3)])
@pytest.mark.parametrize("t", [SDE.t_min, 0.4, torch.linspace(0.1, 0.9, 7)])
def test_a_sum_is_the_product_of_powers(weights, t):
    both = EnergySum([NARROW, WIDE], weights)
    assert isinstance(both, EnergyBased)
    energy, score = both.energy_and_score(X, t)
    for i, time in enumerate(torch.as_tensor(t).expand(7).tolist()):
        mean, variance = product(weights, time)
        torch.testing.assert_close(score[i], (mean - X[i]) / variance)
        torch.testing.assert_close(both.score(X, t)[i], score[i])
    want = sum(w * m.energy(X, t) for w, m in zip(weights, (NARROW, WIDE), strict=True))
    torch.testing.assert_close(energy, want)
    torch.testing.assert_close(both.energy(X, t), want)
    before = both.nfe
    both.energy(X, t)
    assert both.nfe == before + 2  # networks for one answer
    nested = EnergySum([both, gaussian(1.0)])
    nested.score(X, t)
    assert nested.nfe == 3
    line = X[:, :1] * 0
    nested.stand_in.score(line, 0.5)
    assert nested.stand_in.nfe == 3


def chains(density, kernel, steps, count=3000):
    """Ends of chains that began at N(0, 1), without a generator for each."""
    source = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(count, 1, dtype=F64, generator=source)

    return run_chains(
        density, draw(), kernel, draws=1, thin=steps, noise=draw, progress=False
    ).state.x


@pytest.mark.parametrize(
    ("kernel", "steps"), [("mala(step_size=0.09)", 40), ("hmc(step_size=0.15, leapfrogs=3)", 15)]
)
@pytest.mark.parametrize("weights", [(1, 1), (3, 0.5), (1, -0.6)])
def test_chains_draw_from_products_tempered_and_negated(kernel, steps, weights):
    """Mean and variance of 3000 chains, within 5 standard errors."""
    x = chains(Marginal(EnergySum([NARROW, WIDE], weights)), kernel, steps)
    mean, variance = product(weights, SDE.t_min)
    assert abs(float(x.mean()) - mean) < 5 * math.sqrt(variance / 3000)
    assert abs(float(x.var()) - variance) < 5 * variance * math.sqrt(2 / 3000)


def test_a_mixture_is_that_of_the_densities():
    mixture = EnergyMixture([NARROW, WIDE], [1, 3])
    want = GaussianMixture(
        [[1.0], [-1.0]], torch.tensor([0.25, 1.0], dtype=F64), SDE, weights=[1, 3]
    )
    for t in (SDE.t_min, 0.3, torch.linspace(0.1, 0.9, 7)):
        torch.testing.assert_close(mixture.log_prob(X, t), want.log_prob(X, t))
        torch.testing.assert_close(mixture.score(X, t), want.score(X, t))
        torch.testing.assert_close(mixture.denoise(X, t), want.denoise(X, t))
    nested = EnergyMixture([EnergyMixture([NARROW, WIDE]), WIDE])
    terms = torch.stack([NARROW.log_prob(X, 0.3), WIDE.log_prob(X, 0.3)])
    weights = torch.tensor([[0.25], [0.75]], dtype=F64)
    torch.testing.assert_close(nested.log_prob(X, 0.3), (terms + weights.log()).logsumexp(0))
    torch.testing.assert_close(mixture.shares(X, 0.3).sum(0), torch.ones(7, dtype=F64))


def test_log_z_weighs_the_energies_of_a_mixture():
    """Energies off by constants, one of which moves with t, have their shares again."""
    loose = EnergyFunction(lambda x, t: NARROW.energy(x, t) + 5.0, SDE)
    drifts = EnergyFunction(lambda x, t: WIDE.energy(x, t) - 2 * t, SDE)
    mixture = EnergyMixture([loose, drifts], [1, 3], log_z=[-5.0, lambda t: 2 * t])
    want = EnergyMixture([NARROW, WIDE], [1, 3])
    for t in (0.2, 0.7):
        torch.testing.assert_close(mixture.log_prob(X, t), want.log_prob(X, t))
        torch.testing.assert_close(mixture.score(X, t), want.score(X, t))


def test_chains_draw_from_a_mixture():
    x = chains(Marginal(EnergyMixture([NARROW, WIDE], [1, 3])), "mala(step_size=0.4)", 50)
    alpha = float(SDE.alpha(SDE.t_min))
    mean, square = -0.5 * alpha, 0.25 * (1.25 * alpha**2) + 0.75 * (2 * alpha**2)
    assert abs(float(x.mean()) - mean) < 5 * math.sqrt(square / 3000)
    assert abs(float((x**2).mean()) - square) < 5 * float((x**2).std()) / math.sqrt(3000)


def test_the_condition_reaches_those_that_take_it_and_own_ones_stay():
    told = torch.tensor([0.5, -0.5, 2.0], dtype=F64)
    x = torch.zeros(3, 1, dtype=F64)
    both = EnergySum([tilted(), NARROW], [2, 1])
    torch.testing.assert_close(
        both.energy(x, 0.5, told), told**2 + 6 + NARROW.energy(x, 0.5), rtol=1e-12, atol=1e-12
    )
    model = tilted()
    one_and_not = EnergySum([model, model, model], [1, 1, -1], [4.0, None, -1.0])
    want = 0.5 * (16 + told**2 - 1) + 3
    torch.testing.assert_close(one_and_not.energy(x, 0.5, told), want)
    torch.testing.assert_close(one_and_not.score(x, 0.5, told)[:, 0], 4 + told + 1)
    with pytest.raises(ValueError, match=r"no model takes it"):
        EnergySum([NARROW, WIDE]).energy(x, 0.5, told)
    assert not EnergySum([model, NARROW], conditions=[1.0, None]).takes_condition


def test_gradients_reach_parameters_and_x():
    network = torch.nn.Linear(1, 1).double()
    energy = EnergyFunction(lambda x, t: (network(x) ** 2)[:, 0], SDE)
    both, x = EnergySum.ensemble([energy, WIDE]), X.clone().requires_grad_()
    assert set(both.parameters()) == set(network.parameters())
    (bend,) = torch.autograd.grad(both.score(x, 0.5).sum(), x, create_graph=True)
    want = -0.5 * (2 * float(network.weight.detach()) ** 2 + 1 / marginal(WIDE, 0.5)[1])
    torch.testing.assert_close(bend, torch.full_like(X, want))
    EnergyMixture([energy, WIDE], log_z=[0.0, 0.0]).score(X, 0.5).sum().backward()
    assert float(network.weight.grad.abs()) > 0
    with torch.inference_mode():
        assert not both.score(X.clone(), 0.5).requires_grad


OBLIQUE = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])


def gaussian(variance, dim=1, sde=SDE):
    return GaussianMixture(torch.zeros(1, dim), variance, sde)


@pytest.mark.parametrize(
    ("models", "weights", "density"),
    [
        # At t_min precisions 4 - 1.9, at t_max about 1 - 1.9: the start of a diffusion fails.
        ([NARROW, WIDE], (1, -1.9), False),
        ([NARROW, WIDE], (1, -0.9), True),
        ([WIDE, NARROW], (1, -0.3), False),  # 1 - 4 * 0.3 at t_min
        ([gaussian(OBLIQUE, 2), gaussian(0.2, 2)], (1, -0.1), True),
        # Each axis is fine, 1 / 1 > 0.15 / 0.2, the diagonal is not: 1 / 1.9 < 0.75.
        (
            [gaussian(OBLIQUE, 2), gaussian(0.2, 2)],
            (1, -0.15),
            False,
        ),
        ([EmpiricalDistribution(torch.zeros(1, 1), SDE), WIDE], (1, -0.9), True),
        ([EmpiricalDistribution(torch.zeros(1, 1), SDE), WIDE], (0.5, -0.9), False),
        # The widest component decides on both sides.
        ([GaussianMixture([[0.0], [0.0]], torch.tensor([0.1, 4.0]), SDE), WIDE], (1, -0.3), False),
        ([WIDE, GaussianMixture([[0.0], [0.0]], torch.tensor([0.1, 4.0]), SDE)], (1, -0.5), True),
        ([tilted(), WIDE], (1, -0.5), None),
        ([tilted(), WIDE], (1, -1.0), False),  # nearly the same normal at t_max
    ],
)  # fmt: skip
def test_negation_is_bounded_where_it_can_be_known(models, weights, density):
    if density is False:
        with pytest.raises(ValueError, match=r"weights=\[.*no density"):
            EnergySum(models, weights)
        return
    both = EnergySum(models, weights)
    assert all(both.integrable(t) is density for t in (SDE.t_min, 0.5, SDE.t_max))


def test_a_dip_between_the_ends_is_found():
    """Precisions 1 / (v + s^2): enough at both ends of the noise, and too few in the middle."""
    sde = VE(sigma_min=0.001, sigma_max=1000.0)
    models = [gaussian(v, 1, sde) for v in (1e-4, 1.0, 1e4)]
    weights = (0.1, -0.45, 0.4)
    assert all(integrable(models, weights, t) for t in (sde.t_min, sde.t_max))
    with pytest.raises(ValueError, match=r"no density at t="):
        EnergySum(models, weights)


def test_directions_that_no_bound_decides_are_not_known():
    """Unequal components across: neither proof finds an answer, and none is given."""
    crossed = GaussianMixture(
        torch.zeros(2, 2), torch.tensor([[4.0, 0.5], [0.5, 4.0]], dtype=F64), SDE
    )
    assert EnergySum([gaussian(1.0, 2), crossed], [1, -0.9]).integrable(SDE.t_min) is None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EnergySum([]), r"models is empty"),
        (lambda: EnergySum(NARROW), r"must be a list of energy-based models"),
        (lambda: EnergySum([NARROW, "b"]), r"models\[1\]='b' is|models\[1\] is 'b'"),
        (
            lambda: EnergySum([NARROW, ScoreFunction(lambda x, t: -x, SDE)]),
            r"models\[1\] is a ScoreFunction, which has a score and no energy",
        ),
        (lambda: EnergySum([NARROW, gaussian(1.0, 1, VE())]), r"models\[1\] has VE"),
        (lambda: EnergySum([NARROW, WIDE], [1]), r"weights=\[1\] must have one entry per model, 2"),
        (lambda: EnergySum([NARROW], [0]), r"weights\[0\]=0 must be a finite number other than 0"),
        (lambda: EnergySum([NARROW], [math.nan]), r"weights\[0\]=nan must be"),
        (lambda: EnergySum([NARROW], None, [1, 2]), r"conditions=\[1, 2\] must have one entry"),
        (lambda: EnergyMixture([NARROW], [-1.0]), r"weights\[0\]=-1.0 must be"),
        (lambda: EnergyMixture([tilted(), NARROW]), r"log_z is missing: EnergyFunction"),
        (lambda: EnergyMixture([NARROW], log_z=["a"]), r"log_z\[0\]='a' must be a finite number"),
    ],
)
def test_what_cannot_be_composed_is_refused(make, says):
    with pytest.raises((ValueError, TypeError), match=says):
        make()


def test_diffused_targets_compose_without_a_condition():
    ring = TARGETS.create("ring").diffused(SDE)
    x = torch.ones(2, 2, dtype=F64)
    both = EnergySum([ring, EnergyFunction(lambda x, t, c: c, SDE)])
    told = torch.tensor([1.0, 2.0], dtype=F64)
    torch.testing.assert_close(both.energy(x, 0.5, told), ring.energy(x, 0.5) + told)
