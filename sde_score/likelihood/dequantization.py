r"""Dequantization: noise that fills the bins of discrete data, and its density.

If x given the levels has density q, all of it within their bin, then in nats

.. math:: \log P(\mathrm{levels}) \ge E_{q}[\log p_t(x) - \log q(x)],

where t is the time at which x lives and p_t the density of the model there. Both densities are over
x, so that their ratio has no Jacobian: the result is a probability, whatever the units of x.
Continuous data are their own points and -log q is the Jacobian log |d x / d raw|, so that the same
difference is the log density of the raw data.

Many draws come closer than one: the log of a mean is above the mean of the logs,

.. math:: \log P(\mathrm{levels}) \ge E\Big[\log \frac1K \sum_k \frac{p_t(x_k)}{q(x_k)}\Big].

Reference: Theis et al. 2016, https://arxiv.org/abs/1511.01844, section 3.1 (uniform); Ho et al.
2019 (Flow++), https://arxiv.org/abs/1902.00275, section 3.1 (variational); Zheng et al. 2023
(i-DODE), https://arxiv.org/abs/2305.03935, section 4 (truncated normal); Burda et al. 2016,
https://arxiv.org/abs/1509.00519 (many draws).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_positive
from sde_score._core.registry import Registry
from sde_score.distributions import Normal
from sde_score.random import ExampleStreams, generator_from, mix
from sde_score.scaling import Scaling
from sde_score.sdes import SDE


@dataclass(frozen=True, eq=False)
class Dequantized:
    """Points that stand for raw data.

    Args:
        x: shape `(batch, *event)`.
        log_q: log density of x given the raw data, in nats, shape `(batch,)`, float64.
        start: time at which x lives; None is `t_min`.
    """

    x: Tensor
    log_q: Tensor
    start: float | None = None


class Dequantization(ABC):
    """A distribution of points given raw data."""

    def __call__(
        self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]
    ) -> Dequantized:
        """Draw a point for each example of raw data `(batch, *event)`, from the example's seed.

        Raises:
            ValueError: for raw data that `Scaling.require_raw` refuses.
        """
        raw = scaling.require_raw(raw)
        return self.draw(raw, scaling, sde, seeds)

    @abstractmethod
    def draw(self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]) -> Dequantized:
        """The points of raw data that have been checked."""


@dataclass(frozen=True)
class UniformDequantization(Dequantization):
    """Uniform noise over the bins, that of most published numbers; continuous data unchanged."""

    @override
    def draw(self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]) -> Dequantized:
        """raw + u with u uniform on [0, 1)^D, in model space."""
        x = torch.cat(
            [
                scaling.dequantize(raw[i : i + 1], generator_from(seed, 1))
                for i, seed in enumerate(seeds)
            ]
        )
        return Dequantized(x, _unit_density(raw, scaling))


@dataclass(frozen=True)
class NoDequantization(Dequantization):
    """Continuous data unchanged."""

    @override
    def draw(self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]) -> Dequantized:
        """Raw data in model space.

        Raises:
            ValueError: for discrete data, which have no density.
        """
        if scaling.levels is not None:
            raise ValueError(
                f"dequantization='none' is for continuous data, these have {scaling.levels} "
                "levels: try 'uniform' or 'truncated-normal'"
            )
        return Dequantized(scaling.to_model(raw), _unit_density(raw, scaling))


@dataclass(frozen=True)
class TruncatedNormalDequantization(Dequantization):
    r"""The model's own noise, truncated to the bin: nothing to train, and a small gap.

    .. math:: x = \alpha x_0 + \sigma z, \qquad z \sim N(0, I) \text{ within } |z_i| \le \tau,
              \qquad \tau\, \sigma / \alpha = \text{half the width of a bin}

    at the time where the last equation holds. A model trained on the centers of levels has met
    almost this very noise, while uniform noise in a bin at `t_min` is foreign to it.

    Args:
        truncation: tau > 0, in standard deviations.

    Raises:
        ValueError: if tau is not positive; when called, for continuous data, features of different
            width, or a time that the SDE does not reach.

    Reference: Zheng et al. 2023, https://arxiv.org/abs/2305.03935, section 4.
    """

    truncation: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(truncation=self.truncation)

    @override
    def draw(self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]) -> Dequantized:
        """alpha x_0 + sigma z, and the time of that noise."""
        half_bin = self._half_bin(scaling)
        start = self.start(sde, half_bin)
        alpha = float(sde.alpha(start))
        std = alpha * half_bin / self.truncation
        x0 = scaling.to_model(raw).double()
        below, within = self._tail, 1 - 2 * self._tail
        u = torch.special.ndtr(_noise(x0, seeds))
        z = torch.special.ndtri(below + within * u).clamp(-self.truncation, self.truncation)
        x = alpha * x0 + std * z
        normal = Normal(alpha * x0, torch.tensor(std, dtype=torch.float64))
        log_q = normal.log_prob(x) - x0[0].numel() * math.log(within)
        return Dequantized(x, log_q, start)

    def start(self, sde: SDE, half_bin: float) -> float:
        """The time at which tau sigma / alpha is half a bin.

        Raises:
            ValueError: if it lies outside the range of the SDE.
        """
        ratio = half_bin / self.truncation
        low, high = sde.log_snr_range
        if not low < -2 * math.log(ratio) <= high:
            least = math.exp(-0.5 * high)
            raise ValueError(
                f"truncation={self.truncation:g} asks for sigma / alpha = {ratio:.3g}, and {sde} "
                f"starts at {least:.3g}: try truncation={half_bin / least:.3g} or less, or "
                "dequantization='uniform'"
            )
        return float(sde.time_of_noise_ratio(ratio))

    @property
    def _tail(self) -> float:
        """Mass of the standard normal distribution below -tau."""
        return 0.5 * math.erfc(self.truncation / math.sqrt(2))

    def _half_bin(self, scaling: Scaling) -> float:
        if scaling.levels is None or isinstance(scaling.width, tuple):
            raise ValueError(
                f"dequantization='truncated-normal' needs discrete data of one width, not {scaling}"
                ": try 'none' for continuous data, 'uniform' for features of different width"
            )
        return 0.5 / scaling.width


BinNoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(raw, noise) -> (u, log q(u | raw))`: from standard normal noise like raw to u in [0, 1)^D, the
place in the bin, and its log density in nats, shape `(batch,)`."""


