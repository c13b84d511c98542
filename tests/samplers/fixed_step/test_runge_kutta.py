"""One-step methods: measured orders, exact distributions, one Brownian motion per step, and the
driver."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.samplers import BrownianPath, RungeKutta
from sde_score.samplers.fixed_step.butcher import TABLEAUX, second_order
from sde_score.samplers.fixed_step.exponential import PREDICTION_NAMES
from sde_score.samplers.fixed_step.runge_kutta import NATURAL, PLACEMENTS
from sde_score.samplers.problem import Problem
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, VE, VP, Cosine, Rectified
from sde_score.sdes.clocks import CLOCKS

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.6]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.3, 0.15], [0.15, 0.4]], [[0.5, -0.1], [-0.1, 0.25]]], dtype=torch.float64
)
STARTS = torch.tensor([[0.7, -0.2], [-1.1, 0.4], [0.1, 1.3]], dtype=torch.float64)
THREE = [VP(0.4, 9.0), VE(0.05, 9.0), Rectified()]

RUNGE_KUTTA_ROWS = constructors(RungeKutta)
ODES = {name: row for name, row in RUNGE_KUTTA_ROWS.items() if not row().stochastic}
SDES = {name: row for name, row in RUNGE_KUTTA_ROWS.items() if row().stochastic}


def marginal(sde, t):
    """Exact mean and covariance of x_t."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()


def root(matrix, power=0.5):
    values, axes = torch.linalg.eigh(matrix)
    return axes @ torch.diag(values**power) @ axes.mT


def uneven(sde, steps, table, span=(-3.0, 2.5)):
    """A grid between two log-SNRs whose steps differ smoothly."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    share = u + 0.15 * torch.sin(3 * u) * (1 - u)
    return table(sde.time_of_log_snr(span[0] + share * (span[1] - span[0])))


def order(errors, ratio=2):
    return math.log(errors[-2] / errors[-1]) / math.log(ratio)


@pytest.fixture(scope="module")
def flow(table):
    """A mixture, and where its probability flow leads three starts, to eleven digits."""
    sde = VP(0.4, 9.0)
    model = GaussianMixture(MEANS, COVARIANCES, sde, [0.3, 0.7])
    exact = samplers.create("ode", rtol=1e-11, atol=1e-12, steps=1, denoise=False,
                            grid=uneven(sde, 1, table))  # fmt: skip
    return model, exact(model, STARTS, progress=False)


@pytest.mark.parametrize("prediction", PREDICTION_NAMES)
@pytest.mark.parametrize("method", TABLEAUX)
def test_every_method_has_its_order_on_every_form_in_every_coordinate(
    method, prediction, flow, table
):
    """Each pair of two in a third of the third, and the natural coordinate always."""
    model, truth = flow
    turn = [*TABLEAUX].index(method) + PREDICTION_NAMES.index(prediction)
    natural = NATURAL.get(prediction, "log_snr")
    for coordinate in {natural, *PLACEMENTS[turn % 3 :: 3]}:
        errors = []
        # In sigma the fourth order fades to the third late.
        for n in (48, 96) if (method, coordinate) == ("rk4", "sigma") else (32, 64):
            sampler = RungeKutta(
                steps=n, grid=uneven(model.sde, n, table), denoise=False,
                prediction=prediction, coordinate=coordinate, method=method,
            )  # fmt: skip
            got = sampler(model, STARTS, progress=False)
            errors.append((got - truth).norm().item())
        assert errors[-1] < 0.05
        assert order(errors) == pytest.approx(sampler.convergence_order, abs=0.2), coordinate


def test_fourth_order_is_claimed_in_the_natural_clock_alone():
    claimed = {
        (prediction, coordinate)
        for prediction, coordinate in product(PREDICTION_NAMES, PLACEMENTS)
        if RungeKutta(prediction=prediction, coordinate=coordinate, method="rk4").convergence_order
        == 4
    }
    assert claimed == set(NATURAL.items())


@pytest.mark.parametrize("name", ODES)
@pytest.mark.parametrize("sde", THREE, ids=lambda sde: type(sde).__name__)
def test_rows_converge_to_the_exact_flow_of_correlated_gaussian_data(
    name, sde, table, gaussian_model, affine
):
    """x_t = alpha_t m + S_t^1/2 S_T^-1/2 (x_T - alpha_T m)."""
    model, errors = gaussian_model(MEAN, COVARIANCE, sde), []
    ends = sde.time_of_log_snr(torch.tensor([-3.0, 2.5], dtype=torch.float64))
    (mean_start, at_start), (mean_end, at_end) = (marginal(sde, t) for t in ends)
    truth = root(at_end) @ root(at_start, -0.5)
    for n in (24, 48):
        sampler = ODES[name](steps=n, grid=uneven(sde, n, table), denoise=False)
        offset, of_start, of_noise = affine(sampler, model)
        assert of_noise.numel() == 0
        shift = offset + of_start @ mean_start - mean_end
        errors.append(math.hypot((of_start - truth).norm().item(), shift.norm().item()))
    assert errors[-1] < 0.01
    expected = 3 if name == "midpoint" else sampler.convergence_order
    # Affine data happen to suit the midpoint rule on the velocity: there it has order 3.
    assert order(errors) == pytest.approx(expected, abs=0.2), errors


@pytest.mark.parametrize("sde", [VP(0.4, 9.0), VE(0.05, 9.0), Cosine()], ids=str)
@pytest.mark.parametrize("at", [1.0, 0.6])
def test_the_derivative_in_time_is_the_plain_method_on_x(sde, at, table):
    """EDM's algorithm 3 in the SDE's own time: x' at the share `at`, and both slopes."""
    model = GaussianMixture(MEANS, COVARIANCES, sde, [0.3, 0.7])
    times = uneven(sde, 6, table).times(sde, 7)
    x = STARTS * sde.prior_std
    sampler = RungeKutta(steps=6, grid=table(times), denoise=False, prediction="derivative",
                         coordinate="time", method=second_order(at))  # fmt: skip
    got = sampler(model, x, progress=False)
    for t, s in pairwise(times):
        first = model.velocity(x, t)
        second = model.velocity(x + at * (s - t) * first, t + at * (s - t))
        x = x + (s - t) * ((1 - 0.5 / at) * first + 0.5 / at * second)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-12)


