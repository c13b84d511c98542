"""Metropolis's correction of Langevin steps, with an energy and with a score alone: balance on a
grid, closed forms on Gaussians, and what is done with numbers that are none."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import MALA, ULA, ScoreMALA, State, Tuning

PRECISION = torch.tensor([[1.7, 0.6], [0.6, 0.9]], dtype=torch.float64)
CUBIC = ["gaussian", "double well"]


class Gaussian:
    def energy(self, x):
        return 0.5 * torch.einsum("bi,ij,bj->b", x, PRECISION, x)

    def score(self, x):
        return -x @ PRECISION

    def energy_and_score(self, x):
        return self.energy(x), self.score(x)


def step(kernel, density, x, draws, mass=None):
    """One step from x, with given draws."""
    left = iter(draws)
    tuning = Tuning(kernel.tuning(x).step_size, mass)
    start = kernel.start(density, x, None)
    return kernel.step(density, start, lambda: next(left), tuning)


def flow(kernel, density, points):
    """Probabilities to go from each point to each other: proposals times their acceptance."""
    n, width = len(points), (points[1] - points[0]).item()
    x, y = points.repeat_interleave(n)[:, None], points.repeat(n)[:, None]
    h, spread = kernel.step_size, (2 * kernel.step_size * kernel.temperature) ** 0.5
    z = (y - x - h * density.score(x)) / spread
    never = torch.full_like(z, 9.0)  # a uniform number of 1
    accepted = step(kernel, density, x, [z, never]).acceptance
    proposed = torch.exp(-0.5 * z[:, 0] ** 2) / (math.sqrt(2 * math.pi) * spread) * width
    moves = (proposed * accepted).reshape(n, n)
    moves.fill_diagonal_(0)
    return moves + torch.diag(1 - moves.sum(1))


def distribution(density, points, temperature):
    weight = (-density.energy(points[:, None]) / temperature).exp()
    return weight / weight.sum()


@pytest.fixture
def points():
    return torch.linspace(-4, 4, 161, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_mala_is_in_detailed_balance(curve, points, temperature):
    p = distribution(curve, points, temperature)
    moves = flow(MALA(0.15, temperature), curve, points)
    across = p[:, None] * moves
    assert across.max() > 1e-4
    torch.testing.assert_close(across, across.mT, rtol=1e-9, atol=1e-18)
    torch.testing.assert_close(p @ moves, p, rtol=0, atol=1e-16)


@pytest.mark.parametrize("name", CUBIC)
def test_simpson_is_exact_where_the_score_is_cubic(exact, name, points):
    density = exact.curve(name)
    p = distribution(density, points, 0.6)
    across = p[:, None] * flow(ScoreMALA(0.15, 0.6), density, points)
    torch.testing.assert_close(across, across.mT, rtol=1e-9, atol=1e-18)


def settled(moves):
    """The distribution that a matrix of moves keeps."""
    system = moves.mT - torch.eye(len(moves), dtype=torch.float64)
    system[-1] = 1.0
    right = torch.zeros(len(moves), dtype=torch.float64)
    right[-1] = 1.0
    return torch.linalg.solve(system, right)


@pytest.mark.parametrize(("rule", "order", "below"), [("simpson", 2, 1e-3), ("trapezoid", 1, 3e-2)])
def test_distribution_of_a_score_alone_converges_by_the_rule(exact, rule, order, below):
    """Elsewhere the distribution is off by O(h^2) by Simpson's rule, by O(h) by the trapezoid."""
    wavy = exact.curve_of(lambda x: 0.5 * x**2 + torch.cos(3 * x))
    points = torch.linspace(-4.5, 4.5, 401, dtype=torch.float64)
    p, errors = distribution(wavy, points, 1.0), []
    for h in (0.04, 0.02):
        kept = settled(flow(ScoreMALA(h, rule=rule), wavy, points))
        errors.append(0.5 * (kept - p).abs().sum().item())
    assert errors[1] < below
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25), errors


def test_the_trapezoid_is_no_better_than_no_correction_on_a_quartic(exact, points):
    density = exact.curve_of(lambda x: 0.25 * x**4)
    p, points = distribution(density, points, 1.0), points
    errors = [
        0.5 * (settled(flow(kernel, density, points)) - p).abs().sum().item()
        for kernel in (ULA(0.04), ScoreMALA(0.04, rule="trapezoid"), ScoreMALA(0.04))
    ]
    assert errors[1] > errors[0] > 5e-3
    assert errors[2] < 1e-12


