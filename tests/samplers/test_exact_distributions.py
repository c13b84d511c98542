"""Exact distributions of samplers on Gaussian data.

Every step is affine in the start and the noise, so the distribution of the output is known exactly
from unit inputs: no Monte Carlo, and a wrong factor cannot hide.

The truth is the marginal N(alpha m, alpha^2 S + sigma^2 I) of the diffusion at the last time, to
which a method of order p must converge as steps^-p; for ODE methods the map itself must become the
exact flow.
"""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import (
    DDIM,
    GRIDS,
    METHODS,
    PREDICTORS,
    Ancestral,
    EulerMaruyama,
    Langevin,
    Multistep,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    Times,
)
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, VE, VP

ROWS, HEUN = constructors(Multistep), METHODS["heun"].constructor
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
    "heun, churn": lambda n, **way: HEUN(steps=n, churn=3.0, **way),
}
DETERMINISTIC = {
    "euler": lambda n, **way: EulerMaruyama(steps=n, eta=0.0, **way),
    "reverse-diffusion": lambda n, **way: ReverseDiffusion(steps=n, eta=0.0, **way),
    "ddim": lambda n, **way: DDIM(steps=n, **way),
    "heun": lambda n, **way: HEUN(steps=n, **way),
}
ORDERS = {"heun": 2, "heun, churn": 2}


def root(matrix, power=0.5):
    values, axes = torch.linalg.eigh(matrix)
    return axes @ torch.diag(values**power) @ axes.mT


def marginal(sde, t):
    """Exact mean and covariance of x_t."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()


@pytest.fixture
def gaussian(gaussian_model):
    """The exact model on an SDE."""
    return lambda sde: gaussian_model(MEAN, COVARIANCE, sde)


@pytest.fixture
def distribution(affine):
    """Exact mean and covariance of the output for an exact start, and the part of the start."""

    def compute(sampler, model):
        offset, of_start, of_noise = affine(sampler, model)
        mean, covariance = marginal(model.sde, sampler.times(model.sde)[0])
        covariance = of_start @ covariance @ of_start.mT + of_noise @ of_noise.mT
        return offset + of_start @ mean, covariance, of_start

    return compute


def span(sde):
    """A time of much noise and one of little; between them forty steps are small steps."""
    return sde.time_of_log_snr(torch.tensor([-3.5, 3.0], dtype=torch.float64))


@pytest.fixture
def spaced(table):
    """`(sde, steps, clock) -> grid` over `span`, even in time or in log-SNR."""

    def build(sde, steps, clock="log_snr"):
        first, last = span(sde)
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        if clock == "time":
            return table(first + u * (last - first))
        first, last = sde.log_snr(first), sde.log_snr(last)
        return table(sde.time_of_log_snr(first + u * (last - first)))

    return build


def slope(steps, errors):
    """Order of convergence between the two finest runs."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


def flow_error(parts, sde):
    """Distance of the affine map from the exact flow."""
    (mean_start, at_start), (mean_end, at_end) = (marginal(sde, t) for t in span(sde))
    flow = root(at_end) @ root(at_start, -0.5)
    offset, of_start, of_noise = parts
    assert of_noise.numel() == 0
    shift = offset + of_start @ mean_start - mean_end
    return math.hypot((of_start - flow).norm().item(), shift.norm().item())