METHODS = {
    **{name: row for name, row in SDES.items() if name[:5] != "seeds"},
    "heun, churn": lambda **way: ODES["heun"](churn=3.0, **way),
    "rk4, half": lambda **way: ODES["rk4"](eta=0.5, **way),
    "midpoint, ancestral": lambda **way: ODES["midpoint"](ancestral=0.7, **way),
    "dpm-3s, ancestral": lambda **way: ODES["dpm-3s"](ancestral=1.0, **way),
    "heun, ancestral": lambda **way: ODES["heun"](ancestral=0.6, **way),
    "dpmpp-2s, extended": lambda **way: ODES["dpmpp-2s"](eta="extended", **way),
    "dpmpp-2s, interval": lambda **way: ODES["dpmpp-2s"](eta="interval", **way),
    "res-2s, 1": lambda **way: ODES["res-2s"](eta=1.0, **way),
    "parabola, 1": lambda **way: ODES["dpmpp-3s"](method="thirds-parabola", eta=1.0, **way),
    "angular, 0.7": lambda **way: RungeKutta(
        prediction="angular", coordinate="angle", eta=0.7, **way
    ),
    "derivative, 0.7": lambda **way: RungeKutta(
        prediction="derivative", coordinate="time", eta=0.7, **way
    ),
}
HIGHER = {"midpoint, ancestral": 3}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("sde", THREE[:2], ids=lambda sde: type(sde).__name__)
def test_the_distribution_of_stochastic_samplers_converges_at_their_weak_order(
    name, sde, table, gaussian_model, affine
):
    """Gaussian data keep the distribution Gaussian: it is known from unit inputs, without Monte
    Carlo."""
    model, errors = gaussian_model(MEAN, COVARIANCE, sde), []
    first, last = sde.time_of_log_snr(torch.tensor([-3.0, 2.5], dtype=torch.float64))
    (mean_start, at_start), (mean_end, at_end) = marginal(sde, first), marginal(sde, last)
    for n in (48, 96):
        sampler = METHODS[name](steps=n, grid=uneven(sde, n, table), denoise=False)
        assert sampler.stochastic
        offset, of_start, of_noise = affine(sampler, model)
        assert (offset + of_start @ mean_start - mean_end).norm() < 1e-3
        distribution = of_start @ at_start @ of_start.mT + of_noise @ of_noise.mT
        errors.append((distribution - at_end).norm().item())
    expected = HIGHER.get(name, sampler.convergence_order)
    assert order(errors) == pytest.approx(expected, abs=0.2), errors


