r"""Diagnostics of Markov chains: effective sample size, split R-hat and energy errors.

All take draws of shape `(draws, chains, *event)` and treat each entry of an event by itself.

Reference: Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, https://arxiv.org/abs/1903.08008.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGENT = 1000.0
"""Energy error above which the integrator is taken to have diverged."""


def ess(samples: Tensor) -> Tensor:
    r"""Effective sample size of the mean over all draws of all chains, shape `event`.

    .. math:: ESS = \frac{M N}{\tau}, \qquad \tau = -1 + 2 \sum_k P_k, \qquad
              P_k = \rho_{2k} + \rho_{2k + 1}, \qquad
              \rho_t = 1 - \frac{W - \overline{c_t}}{V}

    for M chains of N draws: c_t is the autocovariance of a chain, W the mean variance within
    chains and V the pooled variance, so that chains which disagree have few effective draws. The
    sum runs over Geyer's initial monotone sequence: up to the first P_k below 0, none above the one
    before. Chains that alternate may count for more than their draws, at most M N log10(M N).

    Args:
        samples: shape `(draws, chains, *event)`, at least 4 draws.

    Returns:
        float64; NaN where all draws are equal or one is not finite.

    Raises:
        ValueError: for fewer than 4 draws, or a tensor without the dimension of chains.

    Reference: Geyer 1992, https://doi.org/10.1214/ss/1177011137, section 3.3; Vehtari et al. 2021,
    section 3.2.
    """
    draws = _checked(samples)
    count, total = draws.shape[0], draws.shape[0] * draws.shape[1]
    within, pooled = _variances(draws)
    rho = 1 - (within - _autocovariance(draws).mean(1) * count / (count - 1)) / pooled
    even = count - count % 2
    pairs = rho[:even:2] + rho[1:even:2]
    positive = (pairs > 0).cumprod(0)
    monotone = pairs.cummin(0).values
    tau = -1 + 2 * (monotone * positive).sum(0)
    result = total / tau.clamp(min=1 / math.log10(total))
    return torch.where(_meaningful(draws), result, torch.nan)


def split_r_hat(samples: Tensor, rank_normalized: bool = False) -> Tensor:
    r"""Split R-hat: pooled over mean standard deviation of the half chains, shape `event`.

    .. math:: \hat R = \sqrt{V / W}

    with W the mean variance within and V the pooled variance of the 2 M half chains. It falls to 1
    as chains forget their starts; above 1.01 they have not.

    Args:
        samples: shape `(draws, chains, *event)`, at least 4 draws.
        rank_normalized: the larger of R-hat of the normal scores of the ranks, and of those of the
            distances from the median: it also sees tails too heavy for a variance, and chains that
            differ in spread alone.

    Returns:
        float64; NaN where all draws are equal or one is not finite.

    Raises:
        ValueError: for fewer than 4 draws, or a tensor without the dimension of chains.

    Reference: Vehtari et al. 2021, sections 2.1 and 4.1.
    """
    draws = _checked(samples)
    half = draws.shape[0] // 2
    halves = torch.cat([draws[:half], draws[-half:]], dim=1)
    ok = _meaningful(draws)
    if not rank_normalized:
        return torch.where(ok, _r_hat(halves), torch.nan)
    median = halves.flatten(0, 1).quantile(0.5, dim=0)
    bulk, tails = (_r_hat(_normal_scores(v)) for v in (halves, (halves - median).abs()))
    return torch.where(ok, torch.maximum(bulk, tails), torch.nan)


@dataclass(frozen=True)
class EnergyErrors:
    """Summary of the energy errors of a run.

    Args:
        mean: mean over steps and chains of those that are finite.
        std: their standard deviation.
        largest: the largest in size.
        divergent: how many exceed `DIVERGENT` or are not finite.
        balance: mean of exp(-error), 0 where it diverged: 1 within its error for an adjusted kernel
            in equilibrium.
    """

    mean: float
    std: float
    largest: float
    divergent: int
    balance: float


def energy_errors(errors: Tensor) -> EnergyErrors:
    """Sum up energy errors of any shape, such as `(draws, chains)`."""
    value = errors.double().flatten()
    finite = value[value.isfinite()]
    if len(finite) == 0:
        return EnergyErrors(math.nan, math.nan, math.nan, len(value), 0.0)
    divergent = int(((value > DIVERGENT) | ~value.isfinite()).sum())
    balance = (-finite).exp().sum() / len(value)
    return EnergyErrors(
        finite.mean().item(),
        finite.std(correction=0).item(),
        finite.abs().max().item(),
        divergent,
        balance.item(),
    )


def _checked(samples: Tensor) -> Tensor:
    if samples.ndim < 2 or samples.shape[0] < 4 or samples.shape[1] < 1:
        raise ValueError(
            f"samples has shape {tuple(samples.shape)}; accepted: (draws, chains, *event) with at "
            "least 4 draws and 1 chain"
        )
    return samples.detach().double()


def _meaningful(draws: Tensor) -> Tensor:
    """Where draws are finite and not all equal, shape `event`."""
    flat = draws.flatten(0, 1)
    return flat.isfinite().all(0) & (flat != flat[0]).any(0)


def _variances(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean variance within chains and pooled variance, shape `event`."""
    count, chains = draws.shape[:2]
    within = draws.var(0, correction=1).mean(0)
    pooled = within * (count - 1) / count
    if chains > 1:
        pooled = pooled + draws.mean(0).var(0, correction=1)
    return within, pooled


def _r_hat(draws: Tensor) -> Tensor:
    within, pooled = _variances(draws)
    return (pooled / within).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """Of each chain at each lag, divided by the number of draws; like draws."""
    count = draws.shape[0]
    # Padded to twice the length, so that the end of a chain does not meet its beginning.
    spectrum = torch.fft.rfft(draws - draws.mean(0), n=2 * count, dim=0)
    sums: Tensor = torch.fft.irfft(spectrum.abs() ** 2, n=2 * count, dim=0)[:count]
    return sums / count


def _normal_scores(draws: Tensor) -> Tensor:
    """Normal quantiles of the ranks among all draws; equal draws share their mean rank."""
    from scipy.stats import rankdata

    flat = draws.flatten(0, 1)
    ranks = torch.as_tensor(rankdata(flat.cpu().numpy(), axis=0), dtype=torch.float64)
    scores: Tensor = torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25))
    return scores.to(draws.device).reshape(draws.shape)
