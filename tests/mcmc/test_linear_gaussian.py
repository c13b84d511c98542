"""On a Gaussian an unadjusted kernel is linear in its state and its noise, so its distribution is
exact: the maps are read off from unit inputs, and nothing is sampled."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import BAOAB, OBABO, ULA, State, Tuning

PRECISION = torch.tensor([[1.7, 0.6], [0.6, 0.9]], dtype=torch.float64)
MEAN = torch.tensor([0.8, -1.3], dtype=torch.float64)
MASS = torch.tensor([0.5, 2.2], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)
SPLITTINGS = {"baoab": BAOAB, "obabo": OBABO}


class Gaussian:
    """The score alone: an unadjusted kernel may not ask for more."""

    def score(self, x):
        return -(x - MEAN) @ PRECISION


def affine(kernel, mass=None):
    """A step as z -> offset + R z + G noise, with z the position and the momentum, if any."""
    parts = 2 if kernel.uses_mass else 1

    def step(z, noise):
        draws = iter(noise.unbind(1))
        x, momentum = z[:, 0], (z[:, 1] if parts == 2 else None)
        state = State(x, Gaussian().score(x), None, momentum)
        tuning = Tuning(kernel.tuning(x).step_size, mass)
        end = kernel.step(Gaussian(), state, lambda: next(draws), tuning).state
        assert next(draws, None) is None  # every draw was used
        return torch.cat([end.x, end.momentum], 1) if parts == 2 else end.x

    count = 2 if isinstance(kernel, OBABO) else 1
    units = torch.eye(2 * (parts + count), dtype=torch.float64)
    inputs = torch.cat([torch.zeros_like(units[:1]), units]).reshape(-1, parts + count, 2)
    out = step(inputs[:, :parts], inputs[:, parts:])
    columns = (out[1:] - out[0]).mT
    return out[0], columns[:, : 2 * parts], columns[:, 2 * parts :]


def stationary(R, G):
    """The covariance with C = R C R^T + G G^T."""
    n = len(R)
    vec = torch.linalg.solve(
        torch.eye(n * n, dtype=torch.float64) - torch.kron(R, R), (G @ G.mT).reshape(-1)
    )
    return vec.reshape(n, n)


def close(got, want, tolerance=1e-12):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("h", [0.05, 0.4])
def test_ula_has_the_distribution_of_its_closed_form(h, temperature):
    """R = I - h P, variance T (P - h P^2 / 2)^-1, and C_n - C = R^n (C_0 - C) R^n."""
    offset, R, G = affine(ULA(h, temperature))
    close(R, EYE - h * PRECISION)
    close(G @ G.mT, 2 * h * temperature * EYE)
    close(torch.linalg.solve(EYE - R, offset), MEAN)
    truth = temperature * torch.linalg.inv(PRECISION - 0.5 * h * PRECISION @ PRECISION)
    close(stationary(R, G), truth)
    covariance = start = torch.tensor([[3.0, -0.4], [-0.4, 0.2]], dtype=torch.float64)
    for _ in range(7):
        covariance = R @ covariance @ R.mT + G @ G.mT
    power = torch.linalg.matrix_power(R, 7)
    close(covariance, truth + power @ (start - truth) @ power)


def test_ula_is_stable_up_to_two_over_the_largest_precision():
    edge = 2 / torch.linalg.eigvalsh(PRECISION).max().item()
    for share, stable in ((0.999, True), (1.001, False)):
        _, R, _ = affine(ULA(share * edge))
        assert (torch.linalg.eigvals(R).abs().max() < 1).item() is stable


@pytest.mark.parametrize("mass", [None, MASS], ids=["unit mass", "mass"])
@pytest.mark.parametrize("friction", [0.2, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("name", SPLITTINGS)
def test_splittings_have_the_distributions_of_their_closed_forms(name, temperature, friction, mass):
    """In units with m = 1, K = m^-1/2 P m^-1/2. BAOAB: var x = K^-1, var p = 1 - h^2 K / 4;
    OBABO: var x = (K (1 - h^2 K / 4))^-1, var p = 1. All times T; x and p are independent."""
    h = 0.7
    kernel = SPLITTINGS[name](h, temperature, friction=friction)
    offset, R, G = affine(kernel, mass)
    root = (torch.ones_like(MEAN) if mass is None else mass).sqrt()
    K = PRECISION / root[:, None] / root
    shrunk = EYE - 0.25 * h**2 * K
    if name == "baoab":
        x_distribution, p_distribution = torch.linalg.inv(K), shrunk
    else:
        x_distribution, p_distribution = torch.linalg.inv(K @ shrunk), EYE
    distribution = stationary(R, G) / temperature
    close(distribution[:2, :2], x_distribution / root[:, None] / root)
    close(distribution[2:, 2:], p_distribution * root[:, None] * root)
    close(distribution[:2, 2:], torch.zeros_like(EYE))
    rest = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - R, offset)
    close(rest, torch.cat([MEAN, torch.zeros_like(MEAN)]))


@pytest.mark.parametrize("name", SPLITTINGS)
def test_splittings_contract_volume_by_the_friction_alone(name):
    """Kicks and moves preserve volume; friction scales both momenta by e^(-gamma h)."""
    for h, friction in ((0.1, 0.5), (0.9, 2.5)):
        _, R, _ = affine(SPLITTINGS[name](h, friction=friction), MASS)
        assert math.log(torch.linalg.det(R)) == pytest.approx(-2 * h * friction, rel=1e-12)


@pytest.mark.parametrize("name", SPLITTINGS)
def test_splittings_follow_the_equation_of_motion(name):
    """To second order in h over a step: dx = p / m, dp = -P x - gamma p, noise 2 gamma T m."""
    h, friction, temperature = 1e-5, 0.7, 1.9
    _, R, G = affine(SPLITTINGS[name](h, temperature, friction=friction), MASS)
    field = torch.zeros(4, 4, dtype=torch.float64)
    field[:2, 2:] = torch.diag(1 / MASS)
    field[2:, :2] = -PRECISION
    field[2:, 2:] = -friction * EYE
    exact = torch.linalg.matrix_exp(h * field)
    close(R, exact, 1e-13)
    noise = (G @ G.mT)[2:, 2:] / h
    close(noise, 2 * friction * temperature * torch.diag(MASS), 1e-4)


@pytest.mark.parametrize("name", SPLITTINGS)
def test_noise_of_tiny_steps_keeps_its_digits(name):
    """1 - e^(-2 gamma h) is 2 gamma h, also where a difference from 1 would be rounded away."""
    kernel = SPLITTINGS[name](1e-10, friction=1.0)
    x = torch.zeros(1, 1)  # float32
    state = State(x, x, None, x)

    class Flat:
        def score(self, x):
            return 0 * x

    end = kernel.step(Flat(), state, lambda: torch.ones(1, 1), kernel.tuning(x)).state
    draws = {"baoab": (2e-10) ** 0.5, "obabo": 2 * 1e-5}[name]
    assert end.momentum.item() == pytest.approx(draws, rel=1e-4)


@pytest.mark.parametrize("name", SPLITTINGS)
def test_momenta_start_with_the_temperature(name):
    x, draw = torch.zeros(3, 2).double(), torch.randn(3, 2).double()
    state = SPLITTINGS[name](temperature=4.0).start(Gaussian(), x, lambda: draw)
    close(state.momentum, 2 * draw)
    assert state.energy is None
    bare = State(x, x)
    with pytest.raises(TypeError, match="has a momentum: see `start`"):
        SPLITTINGS[name]().step(Gaussian(), bare, lambda: draw, Tuning(torch.tensor(0.1)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BAOAB(friction=0), "friction=0"),
        (lambda: OBABO(friction=-1.0), "friction=-1.0"),
        (lambda: OBABO(step_size=0.0), "step_size=0.0"),
        (lambda: ULA(temperature=0), "temperature=0"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
