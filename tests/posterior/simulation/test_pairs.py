"""Pairs of parameters and simulations: what they are, and on what each depends."""

from __future__ import annotations

import pytest
import torch

from sde_score.models.exact import Mixture
from sde_score.posterior.simulation import Box, pairs


def noisy(theta, generator):
    """y = (2 theta_1 + noise, theta_2, theta_1 theta_2)."""
    noise = torch.randn(len(theta), generator=generator, dtype=torch.float64)
    columns = (2 * theta[:, 0] + 0.1 * noise, theta[:, 1], theta.prod(1))
    return torch.stack(columns, 1)


def test_pairs_are_parameters_and_what_was_simulated_of_them():
    box = Box([-1.0, 10.0], [1.0, 12.0])
    found = pairs(box, noisy, 500, names=("a", "b"), observed=("u", "v", "w"))
    theta, y = found.raw(), found.conditions
    assert (found.event_shape, found.condition_shape, len(found)) == ((2,), (3,), 500)
    assert (found.column_names, found.condition_names) == (("a", "b"), ("u", "v", "w"))
    assert bool(box.contains(theta).all())
    assert torch.equal(y[:, 1], theta[:, 1])
    assert float((y[:, 0] - 2 * theta[:, 0]).std()) == pytest.approx(0.1, rel=0.1)
    assert float(theta[:, 1].mean()) == pytest.approx(11, abs=0.1)
    assert float(found.batch(range(500)).condition.std()) == pytest.approx(1, abs=0.01)


def test_a_pair_depends_on_the_seed_and_its_number_alone():
    box = Box([-1.0, 10.0], [1.0, 12.0])
    few, many = pairs(box, noisy, 7, block=4), pairs(box, noisy, 30, block=4)
    assert torch.equal(few.raw(), many.raw()[:7])
    assert torch.equal(few.conditions, many.conditions[:7])
    assert len({float(value) for value in many.raw()[:, 0]}) == 30  # no block is another
    assert not torch.equal(few.raw(), pairs(box, noisy, 7, seed=1, block=4).raw())


def test_a_simulator_that_draws_by_itself_is_seeded_as_well():
    normal = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))

    def simulator(theta):
        return theta + torch.randn(theta.shape) + torch.poisson(torch.ones_like(theta))

    state = torch.get_rng_state()
    one, two = (pairs(normal, simulator, 20) for _ in range(2))
    assert torch.equal(one.raw(), two.raw())
    assert torch.equal(one.conditions, two.conditions)
    assert torch.equal(state, torch.get_rng_state())
    assert len(pairs(Mixture(), lambda theta: theta, 5)) == 5


def test_parameters_and_noise_are_independent():
    normal = torch.distributions.Normal(torch.zeros(1), torch.ones(1))

    def given(theta, generator):
        drawn = torch.randn(theta.shape, generator=generator)
        return torch.cat([drawn, torch.randn(theta.shape)], 1)

    def own(theta):
        return torch.cat([torch.randn(theta.shape), torch.poisson(5 * torch.ones_like(theta))], 1)

    for prior in (normal, lambda n, generator: torch.randn(n, 1, generator=generator)):
        for simulator in (given, own):
            found = pairs(prior, simulator, 1024)
            both = torch.cat([found.raw(), found.conditions], 1)
            apart = torch.corrcoef(both.T) - torch.eye(both.shape[1])
            assert float(apart.abs().max()) < 0.12


@pytest.mark.parametrize(
    ("prior", "simulator", "says"),
    [
        (Box([0], [1]), lambda theta: theta[:, 0], r"y of shape \(1024,\).*try y\[:, None\]"),
        (Box([0], [1]), lambda theta: theta.log() * 0 + torch.inf, "simulator.*infinity in 1024"),
        (Box([0], [1]), lambda theta: theta.numpy(), "simulator"),
        (Box([0], [1]), "noisy", "simulator"),
        (3, noisy, "prior"),
        (lambda n, generator: torch.zeros(n, 1, dtype=torch.int64), noisy, "prior"),
    ],
)
def test_what_returns_no_rows_is_named(prior, simulator, says):
    with pytest.raises((ValueError, TypeError), match=says):
        pairs(prior, simulator, 3)


def test_boxes_and_names_that_do_not_fit_are_refused():
    for low, high in (([0], [0]), ([0, 1], [2]), ([0], [torch.inf]), ("a", "b")):
        with pytest.raises(ValueError, match="low="):
            Box(low, high)
    with pytest.raises(ValueError, match="box of 1"):
        Box([0], [1]).contains(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="names"):
        pairs(Box([0], [1]), lambda theta: theta, 3, names=("a", "b"))