PLACES, SPREADS = np.array([-1.0, 0.7]), np.array([0.15, 0.3])
SHARES = np.array([0.35, 0.65])
MEASURED = (lambda x: x**2, lambda x: np.cos(2 * x))


def density(sde, t):
    """Points over the distribution of a mixture in one dimension at time t, and its mass at
    each."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    centers, variances = alpha * PLACES, alpha**2 * SPREADS + sigma**2
    middle = (SHARES * centers).sum()
    width = math.sqrt((SHARES * (variances + (centers - middle) ** 2)).sum())
    x = np.linspace(middle - 7 * width, middle + 7 * width, 301)
    parts = np.exp(-0.5 * (x[:, None] - centers) ** 2 / variances) / np.sqrt(2 * np.pi * variances)
    return x, (parts * SHARES).sum(1) * (x[1] - x[0])


def expectations(row, model, steps, pieces, nodes, table):
    """E f(x) after the sampler's steps from the exact start, by quadrature over every draw.

    Backwards: the expectation as a function of the state before each step is that of the function
    after it, by Gauss-Hermite quadrature over the draws of the step; functions are splines.
    """
    sde = model.sde
    times = sde.time_of_log_snr(torch.linspace(-2, 2, steps + 1, dtype=torch.float64))
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    draws = torch.tensor(list(product(places, repeat=pieces)))
    shares = np.prod(list(product(weights / weights.sum(), repeat=pieces)), 1)
    x, _ = density(sde, times[-1])
    values = np.stack([f(x) for f in MEASURED], 1)
    for t, s in reversed([*pairwise(times)]):
        after = CubicSpline(x, values)
        x, mass = density(sde, t)
        starts = torch.from_numpy(x).repeat_interleave(len(draws))[:, None]
        given = iter([column.repeat(len(x))[:, None] for column in draws.unbind(1)])
        step = row(steps=1, grid=table([t, s]), denoise=False)
        out = step(model, starts, noise=lambda given=given: next(given), progress=False)
        assert next(given, None) is None
        values = after(out[:, 0].numpy()).reshape(len(x), len(draws), -1)
        values = (values * shares[:, None]).sum(1)
    return mass @ values


WEAK = {
    "seeds-1": (1, 12, (16, 32)),
    "seeds-2": (2, 6, (24, 48)),
    "seeds-3": (3, 4, (32, 64)),
    "dpmpp-sde": (2, 6, (12, 24)),
    "stochastic-heun": (1, 12, (12, 24)),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_order_on_a_mixture_without_monte_carlo(name, table):
    pieces, nodes, steps = WEAK[name]
    model = GaussianMixture(
        torch.from_numpy(PLACES)[:, None], torch.from_numpy(SPREADS)[:, None], VP(0.4, 9.0), SHARES
    )
    x, mass = density(model.sde, model.sde.time_of_log_snr(2.0))
    truth = np.array([mass @ f(x) for f in MEASURED])
    errors = [
        np.linalg.norm(expectations(SDES[name], model, n, pieces, nodes, table) - truth)
        for n in steps
    ]
    assert errors[-1] < (0.01 if name == "seeds-1" else 3e-3)
    assert order(errors) == pytest.approx(SDES[name]().convergence_order, abs=0.2), errors


class Still:
    """A model that says the same for every state, so that states show the noise alone."""

    nfe = 0

    def __init__(self, sde) -> None:
        self.sde = sde

    def score(self, x, t, condition=None):
        return torch.zeros_like(x)

    denoise = noise = velocity = score


@pytest.mark.parametrize("method", ["heun", "midpoint", "heun-3", "rk4"])
@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("eta", [0.7, 1.0])
def test_stages_share_one_brownian_motion(prediction, method, eta, recorder, table):
    """In y = x / alpha the noise by s is (1 / I) times a Brownian motion at the clock C(s), so the
    covariance at s and s' <= s is C(s) / (I I'): with the prediction 0 on the noise form I = 1 and
    C = eta^2 (s_0^2 - s^2), on the data form I = s^-(1 + eta^2) and C = s^-2eta^2 - s_0^-2eta^2."""
    sde = VP(0.4, 9.0)
    times = sde.time_of_log_snr(torch.tensor([-2.0, 0.5], dtype=torch.float64))
    model = recorder(Still(sde))
    grid = table(times)
    sampler = RungeKutta(steps=1, grid=grid, denoise=False, method=method, eta=eta,
                         prediction=prediction, coordinate="log_snr")  # fmt: skip
    goals = sampler.tableau.goals
    pieces = len({goal.at for goal in goals})
    units = iter(torch.eye(pieces, dtype=torch.float64).unbind(1))
    end = sampler(model, torch.zeros(pieces, 1).double(), noise=lambda: next(units)[:, None],
                  progress=False)  # fmt: skip
    assert next(units, None) is None
    states = torch.cat([*model.states[1:], end], 1)
    places = torch.tensor([*model.seen_times[1:], times[1].item()], dtype=torch.float64)
    s, first = (torch.exp(-0.5 * sde.log_snr(t)) for t in (places, times[0]))
    share = torch.log(first / s) / torch.log(first / s[-1])
    torch.testing.assert_close(share, torch.tensor([g.at for g in goals]).double())
    factor, clock = torch.ones_like(s), eta**2 * (first**2 - s**2)
    if prediction == "data":
        factor, clock = s ** (1 + eta**2), s ** (-2 * eta**2) - first ** (-2 * eta**2)
    want = torch.minimum(clock, clock[:, None]) * factor * factor[:, None]
    scale = sde.alpha(places)
    torch.testing.assert_close(states.mT @ states, want * scale * scale[:, None], rtol=1e-10,
                               atol=1e-14)  # fmt: skip


class Tape:
    """A path that keeps which stretches it was asked for."""

    def __init__(self) -> None:
        self.stretches, self.draws = [], 0

    def __call__(self):
        self.draws += 1
        return torch.zeros(1, 2).double()

    def between(self, a, b):
        self.stretches.append((a, b))
        return torch.zeros(1, 2).double()


@pytest.mark.parametrize(
    ("spec", "shares", "draws"),
    [
        ("seeds-1", [1], 0),
        ("seeds-2", [1 / 2, 1], 0),
        ("seeds-3", [1 / 3, 2 / 3, 1], 0),
        ("stochastic-heun", [1], 0),
        ("dpmpp-2s-ancestral", [1], 0),
        ("dpmpp-2s", [], 0),
        ("heun", [], 5),
    ],
)
def test_noise_is_drawn_for_stretches_that_make_up_each_step(spec, shares, draws):
    sde, tape = EDM(0.05, 9.0), Tape()
    options = {"churn": 1.0} if draws else {}
    sampler = RUNGE_KUTTA_ROWS[spec](steps=7, grid="log_snr", **options)
    sampler(Still(sde), torch.zeros(1, 2).double(), noise=tape, progress=False)
    clock = torch.log(sampler.times(sde)).tolist()
    want = []
    for a, b in pairwise(clock):
        stops = [a + share * (b - a) for share in shares]
        want += list(pairwise([a, *stops]))
    assert [*sum(tape.stretches, ())] == pytest.approx([*sum(want, ())], abs=1e-9)
    assert tape.draws == draws


@pytest.mark.parametrize("spec", ["seeds-2", "dpmpp-sde", "stochastic-heun"])
def test_one_path_at_many_steps_gives_one_sample(spec):
    """Strong convergence: with the noise additive, at order 1 at least."""
    sde = VP(0.4, 9.0)
    model = GaussianMixture(MEANS, COVARIANCES, sde, [0.3, 0.7])
    ends, starts = [], STARTS.repeat(5, 1)
    for steps in (8, 16, 32, 128):
        sampler = RUNGE_KUTTA_ROWS[spec](steps=steps, denoise=False)
        path = BrownianPath(sde, starts.shape, seed=3, dtype=torch.float64)
        ends.append(sampler(model, starts, noise=path, progress=False))
    errors = [(end - ends[-1]).norm().item() for end in ends[:-1]]
    assert order(errors) > 0.9
    assert errors[2] < 0.3 * errors[0]


@pytest.mark.parametrize("name", RUNGE_KUTTA_ROWS)
def test_evaluations_are_as_said_and_nothing_is_remembered(name):
    model = GaussianMixture(MEANS, COVARIANCES, VP(0.4, 9.0), [0.3, 0.7])
    sampler = RUNGE_KUTTA_ROWS[name](steps=5)
    runs = [sampler(model, STARTS, seed=2, trajectory=True, progress=False) for _ in range(2)]
    assert runs[0].nfe == runs[1].nfe == 4 * len(sampler.tableau.goals) + 1
    assert torch.equal(runs[0].states, runs[1].states)
    assert runs[0].times[:-1].tolist() == sampler.times(model.sde).tolist()
    noisy = sampler(model, STARTS, seed=3, progress=False)
    assert torch.equal(noisy, runs[0].samples) is not sampler.stochastic
    one = RUNGE_KUTTA_ROWS[name](steps=1)(model, STARTS, seed=2, progress=False)
    assert torch.equal(one, model.denoise(STARTS, torch.tensor(model.sde.t_max).double()))


@pytest.mark.parametrize("name", ["heun", "rk4"])
def test_stages_at_the_end_of_a_step_are_at_the_very_times_of_the_grid(name, sde):
    sampler = RUNGE_KUTTA_ROWS[name](steps=12)
    times = sampler.times(sde)
    plan = sampler.coefficients(sde, times)
    assert torch.equal(plan.times[:, 0], times[:-1])
    assert torch.equal(plan.times[:, -1], times[1:])


@pytest.mark.parametrize("name", ["heun", "rk4", "seeds-3", "dpmpp-2s-ancestral"])
def test_a_state_changed_on_the_way_is_where_the_march_goes_on(name, recorder):
    model = recorder(GaussianMixture(MEANS, COVARIANCES, VP(0.4, 9.0), [0.3, 0.7]))
    sampler = RUNGE_KUTTA_ROWS[name](steps=4, denoise=False)
    times = sampler.times(model.sde)
    problem = Problem(model, times, lambda: torch.ones(3, 2).double(), None, lambda: None)
    kept = [STARTS]
    with torch.no_grad():
        for step, (_, state) in enumerate(sampler.iterate(problem, STARTS.clone()), 1):
            state += 0.3 * step
            kept.append(state.clone())
    first = model.states[:: len(sampler.tableau.goals)]
    assert torch.equal(torch.stack(first), torch.stack(kept[:-1]))


DIFFERENTIABLE = {
    **RUNGE_KUTTA_ROWS,
    "heun, churn": lambda **way: ODES["heun"](churn=2.0, churn_max=3.0, **way),
    "dpmpp-2s, interval": lambda **way: ODES["dpmpp-2s"](eta="interval(low=0.5, high=3.0)", **way),
    "derivative": lambda **way: RungeKutta(prediction="derivative", coordinate="time", **way),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_steps_are_differentiable_in_the_times(name):
    """The same values as without gradients, and derivatives as by differences."""
    sde = VP(0.4, 9.0)
    model = GaussianMixture(MEANS, COVARIANCES, sde, [0.3, 0.7])
    sampler = DIFFERENTIABLE[name](steps=2, denoise=False)
    times = sde.time_of_log_snr(torch.tensor([-1.5, -0.4, 1.0], dtype=torch.float64))

    def end(times):
        draws = torch.Generator().manual_seed(0)
        noise = lambda: torch.randn(1, 2, generator=draws, dtype=torch.float64)  # noqa: E731
        problem = Problem(model, times, noise, None, lambda: None)
        *_, (_, state) = sampler.iterate(problem, STARTS[:1].clone())
        return state

    with torch.no_grad():
        plain = end(times)
    leaf = times.clone().requires_grad_()
    torch.testing.assert_close(end(leaf), plain, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(end, (leaf,), eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*RUNGE_KUTTA_ROWS])
def test_nothing_is_read_back_from_the_device(name):
    class Blind(Still):
        def score(self, x, t, condition=None):
            assert (t.device.type, t.ndim) == ("meta", 0)
            return -0.5 * x

        denoise = noise = velocity = score

    got = RUNGE_KUTTA_ROWS[name](steps=4)(
        Blind(Cosine()),
        torch.empty(4, 2, device="meta"),
        noise=lambda: torch.empty(4, 2, device="meta"),
        progress=False,
    )
    assert got.device.type == "meta"


def test_a_level_may_be_zero_outside_an_interval():
    """Where the level is 0 the step is the ODE's, and draws nothing."""
    sde, tape = EDM(0.05, 9.0), Tape()
    sampler = RUNGE_KUTTA_ROWS["seeds-3"](steps=9, eta="interval(low=0.3, high=2.0)")
    sampler(Still(sde), torch.zeros(1, 2).double(), noise=tape, progress=False)
    levels = sampler.times(sde)[:-1]
    inside = int(((levels >= 0.3) & (levels <= 2.0)).sum())
    assert 0 < inside < 8
    assert len(tape.stretches) == 3 * inside
    assert max(a for a, _ in tape.stretches) <= math.log(2.0)


