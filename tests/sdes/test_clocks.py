"""Clocks: what they are called, their inverses, and their agreement on every SDE."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.sdes import EDM, VP
from sde_score.sdes.clocks import CLOCKS, FINITE, LOG_SNR, RECTIFIED, asinh, quantile, root, shifted

GRID = torch.tensor([8.0, 4.0, 1.0, 0.25, 0.01], dtype=torch.float64)
CHOSEN = {
    **{name: make(EDM(), GRID) for name, make in CLOCKS.items()},
    "root": root(7.0),
    "shifted": shifted(RECTIFIED, 3.0),
    "asinh": asinh(0.1),
    "quantile": quantile(-1.2, 1.2),
}
SPAN = torch.logspace(-2, 0.9, 20, dtype=torch.float64)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", CHOSEN)
def test_inverse_undoes_forward_in_s_and_in_its_logarithm(name):
    clock = CHOSEN[name]
    torch.testing.assert_close(clock.inverse(clock.forward(SPAN)), SPAN, rtol=1e-9, atol=0)
    back = clock.log_ratio(clock.of_log_ratio(SPAN.log()))
    torch.testing.assert_close(back, SPAN.log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHOSEN)
def test_both_forms_of_a_clock_are_one_function_that_rises_or_falls(name):
    clock = CHOSEN[name]
    u = clock.forward(SPAN)
    torch.testing.assert_close(clock.of_log_ratio(SPAN.log()), u, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(clock.log_ratio(u).exp(), clock.inverse(u), rtol=1e-9, atol=0)
    steps = u.diff()
    assert bool((steps > 0).all()) or bool((steps < 0).all())


@pytest.mark.parametrize("name", [name for name in CHOSEN if name != "time"])
def test_a_clock_of_the_noise_ratio_reads_the_same_on_every_sde(name):
    clock, sde = CHOSEN[name], VP()
    t = torch.linspace(0.05, 0.6, 5, dtype=torch.float64)
    u = clock.at(sde, t)
    torch.testing.assert_close(u, clock.at(EDM(), sde.noise_ratio(t)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(clock.time(sde, u), t, rtol=1e-8, atol=0)


def test_clocks_are_what_they_are_called():
    s = column(0.5, 3.0)
    for name, want in {
        "log_snr": [math.log(2), -math.log(3)],  # log(alpha / sigma)
        "sigma": [0.5, 3.0],
        "rectified": [1 / 3, 3 / 4],  # sigma / (alpha + sigma)
        "angle": [math.atan2(1, 2), math.atan2(3, 1)],
        "root": [0.5 ** (1 / 7), 3 ** (1 / 7)],
        "shifted": [1 / 7, 1 / 2],  # s / (3 + s)
        "asinh": [math.asinh(5), math.asinh(30)],
        "quantile": [0.5 * math.erfc((math.log(v) + 1.2) / 1.2 / math.sqrt(2)) for v in (0.5, 3)],
    }.items():
        torch.testing.assert_close(CHOSEN[name].forward(s), column(*want))


def test_index_is_the_number_of_the_step_linear_in_between():
    s = column(8.0, 4.0, 1.0, 0.0)
    clock = CLOCKS["index"](EDM(), s)
    torch.testing.assert_close(clock.forward(s), column(0, 1, 2, 3))
    torch.testing.assert_close(clock.forward(column(6.0, 2.5, 0.25)), column(0.5, 1.5, 2.75))
    torch.testing.assert_close(clock.inverse(column(0.5, 1.5, 2.75)), column(6.0, 2.5, 0.25))


def test_time_is_the_clock_of_the_sde():
    sde, t = VP(), column(0.9, 0.5, 0.1)
    s = sde.noise_ratio(t)
    torch.testing.assert_close(s, sde.sigma(t) / sde.alpha(t))
    torch.testing.assert_close(sde.time_of_noise_ratio(s), t)
    clock = CLOCKS["time"](sde, s)
    torch.testing.assert_close(clock.forward(s), t)
    torch.testing.assert_close(clock.inverse(t), s)


def test_finite_clocks_read_zero_noise():
    none = column(8.0, 1.0, 0.0)
    for name in FINITE:
        assert CLOCKS[name](EDM(), none).forward(none).isfinite().all()
    assert LOG_SNR.forward(none)[-1] == math.inf
