"""The variational bound in continuous time, term by term against closed forms and quadrature."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import kl_divergence

from sde_score.likelihood import (
    TIME_SAMPLINGS,
    GaussianDecoder,
    KernelEntropy,
    LevelDecoder,
    variational_bound,
)
from sde_score.likelihood.continuous_bound import noise_error
from sde_score.models import BaseModel, GaussianMixture, ScoreFunction, parametrization
from sde_score.random import example_seeds
from sde_score.sdes import VP


def Normal(mean, std):
    """torch's distribution, in float64."""
    return torch.distributions.Normal(
        *(torch.as_tensor(v, dtype=torch.float64) for v in (mean, std))
    )


MEAN, VARIANCE, DIM = 0.3, 0.49, 3
X0 = torch.tensor([[0.9, -0.4, 1.3], [0.2, 0.3, -1.1]], dtype=torch.float64)


def gaussian(sde, scale=1.0):
    """N(0.3, 0.49 I) in three dimensions, its score scaled by a number."""
    exact = GaussianMixture(torch.full((1, DIM), MEAN), VARIANCE, sde)
    return exact if scale == 1 else ScoreFunction(lambda x, t: scale * exact.score(x, t), sde)


class Truth:
    """Every term for Gaussian data in closed form, with r = variance alpha^2 / sigma^2.

    noise - noise_hat = (1 - c / (1 + r)) noise - c sqrt(r) / (1 + r) (x0 - m) / std for a score
    scaled by c, and d lambda = dr / r.
    """

    def __init__(self, sde, scale=1.0, x0=X0, start=None):
        self.sde, self.c, self.x0 = sde, scale, x0
        self.start = sde.t_min if start is None else start
        self.off = (x0 - MEAN).square().sum(1) / VARIANCE
        self.r_low, self.r_high = (
            VARIANCE * math.exp(sde.log_snr(t)) for t in (sde.t_max, self.start)
        )

    def squared_error(self, r):
        """E ||noise_hat - noise||^2."""
        return DIM * (1 - self.c / (1 + r)) ** 2 + self.c**2 * self.off * r / (1 + r) ** 2

    @property
    def diffusion(self):
        def integral(r):
            share = math.log(r / (1 + r))
            from_noise = math.log(r) - 2 * self.c * share + self.c**2 * (share + 1 / (1 + r))
            return 0.5 * (DIM * from_noise - self.c**2 * self.off / (1 + r))

        return integral(self.r_high) - integral(self.r_low)

    @property
    def prior(self):
        t = self.sde.t_max
        end = Normal(self.sde.alpha(t) * self.x0, self.sde.sigma(t))
        return kl_divergence(end, Normal(0.0, self.sde.prior_std)).sum(1)

    @property
    def entropy(self):
        return DIM * Normal(0.0, float(self.sde.sigma(self.start))).entropy()

    def reconstruction(self, std=None):
        t = self.start
        s = float(self.sde.sigma(t) / self.sde.alpha(t))
        std = s if std is None else std
        misses = 0.5 * (s / std) ** 2 * self.squared_error(self.r_high)
        return DIM * math.log(std * math.sqrt(2 * math.pi)) + misses

    def prior_mismatch(self):
        """E[log p_T(x_T) - log prior(x_T)] for the true distribution of x_T."""
        alpha, sigma = (float(f(self.sde.t_max)) for f in (self.sde.alpha, self.sde.sigma))
        var, prior = alpha**2 * VARIANCE + sigma**2, self.sde.prior_std**2
        about_mean = DIM * sigma**2 + alpha**2 * (self.x0 - MEAN).square().sum(1)
        about_zero = DIM * sigma**2 + alpha**2 * self.x0.square().sum(1)
        return 0.5 * (about_zero / prior - about_mean / var + DIM * math.log(prior / var))


def panels(edges, nodes=8):
    """Gauss-Legendre between the edges."""
    place, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(nodes))
    edges = torch.as_tensor(edges, dtype=torch.float64)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * place).flatten(), (half[:, None] * weight).flatten()


def hermite(nodes):
    """Nodes and weights of a standard normal expectation."""
    place, weight = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(nodes))
    return place, weight / math.sqrt(2 * math.pi)


def expected_error(model, x0, t):
    """E of `noise_error` at times t where it is a quadratic in the noise, exact at 2 D sigma
    points: shape (batch, times)."""
    points = math.sqrt(DIM) * torch.cat([torch.eye(DIM), -torch.eye(DIM)]).double()
    shape = (len(x0), len(t), len(points))
    rows = x0[:, None, None].expand(*shape, DIM).reshape(-1, DIM)
    noise = points.expand(*shape, DIM).reshape(-1, DIM)
    times = t[:, None].expand(shape).reshape(-1)
    return noise_error(model, rows, times, noise).reshape(shape).mean(2)