def test_a_level_is_that_of_the_step_wherever_a_piece_of_it_starts():
    """A step that starts inside the interval has its noise to the end, though it leaves it."""
    sde = EDM(0.05, 9.0)
    steps = {"steps": 1, "denoise": False, "grid": "log_snr"}
    start = torch.ones(1, 2).double()
    ends = []
    for eta in ("interval(eta=0.5, low=8.0, high=10.0)", 0.5):
        sampler = RUNGE_KUTTA_ROWS["seeds-3"](eta=eta, **steps)
        ends.append(sampler(Still(sde), start, noise=lambda: start, progress=False))
    torch.testing.assert_close(*ends, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["dpm-2s", "heun", "dpm-3s", "midpoint", "rk4"])
@pytest.mark.parametrize("ancestral", [0.6, 1.0])
def test_ancestral_steps_ask_the_model_within_its_times_alone(name, ancestral, sde, table):
    """The ODE of an ancestral step goes below the last time, but no further than the model can be
    asked where the stages are: beyond t_min it would be asked at t_min instead."""
    ends = [*sde.time_of_log_snr(torch.tensor([-2.0, -1.0, 1.0]).double()), sde.t_min]
    row = RUNGE_KUTTA_ROWS[name](steps=3, ancestral=ancestral, denoise=False, grid=table(ends))
    times = row.times(sde)
    s = torch.exp(-0.5 * sde.log_snr(times))
    start, stop = s[:-1], s[1:]
    down, at = row._below(sde, start, stop), max(stage.at for stage in row.tableau.stages)
    up = ancestral * stop * (1 - (stop / start) ** 2).sqrt()
    torch.testing.assert_close(down[:2], (stop**2 - up**2).sqrt()[:2])
    assert bool((down < stop * (1 + 1e-9)).all())
    clock = CLOCKS[row.coordinate](sde, s)
    first = clock.forward(start)
    farthest = clock.inverse(first + at * (clock.forward(down) - first))
    assert bool((farthest > s[-1] * (1 - 1e-9)).all())
    asked = row.coefficients(sde, times).times[:, -1]
    torch.testing.assert_close(torch.exp(-0.5 * sde.log_snr(asked)), farthest, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prediction": "score"}, "prediction"),
        ({"coordinate": "index"}, "coordinate"),
        ({"method": "rk5"}, "method"),
        ({"eta": -0.1}, "eta"),
        ({"eta": 1.0, "ancestral": 0.5}, "ancestral"),
        ({"eta": 1.0, "churn": 0.5}, "churn"),
        ({"ancestral": 1.0, "churn": 0.5}, "at most one"),
        ({"ancestral": 1.1}, "ancestral"),
        ({"ancestral": -0.1}, "ancestral"),
        ({"ancestral": math.nan}, "ancestral"),
        ({"ancestral": 0.5, "coordinate": "time"}, "log_snr"),
        ({"churn": -1.0}, "churn"),
        ({"churn": math.nan}, "churn"),
        ({"churn_noise": 0.0}, "churn_noise"),
        ({"churn_min": 2.0, "churn_max": 1.0}, "increasing"),
        ({"churn_min": -2.0}, "increasing"),
        ({"eta": "extended"}, "varies"),
        ({"steps": 0}, "steps"),
    ],
)
def test_what_does_not_go_is_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        RungeKutta(**fields)


