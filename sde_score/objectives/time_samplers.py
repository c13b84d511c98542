"""Distributions of the times that a training step visits.

A time sampler maps uniform numbers to times. With `stratified=True` the numbers of a batch share
one offset and cover [0, 1) evenly, so that the loss of a batch varies less (VDM's low-discrepancy
sampler); each time alone keeps its distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score._core.registry import Registry
from sde_score.random import Draws, stratified, uniform
from sde_score.sdes import EDM, SDE, VE, VP, Cosine, Rectified, SubVP, Tabulated


@dataclass(frozen=True)
class TimeSampler(ABC):
    """Draws times and their importance weights.

    Args:
        stratified: spread the times of a batch evenly over their distribution.
    """

    stratified: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Times at which the distribution function takes the values u, in `[t_min, t_max]`;
        float64."""

    def importance(self, sde: SDE, t: Tensor) -> Tensor:
        """Factor on the loss; 1 where the distribution of t is part of the objective."""
        return torch.ones_like(t)

    def __call__(
        self, sde: SDE, batch: int, generator: Draws = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Times and importance weights, both float64 of shape `(batch,)`."""
        numbers = stratified if self.stratified else uniform
        t = self.quantile(sde, numbers(batch, generator, device))
        return t, self.importance(sde, t)


@dataclass(frozen=True)
class Uniform(TimeSampler):
    """t uniform in [t_min, t_max]."""

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """t_min + u (t_max - t_min)."""
        return sde.t_min + u * (sde.t_max - sde.t_min)


@dataclass(frozen=True)
class LowDiscrepancy(Uniform):
    """t uniform in [t_min, t_max], stratified over the batch.

    Reference: Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1.
    """

    stratified: bool = True


@dataclass(frozen=True)
class UniformLogSNR(TimeSampler):
    """The log signal-to-noise ratio uniform over its range: all orders of magnitude of noise
    alike."""

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """The time at which log-SNR has fallen by the share u of its range."""
        low, high = sde.log_snr_range
        return sde.time_of_log_snr(high + u * (low - high))


@dataclass(frozen=True)
class Importance(UniformLogSNR):
    r"""Times drawn with density proportional to g^2 / sigma^2, and the loss reweighted for it.

    As g^2 / sigma^2 is the rate at which log-SNR falls, this is a uniform log-SNR; the expected
    loss stays the one of uniform times, and with likelihood weighting its variance no longer
    depends on t.

    Reference: Song et al. 2021, https://arxiv.org/abs/2101.09258, section 5.1.
    """

    def importance(self, sde: SDE, t: Tensor) -> Tensor:
        """(uniform density) / (density drawn from)."""
        low, high = sde.log_snr_range
        rate = (sde.diffusion(t) / sde.sigma(t)) ** 2
        return (high - low) / ((sde.t_max - sde.t_min) * rate)


@dataclass(frozen=True)
class LogNormal(TimeSampler):
    """log(sigma / alpha) normal, clamped to the range of the SDE; part of the objective, as in EDM.

    Args:
        mean: of log(sigma / alpha), in units of the data.
        std: of log(sigma / alpha), > 0.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(std=self.std)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """The time at which log(sigma / alpha) is the normal quantile of u."""
        return sde.time_of_log_snr(-2 * (self.mean + self.std * torch.special.ndtri(u)))


@dataclass(frozen=True)
class LogitNormal(TimeSampler):
    """The logit of t's place in its range normal: the middle of the path counts most.

    Args:
        mean: of the logit; above 0 favors noise.
        std: of the logit, > 0.

    Reference: Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(std=self.std)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """t_min + (t_max - t_min) sigmoid(normal quantile of u)."""
        place = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))
        return sde.t_min + place * (sde.t_max - sde.t_min)


@dataclass(frozen=True)
class UniformAngle(TimeSampler):
    """atan(sigma / (alpha sigma_data)) uniform over its range: data and noise count alike.

    Args:
        sigma_data: root mean square of the data, > 0.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(sigma_data=self.sigma_data)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """The time at which the angle has risen by the share u of its range."""
        ends = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
        low, high = torch.atan(sde.noise_ratio(ends) / self.sigma_data).tolist()
        return sde.time_of_noise_ratio(self.sigma_data * torch.tan(low + u * (high - low)))


@dataclass(frozen=True)
class Discrete(TimeSampler):
    """One of n noise levels, each as likely as any other: the times of the discrete views.

    Args:
        levels: n, for the times `sde.discrete_times(n)`: NCSN's ladder on VE, DDPM's layers i / n
            on VP; or the noise levels sigma / alpha themselves, in any order, for any
            SDE that has them.

    Raises:
        ValueError: if there is no level, or one is not positive and finite.

    Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600; Ho et al. 2020,
    https://arxiv.org/abs/2006.11239.
    """

    levels: int | tuple[float, ...] = 1000

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.levels, (tuple, list)):
            require_count(levels=self.levels)
            return
        object.__setattr__(self, "levels", tuple(self.levels))
        require_count(**{"the number of levels": len(self.levels)})
        require_positive(**{f"levels[{i}]": level for i, level in enumerate(self.levels)})

    def times(self, sde: SDE) -> Tensor:
        """The times of the levels, increasing, float64 of shape `(n,)`.

        Raises:
            ValueError: if the SDE does not have them.
        """
        if isinstance(self.levels, int):
            return sde.discrete_times(self.levels)
        ratios = torch.tensor(sorted(self.levels), dtype=torch.float64)
        return sde.time_of_noise_ratio(ratios, strict=True)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """The time of number floor(u n)."""
        times = self.times(sde).to(u.device)
        return times[(u * len(times)).long().clamp(max=len(times) - 1)]


