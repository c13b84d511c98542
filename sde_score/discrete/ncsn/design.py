"""Noise levels designed for given data, with the reason for every number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sde_score._core.checks import require_batch, require_count, require_positive, shown
from sde_score.discrete.ncsn.design_rules import (
    DesignChoice,
    Stds,
    count_scales,
    langevin_size,
    langevin_steps,
    largest_scale,
    scale_ratio,
    smallest_scale,
)
from sde_score.discrete.ncsn.noise_scales import NoiseScales
from sde_score.samplers import AnnealedLangevin


@dataclass(frozen=True)
class LadderDesign:
    """Designed noise levels and Langevin steps; prints as the reasons, one a line.

    Args:
        sigma_max: first level.
        sigma_min: last level.
        ratio: largest ratio of neighboring levels.
        count: number of levels.
        steps: Langevin steps at each level.
        size: step size, as a ratio to the variance of the noise.
    """

    sigma_max: DesignChoice[float]
    sigma_min: DesignChoice[float]
    ratio: DesignChoice[float]
    count: DesignChoice[int]
    steps: DesignChoice[int]
    size: DesignChoice[float]

    @property
    def choices(self) -> tuple[DesignChoice[float] | DesignChoice[int], ...]:
        """All choices, in the order in which they are made."""
        return self.sigma_max, self.sigma_min, self.ratio, self.count, self.steps, self.size

    @property
    def scales(self) -> NoiseScales:
        """The geometric noise levels."""
        return NoiseScales.geometric(self.sigma_max.value, self.sigma_min.value, self.count.value)

    @property
    def steps_each(self) -> int:
        """Langevin steps at each level."""
        return self.steps.value

    @property
    def step_ratio(self) -> float:
        """Step size in units of the variance of the noise."""
        return self.size.value

    @property
    def step_lr(self) -> float:
        """NCSN's step size, that at the last level."""
        return self.step_ratio * self.sigma_min.value**2

    def numbers(self) -> dict[str, object]:
        """The choices as plain numbers, with their reasons, for programs."""
        return {
            "sigma_max": self.sigma_max.value,
            "sigma_min": self.sigma_min.value,
            "ratio": self.scales.ratio,
            "levels": self.count.value,
            "steps_each": self.steps_each,
            "step_ratio": self.step_ratio,
            "step_lr": self.step_lr,
            "sigmas": list(self.scales),
            "reasons": [choice.reason for choice in self.choices],
        }

    def sampler(self, *, denoise: bool = True) -> AnnealedLangevin:
        """Annealed Langevin dynamics with these levels and steps."""
        return self.scales.sampler(
            steps_each=self.steps_each, step_ratio=self.step_ratio, denoise=denoise
        )

    def __str__(self) -> str:
        return "\n".join(choice.reason for choice in self.choices)


def design(
    data: Tensor | int,
    *,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    overlap: float = 0.5,
    radius: str = "normal",
    steps_each: int | None = None,
    tolerance: float = 0.05,
    data_std: Stds = 0.0,
) -> LadderDesign:
    """Choose levels, Langevin steps and their size by the rules of NCSNv2.

    Args:
        data: shape `(count, *event)`, in the range that models see; or D, the number of entries of
            an example, if both `sigma_max` and `sigma_min` are given.
        sigma_max: first level; from `largest_scale` if not given.
        sigma_min: last level; from `smallest_scale` if not given.
        overlap: of neighboring levels, as for `scale_ratio`.
        radius: as for `scale_ratio`.
        steps_each: Langevin steps at each level; from `langevin_steps` if not given.
        tolerance: as for `langevin_steps`.
        data_std: as for `langevin_steps`.

    Raises:
        ValueError: if an end is neither given nor measurable for want of data, or an argument is
            outside its range.
        TypeError: if `data` is a tensor that is not floating point.
    """
    if isinstance(data, Tensor):
        require_batch("data", data)
    dim = data[:1].numel() if isinstance(data, Tensor) else data
    first = _given("sigma_max", sigma_max, data, largest_scale)
    last = _given("sigma_min", sigma_min, data, smallest_scale)
    ratio = scale_ratio(dim, overlap, radius)
    count = count_scales(first.value, last.value, ratio.value)
    scales = NoiseScales.geometric(first.value, last.value, count.value)
    if steps_each is None:
        steps = langevin_steps(scales, tolerance, data_std)
    else:
        require_count(steps_each=steps_each)
        steps = DesignChoice(steps_each, f"steps_each = {steps_each}: as given.")
    size = langevin_size(scales, steps.value, data_std)
    return LadderDesign(first, last, ratio, count, steps, size)


def _given(
    name: str,
    value: float | None,
    data: Tensor | int,
    rule: Callable[[Tensor], DesignChoice[float]],
) -> DesignChoice[float]:
    """The given value, or the rule's choice on the data."""
    if value is not None:
        require_positive(**{name: value})
        return DesignChoice(value, f"{name} = {value:.4g}: as given.")
    if not isinstance(data, Tensor):
        raise ValueError(
            f"{name} is measured on data: give it, or the data as a tensor, not data={shown(data)}"
        )
    return rule(data)
