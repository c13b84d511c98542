"""Kernel Stein discrepancy: its matrix by autograd, its expected value by quadrature, its test."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sde_score.models import EnergyFunction, Marginal, ScoreFunction
from sde_score.objectives import STEIN_KERNELS, SteinDiscrepancy, stein_test
from sde_score.objectives.score_matching.stein import stein_matrix
from sde_score.sdes import VP

F64 = torch.float64
KERNELS = list(STEIN_KERNELS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def kernel_of(name, x, y, length):
    """The kernel between two points."""
    square = ((x - y) ** 2).sum() / length**2
    return (1 + square) ** -0.5 if name == "imq" else torch.exp(-square / 2)


def by_definition(name, x, y, s_x, s_y, length):
    """s.s' k + s.grad_y k + s'.grad_x k + trace of the mixed derivatives, by autograd."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = kernel_of(name, x, y, length)
    at_x, at_y = torch.autograd.grad(value, [x, y], create_graph=True)
    trace = sum(torch.autograd.grad(at_x[i], y, retain_graph=True)[0][i] for i in range(len(x)))
    return ((s_x * s_y).sum() * value + (s_x * at_y).sum() + (s_y * at_x).sum() + trace).item()


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", KERNELS)
def test_the_matrix_is_the_definition(name, dim):
    x, s = 2 + draws(5, dim), draws(5, dim, seed=1)
    got = stein_matrix(x, s, name, 1.3)
    for i in range(5):
        for j in range(5):
            if i != j:
                want = by_definition(name, x[i], x[j], s[i], s[j], 1.3)
                assert got[i, j].item() == pytest.approx(want, rel=1e-11, abs=1e-12)
        # On the diagonal k = 1, its slopes are 0, and the trace is that of -2 phi'(0) I / l^2.
        own = (s[i] @ s[i]).item() + dim / 1.3**2
        assert got[i, i].item() == pytest.approx(own, rel=1e-12)


def test_the_median_is_that_of_the_distances():
    x, s = draws(7, 2), draws(7, 2, seed=1)
    distances = torch.pdist(x)
    want = stein_matrix(x, s, "imq", distances.median().item())
    torch.testing.assert_close(stein_matrix(x, s), want)
    doubled = torch.cat([x, x])
    twice = stein_matrix(doubled, torch.cat([s, s]))
    assert bool(twice.isfinite().all())
    alike = stein_matrix(torch.ones(3, 2, dtype=F64), torch.zeros(3, 2, dtype=F64))
    torch.testing.assert_close(alike, torch.full((3, 3), 2.0, dtype=F64))


def gaussian_quadrature(hermite, mean, variance, count=120):
    nodes, weights = hermite(count, 1)
    return mean + variance**0.5 * nodes, weights


@pytest.mark.parametrize("name", KERNELS)
def test_in_expectation_it_is_zero_for_the_right_score_and_positive_for_others(hermite, name):
    """E u = E d(x) k(x, x') d(x'), d the error of the score (Liu, Lee & Jordan 2016, thm 3.6):
    quadrature over both points, with the kernel written out here."""
    mean, variance, length = 0.4, 0.8, 1.5
    x, weights = gaussian_quadrature(hermite, mean, variance)
    right = -(x - mean) / variance
    assert weights @ stein_matrix(x, right, name, length) @ weights == pytest.approx(0, abs=1e-10)
    square = (x - x.mT) ** 2 / length**2
    kernel = (1 + square) ** -0.5 if name == "imq" else torch.exp(-square / 2)
    for slope, shift in ((-0.7, 0.1), (-2.0, 0.5), (0.0, 0.0)):
        score = slope * x + shift
        error = (score - right)[:, 0] * weights
        want = error @ kernel @ error
        got = weights @ stein_matrix(x, score, name, length) @ weights
        assert got.item() == pytest.approx(want.item(), abs=1e-10)
        assert got > 1e-3