TIMES_OF_SDE: dict[type[SDE], str] = {
    VP: "uniform",  # Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 7; also for VE, SubVP
    SubVP: "uniform",
    VE: "uniform",  # of the clock log(sigma)
    Cosine: "uniform",  # Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, over the indices
    Tabulated: "uniform",  # Ho et al. 2020, https://arxiv.org/abs/2006.11239, and in between
    EDM: "log_normal",  # Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1
    Rectified: "logit_normal",  # Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1
}
"""The time sampler that the paper of an SDE trains with, by class; a subclass has that of its
class, and one that derives from `SDE` alone `uniform`. Add a line for an SDE of your own:
`TIMES_OF_SDE[Mine] = "log_normal"`."""


def times_of(sde: SDE) -> str:
    """The spec of the time sampler that suits an SDE, see `TIMES_OF_SDE`."""
    found = (TIMES_OF_SDE[kind] for kind in type(sde).__mro__ if kind in TIMES_OF_SDE)
    return next(found, "uniform")


@dataclass(frozen=True)
class Auto(TimeSampler):
    """The times that the paper of the SDE trains at, see `TIMES_OF_SDE`; part of the objective."""

    def of(self, sde: SDE) -> TimeSampler:
        """The time sampler of an SDE."""
        return TIME_SAMPLERS.create(times_of(sde), stratified=self.stratified)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """As the time sampler of the SDE."""
        return self.of(sde).quantile(sde, u)

    def importance(self, sde: SDE, t: Tensor) -> Tensor:
        """As the time sampler of the SDE."""
        return self.of(sde).importance(sde, t)


TIME_SAMPLERS: Registry[TimeSampler] = Registry(
    "time sampler",
    {
        "auto": Auto,
        "uniform": Uniform,
        "low_discrepancy": LowDiscrepancy,
        "uniform_log_snr": UniformLogSNR,
        "importance": Importance,
        "log_normal": LogNormal,
        "logit_normal": LogitNormal,
        "uniform_angle": UniformAngle,
        "discrete": Discrete,
    },
    base=TimeSampler,
)
