"""Target score matching: two unbiased regression targets, and the best mixture of them.

Expectations over data and noise are exact: the loss of a linear score on Gaussian data is a
quadratic in both, and three Gauss-Hermite nodes integrate it without error.
"""

from __future__ import annotations

import pytest
import torch

from sde_score.models import Gaussian, GaussianMixture, ScoreFunction
from sde_score.objectives import DenoisingScoreMatching, TargetScoreMatching, create
from sde_score.sdes import VP

F64 = torch.float64
MEAN = torch.tensor([0.5, -1.1], dtype=F64)
COVARIANCE = torch.tensor([[0.9, 0.35], [0.35, 0.4]], dtype=F64)
PRECISION = torch.linalg.inv(COVARIANCE)
TARGET = Gaussian(mean=tuple(MEAN.tolist()), covariance=COVARIANCE)
INFORMATION = PRECISION.trace().item() / 2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def nodes(hermite):
    """Data, noise and weights."""
    points, weights = hermite(3, 4)
    return MEAN + points[:, :2] @ torch.linalg.cholesky(COVARIANCE).mT, points[:, 2:], weights


def mid_times(sde):
    return sde.time_of_log_snr(torch.tensor([-2.0, 0.3, 3.0], dtype=F64))


def expected(objective, model, t, nodes):
    x0, noise, weights = nodes
    return (objective.at(model, x0, t.expand(len(x0)), noise) * weights).sum()


def truth(sde):
    return GaussianMixture(MEAN[None], COVARIANCE[None], sde)


@pytest.mark.parametrize("mix", [None, 0.0, 0.4, 1.0])
def test_the_minimum_is_the_score_of_x_t_whatever_the_mixture(sde, newton, nodes, mix):
    objective = TargetScoreMatching(target=TARGET, mix=mix, information=INFORMATION)
    for t in mid_times(sde):

        def loss(parameters, t=t):
            matrix, shift = parameters[:4].reshape(2, 2), parameters[4:]
            model = ScoreFunction(lambda x, _: x @ matrix.mT + shift, sde)
            return expected(objective, model, t, nodes)

        best = newton(loss, 6)
        noisy = sde.alpha(t) ** 2 * COVARIANCE + sde.sigma(t) ** 2 * torch.eye(2, dtype=F64)
        want = -torch.linalg.inv(noisy)
        torch.testing.assert_close(best[:4].reshape(2, 2), want, rtol=1e-7, atol=1e-8)
        shift = -want @ (sde.alpha(t) * MEAN)
        torch.testing.assert_close(best[4:], shift, rtol=1e-7, atol=1e-8)


def test_each_mixture_leaves_the_variance_of_its_regression_target(sde, nodes):
    """At the truth: half the trace of Var(c P (m - x0) / alpha - (1 - c) noise / sigma | x_t).
    Given x_t, x0 has the covariance C = (P + alpha^2 / sigma^2)^-1 and the noise is
    -alpha / sigma of it."""
    eye = torch.eye(2, dtype=F64)
    for t in mid_times(sde):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        posterior = torch.linalg.inv(PRECISION + (alpha / sigma) ** 2 * eye)
        best = alpha**2 / (alpha**2 + sigma**2 * INFORMATION)
        for mix in (None, 0.0, 0.4, 1.0):
            c = best if mix is None else mix
            linear = -c * PRECISION / alpha + (1 - c) * alpha / sigma**2 * eye
            want = 0.5 * (linear @ posterior @ linear.mT).trace()
            objective = TargetScoreMatching(target=TARGET, mix=mix, information=INFORMATION)
            got = expected(objective, truth(sde), t, nodes)
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


def test_no_fixed_mixture_leaves_less_variance_than_the_best(sde, nodes):
    """The loss at the truth is a parabola in c; its lowest point is c*."""
    for t in mid_times(sde):
        values = [
            expected(TargetScoreMatching(target=TARGET, mix=c), truth(sde), t, nodes).item()
            for c in (0.0, 0.5, 1.0)
        ]
        curvature = 2 * (values[2] - 2 * values[1] + values[0])
        lowest = 0.5 - (values[2] - values[0]) / (2 * curvature)
        alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
        assert lowest == pytest.approx(alpha**2 / (alpha**2 + sigma**2 * INFORMATION), rel=1e-7)
        objective = TargetScoreMatching(target=TARGET, information=INFORMATION)
        least = values[1] - curvature * (lowest - 0.5) ** 2
        assert expected(objective, truth(sde), t, nodes).item() == pytest.approx(least, rel=1e-6)