def by_hand(name, model, x, t, s, z):
    """One step from time t to s as the papers write it, in h, the difference of log(alpha / sigma);
    the flow's in z = x / (alpha + sigma) and u = sigma / (alpha + sigma)."""
    sde = model.sde
    first, last = (0.5 * sde.log_snr(v) for v in (t, s))
    h = last - first

    def at(share):
        time = sde.time_of_log_snr(2 * (first + share * h))
        return time, sde.alpha(time), sde.sigma(time)

    (_, a0, b0), (_, a1, b1) = at(0), at(1)
    if name in ("midpoint", "rk4"):
        u0, u1 = b0 / (a0 + b0), b1 / (a1 + b1)

        def slope(y, share):
            u = u0 + share * (u1 - u0)
            time = sde.time_of_log_snr(2 * torch.log((1 - u) / u))
            state = y * (sde.alpha(time) + sde.sigma(time))
            return (u1 - u0) * (model.noise(state, time) - model.denoise(state, time))

        y = x / (a0 + b0)
        k1 = slope(y, 0.0)
        k2 = slope(y + k1 / 2, 0.5)
        if name == "midpoint":
            return (y + k2) * (a1 + b1)
        k3 = slope(y + k2 / 2, 0.5)
        k4 = slope(y + k3, 1.0)
        return (y + (k1 + 2 * k2 + 2 * k3 + k4) / 6) * (a1 + b1)
    if name == "stochastic-heun":
        e = torch.exp(-2 * h)
        old = model.denoise(x, t)
        ahead = a1 / a0 * e * x + a1 * (1 - e) * old + b1 * (1 - e).sqrt() * z[0]
        return ahead + a1 * (1 - (1 - e) / (2 * h)) * (model.denoise(ahead, s) - old)
    r, noisy = (1 / 3, 2 / 3), name.startswith("seeds")
    if name in ("dpmpp-3s", "res-2s"):
        old = model.denoise(x, t)
        r = (0.5,) if name == "res-2s" else r
        change = None
        for earlier, share in zip((None, *r), (*r, 1.0), strict=True):
            time, a, b = at(share)
            g = torch.expm1(-share * h)
            state = b / b0 * x - a * g * old
            if change is not None:
                state = state + a * share / earlier * (g / (share * h) + 1) * change
            if share < 1:
                change = model.denoise(state, time) - old
        return state
    old = model.noise(x, t)
    r = {"seeds-1": (), "seeds-2": (0.5,)}.get(name, r)
    change, factor, so_far = None, 1 + noisy, (0.0, *r, 1.0)
    for n, (earlier, share) in enumerate(zip((None, *r), (*r, 1.0), strict=True), 1):
        time, a, b = at(share)
        g = torch.expm1(share * h)
        state = a / a0 * x - factor * b * g * old
        if name == "seeds-2" and share == 1:
            state = state - factor * b * g * change
        elif change is not None:
            state = state - factor * b * share / earlier * (g / (share * h) - 1) * change
        for draw, left, right in zip(z, so_far[:n], so_far[1 : n + 1], strict=False):
            began, ended = (torch.exp(2 * (share - v) * h) for v in (left, right))
            state = state + noisy * b * (began - ended).sqrt() * draw
        if share < 1:
            change = model.noise(state, time) - old
    return state


