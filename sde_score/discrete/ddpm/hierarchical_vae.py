r"""A diffusion at n times as a hierarchical variational autoencoder.

Layer i = 1 ... n holds x_i at time t_i; layer 0 is the data. The encoder q is the diffusion; the
decoder p steps back with the model's denoised mean in the place of the data. On VP this is DDPM,
with betas the variances of the encoder's steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.discrete.ddpm.decoder import Decoder
from sde_score.discrete.ddpm.elbo import evidence_lower_bound
from sde_score.discrete.ddpm.encoder import Encoder
from sde_score.discrete.ddpm.importance import importance_weighted_bound
from sde_score.discrete.ddpm.sampling import ancestral, ddim, decode
from sde_score.samplers import GRIDS, Grid, ReverseVariance
from sde_score.sdes import SDE, Tabulated


@dataclass(frozen=True, eq=False)
class HierarchicalVAE:
    """A linear Gaussian diffusion at n times, as a chain of latent layers.

    Its kernels are those of the SDE, so that its marginals are too, whatever the number of layers.
    The conditionals, each a normal distribution to sample and score, are `encoder` and `decoder`.

    Args:
        sde: the forward diffusion, on VP the chain of DDPM.
        times: t_1 < ... < t_n, shape `(n,)`. Sampling and bounds start from p(x_n) = N(0,
            prior_std^2 I) and need t_n = `sde.t_max`.
        variance: of p(x_{i-1} | x_i): `"posterior"` (the small one of DDPM), `"transition"` (the
            large one), `"interpolated(v=0.3)"`, or an object such as one made by
            `optimal_variances`. To change it, `dataclasses.replace`.
        decoder_std: standard deviation of p(x_0 | x_1); None for sigma_1 / alpha_1, that of x_1 /
            alpha_1 around the data.

    Raises:
        ValueError: for times that do not increase or leave the range of the SDE, an unknown
            variance or a `decoder_std` that is not positive.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Kingma et al. 2021,
    https://arxiv.org/abs/2107.00630, for any SDE.
    """

    sde: SDE
    times: Tensor
    variance: str | ReverseVariance = "posterior"
    decoder_std: float | None = None

    # Operations on encoder and decoder, one a file.
    elbo = evidence_lower_bound
    importance_weighted = importance_weighted_bound
    decode = decode
    ancestral = ancestral
    ddim = ddim

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", self.encoder.times)
        _ = self.decoder

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def encoder(self) -> Encoder:
        """The conditionals q, of the diffusion."""
        return Encoder(self.sde, self.times)

    @cached_property
    def decoder(self) -> Decoder:
        """The conditionals p, of a model."""
        return Decoder(self.encoder, self.variance, self.decoder_std)

    @property
    def log_snrs(self) -> Tensor:
        """Log signal-to-noise ratio of each layer, decreasing, shape `(n,)`."""
        return self.encoder.log_snrs

    @classmethod
    def from_sde(
        cls,
        sde: SDE,
        layers: int,
        *,
        grid: str | Grid = "log_snr",
        variance: str | ReverseVariance = "posterior",
        decoder_std: float | None = None,
    ) -> HierarchicalVAE:
        """`layers` layers placed by a grid of the samplers, from the noise at `sde.t_max`.

        Args:
            sde: the forward diffusion.
            layers: their number n.
            grid: a name or an object, whose layers reach down to `sde.t_min` (from which
                likelihoods are computed) unless it has an end of its own: `"uniform(end=0.001)"`
                with 1000 layers on VP has the times of DDPM.
            variance: as for the class, as is `decoder_std`.
            decoder_std: None for sigma_1 / alpha_1.
        """
        require_count(layers=layers)
        placed = ending_at(GRIDS.resolve(grid), sde.t_min)
        return cls(sde, placed.times(sde, layers).flip(0), variance, decoder_std)

    @classmethod
    def from_betas(
        cls,
        betas: Sequence[float] | Tensor,
        *,
        variance: str | ReverseVariance = "posterior",
        decoder_std: float | None = None,
    ) -> HierarchicalVAE:
        """DDPM's chain with given step variances, such as `linear_betas(1000)`; its SDE is
        `Tabulated`, with layer i at i / n.

        Raises:
            ValueError: for a beta outside (0, 1).
        """
        sde = Tabulated.from_betas(betas)
        n = len(sde.log_snrs)
        times = torch.arange(1, n + 1, dtype=torch.float64) / n
        return cls(sde, times, variance, decoder_std)


def ending_at(grid: Grid, end: float) -> Grid:
    """The grid with its last time at `end`, where it has neither an end nor times of its own."""
    free = any(field.name == "end" and field.init for field in fields(grid))
    return replace(grid, end=end) if free and grid.end is None else grid
