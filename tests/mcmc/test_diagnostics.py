"""Diagnostics against their definitions, written out as loops, and on chains of known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score.mcmc import energy_errors, ess, run_chains, split_r_hat


def autoregressive(rho, draws, chains, seed=0):
    """Stationary x_n = rho x_{n-1} + sqrt(1 - rho^2) z."""
    z = torch.randn(draws, chains, generator=torch.Generator().manual_seed(seed)).double()
    rows = [z[0]]
    for draw in z[1:]:
        rows.append(rho * rows[-1] + (1 - rho**2) ** 0.5 * draw)
    return torch.stack(rows)


def ess_by_hand(x):
    """Vehtari et al. 2021, section 3.2, on one entry: autocovariances as sums over pairs."""
    n, m = x.shape
    mean, within = x.mean(0), x.var(0, ddof=1).mean()
    between = n * mean.var(ddof=1) if m > 1 else 0.0
    pooled = (n - 1) / n * within + between / n
    rho = []
    for lag in range(n):
        off = x - mean
        # In units of s^2, whose divisor is n - 1.
        covariance = (off[: n - lag] * off[lag:]).sum(0) / (n - 1)
        rho.append(1 - (within - covariance.mean()) / pooled)
    rho[0] = 1.0
    total, before = 0.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        before = min(pair, before)
        total += before
    return n * m / max(-1 + 2 * total, 1 / math.log10(n * m))


def r_hat_by_hand(x):
    """Square root of pooled over within variance of the chains' halves; odd ones lose a draw."""
    n = x.shape[0] // 2
    halves = np.concatenate([x[:n], x[-n:]], 1)
    within = halves.var(0, ddof=1).mean()
    between = n * halves.mean(0).var(ddof=1)
    return math.sqrt(((n - 1) / n * within + between / n) / within)


@pytest.mark.parametrize(("draws", "chains"), [(50, 4), (51, 3), (40, 1), (4, 2)])
@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.8])
def test_ess_and_r_hat_are_their_definitions(rho, draws, chains):
    x = autoregressive(rho, draws, chains, seed=draws) + 0.3 * torch.arange(chains)
    assert ess(x).item() == pytest.approx(ess_by_hand(x.numpy()), rel=1e-9)
    assert split_r_hat(x).item() == pytest.approx(r_hat_by_hand(x.numpy()), rel=1e-12)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains_is_known(rho):
    """(1 - rho) / (1 + rho) of the draws; above them if the chain alternates."""
    x = autoregressive(rho, 5000, 8)
    share = ess(x).item() / x.numel()
    assert share == pytest.approx((1 - rho) / (1 + rho), rel=0.12)


def test_ess_predicts_the_error_of_a_mean():
    """Variance of the mean over 400 runs of two chains, against variance over ESS."""
    x = autoregressive(0.7, 300, 800).reshape(300, 400, 2)
    truth = x.mean((0, 2)).var().item()
    told = (1 / ess(x.permute(0, 2, 1))).mean().item()
    assert told == pytest.approx(truth, rel=4 * (2 / 400) ** 0.5)


def test_alternating_chains_count_for_at_most_n_log_n():
    x = torch.tensor([1.0, -1.0]).repeat(50)[:, None] + 1e-3 * torch.randn(100, 1)
    assert ess(x).item() == pytest.approx(100 * 2)


def test_chains_that_disagree_have_few_effective_draws():
    x = autoregressive(0.0, 1000, 4)
    apart = x + 5.0 * torch.arange(4)
    assert ess(apart).item() < 10
    assert split_r_hat(x).item() < 1.01
    assert split_r_hat(apart).item() > 3
    drifting = x + torch.linspace(0, 3, 1000)[:, None]
    assert split_r_hat(drifting).item() > 1.2  # halves disagree although chains do not
    stuck = torch.arange(4.0).expand(100, 4)
    assert ess(stuck).item() < 4.5
    assert split_r_hat(stuck).item() == math.inf


def test_each_entry_of_an_event_has_its_own():
    x = torch.stack([autoregressive(r, 200, 3) for r in (0.0, 0.5, 0.9, -0.3)], 2)
    x = torch.cat([x, torch.ones(200, 3, 1)], 2)[:, :, :4].reshape(200, 3, 2, 2)
    for diagnose in (ess, split_r_hat, lambda v: split_r_hat(v, rank_normalized=True)):
        got = diagnose(x.float())
        assert got.shape == (2, 2)
        assert got.dtype == torch.float64
        for i in range(2):
            for j in range(2):
                torch.testing.assert_close(got[i, j], diagnose(x.float()[:, :, i, j]))


def test_what_cannot_be_diagnosed_is_no_number():
    x = autoregressive(0.0, 20, 2)[:, :, None].repeat(1, 1, 4)
    x[:, :, 1] = 2.5
    x[3, 0, 2] = math.nan
    x[3, 0, 3] = math.inf
    for got in (ess(x), split_r_hat(x), split_r_hat(x, rank_normalized=True)):
        assert got.isnan().tolist() == [False, True, True, True]


