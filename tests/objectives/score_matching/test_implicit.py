"""Implicit score matching and Hutchinson's estimate of it, against traces known in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch

from sde_score.models import Marginal, ScoreFunction
from sde_score.objectives import HutchinsonScoreMatching, ImplicitScoreMatching
from sde_score.random import probes
from sde_score.sdes import VE

F64 = torch.float64
MATRIX = torch.tensor([[-1.3, 0.7, -0.2], [-0.4, -0.9, 0.5], [0.9, 0.3, -2.1]], dtype=F64)
SHIFT = torch.tensor([0.4, -1.2, 0.8], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def closed_form(data):
    """E |Ax + b|^2 / 2 + tr A on data of known moments."""
    mean_square = (MATRIX @ data.covariance @ MATRIX.mT).trace()
    return 0.5 * (mean_square + ((MATRIX @ data.mean + SHIFT) ** 2).sum()) + MATRIX.trace()


def test_a_linear_score_on_whitened_data_has_the_closed_form(gaussian, fields):
    data = gaussian(3)
    loss = ImplicitScoreMatching().losses(fields.linear(MATRIX, SHIFT), data.x)
    assert loss.mean().item() == pytest.approx(closed_form(data).item(), rel=1e-12)


def test_all_signs_together_are_the_closed_form(gaussian, fields, signs):
    data = gaussian(3)
    loss = HutchinsonScoreMatching().at(fields.linear(MATRIX, SHIFT), data.x, signs(data.x))
    assert loss.mean().item() == pytest.approx(closed_form(data).item(), rel=1e-12)


def test_a_quadratic_energy_has_the_closed_form_and_its_sign(gaussian, fields):
    """s = b - P x: E|s|^2 / 2 - tr P."""
    data = gaussian(3)
    precision = MATRIX @ MATRIX.mT
    square = (precision @ data.covariance @ precision).trace()
    square = square + ((SHIFT - precision @ data.mean) ** 2).sum()
    loss = ImplicitScoreMatching().losses(fields.quadratic(precision, SHIFT), data.x).mean()
    want = 0.5 * square - precision.trace()
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)


def test_the_trace_is_that_of_the_jacobian_example_by_example(nonlinear):
    for energy in (False, True):
        marginal, _ = nonlinear((2, 2), energy)
        x = torch.randn(3, 2, 2, generator=seeded(1), dtype=F64)
        got = ImplicitScoreMatching().losses(marginal, x)
        for i, example in enumerate(x):
            field = lambda y, m=marginal: m.score(y.reshape(1, 2, 2)).flatten()  # noqa: E731
            jacobian = torch.autograd.functional.jacobian(field, example.flatten())
            want = 0.5 * (field(example) ** 2).sum() + jacobian.trace()
            assert got[i].item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
def test_hutchinson_is_unbiased_in_value_and_gradient(nonlinear, signs, energy):
    """Over all 2^D Rademacher vectors, without any sampling."""
    marginal, parameters = nonlinear((2, 2), energy)
    x = torch.randn(3, 2, 2, generator=seeded(1), dtype=F64)
    exact = ImplicitScoreMatching().losses(marginal, x)
    estimate = HutchinsonScoreMatching().at(marginal, x, signs(x))
    torch.testing.assert_close(estimate, exact, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    wanted = torch.autograd.grad((weights * exact).sum(), parameters)
    got = torch.autograd.grad((weights * estimate).sum(), parameters)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


def finite_difference(loss, parameter, index, step=1e-5):
    with torch.no_grad():
        parameter[index] += step
        up = loss()
        parameter[index] -= 2 * step
        down = loss()
        parameter[index] += step
    return (up - down) / (2 * step)


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
def test_the_gradient_is_that_of_the_value(nonlinear, energy):
    """Differences of the value, so that nothing can be detached unnoticed."""
    marginal, parameters = nonlinear((3,), energy)
    x = torch.randn(4, 3, generator=seeded(2), dtype=F64)
    for objective in (ImplicitScoreMatching(), HutchinsonScoreMatching(probes=2)):

        def loss(objective=objective):
            return objective.losses(marginal, x, seeded(5)).mean()

        gradients = torch.autograd.grad(loss(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            index = (0,) * parameter.ndim
            want = finite_difference(loss, parameter, index).item()
            assert gradient[index].item() == pytest.approx(want, rel=1e-6, abs=1e-8)


def spherical_design():
    """The icosahedron: integrates degree five over the sphere without error."""
    golden = (1 + 5**0.5) / 2
    points = [
        torch.roll(torch.tensor([0.0, a, b * golden], dtype=F64), k)
        for a, b in itertools.product([-1.0, 1.0], repeat=2)
        for k in range(3)
    ]
    return 3**0.5 * torch.stack([p / p.norm() for p in points])


def test_the_variance_of_one_probe_is_that_of_its_distribution(fields, signs, hermite):
    """By rules that are exact for degree four; the score is linear with a Jacobian that is not
    symmetric, so the variance is that of the quadratic form of its symmetric part."""
    x = torch.zeros(1, 3, dtype=F64)
    symmetric = 0.5 * (MATRIX + MATRIX.mT)
    square, trace = (symmetric**2).sum(), symmetric.trace()
    gaussian_nodes, gaussian_weights = hermite(3, 3)
    rules = {
        "rademacher": (signs(x)[:, 0], torch.full((8,), 1 / 8, dtype=F64)),
        "gaussian": (gaussian_nodes, gaussian_weights),
        "sphere": (spherical_design(), torch.full((12,), 1 / 12, dtype=F64)),
    }
    want = {
        "rademacher": 2 * (square - (symmetric.diagonal() ** 2).sum()),
        "gaussian": 2 * square,
        "sphere": 2 * 3 / 5 * (square - trace**2 / 3),
    }
    marginal = fields.linear(MATRIX, SHIFT)
    for distribution, (nodes, weights) in rules.items():
        objective = HutchinsonScoreMatching(probe_distribution=distribution)
        values = torch.cat([objective.at(marginal, x, v.reshape(1, 1, 3)) for v in nodes])
        mean = (weights * values).sum()
        variance = (weights * (values - mean) ** 2).sum()
        assert mean.item() == pytest.approx((0.5 * SHIFT @ SHIFT + trace).item(), rel=1e-12)
        assert variance.item() == pytest.approx(want[distribution].item(), rel=1e-12), distribution


def test_n_probes_are_averaged(fields):
    """The bug of dividing by something else than n: the mean of single probes is the loss."""
    x = torch.randn(5, 3, generator=seeded(4), dtype=F64)
    marginal, vectors = fields.linear(MATRIX, SHIFT), probes(4, x, "gaussian", seeded(6))
    single = [HutchinsonScoreMatching().at(marginal, x, v[None]) for v in vectors]
    together = HutchinsonScoreMatching().at(marginal, x, vectors)
    torch.testing.assert_close(together, torch.stack(single).mean(0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_probes_are_drawn_from_the_generator_with_their_number_and_distribution(
    fields, distribution
):
    x = torch.randn(5, 3, generator=seeded(4), dtype=F64)
    objective = HutchinsonScoreMatching(probes=3, probe_distribution=distribution)
    marginal = fields.linear(MATRIX, SHIFT)
    want = objective.at(marginal, x, probes(3, x, distribution, seeded(8)))
    assert torch.equal(objective.losses(marginal, x, seeded(8)), want)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_on_isolated_points_there_is_no_lower_bound(tau):
    """s = -(x - x_i) / tau^2 around each point has the value -D / tau^2: -1, -100, -10^4 for each
    entry. Data that repeat need noise or a price on curvature."""
    points = torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=F64)

    def nearest(x, t):
        index = torch.cdist(x, points).argmin(1)
        return -(x - points[index]) / tau**2

    loss = ImplicitScoreMatching().losses(Marginal(ScoreFunction(nearest, VE())), points)
    torch.testing.assert_close(loss, torch.full((2,), -2 / tau**2, dtype=F64))


def test_nothing_is_recorded_where_gradients_are_off(nonlinear):
    marginal, _ = nonlinear((3,), energy=True)
    x = torch.randn(4, 3, generator=seeded(2), dtype=F64)
    for objective in (ImplicitScoreMatching(), HutchinsonScoreMatching()):
        want = objective.losses(marginal, x, seeded())
        with torch.no_grad():
            got = objective.losses(marginal, x, seeded())
        assert want.requires_grad
        assert not got.requires_grad
        assert torch.equal(got, want.detach())


def test_at_noise_levels_the_distribution_learned_is_that_of_x_t(sde, fields, gaussian):
    """Whatever the SDE: loss = importance * sigma^2 * weight * (loss at x_t)."""
    data, seen = gaussian(3), []

    def field(x, t):
        seen.append((x.detach(), t))
        return x @ MATRIX.mT + SHIFT

    objective = ImplicitScoreMatching(time_sampler="uniform", weighting="likelihood")
    assert objective.all_noise_levels
    assert not ImplicitScoreMatching().all_noise_levels
    got = objective(ScoreFunction(field, sde), data.x, generator=seeded(3))
    ((x, t),) = seen
    plain = 0.5 * ((x @ MATRIX.mT + SHIFT) ** 2).sum(1) + MATRIX.trace()
    torch.testing.assert_close(got.detach(), sde.diffusion(t) ** 2 * plain, rtol=1e-9, atol=0)
    noise = (x - sde.alpha(t)[:, None] * data.x) / sde.sigma(t)[:, None]
    assert noise.std().item() == pytest.approx(1, abs=4 / (2 * noise.numel()) ** 0.5)
    assert len(t.unique()) == len(t)


def test_without_a_time_sampler_the_model_is_asked_at_t_min_about_the_data(gaussian, sde):
    data, seen = gaussian(3), []

    def field(x, t):
        seen.append((x.detach(), t))
        return -x

    ImplicitScoreMatching()(ScoreFunction(field, sde), data.x)
    ((x, t),) = seen
    assert torch.equal(x, data.x)
    assert bool((t == sde.t_min).all())


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="probes=0 must be an integer of at least 1"):
        HutchinsonScoreMatching(probes=0)
    with pytest.raises(
        ValueError, match="probe_distribution='normal' is not known; accepted: rademacher"
    ):
        HutchinsonScoreMatching(probe_distribution="normal")
    with pytest.raises(ValueError, match="unknown time sampler 'unifrm'"):
        HutchinsonScoreMatching(time_sampler="unifrm")
