"""Gaussian data make every step affine in the start and the noise, so the law of a sampler's output
is known exactly from unit inputs: no Monte Carlo, and a wrong factor cannot hide.

The truth is the marginal N(alpha m, alpha^2 S + sigma^2 I) of the diffusion at the last time, to
which a method of order p must converge as steps^-p; for ODE methods the map itself must become the
exact flow.
"""

from __future__ import annotations

import math

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import (
    DDIM,
    GRIDS,
    Ancestral,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
)
from sde_score.sdes import EDM, VE

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)

STOCHASTIC = {
    "euler-maruyama": lambda n, **way: EulerMaruyama(steps=n, **way),
    "euler-maruyama, half": lambda n, **way: EulerMaruyama(steps=n, eta=0.5, **way),
    "reverse-diffusion": lambda n, **way: ReverseDiffusion(steps=n, **way),
    "reverse-diffusion, half": lambda n, **way: ReverseDiffusion(steps=n, eta=0.5, **way),
    "ancestral, posterior": lambda n, **way: Ancestral(steps=n, **way),
    "ancestral, transition": lambda n, **way: Ancestral(steps=n, variance="transition", **way),
    "ddim, 1": lambda n, **way: DDIM(steps=n, eta=1.0, **way),
    "ddim, half": lambda n, **way: DDIM(steps=n, eta=0.5, **way),
    # The corrector's total time stays fixed as the steps grow, so that its own error vanishes.
    "pc": lambda n, **way: PredictorCorrector(
        steps=n, corrector=Langevin(snr=0.8 * n**-0.5, steps=2), **way
    ),
    "heun, churn": lambda n, **way: Heun(steps=n, churn=3.0, **way),
}
DETERMINISTIC = {
    "euler": lambda n, **way: EulerMaruyama(steps=n, eta=0.0, **way),
    "reverse-diffusion": lambda n, **way: ReverseDiffusion(steps=n, eta=0.0, **way),
    "ddim": lambda n, **way: DDIM(steps=n, **way),
    "heun": lambda n, **way: Heun(steps=n, **way),
}
ORDERS = {"heun": 2, "heun, churn": 2}


def gaussian(sde, mean=MEAN, covariance=COVARIANCE):
    return GaussianMixture(mean[None], covariance[None], sde)


def root(matrix, power=0.5):
    values, axes = torch.linalg.eigh(matrix)
    return axes @ torch.diag(values**power) @ axes.mT


def marginal(sde, t):
    """Exact mean and covariance of x_t."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()


def affine(sampler, model):
    """Output at start 0 and no noise, and the output's columns for each unit of start and noise."""
    count = 0

    def counted():
        nonlocal count
        count += 1
        return torch.zeros(1, 2).double()

    sampler(model, torch.zeros(1, 2).double(), noise=counted, progress=False)
    inputs = torch.eye(2 * (count + 1), dtype=torch.float64).reshape(-1, count + 1, 2)
    inputs = torch.cat([torch.zeros(1, count + 1, 2).double(), inputs])
    draws = iter(inputs[:, 1:].unbind(1))
    out = sampler(model, inputs[:, 0], noise=lambda: next(draws), progress=False)
    columns = (out[1:] - out[0]).mT
    return out[0], columns[:, :2], columns[:, 2:]


def law(sampler, model):
    """Exact mean and covariance of the output for an exact start."""
    offset, of_start, of_noise = affine(sampler, model)
    mean, covariance = marginal(model.sde, sampler.times(model.sde)[0])
    return offset + of_start @ mean, of_start @ covariance @ of_start.mT + of_noise @ of_noise.mT


def span(sde):
    """A time of much noise and one of little; between them forty steps are small steps."""
    return sde.time_of_log_snr(torch.tensor([-3.5, 3.0], dtype=torch.float64))


@pytest.fixture(params=["time", "log_snr"])
def spaced(request, table):
    """`(sde, steps) -> grid` over `span`, even in time or in log-SNR."""

    def build(sde, steps):
        first, last = span(sde)
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        if request.param == "time":
            return table(first + u * (last - first))
        first, last = sde.log_snr(first), sde.log_snr(last)
        return table(sde.time_of_log_snr(first + u * (last - first)))

    return build


