"""The integrals behind every multistep and one-step method, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.samplers.fixed_step.exponential import MOMENT_RULES, PREDICTIONS, exponential_steps
from sde_score.samplers.noise.stochasticity import Constant, Extended, Interval, eta_schedule
from sde_score.sdes import EDM
from sde_score.sdes.clocks import CLOCKS

ODE = Constant(0.0)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def one_step(prediction, coordinate, start, stop, points, level=ODE, rule="exact", counts=None):
    clock = CLOCKS[coordinate](EDM(), column(start, stop))
    points = column(*points)[None]
    counts = torch.tensor([points.shape[1] if counts is None else counts])
    start, stop = column(start), column(stop)
    return exponential_steps(
        PREDICTIONS[prediction], level, clock, start, stop, points, counts, rule
    )


def close(got, want, rtol=1e-12):
    torch.testing.assert_close(got, column(*want), rtol=rtol, atol=1e-14)


@pytest.mark.parametrize("start", [80.0, 1.0, 1e-2])
@pytest.mark.parametrize("ratio", [0.999999, 0.9, 0.3, 1e-3])
def test_first_order_weights_in_closed_form(start, ratio):
    """One point: y_1 = carry y_0 + weight q, by hand for each form without noise."""
    stop = start * ratio
    for prediction, carry, weight in (
        ("noise", 1.0, stop - start),
        ("data", ratio, 1 - ratio),
        ("velocity", (1 + stop) / (1 + start), (stop - start) / (1 + start)),
        (
            "angular",
            math.sqrt((1 + stop**2) / (1 + start**2)),
            math.sqrt(1 + stop**2) * (math.atan(stop) - math.atan(start)),
        ),
    ):
        found = one_step(prediction, "sigma", start, stop, [start])
        close(found.carry, [carry])
        torch.testing.assert_close(found.weights, column([weight]), rtol=1e-9, atol=1e-15)
        close(found.std, [0.0])


@pytest.mark.parametrize("h", [1e-4, 0.1, 1.7])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_second_order_data_weights_are_the_phi_functions(h, tau):
    """Data in log-SNR: y_1 = e^-kh y_0 + (1 - e^-kh) D + ((e^-kh - 1) / kh + 1) h D', with
    k = 1 + tau^2."""
    start, back = 0.7, 1.3 * h
    k = 1 + tau**2
    stop, earlier = start * math.exp(-h), start * math.exp(back)
    found = one_step("data", "log_snr", start, stop, [start, earlier], Constant(tau))
    whole = -math.expm1(-k * h)
    # series where the closed form cancels
    slope = h * (k * h / 2 - (k * h) ** 2 / 6) if h < 1e-3 else h * (1 - whole / (k * h))
    close(found.carry, [math.exp(-k * h)])
    want = column([whole + slope / back, -slope / back])
    torch.testing.assert_close(found.weights, want, rtol=1e-8 if h < 1e-3 else 1e-11, atol=0)
    close(found.std, [stop * math.sqrt(-math.expm1(-2 * tau**2 * h))], rtol=1e-10)


@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_noise_of_a_step_in_closed_form(prediction, tau):
    """int 2 tau^2 s (I / I_1)^2 ds, by hand: I^(1 + tau^2) of the table in the module."""
    start, stop, k = 2.0, 0.6, 1 + tau**2
    found = one_step(prediction, "sigma", start, stop, [start], Constant(tau)).std.item() ** 2

    def anti(s):  # of 2 s / (1 + s)^2k
        return 2 * ((1 + s) ** (2 - 2 * k) / (2 - 2 * k) - (1 + s) ** (1 - 2 * k) / (1 - 2 * k))

    want = {
        "noise": start**2 - stop**2,
        "data": stop**2 * (1 - (stop / start) ** (2 * tau**2)) / tau**2,
        "velocity": (anti(start) - anti(stop)) * (1 + stop) ** (2 * k),
        "angular": (
            ((1 + start**2) ** (1 - k) - (1 + stop**2) ** (1 - k)) / (1 - k)
        ) * (1 + stop**2) ** k,
    }  # fmt: skip
    assert found == pytest.approx(tau**2 * want[prediction], rel=1e-12)


@pytest.mark.parametrize("coordinate", ["log_snr", "sigma", "rectified", "angle"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("level", [ODE, Constant(0.8)], ids=str)
def test_polynomials_of_the_degree_are_integrated_exactly(prediction, coordinate, level):
    """With q a cubic in the coordinate, four points give the solution of the linear equation
    dy/ds = k (q - p y) / (r - p s), here by many steps of a classical method."""
    place = CLOCKS[coordinate](EDM(), column(1.5, 0.4)).forward
    form, k = PREDICTIONS[prediction], 1 + level.eta**2

    def q(s):
        c = place(torch.as_tensor(s, dtype=torch.float64))
        return 0.3 - c + 0.5 * c**2 + 0.2 * c**3

    def slope(s, y):
        s = torch.as_tensor(s, dtype=torch.float64)
        p, r = form.on_data(s), form.on_noise(s)
        return k * (q(s) - p * y) / (r - p * s)

    y, n = torch.tensor(0.9, dtype=torch.float64), 400
    h = (0.4 - 1.5) / n
    for i in range(n):
        s = 1.5 + i * h
        a = slope(s, y)
        b = slope(s + h / 2, y + h / 2 * a)
        c = slope(s + h / 2, y + h / 2 * b)
        y = y + h / 6 * (a + 2 * b + 2 * c + slope(s + h, y + h * c))
    points = [1.5, 2.0, 2.9, 4.1]
    found = one_step(prediction, coordinate, 1.5, 0.4, points, level)
    got = found.carry * 0.9 + (found.weights * q(column(*points))).sum()
    assert got.item() == pytest.approx(y.item(), rel=1e-9)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "angular"])
@pytest.mark.parametrize("coordinate", ["sigma", "rectified", "angle"])
def test_steps_to_zero_noise(prediction, coordinate):
    """With the data at m and noise e constant, y = m + s e: the step gives m, whatever the form
    and though its level is noisy."""
    m, e, start = 0.7, -1.1, 0.3
    form, points = PREDICTIONS[prediction], column(0.3, 0.35, 0.4)
    found = one_step(prediction, coordinate, start, 0.0, points.tolist(), Constant(1.0))
    q = form.on_data(points) * m + form.on_noise(points) * e
    got = found.carry * (m + start * e) + (found.weights * q).sum()
    tolerance = 2e-2 if prediction == "angular" else 1e-12  # where q is not a polynomial
    assert got.item() == pytest.approx(m, abs=tolerance)
    assert found.std.item() == 0


def test_points_beyond_the_count_have_no_weight():
    full = one_step("velocity", "angle", 1.0, 0.5, [1.0, 1.4])
    cut = one_step("velocity", "angle", 1.0, 0.5, [1.0, 1.4, 9.0, 9.0], counts=2)
    torch.testing.assert_close(cut.weights[:, :2], full.weights, rtol=1e-12, atol=0)
    assert cut.weights[0, 2:].tolist() == [0, 0]


def test_rules_change_the_moment_they_name():
    """On the data form with step h and the earlier point at r h, in units of D and (D - D') / r:
    midpoint halves the whole; arrival takes h at the end; halved halves the second difference."""
    start, h, r = 0.8, 0.5, 1.6
    stop, earlier = start * math.exp(-h), start * math.exp(r * h)
    whole, exact = 1 - math.exp(-h), 1 - (1 - math.exp(-h)) / h
    for rule, first in (("exact", exact), ("midpoint", whole / 2), ("arrival", h / 2)):
        found = one_step("data", "log_snr", start, stop, [start, earlier], rule=rule)
        want = column([whole + first / r, -first / r])
        torch.testing.assert_close(found.weights, want, rtol=1e-11, atol=0)
    assert set(MOMENT_RULES) == {"exact", "midpoint", "arrival", "halved", "midpoint-halved"}


@pytest.mark.parametrize("start", [0.4, 30.0])
def test_extended_level_follows_its_own_phi(start):
    """carry = phi_1 / phi_0 and variance s_1^2 - s_0^2 (phi_1 / phi_0)^2, as ER-SDE has it."""
    stop = 0.55 * start

    def phi(s):
        return s * (math.exp(s**0.3) + 10)

    found = one_step("data", "sigma", start, stop, [start], Extended())
    carry = phi(stop) / phi(start)
    close(found.carry, [carry])
    close(found.weights[0], [1 - carry])
    close(found.std, [math.sqrt(stop**2 - (carry * start) ** 2)], rtol=1e-10)


def test_rate_of_the_extended_level_is_the_slope_of_its_phi():
    s = column(0.01, 0.5, 3.0, 60.0).requires_grad_()
    level = Extended()
    (slope,) = torch.autograd.grad(level.log_phi(s, s).sum(), s)
    torch.testing.assert_close(level.rate(s, s), slope * s - 1, rtol=1e-10, atol=0)


def test_interval_is_decided_where_a_step_starts():
    level = Interval(eta=0.5, low=0.1, high=1.0)
    s = column(0.01, 0.5)
    for start, rate in ((0.1, 0.25), (1.0, 0.25), (1.01, 0.0), (0.09, 0.0)):
        assert level.rate(s, column(start)).tolist() == [rate, rate]


def test_levels_come_by_number_name_or_object():
    assert eta_schedule(0.5) == Constant(0.5)
    assert eta_schedule("interval(eta=0.7)") == Interval(eta=0.7)
    assert eta_schedule(level := Extended()) is level
    assert not Constant(0.0).stochastic
    for wrong in (-0.1, float("nan"), "interval(low=2.0)", "interval(eta=-1.0)", "no-level"):
        with pytest.raises(ValueError, match=r"eta|low|noise level"):
            eta_schedule(wrong)