@pytest.mark.paired("name", STOCHASTIC)
def test_distribution_of_stochastic_samplers_converges_to_the_marginal(
    sde, name, spaced, gaussian, distribution
):
    model, steps = gaussian(sde), (128, 256) if name == "euler-maruyama" else (32, 64)
    clock = ("time", "log_snr")[(list(STOCHASTIC).index(name) // 2 + (sde.prior_std > 2)) % 2]
    mean, covariance = marginal(sde, span(sde)[1])
    samplers_of = (STOCHASTIC[name](n, grid=spaced(sde, n, clock), denoise=False) for n in steps)
    found = [distribution(sampler, model) for sampler in samplers_of]
    for truth, got in (
        (mean, [m for m, _, _ in found]),
        (covariance, [c for _, c, _ in found]),
    ):
        errors = [(value - truth).norm().item() for value in got]
        assert errors[-1] < 0.2 * truth.norm()
        assert errors[-1] < 1e-9 or slope(steps, errors) == pytest.approx(
            ORDERS.get(name, 1), abs=0.2
        ), errors


PREDICTED = ["euler-maruyama", "reverse-diffusion", "ancestral", "ddim", "ddim(eta=0.5)"]


@pytest.mark.paired("predictor", PREDICTED, every=3)
def test_any_predictor_goes_with_the_corrector_on_any_sde(
    sde, predictor, spaced, gaussian, distribution
):
    """Without a correction it is the predictor itself."""
    parts = {"steps": 75, "grid": spaced(sde, 75), "denoise": False}
    sampler = PredictorCorrector(predictor=predictor, corrector="langevin(steps=1)", **parts)
    mean, covariance, _ = distribution(sampler, gaussian(sde))
    mean_end, at_end = marginal(sde, span(sde)[1])
    assert (mean - mean_end).norm() < 0.02 * mean_end.norm()
    assert (covariance - at_end).norm() < 0.04 * at_end.norm()
    parts |= {"steps": 5, "grid": spaced(sde, 5)}
    start = torch.ones(2, 2).double()
    alone, without = (
        sampler(gaussian(sde), start, seed=3, progress=False)
        for sampler in (
            samplers.create(predictor, **parts),
            PredictorCorrector(predictor=predictor, corrector="none", **parts),
        )
    )
    assert torch.equal(alone, without)


@pytest.mark.paired("name", DETERMINISTIC)
def test_ode_samplers_converge_to_the_exact_flow(sde, name, spaced, gaussian, affine):
    """x_t = alpha_t m + S_t^1/2 S_T^-1/2 (x_T - alpha_T m)."""
    clock = ("time", "log_snr")[(list(DETERMINISTIC).index(name) // 2 + (sde.prior_std > 2)) % 2]
    model, steps, errors = gaussian(sde), (32, 64), []
    for n in steps:
        sampler = DETERMINISTIC[name](n, grid=spaced(sde, n, clock), denoise=False)
        assert not sampler.stochastic
        errors.append(flow_error(affine(sampler, model), sde))
    assert errors[-1] < 0.2
    assert slope(steps, errors) == pytest.approx(ORDERS.get(name, 1), abs=0.2), errors


@pytest.mark.paired("solver", ["dopri5", "scipy"])
def test_black_box_ode_meets_its_tolerance_on_the_exact_flow(sde, solver, gaussian):
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
    """With all data at m, the denoiser is constant and the step's distribution is that of x_s."""
    t, s = (sde.time_of_log_snr(v).reshape(1) for v in (-1.0, 2.0))
    a, b, c = DDIM(eta=eta).coefficients(sde, t, s)
    # x_t = alpha m + sigma e has score -e / sigma
    on_noise = a * sde.sigma(t) - b / sde.sigma(t)
    torch.testing.assert_close(a * sde.alpha(t), sde.alpha(s), rtol=1e-12, atol=0)
    torch.testing.assert_close(on_noise**2 + c**2, sde.sigma(s) ** 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sde", [VE(0.05, 9.0), EDM(0.05, 9.0)], ids=["VE", "EDM"])
def test_ancestral_with_transition_variance_has_the_wide_distribution(sde):
    """On data N(m, v I) one exact step from an exact start: variance in closed form."""
    t, s = (sde.time_of_log_snr(v).reshape(1) for v in (-1.0, 2.0))
    a, b, c = Ancestral(variance="transition").coefficients(sde, t, s)
    torch.testing.assert_close(c**2, sde.sigma(t) ** 2 - sde.sigma(s) ** 2)
    torch.testing.assert_close(b, c**2)
    assert a.item() == 1


MULTISTEP = [
    *ROWS,
    *(f"deis(order={order})" for order in (1, 2, 4)),
    *(f"multistep(order={order}, coordinate='angle')" for order in (1, 2, 4, 5)),
    "multistep(order=4, corrector=3, prediction='angular')",
    "multistep(order=1, corrector=1, prediction='data', coordinate='log_snr')",
    "unipc(order=2, corrector=2, rule='arrival')",
    "unipc(order=1, corrector=1)",
    "dpm-2m(rule='exact')",
    "dpmpp-3m-sde(eta=0.5)",
    "multistep(order=2, eta=0.7)",
    "multistep(order=2, eta=1.0, prediction='angular', coordinate='angle')",
    "multistep(order=1, eta=1.0, prediction='noise')",
    "sa-solver(order=3, corrector=3, eta=0.8)",
]


@pytest.fixture
def quiet(table):
    """`(sde, steps) -> grid` over `span`, in log-SNR, whose first steps are so short that to start
    with fewer points costs nothing."""

    def build(sde, steps):
        first, last = sde.log_snr(span(sde))
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 3
        return table(sde.time_of_log_snr(first + u * (last - first)))

    return build


@pytest.mark.parametrize("spec", MULTISTEP)
def test_multistep_methods_have_their_order(spec, quiet, gaussian, distribution, affine):
    """Towards the exact flow without noise, towards the exact distribution with it."""
    clock, errors = VP(), []
    corrected = bool(samplers.create(spec).corrector)  # errors of both kinds cancel here and there
    model, steps = gaussian(clock), (32, 256) if corrected else (64, 128)
    for n in steps:
        sampler = samplers.create(spec, steps=n, grid=quiet(clock, n), denoise=False)
        if sampler.stochastic:
            mean, covariance = marginal(clock, span(clock)[1])
            got_mean, got, _ = distribution(sampler, model)
            errors.append(math.hypot((got_mean - mean).norm(), (got - covariance).norm()))
        else:
            errors.append(flow_error(affine(sampler, model), clock))
    # A polynomial through three points of a noisy path, or a corrected one, has more on the way.
    more = corrected or (sampler.stochastic and sampler.order > 2)
    order = sampler.convergence_order
    assert order - 0.22 < slope(steps, errors) < order + (1.0 if more else 0.2), errors
    assert errors[-1] < 0.1


class Field:
    """A model that is no score: the data it expects swing with x and with the noise."""

    nfe = 0

    def __init__(self, sde) -> None:
        self.sde = sde

    def denoise(self, x, t, condition=None):
        alpha, sigma = (scale.reshape(-1, 1) for scale in (self.sde.alpha(t), self.sde.sigma(t)))
        return torch.cos(1.3 * x / alpha + sigma / alpha) - 0.3 * sigma / alpha

    def noise(self, x, t, condition=None):
        alpha, sigma = (scale.reshape(-1, 1) for scale in (self.sde.alpha(t), self.sde.sigma(t)))
        return (x - alpha * self.denoise(x, t)) / sigma

    def velocity(self, x, t, condition=None):
        rates = (self.sde.alpha_derivative(t), self.sde.sigma_derivative(t))
        on_data, on_noise = (rate.reshape(-1, 1) for rate in rates)
        return on_data * self.denoise(x, t) + on_noise * self.noise(x, t)


def modes(sde):
    return GaussianMixture([[-1.0, 0.4], [1.0, 0.2]], [[0.05, 0.2], [0.1, 0.04]], sde)


STARTS = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(12, 2)


@cache
def ends_of_the_flow(build):
    """Where the flow leads the starts, to nine digits."""
    model = build(VP())
    tight = ProbabilityFlowODE(
        rtol=1e-9, atol=1e-9, denoise=False, grid=Times(tuple(span(model.sde).tolist())), steps=1
    )
    return tight(model, STARTS, progress=False)


@pytest.mark.parametrize("build", [modes, Field], ids=["mixture", "field"])
@pytest.mark.parametrize(
    "spec",
    ["flow-ab", "angular-ab", "sigma-ab(order=3)", "deis", "dpm-2m", "dpmpp-3m",
     "unipc(order=2, corrector=2)", "dpmpp-3m-published"],
)  # fmt: skip
def test_multistep_methods_have_their_order_off_the_gaussian(build, spec, quiet):
    model, steps, errors = build(VP()), (96, 192), []
    for n in steps:
        sampler = samplers.create(spec, steps=n, grid=quiet(model.sde, n), denoise=False)
        got = sampler(model, STARTS, progress=False)
        errors.append((got - ends_of_the_flow(build)).norm().item())
    assert slope(steps, errors) == pytest.approx(sampler.convergence_order, abs=0.4), errors
    assert errors[-1] < 0.02


@pytest.mark.parametrize("spec", [name for name in PREDICTORS if name in ROWS])
def test_any_multistep_method_goes_with_the_corrector(spec, spaced, gaussian, distribution):
    """The corrector keeps the distribution; a method deaf to its changes is not corrected."""
    clock = VP()
    sampler = PredictorCorrector(
        steps=60, grid=spaced(clock, 60), denoise=False, predictor=spec,
        corrector=Langevin(snr=0.2),
    )  # fmt: skip
    mean, covariance, of_start = distribution(sampler, gaussian(clock))
    mean_end, at_end = marginal(clock, span(clock)[1])
    assert (mean - mean_end).norm() < 0.02 * mean_end.norm()
    assert (covariance - at_end).norm() < 0.06 * at_end.norm()
    assert of_start.norm() < 0.2  # the start is forgotten


def test_a_first_order_step_is_ddim_on_every_form(sde):
    model = modes(sde)
    start = sde.prior_std * torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    want = DDIM(steps=7, grid="log_snr")(model, start, progress=False)
    for prediction in ("noise", "data"):
        sampler = samplers.create("multistep", steps=7, order=1, prediction=prediction,
                                  coordinate="sigma", grid="log_snr")  # fmt: skip
        got = sampler(model, start, progress=False)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_steps_follow_when_the_last_is_of_higher_order():
    """The last step is one of the method, so with it the error at the data falls at its order."""
    model, errors = modes(EDM(1e-4, 9.0)), []
    start = torch.linspace(-9, 9, 24, dtype=torch.float64).reshape(12, 2)
    truth = ProbabilityFlowODE(rtol=1e-11, atol=1e-11)(model, start, progress=False)
    for n in (64, 128):
        u = torch.arange(n, dtype=torch.float64) / n  # slow at both ends
        sigmas = 9.0 * (1 - u**3) ** 2
        sampler = samplers.create(
            "multistep",
            steps=n,
            order=3,
            final_order=3,
            corrector=2,
            grid=Times(tuple(sigmas.tolist())),
        )
        errors.append((sampler(model, start, progress=False) - truth).norm().item())
    assert slope((64, 128), errors) > 2.7
