r"""The multi-noise view: a diffusion at n noise levels, the view of NCSN.

NCSN perturbs data at n levels, x_0 + sigma_i z, learns the score at each, and samples by Langevin
dynamics from the largest level down. These are the marginals of the variance-exploding diffusion
at n times; on any other diffusion they are those of x_t / alpha, with the noise sigma / alpha. So
noise scales are n decreasing numbers, and every trained model can be read at them.

Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600; Song & Ermon 2020,
https://arxiv.org/abs/2006.09011; Song et al. 2021, https://arxiv.org/abs/2011.13456, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_increasing, require_positive
from sde_score.objectives import DenoisingScoreMatching, Weighting
from sde_score.objectives.time_samplers import Discrete
from sde_score.samplers import GRIDS, AnnealedLangevin, Grid
from sde_score.sdes import SDE, VE


@dataclass(frozen=True, eq=False, repr=False)
class NoiseScales:
    r"""Noise levels sigma_1 > ... > sigma_n > 0, in units of the data.

    .. math:: x \mid x_0 \sim N(x_0, \sigma_i^2 I), \qquad i = 1 ... n

    Iterating gives the levels as numbers; `repr` names the ends.

    Args:
        sigmas: the levels, decreasing, at least two; a copy in float64 of shape `(n,)` is kept, on
            the CPU.

    Raises:
        ValueError: if they are not positive, finite and decreasing.
    """

    sigmas: Tensor

    def __post_init__(self) -> None:
        levels = torch.as_tensor(self.sigmas, dtype=torch.float64).detach().cpu().clone()
        if levels.ndim != 1 or len(levels) < 2:
            raise ValueError(
                f"sigmas has shape {tuple(levels.shape)}; accepted: (n,) with n of at least 2"
            )
        if not bool((torch.isfinite(levels) & (levels > 0)).all()):
            raise ValueError("sigmas must be finite numbers greater than 0")
        if not bool((levels.diff() < 0).all()):
            raise ValueError("sigmas must decrease, from the largest noise: try sigmas.flip(0)")
        object.__setattr__(self, "sigmas", levels)

    @classmethod
    def geometric(cls, sigma_max: float, sigma_min: float, n: int) -> NoiseScales:
        """NCSN's geometric sequence of n levels, sigma_max and sigma_min among them.

        Raises:
            ValueError: if the bounds are not positive and increasing, or n < 2.
        """
        require_increasing(sigma_min=sigma_min, sigma_max=sigma_max)
        require_count(minimum=2, n=n)
        ends = math.log(sigma_max), math.log(sigma_min)
        levels = torch.linspace(*ends, n, dtype=torch.float64).exp()
        levels[0], levels[-1] = sigma_max, sigma_min
        return cls(levels)

    @classmethod
    def uniform(cls, sigma_max: float, sigma_min: float, n: int) -> NoiseScales:
        """n evenly spaced levels, sigma_max and sigma_min among them.

        Raises:
            ValueError: if the bounds are not positive and increasing, or n < 2.
        """
        require_increasing(sigma_min=sigma_min, sigma_max=sigma_max)
        require_count(minimum=2, n=n)
        return cls(torch.linspace(sigma_max, sigma_min, n, dtype=torch.float64))

    @classmethod
    def from_sde(cls, sde: SDE, n: int, grid: str | Grid = "log_snr") -> NoiseScales:
        """The levels sigma / alpha of a diffusion at n times.

        Args:
            sde: any diffusion.
            n: levels, at least 2.
            grid: which times; a name from `GRIDS`, or an object. The default is geometric.

        Raises:
            ValueError: if n < 2, or the grid does not fit the SDE.
        """
        require_count(minimum=2, n=n)
        times = GRIDS.resolve(grid).times(sde, n)
        return cls(sde.sigma(times) / sde.alpha(times))

    def __len__(self) -> int:
        return len(self.sigmas)

    def __iter__(self) -> Iterator[float]:
        return iter(self.sigmas.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseScales):
            return NotImplemented
        return torch.equal(self.sigmas, other.sigmas)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return (
            f"NoiseScales({len(self)} levels from {self.sigma_max:g} to {self.sigma_min:g}, "
            f"ratio {self.ratio:.4g})"
        )

    @property
    def sigma_max(self) -> float:
        """The first level, of most noise."""
        return self.sigmas[0].item()

    @property
    def sigma_min(self) -> float:
        """The last level, of least noise."""
        return self.sigmas[-1].item()

    @property
    def ratio(self) -> float:
        """Largest ratio of neighboring levels; constant if they are geometric."""
        return (self.sigmas[:-1] / self.sigmas[1:]).max().item()

    @property
    def sde(self) -> VE:
        """The variance-exploding diffusion from the last level to the first.

        Its marginals at `times(sde)` have these levels; for geometric ones the times are evenly
        spaced.
        """
        return VE(self.sigma_min, self.sigma_max)

    def times(self, sde: SDE) -> Tensor:
        """The times at which a diffusion has these levels as sigma / alpha.

        Returns:
            decreasing, float64 of shape `(n,)`.

        Raises:
            ValueError: if a level lies outside those of the SDE, where its models are not trained.
        """
        return sde.time_of_noise_ratio(self.sigmas, strict=True)

    def objective(
        self,
        *,
        weighting: str | Weighting = "variance",
        stratified: bool = False,
        variance_reduction: str = "none",
    ) -> DenoisingScoreMatching:
        r"""Annealed denoising score matching: the levels drawn uniformly, for a model on any SDE.

        .. math:: \frac1n \sum_i \lambda(\sigma_i)\, E \left\lVert score(x_0 + \sigma_i z, \sigma_i)
                  + \frac{z}{\sigma_i} \right\rVert^2, \qquad \lambda(\sigma) = \sigma^2

        Losses are averaged over the entries of an event; NCSN's are half their sum, so D / 2 times
        as large.

        Args:
            weighting: `"variance"` is lambda = sigma^2, NCSN's `anneal_power` of 2, and `"unit"`
                its `anneal_power` of 0; other names from `WEIGHTINGS`, or an object.
            stratified: spread the levels of a batch evenly over the scales.
            variance_reduction: see `DenoisingScoreMatching`.

        Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600, eq. 6.
        """
        return DenoisingScoreMatching(
            weighting=weighting,
            time_sampler=Discrete(levels=tuple(self), stratified=stratified),
            variance_reduction=variance_reduction,
        )

    def sampler(
        self,
        *,
        steps_each: int = 5,
        step_ratio: float | None = None,
        step_lr: float | None = None,
        data_std: float | tuple[float, ...] = (0.0, 1.0),
        denoise: bool = True,
    ) -> AnnealedLangevin:
        r"""Annealed Langevin dynamics at these levels, for a model on any SDE that has them.

        .. math:: x \leftarrow x + a_i\, score(x, \sigma_i) + \sqrt{2 a_i}\, z, \qquad
                  a_i = r \sigma_i^2 = step\_lr\, \frac{\sigma_i^2}{\sigma_n^2}

        Args:
            steps_each: Langevin steps at each level.
            step_ratio: r; None takes the one whose chain ends nearest the truth on Gaussian data.
            step_lr: the same in NCSN's terms, r sigma_n^2.
            data_std: for that choice, see `AnnealedLangevin`.
            denoise: end with x + sigma_n^2 score(x, sigma_n), as NCSNv2 does.

        Raises:
            ValueError: if both sizes are given, or an argument is outside its range.

        Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, algorithm 1.
        """
        if step_lr is not None:
            if step_ratio is not None:
                raise ValueError("step_ratio and step_lr are one size in two units: give one")
            require_positive(step_lr=step_lr)
            step_ratio = step_lr / self.sigma_min**2
        return AnnealedLangevin(
            steps=len(self) if denoise else len(self) - 1,
            grid=NoiseScalesGrid(self),
            denoise=denoise,
            steps_each=steps_each,
            step_ratio=step_ratio,
            data_std=data_std,
        )


@dataclass(frozen=True)
class NoiseScalesGrid(Grid):
    """Time grid of given noise scales, on the SDE of whichever model is sampled.

    Args:
        scales: the noise scales, at all of which a sampler stops.
    """

    end: None = field(default=None, init=False, repr=False)
    scales: NoiseScales

    @override
    def times(self, sde: SDE, count: int) -> Tensor:
        """The times of the levels, decreasing, float64 of shape `(count,)`.

        Raises:
            ValueError: if there are not `count` levels, or the SDE does not have them.
        """
        if count != len(self.scales):
            raise ValueError(f"{len(self.scales)} noise scales have no grid of {count} times")
        return self.place(sde, torch.empty(0), self.scales.sigma_min)

    @override
    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """The times of the levels, whatever the shares."""
        return self.scales.times(sde)