@pytest.mark.parametrize("kernel", [MALA, ScoreMALA, lambda h, t: ScoreMALA(h, t, "trapezoid")])
def test_log_ratio_on_a_gaussian(kernel):
    """log r = (h / 4 T)(|Px|^2 - |Py|^2), in several dimensions and at any temperature."""
    h, temperature = 0.37, 1.6
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    y = x - h * x @ PRECISION + (2 * h * temperature) ** 0.5 * z
    taken = step(kernel(h, temperature), Gaussian(), x, [z, torch.full_like(z, -30.0)])
    log_ratio = ((x @ PRECISION) ** 2 - (y @ PRECISION) ** 2).sum(1) * h / (4 * temperature)
    torch.testing.assert_close(-taken.energy_error, log_ratio, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(taken.acceptance, log_ratio.exp().clamp(max=1))
    assert 0.1 < (log_ratio < 0).double().mean() < 0.9
    torch.testing.assert_close(taken.state.x, y)  # a uniform number of nearly 0 accepts all


@pytest.mark.parametrize("kernel", [MALA(0.9), ScoreMALA(0.9)])
def test_a_proposal_is_accepted_with_the_probability_that_is_told(kernel):
    """The second draw is the uniform number, through the normal distribution function."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(1)).double()
    told = step(kernel, Gaussian(), x, [z, z]).acceptance
    some = told < 1
    assert 20 < int(some.sum()) < 180
    for share, moves in ((1 - 1e-9, True), (1 + 1e-9, False)):
        u = torch.special.ndtri((told * share).clamp(max=1 - 1e-15))
        second = torch.stack([u, torch.zeros_like(u)], 1)
        end = step(kernel, Gaussian(), x, [z, second]).state
        assert bool(((end.x != x).any(1) == moves)[some].all())
        for got, want in ((end.score, Gaussian().score(end.x)), (end.energy, None)):
            if got is not None:
                want = Gaussian().energy(end.x) if want is None else want
                torch.testing.assert_close(got, want)


class Broken(Gaussian):
    """Not a number, or infinitely high, on one side."""

    def __init__(self, energy, score) -> None:
        self.wrong_energy, self.wrong_score = energy, score

    def energy(self, x):
        return torch.where(x[:, 0] > 0.3, self.wrong_energy, super().energy(x))

    def score(self, x):
        return torch.where(x[:, :1] > 0.3, self.wrong_score, super().score(x))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("kernel", [MALA(0.3), ScoreMALA(0.3), ScoreMALA(0.3, rule="trapezoid")])
@pytest.mark.parametrize(("energy", "score"), [(NAN, NAN), (NAN, 0.0), (INF, 0.0), (INF, NAN)])
def test_what_is_no_number_is_never_accepted(kernel, energy, score):
    if not kernel.needs_energy and score == 0.0:
        score = NAN  # without an energy only the score can tell
    density = Broken(energy, score)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 2, generator=generator).double().clamp(max=0.2)
    z = torch.randn(100, 2, generator=generator).double()
    taken = step(kernel, density, x, [z, torch.full_like(z, -30.0)])
    refused = taken.acceptance == 0
    assert 5 < int(refused.sum()) < 95
    assert torch.equal(taken.state.x[refused], x[refused])
    assert bool((taken.energy_error[refused] == INF).all())
    assert bool((taken.state.x[~refused] != x[~refused]).all())
    assert bool((taken.state.x[:, 0] <= 0.3).all())
    assert bool(taken.state.score.isfinite().all())


def test_a_start_of_infinite_energy_is_left():
    density = Broken(INF, -1.0)
    x = torch.tensor([[0.31, 0.0]], dtype=torch.float64)
    taken = step(MALA(0.1), density, x, [torch.zeros_like(x), torch.zeros_like(x)])
    assert taken.acceptance.item() == 1
    assert taken.state.x[0, 0] < 0.3


@pytest.mark.parametrize(
    ("kernel", "nfe", "energies"),
    [(ULA(), 1, 0), (MALA(), 1, 1), (ScoreMALA(), 2, 0), (ScoreMALA(rule="trapezoid"), 1, 0)],
)
def test_cost_of_a_step(exact, kernel, nfe, energies):
    density = exact.counted(lambda x: 0.5 * (x**2).sum(1))
    x = torch.ones(3, 2)
    state = kernel.start(density, x, None)
    assert (density.nfe, density.energies) == (1, energies)
    kernel.step(density, state, lambda: torch.ones(3, 2), kernel.tuning(x))
    assert (density.nfe, density.energies) == (1 + nfe, 2 * energies)


@pytest.mark.parametrize("kernel", [ULA(), MALA(), ScoreMALA()])
def test_kernels_without_momentum_refuse_a_mass(kernel):
    x = torch.ones(3, 2).double()
    with pytest.raises(ValueError, match="has a mass and the kernel has no momentum"):
        step(kernel, Gaussian(), x, [x, x], mass=torch.ones(2).double())


def test_an_adjusted_kernel_needs_the_energy_in_its_state():
    x = torch.ones(3, 2).double()
    with pytest.raises(TypeError, match="has an energy"):
        MALA().step(Gaussian(), State(x, x), lambda: x, MALA().tuning(x))


def test_wrong_rules_are_refused():
    with pytest.raises(ValueError, match="rule='gauss' is not known; accepted: simpson, trapezoid"):
        ScoreMALA(rule="gauss")


def test_small_steps_in_many_dimensions_keep_their_digits():
    """In float32 the squared lengths of the textbook formula would swallow the ratio."""
    x = torch.randn(8, 20000, generator=torch.Generator().manual_seed(0))

    class Round:
        def energy_and_score(self, x):
            return 0.5 * (x.double() ** 2).sum(1), -x

    z = torch.randn(8, 20000, generator=torch.Generator().manual_seed(1))
    got = step(MALA(1e-4), Round(), x, [z, z]).energy_error
    want = step(MALA(1e-4), Round(), x.double(), [z.double(), z.double()]).energy_error
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