def test_diffusion_term_is_the_integral_in_closed_form(sde):
    """Quadrature in place of chance: noise at sigma points, log-SNR at Gauss nodes. With the score
    scaled by 0.9 the term grows by the closed-form amount."""
    model, u, weights = gaussian(sde, 0.9), *panels(torch.linspace(0, 1, 17), 4)
    t, weight = TIME_SAMPLINGS["log-snr"](sde, sde.t_min, u)
    got = expected_error(model, X0, t) @ (weights * weight)
    torch.testing.assert_close(got, Truth(sde, 0.9).diffusion, rtol=1e-6, atol=1e-6)
    assert bool((Truth(sde, 0.9).diffusion > Truth(sde).diffusion + 1e-2).all())


def test_time_samplings_cover_the_range_with_the_density_they_weigh_by(sde):
    """weight du = -d log-SNR: the derivative of log-SNR along u, by central differences."""
    later = float(sde.time_of_log_snr(4.0))
    for name, start in itertools.product(TIME_SAMPLINGS, (sde.t_min, later)):
        sample = functools.partial(TIME_SAMPLINGS[name], sde, start)
        ends = sample(torch.tensor([0.0, 1.0], dtype=torch.float64))[0]
        want = torch.tensor([start, sde.t_max], dtype=torch.float64)
        torch.testing.assert_close(ends, want, rtol=1e-9, atol=1e-12)
        u, h = torch.tensor([0.1, 0.5, 0.85], dtype=torch.float64), 1e-5
        rate = (sde.log_snr(sample(u - h)[0]) - sde.log_snr(sample(u + h)[0])) / (2 * h)
        torch.testing.assert_close(sample(u)[1], rate, rtol=1e-5, atol=1e-5)


@pytest.mark.paired("scale", [1.0, 0.9])
def test_estimated_terms_agree_with_closed_forms(sde, scale):
    found = variational_bound(gaussian(sde, scale), X0, draws=32, times=16)
    truth = Truth(sde, scale)
    torch.testing.assert_close(found.prior, truth.prior, rtol=1e-9, atol=1e-12)
    want = truth.prior + truth.diffusion + truth.reconstruction()
    assert bool(((found.nats - want).abs() < 4 * found.standard_error).all())
    assert bool((found.standard_error < 2).all())
    assert bool(((found.diffusion - truth.diffusion).abs() < 4 * found.standard_error).all())
    assert found.nfe == 32 * (16 + 1)


@pytest.mark.paired("residual", [GaussianDecoder(), KernelEntropy()])
def test_a_later_start_moves_cost_from_the_integral_to_the_residual(sde, residual):
    """Both in closed form from any start; 2000 rows of one example."""
    start = float(sde.time_of_log_snr(2.0))
    truth = Truth(sde, 0.9, X0[:1].expand(2000, DIM), start)
    found = variational_bound(
        gaussian(sde, 0.9), truth.x0, residual=residual, draws=1, times=4, start=start
    )
    decoded = isinstance(residual, GaussianDecoder)
    last = truth.reconstruction() if decoded else truth.entropy.expand(2000)
    for got, want in ((found.diffusion, truth.diffusion), (found.residual, last)):
        error = float(got.std()) / math.sqrt(2000)
        assert abs(float((got - want).mean())) < 4 * error + 1e-9
        assert error < 0.12
    assert bool((truth.diffusion < Truth(sde, 0.9, truth.x0).diffusion).all())


def test_reconstruction_is_the_normal_decoder_at_t_min(sde):
    """2000 rows of one example: their mean against the closed form, for two widths."""
    x0 = X0[:1].expand(2000, DIM)
    for std, tolerance in ((None, 0.12), (0.5, 0.04)):
        found = variational_bound(
            gaussian(sde, 0.9), x0, residual=GaussianDecoder(std), draws=1, times=1
        )
        want = float(Truth(sde, 0.9).reconstruction(std)[0])
        error = float(found.residual.std()) / math.sqrt(len(x0))
        assert error < tolerance / 4
        assert abs(float(found.residual.mean()) - want) < 4 * error + 1e-9


