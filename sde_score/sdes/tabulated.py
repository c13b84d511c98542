"""A diffusion through a table of noise levels, such as the betas of a published chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score.sdes.base import SDE, of_time


@dataclass(frozen=True)
class Tabulated(SDE):
    r"""Variance-preserving diffusion through given log signal-to-noise ratios.

    .. math:: \lambda(i / n) = \lambda_i, \quad i = 1 ... n, \quad \text{linear in } t
              \text{ between}, \qquad \alpha^2 = \frac{1}{1 + e^{-\lambda}}, \qquad
              \sigma^2 = \frac{1}{1 + e^{\lambda}}, \quad t \in [1/n, 1]

    A network trained on the betas of a chain is read as an SDE or an ODE with it: the marginals at
    i/n are those of the chain. The derivatives jump there and take the value on the right.

    Args:
        log_snrs: lambda_1 ... lambda_n, strictly decreasing, at least 2.

    Raises:
        ValueError: if they are too few, not finite, or do not decrease.
    """

    log_snrs: tuple[float, ...]

    prior_std = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_snrs", tuple(float(value) for value in self.log_snrs))
        table = _table(self.log_snrs, torch.device("cpu"))
        if len(table) < 2 or not bool((table.diff() < 0).all() and table.isfinite().all()):
            raise ValueError(
                "log_snrs must be finite and strictly decreasing, at least 2: "
                "noise grows with the index"
            )
        check_fields(self)

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> Tabulated:
        r"""The diffusion through a chain x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) z.

        .. math:: \alpha(i / n)^2 = \prod_{j \le i} (1 - \beta_j)

        Args:
            betas: variances of the n steps, shape `(n,)`, in (0, 1).

        Raises:
            ValueError: for a beta outside (0, 1); at 1 no signal is left and its logarithm is
                infinite.

        Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 2 and 4.
        """
        beta = torch.as_tensor(betas, dtype=torch.float64).cpu()
        if beta.ndim != 1 or not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(
                f"betas must be numbers in (0, 1) of shape (n,), got shape {tuple(beta.shape)} "
                "with values up to "
                f"{float(beta.max()) if beta.numel() else 'none'}: cap the largest, as at 0.999"
            )
        log_alpha2 = torch.log1p(-beta).cumsum(0)
        return cls(tuple((log_alpha2 - torch.log(-torch.expm1(log_alpha2))).tolist()))

    def __str__(self) -> str:
        first, last = self.log_snrs[0], self.log_snrs[-1]
        return f"Tabulated({len(self.log_snrs)} log-SNRs from {first:.6g} to {last:.6g})"

    @property
    @override
    def t_min(self) -> float:
        """1 / n, the time of the first entry."""
        return 1 / len(self.log_snrs)

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The table's values at the ends of the segment that holds t, and t's place in it."""
        table = _table(self.log_snrs, t.device)
        place = t * len(table) - 1
        # Where i/n is rounded down, it still belongs to the segment on its right.
        left = (place + 1e-9).floor().clamp(0, len(table) - 2)
        index = left.long()
        return table[index], table[index + 1], place - left

    @override
    @of_time
    def log_snr(self, t: Tensor) -> Tensor:
        """Linear in t between the entries of the table."""
        left, right, share = self._segment(t)
        return torch.lerp(left, right, share)

    @of_time
    def _log_snr_derivative(self, t: Tensor) -> Tensor:
        left, right, _ = self._segment(t)
        return (right - left) * len(self.log_snrs)

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.log_snr(t)).sqrt()

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return 0.5 * self.alpha(t) * self.sigma(t) ** 2 * self._log_snr_derivative(t)

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return -0.5 * self.sigma(t) * self.alpha(t) ** 2 * self._log_snr_derivative(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        table = _table(self.log_snrs, log_snr.device)
        right = torch.searchsorted(-table, -log_snr).clamp(1, len(table) - 1)
        before, after = table[right - 1], table[right]
        return (right + (log_snr - before) / (after - before)) / len(table)


@lru_cache(maxsize=32)
def _table(log_snrs: tuple[float, ...], device: torch.device) -> Tensor:
    """The table as a tensor, cached, so that a sampler's loop copies nothing to its device."""
    with torch.inference_mode(False):  # or autograd could not use it later
        return torch.tensor(log_snrs, dtype=torch.float64, device=device)