def test_isotropic_gaussian_data_leave_no_variance_at_all(sde):
    """Every single example has the exact score as its regression target."""
    distribution = Gaussian(mean=(0.4, 1.0), covariance=((0.3, 0.0), (0.0, 0.3)))
    objective = TargetScoreMatching(target=distribution, information=1 / 0.3)
    model = GaussianMixture(torch.tensor([[0.4, 1.0]]).double(), 0.3, sde)
    x0 = distribution.sample(64, seeded(1))
    # Model and objective round the scales on their own, and sigma is small at some times.
    loss = objective(model, x0, generator=seeded(2))
    torch.testing.assert_close(loss, torch.zeros(64, dtype=F64), rtol=0, atol=1e-14)


def test_without_the_known_score_it_is_denoising(sde):
    """mix = 0 is denoising score matching summed over entries."""
    x0, noise = torch.randn(2, 5, 2, generator=seeded(3), dtype=F64)
    t = sde.time_of_log_snr(torch.linspace(-2, 3, 5, dtype=F64))
    model = ScoreFunction(lambda x, t: -0.7 * x, sde)
    got = TargetScoreMatching(target=TARGET, mix=0.0).at(model, x0, t, noise)
    want = DenoisingScoreMatching(weighting="unit").at(model, x0, t, noise)
    torch.testing.assert_close(got, want * x0.shape[1] / 2, rtol=1e-9, atol=0)


def test_the_whole_loss_is_weight_times_importance_times_the_plain_one(sde):
    """With the time sampler's own draws: importance / (sigma^2 / g^2) undoes the weight g^2."""
    x0, seen = TARGET.sample(6, seeded(4)), []

    def field(x, t):
        seen.append((x, t))
        return -x

    objective = TargetScoreMatching(
        target=TARGET, information=2.0, time_sampler="importance", weighting="likelihood"
    )
    got = objective(ScoreFunction(field, sde), x0, generator=seeded(5))
    ((x, t),) = seen
    noise = (x - sde.alpha(t)[:, None] * x0) / sde.sigma(t)[:, None]
    low, high = sde.log_snr_range
    scale = (high - low) / (sde.t_max - sde.t_min) * sde.sigma(t) ** 2
    want = scale * objective.at(ScoreFunction(lambda x, t: -x, sde), x0, t, noise)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-12)


def test_the_information_of_the_target_is_estimated_from_draws_that_never_change():
    """Within four standard errors of tr P / D; the square of an entry of the score has variance
    2 P_ii^2."""
    objective = TargetScoreMatching(target=TARGET)
    error = (2 * (PRECISION**2).sum() / 4 / 4096) ** 0.5
    assert objective._information == pytest.approx(INFORMATION, abs=4 * error.item())
    assert objective._information == TargetScoreMatching(target=TARGET)._information
    assert TargetScoreMatching(target=TARGET, information=2.5)._information == 2.5


def test_the_coefficients_are_finite_where_alpha_or_sigma_is_zero():
    class Ends:
        def alpha(self, t):
            return 1 - t

        def sigma(self, t):
            return t

    class Model:
        sde = Ends()

    objective = TargetScoreMatching(target=TARGET, information=2.0)
    on_target, on_noise = objective.coefficients(Model(), torch.tensor([0.0, 1.0], dtype=F64))
    torch.testing.assert_close(on_target, torch.tensor([1.0, 0.0], dtype=F64))
    torch.testing.assert_close(on_noise, torch.tensor([0.0, -1.0], dtype=F64))


def test_the_condition_and_the_parameters_are_reached():
    scale, seen = torch.tensor(-0.7, dtype=F64, requires_grad=True), []

    def field(x, t, condition):
        seen.append(condition)
        return scale * x

    x0, condition = TARGET.sample(4, seeded(4)), torch.arange(4)
    loss = TargetScoreMatching(target=TARGET)(ScoreFunction(field, VP()), x0, condition, seeded(1))
    loss.sum().backward()
    assert seen[0] is condition
    assert abs(scale.grad.item()) > 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="time_sampler=None leaves no noise to learn from"):
        TargetScoreMatching(target=TARGET, time_sampler=None)
    for mix in (-0.1, 1.1):
        with pytest.raises(ValueError, match="must lie between 0"):
            TargetScoreMatching(target=TARGET, mix=mix)
    with pytest.raises(ValueError, match="information=0 must be a finite number"):
        TargetScoreMatching(target=TARGET, information=0)
    with pytest.raises(ValueError, match="unknown target 'mixtures'"):
        create("target-score", target="mixtures")

    class ScoreOnly:
        def energy(self, x):
            return x

        score = energy_and_score = energy

    with pytest.raises(TypeError, match="target is a ScoreOnly, from which nothing can be drawn"):
        TargetScoreMatching(target=ScoreOnly())
    assert TargetScoreMatching(target=ScoreOnly(), mix=1.0).mix == 1.0
    assert create("target-score", target="mixture") == TargetScoreMatching(target="mixture")