def test_perfect_score_leaves_no_gap_but_prior_and_decoder(sde):
    """bound - (-log p(x0)) = mismatch of the prior + gap of the decoder to the exact posterior of
    x0 given x at t_min: with both known, 1e-9 nats are left."""
    truth, variance = Truth(sde), VARIANCE
    log_p = Normal(MEAN, math.sqrt(variance)).log_prob(X0).sum(1)
    # exact posterior N(m_post, var_post): log p(x0 | x) = log p(x0) + log q(x | x0) - log p(x)
    t = sde.t_min
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    total = alpha**2 * variance + sigma**2
    off = (X0 - MEAN).square().sum(1)
    log_q = -truth.entropy
    log_marginal = -0.5 * (
        DIM * math.log(2 * math.pi * total) + (DIM * sigma**2 + alpha**2 * off) / total
    )
    exact_decoder = -(log_p + log_q - log_marginal)
    bound = truth.prior + truth.diffusion + exact_decoder - truth.prior_mismatch()
    torch.testing.assert_close(bound, -log_p, rtol=0, atol=1e-9)
    if sde.log_snr_range[1] > 9:  # a small t_min: the normal decoder is the posterior
        bound = truth.prior + truth.diffusion + truth.reconstruction() - truth.prior_mismatch()
        torch.testing.assert_close(bound, -log_p, rtol=0, atol=1e-3)
        assert bool((bound > -log_p - 1e-9).all())


def test_bound_of_a_mixture_is_tight_and_from_above(sde):
    """For a score that is not linear: KL(q_T || p_T) + diffusion + E[-log p(x0 | x)] with the exact
    posterior is -log p(x0) by Bayes' rule, all by quadrature; the decoder of the bound can
    only cost more."""
    means = torch.tensor([[-0.8], [0.5]])
    model = GaussianMixture(means, torch.tensor([0.09, 0.2]), sde, weights=[0.3, 0.7])
    x0 = torch.tensor([[0.1], [-1.0]], dtype=torch.float64)
    noise, mass = hermite(80)
    rows = x0.repeat_interleave(len(noise), 0)
    z = noise.repeat(len(x0))[:, None]

    def mean(values):
        return values.reshape(len(x0), -1) @ mass

    u, weights = panels(torch.linspace(0, 1, 20), 4)
    diffusion = torch.zeros(2, dtype=torch.float64)
    for t, share, weight in zip(
        *TIME_SAMPLINGS["log-snr"](sde, sde.t_min, u), weights, strict=True
    ):
        diffusion += weight * share * mean(noise_error(model, rows, t.expand(len(rows)), z))

    def log_q(t):
        return Normal(0.0, sde.sigma(t)).log_prob(sde.sigma(t) * noise) @ mass

    def log_p(t):
        return mean(model.log_prob(sde.perturb(rows, t, z), t))

    prior = log_q(sde.t_max) - log_p(sde.t_max)
    posterior = -(model.log_prob(x0) + log_q(sde.t_min) - log_p(sde.t_min))
    bound = prior + diffusion + posterior
    torch.testing.assert_close(bound, -model.log_prob(x0), rtol=0, atol=1e-5)
    x = sde.perturb(rows, sde.t_min, z)
    decoded = mean(GaussianDecoder()(model, rows, x, sde.t_min, None))
    assert bool((decoded > posterior - 1e-9).all())


def test_kernel_entropy_makes_it_the_bound_of_score_flow(sde):
    """The literal formula, -E log prior(x_T) + 1/2 int E[g^2 |s - grad|^2 - g^2 |grad|^2 - 2 div f]
    dt, by Gauss nodes in t: the identity with prior + diffusion + entropy is not used."""
    scale = 0.9
    model = gaussian(sde, scale)
    edges = sde.time_of_log_snr(torch.linspace(*reversed(sde.log_snr_range), 200).double())
    t, weights = panels(edges, 3)
    alpha, sigma, g2 = sde.alpha(t), sde.sigma(t), sde.diffusion(t) ** 2
    errors = expected_error(model, X0, t)
    literal = (
        g2 * (2 * errors - DIM) / sigma**2 - 2 * DIM * sde.alpha_derivative(t) / alpha
    ) @ weights
    end = sde.alpha(sde.t_max) * X0
    spread = DIM * sde.sigma(sde.t_max) ** 2
    prior = Normal(0.0, sde.prior_std).log_prob(end).sum(1) - 0.5 * spread / sde.prior_std**2
    want = 0.5 * literal - prior
    truth = Truth(sde, scale)
    torch.testing.assert_close(
        truth.prior + truth.diffusion + truth.entropy, want, rtol=1e-5, atol=1e-5
    )
    found = variational_bound(model, X0, residual=KernelEntropy(), draws=2, times=4)
    torch.testing.assert_close(found.residual, torch.full_like(found.residual, truth.entropy))
    assert found.nfe == 2 * 4
    decoded = variational_bound(model, X0, draws=2, times=4)
    assert torch.equal(found.diffusion, decoded.diffusion)


