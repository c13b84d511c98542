"""Adapted times: drawn by the root of the mean squared loss, and without effect on what is
expected."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import ScoreFunction
from sde_score.objectives import TIME_SAMPLERS, create
from sde_score.sdes import EDM, VP

SIZES = torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64)


def _echo(rows):
    """Remembers the times that it is asked for; the loss of a noise of 1 is 1."""

    def score(x, t):
        rows.append(t)
        return torch.zeros_like(x)

    return ScoreFunction(score, VP())


def _adapted(weighting="variance", times="low_discrepancy"):
    made = create(f"denoising-resampled(weighting={weighting!r}, time_sampler={times!r}, bins=4)")
    made.moments[0], made.moments[1] = 100.0, 100 * SIZES**2
    return made


def test_times_have_the_density_of_the_shares_and_their_weights_undo_it():
    objective, seen = _adapted(), []
    q = 0.9 * SIZES / 8 + 0.1 / 4
    torch.testing.assert_close(objective.shares(), q)
    x0 = torch.zeros(20000, 1)
    loss = objective(_echo(seen), x0, generator=torch.Generator().manual_seed(0)).double()
    (t,) = seen
    t = (t - VP().t_min) / (VP().t_max - VP().t_min)
    bins = (t * 4).long()
    share = bins.bincount().double() / len(t)
    torch.testing.assert_close(share, q, rtol=0, atol=1e-4)
    plain = loss * 4 * q[bins]  # noise ** 2
    assert plain.mean() == pytest.approx(1, abs=0.03)
    for moment in (1, 2):  # of uniform times
        mean = (t**moment / (4 * q[bins])).mean()
        assert mean == pytest.approx(1 / (moment + 1), abs=1e-4)
    objective.moments[0, 0] = 15  # examples seen: too few
    assert objective.shares().tolist() == [0.25] * 4


def test_it_learns_the_mean_squares_of_its_bins_and_starts_as_plain_denoising():
    """Weighted by 1 / sigma^2, a score of 0 has E loss^2 = 3 / sigma^4 at each level."""
    x0 = torch.zeros(4096, 1)
    plain = create("denoising(weighting='unit', time_sampler='uniform')")
    objective = create("denoising-resampled(weighting='unit', time_sampler='uniform', bins=8)")
    model = ScoreFunction(lambda x, t: torch.zeros_like(x), EDM(sigma_min=0.2, sigma_max=3.0))
    one = plain(model, x0, generator=torch.Generator().manual_seed(1))
    two = objective(model, x0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, two)
    assert torch.equal(objective.moments, torch.zeros(2, 8).double())
    objective.finish_step()
    generator = torch.Generator().manual_seed(0)
    objective.eval()(model, x0, generator=generator)
    assert not objective.pending.any()
    objective.train()
    losses = [objective(model, x0, generator=generator) for _ in range(20)]
    objective.finish_step()
    u = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    sigma = model.sde.sigma(TIME_SAMPLERS.create("uniform").quantile(model.sde, u))
    size = (3 * sigma**-4).reshape(8, -1).mean(1).sqrt()
    wanted = 0.9 * size / size.sum() + 0.1 / 8
    torch.testing.assert_close(objective.shares(), wanted, rtol=0.1, atol=0)
    spread = torch.cat(losses).std(), one.std()
    assert spread[0] < 0.85 * spread[1]
    assert torch.cat(losses).mean() == pytest.approx(float((sigma**-2).mean()), rel=0.03)


def test_a_step_fades_and_an_overflow_is_left_out():
    objective = create("denoising-resampled(bins=1, memory=2)")
    x0 = torch.zeros(2, 1)
    objective(_echo([]), x0, generator=torch.Generator().manual_seed(0))
    assert objective.pending[0, 0] == 2
    broken = ScoreFunction(lambda x, t: x / 0, VP())
    objective(broken, x0, generator=torch.Generator().manual_seed(0))
    assert objective.pending[0, 0] == 2
    objective.finish_step()
    objective.finish_step()
    assert objective.moments[0, 0] == 1
    assert objective.moments.isfinite().all()


def test_bins_below_one_are_refused():
    with pytest.raises(ValueError, match="bins=0"):
        create("denoising-resampled(bins=0)")