BY_HAND = ["midpoint", "rk4", "dpm-3s", "dpmpp-3s", "res-2s", "seeds-1", "seeds-2", "seeds-3",
           "stochastic-heun"]  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_steps_are_those_of_the_papers(name, table):
    """Those of k-diffusion and DPM-Solver are held to their trajectories besides."""
    model = GaussianMixture(MEANS, COVARIANCES, VP(0.4, 9.0), [0.3, 0.7])
    t, s = model.sde.time_of_log_snr(torch.tensor([-1.5, 0.7], dtype=torch.float64))
    z = torch.randn(3, *STARTS.shape, generator=torch.Generator().manual_seed(0)).double()
    row, draws = RUNGE_KUTTA_ROWS[name], iter(z)
    sampler = row(steps=1, grid=table([t, s]), denoise=False)
    got = sampler(model, STARTS, noise=lambda: next(draws), progress=False)
    torch.testing.assert_close(got, by_hand(name, model, STARTS, t, s, z), rtol=1e-10, atol=1e-12)


def test_churn_raises_the_noise_within_its_window_alone():
    """By gamma = min(churn / steps, sqrt(2) - 1), and not beyond the first noise."""
    levels = ODES["heun"](steps=6).times(EDM(0.05, 9.0))
    raised = ODES["rk4"](steps=6, churn=100.0, churn_min=0.5, churn_max=3.0)._raise(levels)
    inside = (levels >= 0.5) & (levels <= 3.0)
    assert 0 < inside.sum() < 5
    torch.testing.assert_close(raised, torch.where(inside, 2**0.5 * levels, levels))
    everywhere = ODES["rk4"](steps=6, churn=1.2)._raise(levels)
    torch.testing.assert_close(everywhere, torch.where(levels < 9.0, 1.2 * levels, levels))