@pytest.mark.parametrize("name", KERNELS)
def test_its_minimum_over_linear_scores_is_the_true_one(hermite, newton, name):
    """The expected loss is a quadratic in slope and shift; the sign is that of a density."""
    mean, variance = 0.4, 0.8
    x, weights = gaussian_quadrature(hermite, mean, variance)

    def loss(parameters):
        score = parameters[0] * x + parameters[1]
        return weights @ stein_matrix(x, score, name, 1.2) @ weights

    want = torch.tensor([-1 / variance, mean / variance], dtype=F64)
    torch.testing.assert_close(newton(loss, 2), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("event", [(3,), (2, 2)])
@pytest.mark.parametrize("name", KERNELS)
def test_the_batch_mean_is_the_u_statistic(name, event, nonlinear):
    """Row i is the mean of u(x_i, x_j) over the others, so that the mean is that over pairs."""
    marginal, _ = nonlinear(event)
    x = draws(6, *event)
    objective = SteinDiscrepancy(kernel=name, bandwidth=0.9)
    losses = objective(marginal.model, x)
    flat, s = x.flatten(1), marginal.score(x).detach().flatten(1)
    pairs = [
        [by_definition(name, flat[i], flat[j], s[i], s[j], 0.9) for j in range(6)] for i in range(6)
    ]
    want = torch.tensor([sum(r[:i] + r[i + 1 :]) / 5 for i, r in enumerate(pairs)], dtype=F64)
    torch.testing.assert_close(losses, want)


def test_the_gradient_is_that_of_the_score_alone(nonlinear):
    marginal, parameters = nonlinear((2,))
    x = draws(6, 2)
    losses = SteinDiscrepancy(bandwidth=1.1)(marginal.model, x)
    score = marginal.score(x)
    matrix = stein_matrix(x, score, "imq", 1.1)
    want = (matrix.sum() - matrix.diagonal().sum()) / 30
    got = torch.autograd.grad(losses.mean(), parameters)
    for a, b in zip(got, torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(a, b)
        assert b.abs().max() > 1e-4


def test_single_precision_far_from_the_origin_is_precise():
    x, s = draws(8, 3).float(), draws(8, 3, seed=1).float()
    near = stein_matrix(x, s, "imq", 1.0)
    far = stein_matrix((x + 4096).float(), s, "imq", 1.0)
    torch.testing.assert_close(far, near, rtol=0, atol=5e-3)
    exact = stein_matrix(x.double() + 4096, s.double(), "imq", 1.0)
    torch.testing.assert_close(exact, near, rtol=0, atol=1e-9)


def normal_distribution(mean=0.0, variance=1.0):
    return Marginal(ScoreFunction(lambda x, t: -(x - mean) / variance, VP()))


@pytest.mark.parametrize("name", KERNELS)
def test_p_values_are_uniform_where_the_distribution_is_right(name):
    p = [
        stein_test(normal_distribution(), draws(40, 2, seed=i), name, 1.0, 150, seeded(i)).p_value
        for i in range(250)
    ]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert abs(sum(p) / 250 - 0.5) < 4 / (12 * 250) ** 0.5


@pytest.mark.parametrize(("mean", "variance"), [(0.6, 1.0), (0.0, 2.2), (0.0, 0.45)])
@pytest.mark.parametrize("name", KERNELS)
def test_a_wrong_distribution_is_found(name, mean, variance):
    p = [
        stein_test(
            normal_distribution(mean, variance), draws(150, 2, seed=i), name, "median", 200
        ).p_value
        for i in range(5)
    ]
    assert max(p) < 0.05


def test_the_statistic_is_n_times_the_loss_and_the_p_value_counts():
    x, distribution = draws(12, 2), normal_distribution(0.3)
    result = stein_test(distribution, x, "rbf", 1.2, 99, seeded(4))
    losses = SteinDiscrepancy(kernel="rbf", bandwidth=1.2)(distribution.model, x)
    assert result.statistic == pytest.approx(12 * losses.mean().item())
    matrix = stein_matrix(x, distribution.score(x), "rbf", 1.2)
    signs = torch.randn(99, 12, generator=seeded(4), dtype=F64).sign()
    larger = 0
    for row in signs:
        pairs = row[:, None] * row * matrix
        larger += (pairs.sum() - pairs.diagonal().sum()).item() / 11 >= result.statistic
    assert result.p_value == pytest.approx((1 + larger) / 100)
    assert 0 < larger < 99
    far = stein_test(normal_distribution(5.0), x, bootstrap=99, generator=seeded())
    assert far.p_value == pytest.approx(1 / 100)


def test_the_test_leaves_no_graph_and_hides_no_bad_number():
    energy = EnergyFunction(lambda x, t: 0.5 * (x**2).sum(1), VP())
    x = draws(10, 2).requires_grad_()
    assert math.isfinite(stein_test(Marginal(energy), x, bootstrap=9).statistic)
    broken = Marginal(ScoreFunction(lambda x, t: x * torch.nan, VP()))
    result = stein_test(broken, draws(10, 2), bootstrap=9)
    assert math.isnan(result.statistic)
    assert math.isnan(result.p_value)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="kernel='gauss' is not known; accepted: imq, rbf"):
        SteinDiscrepancy(kernel="gauss")
    with pytest.raises(ValueError, match=r"bandwidth='mean' is not known; .*accepted: median"):
        SteinDiscrepancy(bandwidth="mean")
    with pytest.raises(ValueError, match=r"bandwidth=0\.0 must be"):
        SteinDiscrepancy(bandwidth=0.0)
    for call in (SteinDiscrepancy(), stein_test):
        with pytest.raises(ValueError, match="pairs"):
            call(
                normal_distribution().model if call is not stein_test else normal_distribution(),
                draws(1, 2),
            )
    with pytest.raises(ValueError, match="bootstrap=0"):
        stein_test(normal_distribution(), draws(5, 2), bootstrap=0)
    with pytest.raises(ValueError, match="kernel"):
        stein_test(normal_distribution(), draws(5, 2), "gauss")
    with pytest.raises(ValueError, match="score has shape"):
        stein_matrix(draws(4, 2), draws(4, 1))
