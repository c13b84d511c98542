"""Learned weights: their minimum, their gradient, and runs that carry them."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import ScoreFunction
from sde_score.objectives import create
from sde_score.sdes import SDE, VP


def _wrong(sde: SDE = VP()):  # noqa: B008
    """A score that is 0: the loss of the noise is 1 at every level."""
    return ScoreFunction(lambda x, t: torch.zeros_like(x), sde)


def test_it_begins_as_plain_denoising():
    x0 = torch.randn(9, 3)
    plain, adaptive = create("denoising"), create("denoising-adaptive")
    one = plain(_wrong(), x0, generator=torch.Generator().manual_seed(1))
    two = adaptive(_wrong(), x0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, two.detach())


def test_u_learns_the_log_of_the_loss_at_each_noise_level():
    """Weighted by 1 / sigma^2, a score of 0 has the expected loss 1 / sigma^2: u is its log."""
    adaptive = create("denoising-adaptive(weighting='unit', time_sampler='low_discrepancy')")
    sde, x0 = VP(), torch.zeros(512, 8)
    optimizer = torch.optim.Adam(adaptive.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        optimizer.zero_grad()
        adaptive(_wrong(), x0, generator=generator).mean().backward()
        optimizer.step()
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    found = adaptive.expected(sde, t).detach().double()
    torch.testing.assert_close(found, -2 * sde.sigma(t).log(), atol=0.3, rtol=0)


def test_gradients_of_all_levels_have_one_size_once_u_is_learned():
    """d/dtheta of exp(-u) loss is that of the log of the mean loss where u is its log."""
    adaptive = create("denoising-adaptive")
    with torch.no_grad():
        adaptive.log_loss.bias.fill_(torch.tensor(4.0).log())
    x0 = torch.randn(6, 3)
    draws = [torch.Generator().manual_seed(2) for _ in range(2)]
    plain = create("denoising")(_wrong(), x0, generator=draws[0])
    found = adaptive(_wrong(), x0, generator=draws[1]).detach()
    torch.testing.assert_close(found, plain / 4 + torch.tensor(4.0).log())


def test_a_number_of_waves_below_one_is_refused():
    with pytest.raises(ValueError, match="features=0"):
        create("denoising-adaptive(features=0)")