def test_ralston_with_churn_is_edms_general_second_order_method():
    """Algorithm 3 of Karras et al. at alpha = 2/3, with the churn of its algorithm 2:
    t' = t + gamma t, x' = x + sqrt(t'^2 - t^2) S_noise z, then d and d_2 at a share alpha of h."""
    sde, churn, noisy, share = EDM(0.02, 9.0), 1.8, 1.01, 2 / 3
    model = GaussianMixture(MEANS, COVARIANCES, sde, [0.3, 0.7])
    z = torch.randn(4, *STARTS.shape, generator=torch.Generator().manual_seed(0)).double()
    sampler = ODES["heun"](steps=6, method="ralston", churn=churn, churn_noise=noisy, churn_max=5.0)
    times, x, draws = sampler.times(sde), 9.0 * STARTS, iter(z)
    for t, end in pairwise(times):
        if t <= 5.0:
            raised = t + min(churn / 6, math.sqrt(2) - 1) * t
            x = x + (raised**2 - t**2).sqrt() * noisy * next(draws)
            t = raised
        h, slope = end - t, (x - model.denoise(x, t)) / t
        middle = t + share * h
        ahead = x + share * h * slope
        second = (ahead - model.denoise(ahead, middle)) / middle
        x = x + h * ((1 - 1 / (2 * share)) * slope + 1 / (2 * share) * second)
    x, left = model.denoise(x, times[-1]), iter(z)
    got = sampler(model, 9.0 * STARTS, noise=lambda: next(left), progress=False)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-12)