def ranked_by_hand(x):
    """Vehtari et al. 2021, section 4.1: of the halves' normal scores, plain and folded."""
    n = x.shape[0] // 2
    halves = np.concatenate([x[:n], x[-n:]], 1)
    worst = 0.0
    for value in (halves, abs(halves - np.median(halves))):
        ranks = stats.rankdata(value.reshape(-1)).reshape(value.shape)
        scores = stats.norm.ppf((ranks - 3 / 8) / (value.size + 1 / 4))
        within = scores.var(0, ddof=1).mean()
        between = n * scores.mean(0).var(ddof=1)
        worst = max(worst, math.sqrt(((n - 1) / n * within + between / n) / within))
    return worst


def test_rank_normalized_r_hat_is_its_definition_and_sees_what_the_plain_one_does_not():
    x = autoregressive(0.4, 301, 4)
    x[10:14] = x[10].clone()  # equal draws, as after rejections
    assert split_r_hat(x, True).item() == pytest.approx(ranked_by_hand(x.numpy()), rel=1e-12)
    wide = x * torch.tensor([1.0, 1.0, 1.0, 5.0])
    assert split_r_hat(wide).item() < 1.02
    assert split_r_hat(wide, True).item() > 1.1
    heavy = torch.tan(math.pi * (torch.special.ndtr(x) - 0.5))
    apart = heavy + 3.0 * torch.arange(4)
    assert split_r_hat(apart).item() < 1.1
    assert split_r_hat(apart, True).item() > 1.2


def deterministic_chains(draws, count, rho, apart):
    """Chains without a random number generator, so that other programs can be given the same."""
    t, c = np.arange(1, draws + 1)[:, None], np.arange(1, count + 1)
    z = (np.sin(12.9898 * t + 78.233 * c) * 43758.5453) % 1.0 - 0.5
    x = np.empty_like(z)
    x[0] = z[0]
    for i in range(1, draws):
        x[i] = rho * x[i - 1] + (1 - rho**2) ** 0.5 * z[i]
    return x + apart * (c - 1)


@pytest.mark.parametrize(
    ("chains", "known"),
    [
        ((200, 4, 0.0, 0.0), (826.3026776880882, 0.9984856193810704, 0.9984709597063149)),
        ((151, 3, 0.7, 0.0), (48.72458168688754, 1.0271344659602875, 1.029086656434641)),
        ((120, 2, -0.4, 0.0), (571.2506980107854, 0.9922333097557713, 0.9965798385394193)),
        ((300, 4, 0.9, 0.05), (58.74362181553133, 1.0470945884405696, 1.0466205992672517)),
        ((80, 4, 0.3, 0.4), (2.862530871955243, 1.9359916507807118, 1.8519735756658655)),
    ],
)
def test_diagnostics_are_those_of_arviz(chains, known):
    """Recorded from arviz-stats 0.8.0: ess(method="identity"), rhat(method="split") and "rank".

    Its ESS ends Geyer's sequence with half a pair more, a few percent where there are few draws."""
    x = torch.from_numpy(deterministic_chains(*chains))
    assert ess(x).item() == pytest.approx(known[0], rel=0.05 if known[0] < 10 else 0.007)
    assert split_r_hat(x).item() == pytest.approx(known[1], rel=1e-9)
    assert split_r_hat(x, rank_normalized=True).item() == pytest.approx(known[2], rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 2), (10,), (10, 0, 2)])
def test_wrong_shapes_are_refused(shape):
    for diagnose in (ess, split_r_hat):
        with pytest.raises(ValueError, match=r"accepted: \(draws, chains, \*event\) with at least"):
            diagnose(torch.zeros(shape))


def test_energy_errors_are_summed_up():
    errors = torch.tensor([[0.5, -1.0], [2000.0, math.inf], [math.nan, 1.5]])
    got = energy_errors(errors)
    finite = [0.5, -1.0, 2000.0, 1.5]
    assert got.mean == pytest.approx(np.mean(finite))
    assert got.std == pytest.approx(np.std(finite))
    assert got.largest == 2000.0
    assert got.divergent == 3
    assert got.balance == pytest.approx((math.exp(-0.5) + math.e + math.exp(-1.5)) / 6)
    assert energy_errors(torch.tensor([-3.0, 2.0])).largest == 3.0
    assert energy_errors(torch.tensor([1001.0, 999.0, -2000.0])).divergent == 1
    lost = energy_errors(torch.full((4,), math.inf))
    assert (lost.divergent, lost.balance) == (4, 0.0)
    assert math.isnan(lost.mean)


def test_balance_of_an_adjusted_kernel_is_one_in_equilibrium(exact):
    """E[exp(-error)] = 1 where the start has the distribution: the moves there weigh those back."""
    curve = exact.curve("double well")
    start = curve.sample(4000, torch.Generator().manual_seed(0))
    chains = run_chains(curve, start, "mala(step_size=0.04)", draws=4, seed=1, progress=False)
    ratio = (-chains.energy_error).exp()
    error = (ratio.var() / ratio.shape[1]).sqrt().item()  # draws of a chain are not independent
    assert error < 0.03
    assert chains.energy_errors().balance == pytest.approx(1, abs=4.5 * error)
