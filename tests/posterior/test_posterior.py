"""Posteriors of normal distributions, which are known exactly, and the methods on them."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.posterior import (
    METHODS,
    Blur,
    LogLikelihood,
    Mask,
    Matrix,
    MeanPool,
    Measurement,
    Poisson,
    Posterior,
)
from sde_score.sdes import EDM, VE, VP, Rectified

SDES = [VP(), VE(0.01, 20.0), EDM(), Rectified()]


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prior_of(d, sde, seed=0):
    """Eigenvalues 1 / k^2, turned at random, about a mean."""
    turn = torch.linalg.qr(normal(d, d, seed=seed)).Q
    covariance = turn @ torch.diag(1 / torch.arange(1, d + 1, dtype=torch.float64) ** 2) @ turn.T
    return normal(1, d, seed=seed + 1), covariance[None], sde


def conditioned(mean, covariance, matrix, y, noise):
    """Mean and covariance given y = matrix x + N(0, noise)."""
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + noise)
    return mean + gain @ (y - matrix @ mean), covariance - gain @ matrix @ covariance


@pytest.mark.parametrize("sde", SDES, ids=str)
@pytest.mark.parametrize("noise", ["scalar", "entries", "full"])
def test_moment_matching_is_the_posterior_of_normal_distributions(sde, noise):
    mean, covariance, _ = prior_of(5, sde)
    matrix, y = normal(2, 5, seed=7), normal(2, seed=8)
    given = {
        "scalar": {"std": 0.3},
        "entries": {"std": torch.tensor([0.3, 0.1])},
        "full": {"covariance": torch.tensor([[0.2, 0.1], [0.1, 0.3]])},
    }[noise]
    full = given.get(
        "covariance", torch.diag(torch.as_tensor(given.get("std", 1)) ** 2 * torch.ones(2))
    )
    exact_mean, exact = conditioned(mean[0], covariance[0], matrix, y, full.double())
    exact_model = GaussianMixture(exact_mean[None], exact[None], sde)
    prior = GaussianMixture(mean, covariance, sde)
    posterior = Posterior(prior, Measurement(Matrix(matrix), y, **given), "mmps(tolerance=1e-10)")
    x = normal(4, 5, seed=3)
    for share in (0.1, 0.5, 0.9):
        t = sde.t_min + share * (sde.t_max - sde.t_min)
        for kind in ("denoise", "score", "velocity"):
            torch.testing.assert_close(
                getattr(posterior, kind)(x, t), getattr(exact_model, kind)(x, t),
                rtol=1e-5, atol=1e-6,
            )  # fmt: skip
    assert posterior.nfe == 9


OPERATORS = {
    "mask": Mask(torch.tensor([[True, False, True, True, False, False]])),
    "blur": Blur((1, 6), torch.tensor([0.25, 0.5, 0.25])),
    "pool": MeanPool((1, 6), 3),
    "random": Matrix(normal(3, 6), (1, 6)),
    "low-rank": Matrix(normal(4, 2) @ normal(2, 6, seed=1), (1, 6)),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("std", [0.05, 0.3, 1.0])
def test_every_method_is_its_formula(operator, std):
    """J, V and the inverse as matrices, in the place of pullbacks and conjugate gradients."""
    sde, t = VP(), 0.4
    mean, covariance, _ = prior_of(6, sde)
    prior = GaussianMixture(mean.reshape(1, 1, 6), covariance, sde)
    matrix = operator.matrix
    y = normal(*operator.measured_shape, seed=5)
    x = normal(3, 1, 6, seed=6)
    alpha, sigma = float(sde.alpha(torch.tensor(t))), float(sde.sigma(torch.tensor(t)))
    spread = alpha**2 * covariance[0] + sigma**2 * torch.eye(6, dtype=torch.float64)
    jacobian = alpha * covariance[0] @ torch.linalg.inv(spread)
    v = sigma**2 / alpha * jacobian
    d = prior.denoise(x, t).flatten(1)
    residual = y.flatten() - d @ matrix.T
    noise = std**2 * torch.eye(len(matrix), dtype=torch.float64)
    assumed = {
        "mmps(tolerance=1e-12)": v,
        "tmpd": torch.diag((sigma**2 / alpha * jacobian.sum(0)).clamp(min=0)),
        "pigdm": sigma**2 / (alpha**2 + sigma**2) * torch.eye(6, dtype=torch.float64),
        "sda(0.5)": None,
        "c-dps": torch.zeros(6, 6, dtype=torch.float64),
    }
    for method, c in assumed.items():
        measured = 0.5 * (sigma / alpha) ** 2 * torch.eye(len(matrix), dtype=torch.float64)
        measured = measured if c is None else matrix @ c @ matrix.T
        u = torch.linalg.solve(noise + measured, residual.T).T
        expected = prior.score(x, t).flatten(1) + u @ matrix @ jacobian
        posterior = Posterior(prior, Measurement(operator, y, std), method)
        torch.testing.assert_close(
            posterior.score(x, t).flatten(1), expected, rtol=1e-5, atol=1e-6, msg=method
        )


@pytest.mark.parametrize("method", METHODS)
def test_each_example_has_its_own_time(method):
    prior = GaussianMixture(*prior_of(3, VP()))
    seen = Measurement(Matrix(normal(2, 3)), normal(2, seed=1), 0.3)
    posterior = Posterior(prior, seen, method, samplers.create("ancestral", steps=9))
    x, times = normal(3, 3, seed=2), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    together = posterior.score(x, times)
    for i, t in enumerate(times):
        torch.testing.assert_close(together[i], posterior.score(x[i : i + 1], t)[0])


def test_published_dps_is_a_step_along_the_residual():
    """Ancestral steps by hand: x_s = mean of x_s given x0_hat - zeta grad |y - A D|, plus noise."""
    sde, zeta = VP(), 0.4
    prior = GaussianMixture([[0.3, -0.2, 0.1]], 0.5, sde)
    matrix, y = normal(2, 3), normal(2, seed=1)
    sampler = samplers.create("ancestral", steps=6)
    posterior = Posterior(prior, Measurement(Matrix(matrix), y, 0.1), f"dps({zeta})", sampler)
    start, draws = normal(4, 3, seed=2), iter(normal(10, 4, 3, seed=3))
    got = sampler(posterior, start, noise=lambda: next(draws), progress=False)
    x, draws, times = start, iter(normal(10, 4, 3, seed=3)), sampler.times(sde)
    for t, s in zip(times, [*times[1:], None], strict=True):
        point = x.clone().requires_grad_()
        x0 = prior.denoise(point, t)
        norm = (y - x0 @ matrix.T).norm(dim=1).sum()
        change = -zeta * torch.autograd.grad(norm, point)[0]
        x0 = x0.detach()
        if s is None:
            x = x0 + change
            break
        a_t, a_s, v_t, v_s = sde.alpha(t), sde.alpha(s), sde.sigma(t) ** 2, sde.sigma(s) ** 2
        kept = (a_t / a_s) * v_s / v_t
        mean = kept * x + a_s * (1 - (a_t / a_s) ** 2 * v_s / v_t) * x0
        var = v_s - kept**2 * v_t
        x = mean + change + var.sqrt() * next(draws)
    torch.testing.assert_close(got, x)


def test_any_likelihood_by_its_gradient():
    """A LogLikelihood that is a measurement's is that measurement; Poisson's by differences."""
    sde, t = VP(), 0.3
    prior = GaussianMixture([[0.5, 0.2, 0.4]], 0.3, sde)
    matrix, y = normal(2, 3), normal(2, seed=1)
    seen = Measurement(Matrix(matrix), y, 0.4)
    x = normal(3, 3, seed=2)
    expected = torch.distributions.MultivariateNormal(y, 0.16 * torch.eye(2).double())
    torch.testing.assert_close(seen.log_prob(x), expected.log_prob(x @ matrix.T))
    for method in ("c-dps", "lgd-mc"):
        alike = Posterior(prior, LogLikelihood(seen.log_prob), method)
        torch.testing.assert_close(alike.score(x, t), Posterior(prior, seen, method).score(x, t))
    counts = Poisson(Mask(torch.tensor([True, False, True])), torch.tensor([3.0, 0.0]), 4.0, 1.0)
    rate = 4 * (x[:, [0, 2]] + 1).clamp(min=1e-3)
    exact = torch.distributions.Poisson(rate).log_prob(torch.tensor([3.0, 0.0]).double()).sum(1)
    torch.testing.assert_close(counts.log_prob(x), exact)
    found = Posterior(prior, counts, "c-dps").score(x, t) - prior.score(x, t)

    def through(z):
        return counts.log_prob(prior.denoise(z, t))

    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        slope = (through(x + step) - through(x - step)) / 2e-6
        torch.testing.assert_close(found[:, i], slope, rtol=1e-5, atol=1e-6)


def test_one_draw_of_lgd_is_the_shifted_mean():
    """With one draw the average is the likelihood at D + r noise."""
    sde, t = VP(), 0.3
    prior = GaussianMixture([[0.5, 0.2]], 0.3, sde)
    seen = Measurement(Matrix(normal(1, 2)), normal(1, seed=1), 0.4)
    x = normal(3, 2, seed=2)
    noise = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = sde.alpha(time), sde.sigma(time)
    spread = sigma / (alpha**2 + sigma**2).sqrt()
    point = x.clone().requires_grad_()
    shifted = seen.log_prob(prior.denoise(point, t) + spread * noise).sum()
    expected = prior.score(x, t) + torch.autograd.grad(shifted, point)[0]
    torch.testing.assert_close(Posterior(prior, seen, "lgd-mc(1)").score(x, t), expected)


def test_posterior_samples_fit_the_observation_and_their_seed_alone():
    sde = VP()
    prior = GaussianMixture([[-1.0, 2.0], [1.0, -2.0]], 0.1, sde)
    seen = Measurement(Mask(torch.tensor([True, False])), torch.tensor([0.9]), 0.1)
    for method in ("mmps", "tmpd", "c-dps"):
        posterior = Posterior(prior, seen, method)
        whole = samplers.sample(posterior, "dpmpp-2m(steps=40)", (2,), 6, progress=False)
        parts = samplers.sample(
            posterior, "dpmpp-2m(steps=40)", (2,), 6, batch_size=4, progress=False
        )
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
        assert (whole[:, 1] < 0).sum() >= 4  # the mode that the first entry tells, for most
        assert (whole[:, 0] - 0.9).abs().max() < 0.5
    with torch.inference_mode():
        posterior.score(torch.zeros(1, 2), 0.5)


def test_wrong_observations_are_refused():
    operator = Matrix(torch.ones(2, 3))
    prior, x, y = GaussianMixture([[0.0, 0.0, 0.0]], 1.0, VP()), torch.ones(1, 3), torch.ones(2)
    wrong = LogLikelihood(lambda x: x)
    for make, said in [
        (lambda: Measurement(operator, x[0], 0.1), "is not what the operator measures"),
        (lambda: Measurement(operator, y), "one of std and covariance"),
        (lambda: Measurement(operator, y, 0.0), "must be positive"),
        (lambda: Measurement(operator, y, x[0]), "one for each entry"),
        (lambda: Measurement(operator, y, covariance=-torch.eye(2)), "positive definite"),
        (lambda: Measurement(operator, y * torch.nan, 1.0), "y is not finite"),
        (lambda: Poisson(operator, -y, 1.0), "negative counts"),
        (lambda: Posterior(prior, y), "accepted: a Measurement"),
        (lambda: Posterior(prior, wrong).score(x, 0.5), "MMPS needs a Measurement"),
        (lambda: Posterior(prior, wrong, "c-dps").score(x, 0.5), "one log-likelihood for each"),
        (
            lambda: Posterior(prior, Measurement(operator, y, 1.0), "dps").score(x, 0.5),
            "DPS has no times",
        ),
    ]:
        with pytest.raises((ValueError, TypeError), match=said):
            make()
