"""Langevin correctors: their steps, their stationary distributions, and their place in the loop."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import AnnealedLangevin, Langevin, PredictorCorrector
from sde_score.samplers.problem import Problem
from sde_score.sdes import EDM, VE

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)


def gaussian(sde):
    return GaussianMixture(MEAN[None], COVARIANCE[None], sde)


def langevin_run(model, noise=None):
    return Problem(model, torch.ones(1), noise, None, lambda: None)


@pytest.mark.parametrize("snr", [0.1, 0.4])
def test_marginal_rule_keeps_the_distribution_of_unadjusted_langevin_exactly(sde, snr):
    """Stationary covariance S (1 - epsilon S^-1 / 2)^-1 and mean, with epsilon = 2 (snr sigma)^2;
    two steps in a row, by one call."""
    model, t = gaussian(sde), sde.time_of_log_snr(torch.tensor(0.0, dtype=torch.float64))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    mean, covariance = alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()
    epsilon = 2 * (snr * sigma) ** 2
    precision = torch.linalg.inv(covariance)
    stationary = torch.linalg.inv(precision - 0.5 * epsilon * precision @ precision)
    langevin = Langevin(snr=snr, steps=2, rule="marginal")
    (factor,) = langevin.factors(sde, t.reshape(1))
    inputs = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double()
    inputs[:, :2] += mean
    draws = iter([inputs[:, 2:4], inputs[:, 4:]])
    run = langevin_run(model, lambda: next(draws))
    out = langevin.correct(run, inputs[:, :2].clone(), t, factor)
    torch.testing.assert_close(out[0], mean)
    columns = (out[1:] - out[0]).mT
    of_start, of_noise = columns[:, :2], columns[:, 2:]
    again = of_start @ stationary @ of_start.mT + of_noise @ of_noise.mT
    torch.testing.assert_close(again, stationary, rtol=1e-12, atol=1e-14)
    contraction = torch.eye(2).double() - epsilon * precision
    torch.testing.assert_close(of_start, contraction @ contraction, rtol=1e-10, atol=1e-12)


def test_norm_rules_are_their_formulas(sde):
    """epsilon = 2 (snr |z| / |score|)^2, of each example or of the batch's mean norms."""
    model, t = gaussian(sde), sde.time_of_log_snr(torch.tensor(0.5, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 5, 2, dtype=torch.float64, generator=generator)
    score = model.score(x, t)
    norm_z, norm_score = ((v**2).sum(1).sqrt() for v in (z, score))
    times = torch.stack([t, sde.time_of_log_snr(1.5 + 0 * t)])
    of_rule = {
        "example": 2 * (0.3 * norm_z / norm_score) ** 2,
        "batch": 2 * (0.3 * norm_z.mean() / norm_score.mean()) ** 2
        * (sde.alpha(times[0]) / sde.alpha(times[1])) ** 2 * torch.ones(5).double(),
    }  # fmt: skip
    for rule, epsilon in of_rule.items():
        langevin = Langevin(snr=0.3, rule=rule)
        factors = langevin.factors(sde, times)
        want = x + epsilon[:, None] * score + (2 * epsilon[:, None]).sqrt() * z
        got = langevin.correct(langevin_run(model, lambda: z), x.clone(), t, factors[0])
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
        assert factors[1] == pytest.approx(factors[0], rel=1e-12)  # the last time has no next


def test_only_the_batch_rule_couples_neighbors():
    sde = VE(0.5, 10.0)
    model, t = gaussian(sde), torch.tensor(0.3, dtype=torch.float64)
    x, z = torch.randn(2, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for rule, coupled in (("marginal", False), ("example", False), ("batch", True)):
        langevin = Langevin(rule=rule)
        (factor,) = langevin.factors(sde, t.reshape(1))
        whole = langevin.correct(langevin_run(model, lambda: z), x.clone(), t, factor)
        part = langevin.correct(langevin_run(model, lambda: z[:2]), x[:2].clone(), t, factor)
        assert torch.equal(whole[:2], part) != coupled


def test_example_rule_tilts_the_stationary_distribution():
    """Gaussian data in 4 dimensions, variance 1: the rule's is ((D + 2) / D)^2 = 2.25, as the step
    scales with |z|^2 / |score|^2. The marginal rule's is 1 up to its step."""
    sde, count, dim = VE(0.5, 10.0), 4000, 4
    model, t = GaussianMixture(torch.zeros(1, dim), 0.75, sde), torch.tensor(0.0)
    generator = torch.Generator().manual_seed(2)

    def noise():
        return torch.randn(count, dim, generator=generator)

    x = noise()
    langevin = Langevin(snr=0.1, steps=1, rule="example")
    (factor,) = langevin.factors(sde, t.reshape(1))
    variances = []
    with torch.no_grad():
        for _ in range(400):
            x = langevin.correct(langevin_run(model, noise), x, t, factor)
            variances.append(x.square().mean().item())
    assert sum(variances[200:]) / 200 == pytest.approx(2.25, rel=0.08)


def test_correction_comes_before_prediction_and_at_every_time(recorder):
    """The model is asked for n times: corrector then predictor at each but the last, then the
    corrector and the denoised mean."""
    model = recorder(gaussian(VE(0.05, 9.0)))
    sampler = PredictorCorrector(steps=4, corrector="langevin(steps=2)")
    run = sampler(model, (3, 2), seed=0, trajectory=True, progress=False)
    times = sampler.times(model.sde)
    assert model.seen_times == [t for t in times.tolist() for _ in range(3)]
    assert model.kinds == ["score"] * 11 + ["denoise"]
    assert run.nfe == 12
    assert torch.equal(model.model.denoise(run.states[-2], times[-1]), run.samples)


def test_annealed_langevin_is_the_same_on_every_sde_in_units_of_alpha(sde, table):
    """x / alpha under any SDE is the state under sigma / alpha alone, noise for noise."""
    times = sde.time_of_log_snr(torch.linspace(-2, 2, 4, dtype=torch.float64))
    ratios = sde.sigma(times) / sde.alpha(times)
    plain = EDM(ratios[-1].item(), ratios[0].item())
    draws = torch.randn(8, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    states = []
    for distribution, stops in ((sde, times), (plain, ratios)):
        sampler = AnnealedLangevin(steps=4, grid=table(stops), steps_each=2, step_ratio=0.1)
        left = iter(draws)
        start = distribution.alpha(stops[0]) * torch.ones(3, 2, dtype=torch.float64)
        run = sampler(
            gaussian(distribution), start, noise=lambda left=left: next(left), trajectory=True,
            progress=False,
        )  # fmt: skip
        scales = distribution.alpha(stops)[:, None, None]
        states.append(torch.cat([run.states[:-1] / scales, run.samples[None]]))
    torch.testing.assert_close(states[0], states[1], rtol=1e-9, atol=1e-11)