@pytest.mark.paired("prediction", ["data", "velocity", "score"], every=3)
def test_all_predictions_give_the_same_bound(sde, prediction):
    exact = gaussian(sde)
    method = {"data": exact.denoise, "velocity": exact.velocity, "score": exact.score}[prediction]

    class Told(BaseModel):
        _sde = sde

        def _predict(self, x, at, condition):
            return method(x, at.t)

        def _coefficients(self, at):
            return getattr(parametrization, prediction)(at)

    want = variational_bound(exact, X0, draws=2, times=6)
    got = variational_bound(Told(), X0, draws=2, times=6)
    torch.testing.assert_close(got.nats, want.nats, rtol=1e-7, atol=1e-7)


def same_example(rows, **options):
    """The estimate of one example under many seeds."""
    x0 = X0[:1].expand(rows, DIM)
    return variational_bound(gaussian(VP(0.4, 9.0), 0.9), x0, seed=7, **options)


def test_standard_errors_cover_the_truth():
    """95 % intervals of Student's t with 3 degrees of freedom, in 600 repetitions; and the mean
    square of the standard errors is the variance, though the times of a draw depend on each
    other."""
    found = same_example(600, draws=4, times=8)
    truth = Truth(VP(0.4, 9.0), 0.9)
    want = float((truth.prior + truth.diffusion + truth.reconstruction())[0])
    inside = ((found.nats - want).abs() < 3.182 * found.standard_error).double().mean()
    assert 0.92 < inside < 0.98
    ratio = float(found.standard_error.square().mean() / found.nats.var())
    assert 0.8 < ratio < 1.25
    assert bool(same_example(2, draws=1).standard_error.isnan().all())


def test_spread_times_importance_and_antithetic_noise_lower_the_variance():
    """Each at an equal number of evaluations, 16."""
    spread = same_example(600, draws=1, times=16).diffusion.var()
    independent = same_example(600, draws=16, times=1).diffusion.var()
    uniform = same_example(600, draws=1, times=16, time_sampling="uniform").diffusion
    opposite = same_example(600, draws=1, times=8, antithetic=True)
    single = same_example(600, draws=1, times=8)
    assert spread < 0.8 * independent
    assert spread < 0.3 * uniform.var()
    assert opposite.diffusion.var() < 0.95 * single.diffusion.var()
    assert opposite.nfe == 2 * single.nfe
    truth = Truth(VP(0.4, 9.0), 0.9).diffusion[0]
    found = opposite.diffusion
    assert abs(found.mean() - truth) < 4 * found.std() / math.sqrt(600)


def test_antithetic_noise_removes_what_is_odd_in_it():
    """A model of no noise at all: |noise|^2 is even, so both halves agree and nothing changes; one
    that returns x is odd in part."""
    sde = VP(0.4, 9.0)
    still = ScoreFunction(lambda x, t: torch.zeros_like(x), sde)
    both, one = (variational_bound(still, X0, antithetic=flag).diffusion for flag in (True, False))
    torch.testing.assert_close(both, one)


def test_value_of_an_example_does_not_depend_on_its_batch(sde):
    model, seeds = gaussian(sde), example_seeds(3, 2)
    whole = variational_bound(model, X0, draws=2, times=3, seed=3)
    for i in range(2):
        one = variational_bound(model, X0[i : i + 1], draws=2, times=3, seed=seeds[i : i + 1])
        torch.testing.assert_close(one.nats, whole.nats[i : i + 1])
        torch.testing.assert_close(one.standard_error, whole.standard_error[i : i + 1])
    other = variational_bound(model, X0, draws=2, times=3, seed=4)
    assert bool((other.nats != whole.nats).all())


def test_condition_and_event_shape_reach_the_model():
    seen = []

    def score(x, t, condition):
        seen.append((tuple(x.shape), condition.tolist()))
        return -x

    model = ScoreFunction(score, VP())
    x0 = torch.zeros(2, 1, 2, 2)
    found = variational_bound(model, x0, draws=1, times=2, condition=torch.tensor([4, 5]))
    assert seen == [((2, 1, 2, 2), [4, 5])] * 3
    assert found.nats.shape == (2,)
    assert found.nats.dtype == torch.float64
    assert not found.nats.requires_grad


