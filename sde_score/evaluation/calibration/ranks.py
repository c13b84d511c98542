r"""Ranks of true parameters among draws of their posteriors.

For theta from the prior, y simulated of it and L draws of p(theta | y), the rank of theta among
them is uniform on 0, ..., L. This is simulation-based calibration (SBC), parameter by parameter;
by distances to a random point it is TARP. A posterior that is too narrow gives too many ranks near
0 and L, one that is too wide too few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import require_count, shown
from sde_score._core.errors import ArgumentError
from sde_score.random import generator_from

_EXPECTED = 5  # examples in a bin at least, as the chi-square distribution wants
_BINS = 20


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of truths among draws, for several parameters.

    Args:
        values: number of draws below the truth, int64, shape `(examples, parameters)`.
        draws: L, the draws of each example, so that ranks are 0, ..., L.
        names: of the parameters.

    Raises:
        ValueError: for ranks out of range, or names of another number.
    """

    values: Tensor
    draws: int
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        require_count(draws=self.draws)
        values = self.values
        fits = isinstance(values, Tensor) and values.dtype == torch.int64 and values.ndim == 2
        if not fits or not len(values):
            raise ArgumentError(
                f"values={shown(values)} must be int64 ranks, shape (examples, parameters)"
            )
        if int(values.min()) < 0 or int(values.max()) > self.draws:
            raise ValueError(
                f"values run from {int(values.min())} to {int(values.max())}; accepted: 0 to "
                f"draws={self.draws}"
            )
        if len(self.names) != values.shape[1]:
            raise ValueError(f"names={self.names} must be {values.shape[1]}")

    @property
    def bins(self) -> int:
        """Bins of `histogram`: at most 20, with 5 examples expected in each."""
        return max(2, min(_BINS, len(self.values) // _EXPECTED, self.draws + 1))

    def histogram(self, bins: int | None = None) -> tuple[Tensor, Tensor]:
        """Ranks in bins of nearly the same width.

        Args:
            bins: their number; None takes `self.bins`.

        Returns:
            Counts, int64, shape `(parameters, bins)`, and what is expected, float64, `(bins,)`.
        """
        count = self.bins if bins is None else bins
        require_count(2, bins=count)
        place = torch.arange(self.draws + 1) * count // (self.draws + 1)
        widths = torch.bincount(place, minlength=count).double()
        counts = [torch.bincount(place[each], minlength=count) for each in self.values.T]
        return torch.stack(counts), len(self.values) * widths / (self.draws + 1)

    def p_values(self, bins: int | None = None) -> Tensor:
        """Probability of a histogram as uneven as this if ranks are uniform, of each parameter.

        By the chi-square statistic, float64, shape `(parameters,)`.

        Args:
            bins: as for `histogram`.
        """
        from scipy import stats

        counts, expected = self.histogram(bins)
        kept = expected > 0
        misfit = ((counts - expected) ** 2 / expected)[:, kept].sum(1)
        found = stats.chi2.sf(misfit.numpy(), int(kept.sum()) - 1)
        return torch.from_numpy(np.asarray(found, dtype=np.float64))

    def bin_band(self, level: float = 0.99) -> tuple[Tensor, Tensor]:
        """Counts between which each bin lies with a probability, if ranks are uniform.

        Args:
            level: the probability, of each bin alone.

        Returns:
            Low and high, float64, shape `(bins,)`.
        """
        from scipy import stats

        share = self.histogram()[1].numpy() / len(self.values)
        low, high = stats.binom.interval(level, len(self.values), share)
        return torch.as_tensor(low).double(), torch.as_tensor(high).double()

    def cumulative(self) -> tuple[Tensor, Tensor]:
        """Share of examples whose rank is r or less, for r = 0, ..., L.

        Returns:
            What is expected, (r + 1) / (L + 1), shape `(L + 1,)`, and what is, shape
            `(parameters, L + 1)`; float64.
        """
        steps = torch.arange(self.draws + 1)
        found = (self.values.T[:, :, None] <= steps).double().mean(1)
        return (steps + 1).double() / (self.draws + 1), found

    def margin(self, level: float = 0.95) -> float:
        r"""Half the width of a band that holds a whole curve of shares with a probability.

        .. math:: \sqrt{\log(2 / (1 - level)) / 2 m}

        for m examples, for all points together (Dvoretzky, Kiefer & Wolfowitz, with the constant of
        Massart); for ranks, which are discrete, it is somewhat wide.

        Args:
            level: the probability, in (0, 1).
        """
        return math.sqrt(math.log(2 / (1 - level)) / (2 * len(self.values)))

    def coverage(self, levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95)) -> tuple[Tensor, Tensor]:
        """Share of truths within the central interval of a probability.

        Args:
            levels: probabilities, each in (0, 1).

        Returns:
            What is expected of L draws, which is `levels` to 1 / L, shape `(levels,)`, and what is,
            shape `(parameters, levels)`; float64.
        """
        wide = torch.tensor(list(levels), dtype=torch.float64)
        if not bool(((wide > 0) & (wide < 1)).all()):
            raise ValueError(f"levels={tuple(levels)} must lie in (0, 1)")

        def inside(ranks: Tensor) -> Tensor:
            away = (2 * (ranks.double() + 0.5) / (self.draws + 1) - 1).abs()
            return (away[..., None] <= wide).double()

        return inside(torch.arange(self.draws + 1)).mean(0), inside(self.values.T).mean(1)


def sbc(truth: Tensor, draws: Tensor, names: Sequence[str] = ()) -> Ranks:
    """Ranks of each parameter among its draws: simulation-based calibration.

    Args:
        truth: parameters that were drawn from the prior, shape `(examples, *event)`.
        draws: of the posterior of what was simulated of them, shape `(examples, L, *event)`.
        names: of the parameters; empty for theta1, theta2, ...

    Raises:
        ValueError: for shapes that do not fit, or numbers that are not finite.

    Reference: Talts et al. 2018, https://arxiv.org/abs/1804.06788.
    """
    truth, draws = _checked(truth, draws)
    values = (draws < truth[:, None]).sum(1)
    found = tuple(names) or tuple(f"theta{i + 1}" for i in range(truth.shape[1]))
    return Ranks(values, draws.shape[1], found)


def tarp(truth: Tensor, draws: Tensor, references: Tensor | None = None, seed: int = 0) -> Ranks:
    """Ranks of the distance of truth and of draws to a random point: tests of accuracy with random
    points.

    All parameters together, so that it sees what no marginal shows. `cumulative` is the expected
    coverage: the share of truths within the ball around the reference that holds a share of the
    draws.

    Args:
        truth: parameters that were drawn from the prior, shape `(examples, *event)`.
        draws: of the posterior of what was simulated of them, shape `(examples, L, *event)`.
        references: points, like `truth`; None draws them evenly in the box of all truths.
        seed: random seed of the references.

    Raises:
        ValueError: for shapes that do not fit, or numbers that are not finite.

    Reference: Lemos et al. 2023, https://arxiv.org/abs/2302.03026.
    """
    truth, draws = _checked(truth, draws)
    low, high = truth.amin(0), truth.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    if references is None:
        shares = torch.rand(truth.shape, generator=generator_from(seed), dtype=truth.dtype)
        points = low + shares * width
    else:
        points = references.detach().cpu().double().flatten(1)
        if points.shape != truth.shape:
            raise ValueError(f"references must have the shape of truth, {tuple(truth.shape)}")
    far = ((truth - points) / width).norm(dim=1)
    near = ((draws - points[:, None]) / width).norm(dim=2) < far[:, None]
    return Ranks(near.sum(1, keepdim=True), draws.shape[1], ("distance to a random point",))


def _checked(truth: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    for name, value in (("truth", truth), ("draws", draws)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ArgumentError(f"{name}={shown(value)} must be a floating-point tensor")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} holds NaN or infinity")
    if draws.ndim != truth.ndim + 1 or (len(draws), *draws.shape[2:]) != tuple(truth.shape):
        raise ValueError(
            f"draws of shape {tuple(draws.shape)} must be (examples, L, *event) for truth of shape "
            f"{tuple(truth.shape)}"
        )
    truth, draws = (value.detach().cpu().double() for value in (truth, draws))
    return truth.flatten(1), draws.flatten(2)
