r"""A diffusion seen at finitely many times: the table behind the two discrete views (NCSN and
DDPM).

.. math:: x_i = a_i x_{i-1} + s_i z_i, \qquad i = 1 ... n, \quad x_0 = data
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Chain:
    """A Gaussian Markov chain from data to noise, entry by entry; noise grows with the index.

    Args:
        times: time of each state, increasing, shape `(n,)`, float64.
        scales: factor a_i from the state before (from the data for the first), shape `(n,)`.
        stds: standard deviation s_i of the noise added in that step, shape `(n,)`.
    """

    times: Tensor
    scales: Tensor
    stds: Tensor

    def __len__(self) -> int:
        return len(self.times)

    @property
    def alphas(self) -> Tensor:
        """Signal scale of each state given the data: the cumulative product of the scales."""
        return self.scales.cumprod(0)

    @property
    def sigmas(self) -> Tensor:
        """Noise scale of each state given the data."""
        variance = torch.cumsum((self.stds / self.alphas) ** 2, 0)
        return self.alphas * variance.sqrt()
