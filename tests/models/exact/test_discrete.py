"""Discrete targets, against sums over all states that are written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sde_score.models import (
    DiscreteTarget,
    IndependentSites,
    Ising,
    Potts,
    RestrictedBoltzmann,
    Sites,
    Target,
)
from sde_score.sdes import VP

F64 = torch.float64


def machine(visible=4, hidden=3, marginal=False, scale=0.9):
    generator = torch.Generator().manual_seed(visible + 10 * hidden)
    shapes = [(visible, hidden), (visible,), (hidden,)]
    numbers = [scale * torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]
    return RestrictedBoltzmann(*numbers, marginal=marginal)


def states(values, count):
    return itertools.product(values, repeat=count)


def machine_energy(rbm, v, h):
    pairs = sum(v[i] * h[j] * float(rbm.weight[i, j]) for i in range(len(v)) for j in range(len(h)))
    ends = sum(x * float(b) for x, b in zip(v, rbm.visible_bias, strict=True))
    return -pairs - ends - sum(x * float(b) for x, b in zip(h, rbm.hidden_bias, strict=True))


def neighbors(rows, columns, periodic):
    for i, j in itertools.product(range(rows), range(columns)):
        for k, m in ((i + 1, j), (i, j + 1)):
            if periodic or (k < rows and m < columns):
                yield i * columns + j, (k % rows) * columns + m % columns


def ising_energy(model, s):
    bonds = sum(s[a] * s[b] for a, b in neighbors(model.rows, model.columns, model.periodic))
    return -model.coupling * bonds - model.field * sum(s)


def potts_energy(model, s):
    bonds = sum(s[a] == s[b] for a, b in neighbors(model.rows, model.columns, model.periodic))
    return -model.coupling * bonds - model.field * sum(value == 0 for value in s)


def log_sum(energies):
    return math.log(math.fsum(math.exp(-energy) for energy in energies))


@pytest.mark.parametrize(("visible", "hidden"), [(4, 3), (3, 5), (1, 1)])
def test_a_boltzmann_machine_is_the_sum_over_both_layers(visible, hidden):
    rbm = machine(visible, hidden)
    pairs = [(v, h) for v in states((0, 1), visible) for h in states((0, 1), hidden)]
    energies = [machine_energy(rbm, v, h) for v, h in pairs]
    x = torch.tensor([v + h for v, h in pairs], dtype=F64)
    torch.testing.assert_close(rbm.energy(x), torch.tensor(energies, dtype=F64))
    assert rbm.log_z == pytest.approx(log_sum(energies), abs=1e-12)
    alone = machine(visible, hidden, marginal=True)
    assert alone.log_z == rbm.log_z
    v = torch.tensor(list(states((0, 1), visible)), dtype=F64)
    free = [
        -log_sum(machine_energy(rbm, u, h) for h in states((0, 1), hidden))
        for u in states((0, 1), visible)
    ]
    torch.testing.assert_close(alone.energy(v), torch.tensor(free, dtype=F64))
    torch.testing.assert_close(rbm.free_energy(v), alone.energy(v))


@pytest.mark.parametrize(
    "model",
    [
        Ising(3, 2, 0.7, 0.2),
        Ising(1, 5, -0.4),
        Ising(2, 4, 0.3, -0.5),
        Potts(2, 2, 3, 0.8, 0.3),
        Potts(1, 4, 4, -0.5),
        Potts(3, 2, 2, 1.0),
    ],
)
def test_grids_without_wrapping(model):
    potts = isinstance(model, Potts)
    values, energy = (range(model.states), potts_energy) if potts else ((-1, 1), ising_energy)
    every = list(states(values, model.rows * model.columns))
    want = [energy(model, s) for s in every]
    x = torch.tensor(every)
    x = torch.nn.functional.one_hot(x, model.states) if potts else x
    torch.testing.assert_close(
        model.energy(x.reshape(-1, *model.event_shape).double()), torch.tensor(want, dtype=F64)
    )
    assert model.log_z == pytest.approx(log_sum(want), abs=1e-12)


def test_periodic_grids_by_enumeration_and_the_published_ground():
    """Every site of a torus has 4 neighbors: 2 bonds per site, all of them satisfied."""
    for model in (Ising(4, 4, 0.3, 0.1, True), Potts(4, 4, 2, 0.5, 0.2, True)):
        assert model.log_z == pytest.approx(DiscreteTarget.log_z.fget(model), abs=1e-10)
    up = torch.ones(1, 4, 6, dtype=F64)
    torch.testing.assert_close(Ising(4, 6, 0.5, 0.0, True).energy(up), torch.tensor([-24.0]).to(up))
    mixed = torch.sign(torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))).double()
    want = [ising_energy(Ising(4, 4, 0.3, 0.1, True), s) for s in mixed.flatten(1).tolist()]
    torch.testing.assert_close(
        Ising(4, 4, 0.3, 0.1, True).energy(mixed), torch.tensor(want, dtype=F64)
    )


def test_long_grids_have_the_free_energy_of_onsager():
    """Periodic strips of width 10 near the infinite grid: -f = 1.0 at J = 0.3 to 1e-3."""
    model = Ising(10, 200, 0.3, 0.0, True)
    grid = torch.linspace(0, 2 * math.pi, 401, dtype=F64)[:-1]
    cosines = grid.cos()[:, None] + grid.cos()
    argument = math.cosh(0.6) ** 2 - math.sinh(0.6) * cosines
    onsager = math.log(2) + 0.5 * float(argument.log().mean())
    assert model.log_z / 2000 == pytest.approx(onsager, abs=1e-4)


@pytest.mark.parametrize(
    "model", [machine(), machine(marginal=True), machine(2, 4), Ising(2, 3, 0.4, 0.3), Potts(2, 2)]
)
def test_draws_have_the_probabilities(model):
    assert isinstance(model, Target)
    count = 20000
    x = model.sample(count, torch.Generator().manual_seed(0))
    model.sites.require_states("x", x)
    every = model.sites.states()
    chance = (model.log_prob(every)).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=1e-12)
    place = model.sites.choices ** torch.arange(model.sites.count)
    counts = torch.bincount((model.sites.indices(x) * place).sum(1), minlength=len(every))
    chi = float(((counts - count * chance) ** 2 / (count * chance)).sum())
    freedom = len(every) - 1
    assert abs(chi - freedom) < 5 * math.sqrt(2 * freedom)


def test_the_gradient_tells_what_a_change_of_a_site_costs():
    """For energies that are linear in each site, which those with blocks are."""
    for model in (machine(), Ising(2, 3, 0.4, 0.3), Potts(2, 2, 3, 0.8, 0.1)):
        sites, every = model.sites, model.sites.states()
        logits = sites.logits(model.score(every))
        now = sites.indices(every)
        for site, value in itertools.product(range(sites.count), range(sites.choices)):
            moved = now.clone()
            moved[:, site] = value
            rise = model.energy(sites.encoded(moved, every)) - model.energy(every)
            got = logits[:, site].gather(1, now[:, site : site + 1])[:, 0] - logits[:, site, value]
            torch.testing.assert_close(got, rise)
        assert sites.blocks is not None
        assert int(sum(block.long() for block in sites.blocks).min()) == 1


def test_values_are_kept_to_the_last_bit():
    sites = Sites((2,), (0.1, 0.7))
    assert set(sites.states().flatten().tolist()) == {0.1, 0.7}
    one = torch.ones(1, 2, dtype=F64)
    assert set(sites.logits(one).flatten().tolist()) == {0.1, 0.7}


def test_diffused_states_are_a_mixture_of_gaussians():
    model, sde = Ising(2, 2, 0.6, 0.2), VP()
    every = model.sites.states()
    x = torch.randn(5, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    diffused = model.diffused(sde)
    for t in (0.2, torch.linspace(0.1, 0.9, 5)):
        for i, time in enumerate(torch.as_tensor(t).expand(5).tolist()):
            alpha, sigma = float(sde.alpha(time)), float(sde.sigma(time))
            normal = torch.distributions.Normal(alpha * every, sigma)
            log_p = model.log_prob(every) + normal.log_prob(x[i]).sum((1, 2))
            torch.testing.assert_close(diffused.log_prob(x, t)[i], log_p.logsumexp(0))
            mean = (log_p.softmax(0)[:, None, None] * every).sum(0)
            torch.testing.assert_close(diffused.denoise(x, t)[i], mean)


def test_independent_sites_are_normalized_and_fit_frequencies():
    sites = Potts(1, 2).sites
    chances = torch.tensor([[1.0, 2.0, 3.0], [5.0, 1.0, 1.0]], dtype=F64)
    start = IndependentSites(sites, chances)
    every = sites.states()
    rows = torch.arange(2)
    want = (chances / chances.sum(1, keepdim=True))[rows, sites.indices(every)].prod(1)
    torch.testing.assert_close(start.log_prob(every).exp(), want)
    assert float(want.sum()) == pytest.approx(1)
    x = start.sample(30000, torch.Generator().manual_seed(1))
    share = sites.coordinates(x).mean(0)
    torch.testing.assert_close(share, chances / chances.sum(1, keepdim=True), atol=0.015, rtol=0)
    fitted = IndependentSites.fit(sites, x[:10])
    seen = sites.coordinates(x[:10]).sum(0) + 1
    torch.testing.assert_close(fitted.probabilities, seen / 13)
    uniform = IndependentSites(Ising(2, 2).sites)
    torch.testing.assert_close(
        uniform.energy(Ising(2, 2).sites.states()), torch.full((16,), 4 * math.log(2), dtype=F64)
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: machine(4, 3).sites.require_states("x", torch.full((1, 7), 0.5)), r"0 or 1"),
        (lambda: Potts().sites.require_states("x", torch.zeros(1, 3, 3, 3)), r"x has .* one-hot"),
        (lambda: Ising().sites.require_states("x", torch.ones(1, 3)), r"x has event shape \(3,\)"),
        (lambda: Ising(0), r"rows=0"),
        (lambda: Ising(3, 4, periodic=True), r"rows=3 and columns=4 must be even and at least 4"),
        (lambda: Potts(states=1), r"states=1"),
        (lambda: Ising(coupling=math.inf), r"coupling=inf"),
        (lambda: Ising(11, 12).log_z, r"log_z is exact .* 2\^11"),
        (lambda: Ising(5, 5).sample(3), r"25 sites of 2 values have too many states"),
        (lambda: RestrictedBoltzmann([[1.0]], [0.0, 1.0], [0.0]), r"weight of shape \(1, 1\)"),
        (lambda: RestrictedBoltzmann([[math.nan]], [0.0], [0.0]), r"weight"),
        (lambda: IndependentSites(Sites((2,)), torch.ones(2, 3)), r"probabilities must be"),
        (lambda: IndependentSites(Sites((2,)), torch.zeros(2, 2)), r"probabilities must be"),
    ],
)
def test_what_is_no_model_or_no_state_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