@dataclass(frozen=True)
class VariationalDequantization(Dequantization):
    """Noise in the bin from any distribution, such as that of a trained network.

    Args:
        noise: the distribution of the place u in the bin; the point is raw + u.
    """

    noise: BinNoise

    @override
    def draw(self, raw: Tensor, scaling: Scaling, sde: SDE, seeds: Sequence[int]) -> Dequantized:
        """raw + u with u drawn from the distribution.

        Raises:
            ValueError: for continuous data, or if u leaves the bin or has another shape.
        """
        if scaling.levels is None:
            raise ValueError("noise in the bins needs discrete data: try 'none'")
        value = raw.double()
        u, log_q = self.noise(raw, _noise(value, seeds))
        if u.shape != raw.shape or log_q.shape != (len(raw),):
            raise ValueError(
                f"noise returned u of shape {tuple(u.shape)} and log q of shape "
                f"{tuple(log_q.shape)}; accepted: {tuple(raw.shape)} and ({len(raw)},)"
            )
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise ValueError(f"noise returned u in {u.min():g}..{u.max():g}; accepted: [0, 1)")
        # `to_model` puts a level at the center of its bin, half a unit up
        x = scaling.to_model(value + u.double() - 0.5)
        return Dequantized(x, log_q.double() + _unit_density(raw, scaling))


DEQUANTIZATIONS: Registry[Dequantization] = Registry(
    "dequantization",
    {
        "uniform": UniformDequantization,
        "truncated-normal": TruncatedNormalDequantization,
        "none": NoDequantization,
    },
    base=Dequantization,
)


def log_mean_exp(rows: Tensor) -> Tensor:
    """log of the mean of exp over the first dimension."""
    return rows.logsumexp(0) - math.log(len(rows))


def _noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Standard normal noise for each example from its seed, other than that of its probes."""
    return ExampleStreams([mix(seed, 1) for seed in seeds], like)()


def _unit_density(raw: Tensor, scaling: Scaling) -> Tensor:
    """Log density over x of a point that is uniform over one unit of raw value, `(batch,)`."""
    event = tuple(raw.shape[1:])
    value = -scaling.log_abs_det(event)
    return torch.full((len(raw),), value, dtype=torch.float64, device=raw.device)