CENTERS = (torch.arange(4, dtype=torch.float64)[:, None] + 0.5) / 2 - 1
WEIGHTS = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)


def test_levels_known_to_the_model_cost_their_code_length(sde):
    """Point masses at the centers of 4 levels, the exact score: the bound is -log weight up to the
    mismatch of the prior, and the bits of all levels together leave room for no fifth."""
    model = GaussianMixture(CENTERS, 0.0, sde, weights=WEIGHTS)
    rows = CENTERS.repeat_interleave(200, 0)
    decoder = LevelDecoder(4)
    found = variational_bound(model, rows, residual=decoder, draws=2, times=16)
    nats = found.nats.reshape(4, 200)
    error = nats.std(1) / math.sqrt(200)
    noise, mass = hermite(60)
    x = sde.perturb(CENTERS.repeat_interleave(60, 0), sde.t_max, noise.repeat(4)[:, None])
    prior = sde.prior(x.shape)
    mismatch = (model.log_prob(x, sde.t_max) - prior.log_prob(x)).reshape(4, 60) @ mass
    want = mismatch - WEIGHTS.log()
    assert bool(((nats.mean(1) - want).abs() < 4 * error + 1e-3).all())
    assert float((-nats.mean(1)).exp().sum()) <= 1 + 4 * float(error.max()) + 1e-3
    wide = GaussianMixture(CENTERS, 0.3, sde, weights=WEIGHTS)  # mass between and beyond
    loose = variational_bound(wide, rows, residual=decoder, draws=2, times=16).nats
    assert float((-loose.reshape(4, 200).mean(1)).exp().sum()) < 0.9


def test_level_decoder_is_the_mass_of_the_bin():
    """-log(Phi(b) - Phi(a)) around the denoised mean, by the normal distribution of torch."""
    sde = VP()
    model = GaussianMixture(torch.zeros(1, 2), 0.4, sde)
    x0 = torch.tensor([[-0.25, 0.75], [0.25, -0.75]], dtype=torch.float64)
    x = x0 + 0.1
    distribution = Normal(model.denoise(x, sde.t_min), 0.2)
    big = torch.tensor(1e3, dtype=torch.float64)
    low = torch.where(x0 < -0.5, -big, x0 - 0.25)
    high = torch.where(x0 > 0.5, big, x0 + 0.25)
    want = -(distribution.cdf(high) - distribution.cdf(low)).log().sum(1)
    got = LevelDecoder(4, std=0.2)(model, x0, x, sde.t_min, None)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    default = LevelDecoder(4)(model, x0, x0, sde.t_min, None)
    assert bool((default < 1e-6).all())  # sigma / alpha at t_min is 1e-3, half a bin is 0.25


REFUSED = [
    ({"model": torch.nn.Linear(1, 1)}, TypeError, "model is a Linear"),
    ({"x0": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x0 must be a floating-point"),
    ({"x0": torch.full((2, 3), torch.inf)}, ValueError, "x0 is not finite"),
    ({"draws": 0}, ValueError, "draws=0 must be an integer"),
    ({"times": 0}, ValueError, "times=0 must be an integer"),
    ({"time_sampling": "cosine"}, ValueError, "accepted: log-snr, uniform"),
    ({"start": 1.0}, ValueError, r"start=1.0 must be a time in \[1e-05, 1\)"),
    ({"start": 0.0}, ValueError, "start=0.0 must be a time in"),
    ({"condition": torch.zeros(3)}, ValueError, r"condition has shape \(3,\) for 2 examples"),
    ({"seed": [1]}, ValueError, "seed has 1 entries for 2 examples"),
]


@pytest.mark.parametrize(("change", "kind", "said"), REFUSED)
def test_refusals(change, kind, said):
    arguments = {"model": gaussian(VP()), "x0": X0} | change
    with pytest.raises(kind, match=said):
        variational_bound(**arguments)


def test_residuals_refuse_what_is_no_distribution():
    with pytest.raises(ValueError, match=r"std=0.0 must be a finite number greater than 0"):
        GaussianDecoder(0.0)
    with pytest.raises(ValueError, match="std=-1 must be"):
        LevelDecoder(4, std=-1)
    with pytest.raises(ValueError, match="count=1 must be an integer of at least 2"):
        LevelDecoder(1)
    with pytest.raises(ValueError, match="centers of 4 levels"):
        variational_bound(gaussian(VP()), X0, residual=LevelDecoder(4))