def slope(steps, errors):
    """Order of convergence between the two finest runs."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


@pytest.mark.parametrize("name", STOCHASTIC)
def test_law_of_stochastic_samplers_converges_to_the_marginal(sde, name, spaced):
    model, steps = gaussian(sde), (192, 384) if name == "euler-maruyama" else (48, 96)
    mean, covariance = marginal(sde, span(sde)[1])
    samplers_of = (STOCHASTIC[name](n, grid=spaced(sde, n), denoise=False) for n in steps)
    laws = [law(sampler, model) for sampler in samplers_of]
    for truth, got in ((mean, [m for m, _ in laws]), (covariance, [c for _, c in laws])):
        errors = [(value - truth).norm().item() for value in got]
        assert errors[-1] < 0.2 * truth.norm()
        assert errors[-1] < 1e-9 or slope(steps, errors) == pytest.approx(
            ORDERS.get(name, 1), abs=0.2
        ), errors


@pytest.mark.parametrize("corrector", ["none", "langevin(steps=1)"])
@pytest.mark.parametrize(
    "predictor", ["euler-maruyama", "reverse-diffusion", "ancestral", "ddim", "ddim(eta=0.5)"]
)
def test_any_predictor_goes_with_any_corrector_on_any_sde(sde, predictor, corrector, table):
    first, last = sde.log_snr(span(sde))
    grid = table(sde.time_of_log_snr(torch.linspace(first, last, 151, dtype=torch.float64)))
    sampler = PredictorCorrector(
        steps=150, grid=grid, denoise=False, predictor=predictor, corrector=corrector
    )
    mean, covariance = law(sampler, gaussian(sde))
    mean_end, at_end = marginal(sde, span(sde)[1])
    assert (mean - mean_end).norm() < 0.02 * mean_end.norm()
    assert (covariance - at_end).norm() < 0.04 * at_end.norm()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ode_samplers_converge_to_the_exact_flow(sde, name, spaced):
    """x_t = alpha_t m + S_t^1/2 S_T^-1/2 (x_T - alpha_T m)."""
    model, steps, errors = gaussian(sde), (48, 96), []
    (mean_start, at_start), (mean_end, at_end) = (marginal(sde, t) for t in span(sde))
    flow = root(at_end) @ root(at_start, -0.5)
    for n in steps:
        sampler = DETERMINISTIC[name](n, grid=spaced(sde, n), denoise=False)
        assert not sampler.stochastic
        offset, of_start, of_noise = affine(sampler, model)
        assert of_noise.numel() == 0
        shift = offset + of_start @ mean_start - mean_end
        errors.append(math.hypot((of_start - flow).norm().item(), shift.norm().item()))
    assert errors[-1] < 0.1 * flow.norm()
    assert slope(steps, errors) == pytest.approx(ORDERS.get(name, 1), abs=0.2), errors


@pytest.mark.parametrize("solver", ["dopri5", "scipy"])
def test_black_box_ode_meets_its_tolerance_on_the_exact_flow(sde, solver):
    model, end = gaussian(sde), span(sde)[1].item()
    (mean_start, at_start), (mean_end, at_end) = marginal(sde, sde.t_max), marginal(sde, end)
    start = mean_start + torch.tensor([[0.3, -1.2], [2.0, 0.4]]).double() * sde.sigma(sde.t_max)
    truth = mean_end + (start - mean_start) @ (root(at_end) @ root(at_start, -0.5)).mT
    errors = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        sampler = samplers.create(
            "ode", solver=solver, rtol=tolerance, atol=tolerance, denoise=False, steps=3,
            grid=GRIDS.create("uniform", end=end),
        )  # fmt: skip
        got = sampler(model, start, progress=False)
        errors.append((got - truth).norm().item())
        assert errors[-1] < 200 * tolerance
    assert errors[2] < 1e-2 * errors[1] < 1e-3 * errors[0]


def test_eta_1_of_ddim_is_ancestral_sampling_and_eta_0_has_no_noise(sde):
    t = sde.time_of_log_snr(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    s = sde.time_of_log_snr(torch.tensor([0.5, 2.5], dtype=torch.float64))
    ancestral, ddim = Ancestral().coefficients(sde, t, s), DDIM(eta=1.0).coefficients(sde, t, s)
    for got, want in zip(ddim, ancestral, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    assert DDIM().coefficients(sde, t, s)[2].tolist() == [0, 0]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_exact_in_one_step_for_one_data_point(sde, eta):
    """With all data at m, the denoiser is constant and the step's law is that of x_s."""
    t, s = (sde.time_of_log_snr(v).reshape(1) for v in (-1.0, 2.0))
    a, b, c = DDIM(eta=eta).coefficients(sde, t, s)
    # x_t = alpha m + sigma e has score -e / sigma
    on_noise = a * sde.sigma(t) - b / sde.sigma(t)
    torch.testing.assert_close(a * sde.alpha(t), sde.alpha(s), rtol=1e-12, atol=0)
    torch.testing.assert_close(on_noise**2 + c**2, sde.sigma(s) ** 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sde", [VE(0.05, 9.0), EDM(0.05, 9.0)], ids=["VE", "EDM"])
def test_ancestral_with_transition_variance_has_the_wide_law(sde):
    """On data N(m, v I) one exact step from an exact start: variance in closed form."""
    t, s = (sde.time_of_log_snr(v).reshape(1) for v in (-1.0, 2.0))
    a, b, c = Ancestral(variance="transition").coefficients(sde, t, s)
    torch.testing.assert_close(c**2, sde.sigma(t) ** 2 - sde.sigma(s) ** 2)
    torch.testing.assert_close(b, c**2)
    assert a.item() == 1
