"""Betas of published chains, and the diffusion through one by name."""

from __future__ import annotations

import pytest
import torch

from sde_score import sdes
from sde_score.sdes.chains import SCHEDULES, scaled_linear_betas, sigmoid_betas


def test_betas_of_scaled_linear_are_squares():
    betas = scaled_linear_betas(5, 0.01, 0.09)
    torch.testing.assert_close(
        betas, torch.tensor([0.01, 0.0225, 0.04, 0.0625, 0.09], dtype=torch.float64)
    )


def test_sigmoid_betas_keep_the_signal_of_their_formula():
    """alpha-bar at u is (s(3) - s(6 u - 3)) / (s(3) - s(-3)), up to the cap of the last step."""
    betas = sigmoid_betas(10)
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    s3, sm3 = torch.tensor([3.0, -3.0], dtype=torch.float64).sigmoid()
    signal = (s3 - (6 * u - 3).sigmoid()) / (s3 - sm3)
    torch.testing.assert_close((1 - betas).cumprod(0)[:-1], signal[1:-1])
    assert betas[-1] == 0.999


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_chain_by_name_is_the_diffusion_through_its_betas(schedule):
    betas = sdes.betas_of(schedule, 50)
    sde = sdes.create(f"chain(schedule={schedule!r}, layers=50)")
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    torch.testing.assert_close(sde.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-9, atol=1e-12)
    assert sdes.create(f"chain(log_snrs={sde.log_snrs})") == sde


def test_linear_betas_keep_their_sum_for_other_numbers_of_layers():
    """1e-4 ... 0.02 at 1000 layers; ten times as much at 100."""
    first, last = sdes.betas_of("linear", 100)[[0, -1]].tolist()
    assert (first, last) == (pytest.approx(1e-3), pytest.approx(0.2))
    assert sdes.betas_of("linear", 1000)[0].item() == pytest.approx(1e-4)


def test_wrong_schedules_are_refused():
    with pytest.raises(ValueError, match="schedule='lin'"):
        sdes.betas_of("lin")
    with pytest.raises(ValueError, match="first and last belong to linear"):
        sdes.betas_of("cosine", 10, first=0.1)
