r"""A diffusion seen at n times is a hierarchical variational autoencoder.

Layer i = 1 ... n holds x_i at time t_i; layer 0 is the data. The encoder is the diffusion and has
nothing to learn; the decoder steps back with the model's denoised mean in the place of the data:

.. math:: q(x_{1:n} \mid x_0) = \prod_i q(x_i \mid x_{i-1}), \qquad
          p(x_{0:n}) = p(x_n) \prod_i p(x_{i-1} \mid x_i), \qquad
          p(x_{i-1} \mid x_i) = q(x_{i-1} \mid x_i, x_0 = \hat x_0(x_i))

On VP this is DDPM, with betas the variances of the encoder's steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_count, require_positive
from sde_score._core.registry import parse_spec
from sde_score.discrete.ddpm.elbo import evidence_lower_bound
from sde_score.discrete.ddpm.encoder import Encoder, Layer
from sde_score.discrete.ddpm.importance import importance_weighted_bound
from sde_score.discrete.ddpm.quantization import Levels, as_levels
from sde_score.discrete.ddpm.sampling import ancestral, ddim, decode
from sde_score.distributions import DiscretizedNormal, Normal
from sde_score.models import Model
from sde_score.samplers import (
    GRIDS,
    Grid,
    ReverseVariance,
    as_variance,
    interpolated_std,
)
from sde_score.sdes import SDE, Tabulated


@dataclass(frozen=True, eq=False)
class HierarchicalVAE(Encoder):
    r"""A linear Gaussian diffusion at n times, as a chain of latent layers.

    Its kernels are those of the SDE, so that its marginals are too, whatever the number of layers.
    All conditionals are normal laws one can sample and score.

    Args:
        sde: the forward diffusion, on VP the chain of DDPM.
        times: t_1 < ... < t_n, shape `(n,)`. What starts from p(x_n) = N(0, prior_std^2 I) needs
            t_n = `sde.t_max`.
        variance: of p(x_{i-1} | x_i): `"posterior"` (the small one of DDPM), `"transition"` (the
            large one), `"interpolated(v=0.3)"`, or an object such as those made by
            `optimal_variances` and `optimal_interpolation`. To change it, `dataclasses.replace`.
        decoder_std: standard deviation of p(x_0 | x_1); None for sigma_1 / alpha_1, that of x_1 /
            alpha_1 around the data.

    Raises:
        ValueError: for times that do not increase or leave the range of the SDE, an unknown
            variance or a `decoder_std` that is not positive.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Kingma et al. 2021,
    https://arxiv.org/abs/2107.00630, for any SDE.
    """

    variance: str | ReverseVariance = "posterior"
    decoder_std: float | None = None

    # What is done with the conditionals below, one thing a file.
    elbo = evidence_lower_bound
    importance_weighted = importance_weighted_bound
    decode = decode
    ancestral = ancestral
    ddim = ddim

    def __post_init__(self) -> None:
        super().__post_init__()
        as_variance(self.variance)
        if self.decoder_std is not None:
            require_positive(decoder_std=self.decoder_std)

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
            grid: a name, whose layers reach down to `sde.t_min` (from which likelihoods are
                computed) unless it says its own end: `"uniform(end=0.001)"` with 1000 layers on VP
                has the times of DDPM; or an object.
            variance: as for the class, as is `decoder_std`.
            decoder_std: None for sigma_1 / alpha_1.
        """
        require_count(layers=layers)
        if isinstance(grid, str):
            ends = {} if "end" in parse_spec(grid)[1] else {"end": sde.t_min}
            grid = GRIDS.create(grid, **ends)
        return cls(sde, grid.times(sde, layers).flip(0), variance, decoder_std)

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

    @cached_property
    def decoder_stds(self) -> Tensor:
        """Standard deviation of p(x_{i-1} | x_i), shape `(n,)`; that of p(x_0 | x_1) is first."""
        first = self.decoder_std or float(self.sigmas[0] / self.alphas[0])
        steps = as_variance(self.variance).std(self.sde, self.times[:-1], self.times[1:])
        return torch.cat([torch.tensor([first], dtype=torch.float64), steps])

    def prior(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Normal:
        """p(x_n) = N(0, prior_std^2 I) over `(batch, *event)`.

        Raises:
            ValueError: if the last layer is not at `sde.t_max`, to which `prior_std` belongs.
        """
        if not float(self.times[-1]) >= self.sde.t_max * (1 - 1e-6):
            raise ValueError(
                f"the last layer is at t={float(self.times[-1]):.6g}, but the prior is that of "
                f"t_max={self.sde.t_max:g}: put the last layer there"
            )
        std = torch.tensor(self.sde.prior_std, dtype=torch.float64)
        return Normal(torch.zeros(tuple(shape), dtype=dtype, device=device), std)

    def denoise(
        self, model: Model, x: Tensor, layer: Layer, condition: Tensor | None = None
    ) -> Tensor:
        """The model's denoised mean of x_i = x, like x.

        Raises:
            ValueError: if the model lives on another SDE.
        """
        if model.sde != self.sde:
            raise ValueError(
                f"the model lives on {model.sde}, the layers on {self.sde}: give the model the "
                "SDE of the layers, or make the layers from `model.sde`"
            )
        return model.denoise(x, self.at(self.times, layer), condition)

    def step_back(
        self, x: Tensor, estimate: Tensor, layer: Layer, std: Tensor | None = None
    ) -> Normal:
        """p(x_{i-1} | x_i = x) for an estimate of the data, like x; for i = 1 that of the data.

        Args:
            x: state at the layer.
            estimate: what stands for x_0 in the mean of the posterior.
            layer: i.
            std: replaces that of `variance`; a scalar, `(batch,)`, or one per entry.
        """
        on_x0, on_x = (expand_like(self.at(t, layer), x) for t in self.posteriors[:2])
        mean = on_x0 * estimate + on_x * x
        return Normal(mean, self.at(self.decoder_stds, layer) if std is None else std)

    def decoder_step(
        self,
        model: Model,
        x: Tensor,
        layer: Layer,
        condition: Tensor | None = None,
        *,
        std: Tensor | None = None,
    ) -> Normal:
        """p(x_{i-1} | x_i = x), i >= 2; `std` (such as `interpolated_std`) replaces that of
        `variance`."""
        self.at(self.times, layer, 2)
        return self.step_back(x, self.denoise(model, x, layer, condition), layer, std)

    def interpolated_std(self, v: Tensor, layer: int) -> Tensor:
        """Standard deviation for a learned variance: ln variance = v ln transition + (1 - v) ln
        posterior, float64 in the shape of v, in [0, 1] (what a network says of each entry)."""
        t = self.at(self.times, layer, 2)
        return interpolated_std(self.sde, self.at(self.times, layer - 1), t, v.double())

    @overload
    def decoder(
        self,
        model: Model,
        x: Tensor,
        condition: Tensor | None = ...,
        *,
        levels: None = ...,
        std: Tensor | None = ...,
    ) -> Normal: ...
    @overload
    def decoder(
        self,
        model: Model,
        x: Tensor,
        condition: Tensor | None = ...,
        *,
        levels: int | Levels,
        std: Tensor | None = ...,
    ) -> DiscretizedNormal: ...
    def decoder(
        self,
        model: Model,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        levels: int | Levels | None = None,
        std: Tensor | None = None,
    ) -> Normal | DiscretizedNormal:
        """p(x_0 | x_1 = x): normal, or cut into levels if the data are whole numbers."""
        law = self.step_back(x, self.denoise(model, x, 1, condition), 1, std)
        return law if levels is None else as_levels(levels).cut(law)
