"""Identities of the flow: Eulerian, Lagrangian, semigroup, and consistency with the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_nonnegative
from sde_score.models import FlowMapModel
from sde_score.objectives.flow_map.base import (
    Circle,
    FlowMapObjective,
    Pair,
    angle_derivative,
    rewinder,
)


@dataclass(frozen=True)
class MeanFlow(FlowMapObjective):
    r"""The Eulerian identity: the end does not move along the flow. Improved MeanFlow.

    .. math:: \cos\theta_t \left\lVert u + (\theta_t - \theta_s)\,
              \mathrm{sg}\left[\partial_\theta u + (\partial_z u)\, \hat v\right]
              - v \right\rVert^2

    with u at (z, t, s) and the direction v-hat that of the model's own diagonal, or the teacher's,
    so that what u is compared with depends on the data alone. A derivative in both arguments costs
    about two evaluations. Networks are told the logarithm of the noise level, whose rate in the
    angle is 1 / (4 sin cos): the weight, 1 on the diagonal, keeps what is rough in it from drowning
    all else where there is nearly noise alone. A power does that by itself, and takes its place.

    Args:
        difference: step in the angle of a central difference in place of forward mode, for networks
            that lack it, such as 0.005; 0 for forward mode.

    Raises:
        ValueError: for a difference below 0.

    Reference: Geng et al. 2025, https://arxiv.org/abs/2505.13447 and
    https://arxiv.org/abs/2512.02012.
    """

    reference = "Geng et al. 2025, https://arxiv.org/abs/2512.02012"

    second_derivatives = True

    difference: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(difference=self.difference)

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "4 F + B"

    @override
    def weight(self, pair: Pair) -> Tensor | None:
        """cos(theta_t), 1 on the diagonal; none with a power."""
        if self.power:
            return None
        return torch.where(pair.s == pair.t, 1.0, pair.circle.angle(pair.t).cos())

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """u + gap du / d theta - v, like z."""
        again = rewinder(pair.z)
        u = model.mean_velocity(pair.z, pair.t, pair.s, pair.condition)

        def field(z: Tensor, t: Tensor) -> Tensor:
            again()
            return fixed.mean_velocity(z, t, pair.s, pair.condition)

        with torch.no_grad():
            again()
            along, step = self._velocity(fixed, pair.z, pair.t, pair), self.difference
            slope = angle_derivative(pair.circle, field, pair.z, pair.t, along, step)[1]
        return u + pair.like(pair.gap) * slope - pair.velocity


@dataclass(frozen=True)
class Lagrangian(FlowMapObjective):
    r"""The Lagrangian identity: the end moves with the velocity that is there.

    .. math:: \left\lVert \frac{\partial Z_{t \to s}(z)}{\partial \theta_s}
              - \mathrm{sg}\left[v(Z_{t \to s}(z), s)\right] \right\rVert^2, \qquad
              Z_{t \to s}(z) = z - (\theta_t - \theta_s)\, u(z, t, s)

    with the velocity v of the teacher, or of the model's own diagonal, which learns it from the
    data. Training goes back through a forward derivative, which torch's softmax does not allow:
    networks with attention need a `difference`.

    Args:
        difference: step in the angle of a central difference in place of forward mode, for networks
            that lack it, such as 0.005; 0 for forward mode.

    Raises:
        ValueError: for a difference below 0.

    Reference: Boffi et al. 2024, https://arxiv.org/abs/2406.07507; Boffi et al. 2025,
    https://arxiv.org/abs/2505.18825.
    """

    reference = "Boffi et al. 2025, https://arxiv.org/abs/2505.18825"

    second_derivatives = True

    difference: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_nonnegative(difference=self.difference)

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "3 F + 2 B"

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """dZ / d theta_s - v(Z), like z."""
        again, gap = rewinder(pair.z), pair.like(pair.gap)

        def field(z: Tensor, s: Tensor) -> Tensor:
            again()
            return model.mean_velocity(z, pair.t, s, pair.condition)

        still = torch.zeros_like(pair.z)
        u, slope = angle_derivative(pair.circle, field, pair.z, pair.s, still, self.difference)
        with torch.no_grad():
            again()
            between = fixed.mean_velocity(pair.z, pair.t, pair.s, pair.condition)
            again()
            there = self._velocity(fixed, pair.z - gap * between, pair.s, pair)
            there = torch.where(pair.diagonal, pair.velocity, there)
        return u - gap * slope - there


@dataclass(frozen=True)
class Semigroup(FlowMapObjective):
    r"""The semigroup identity: one step is two half steps. Shortcut models.

    .. math:: \left\lVert u(z, t, s) - \tfrac12\, \mathrm{sg}\left[u(z, t, m)
              + u(Z_{t \to m}(z), m, s)\right] \right\rVert^2, \qquad
              \theta_m = \frac{\theta_t + \theta_s}{2}

    Evaluations alone, no derivative, so that any network and precision will do. With a teacher the
    diagonal learns the teacher's velocity, and all longer steps are distilled from shorter ones.

    Raises:
        ValueError: for arguments out of range.

    Reference: Frans et al. 2024, https://arxiv.org/abs/2410.12557; Salimans & Ho 2022,
    https://arxiv.org/abs/2202.00512.
    """

    reference = "Frans et al. 2024, https://arxiv.org/abs/2410.12557"

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "3 F + B"

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """u less the mean of those of two half steps, like z."""
        again, told = rewinder(pair.z), pair.condition
        u = model.mean_velocity(pair.z, pair.t, pair.s, told)
        with torch.no_grad():
            middle = pair.circle.time(pair.circle.angle(pair.t) - pair.gap / 2)
            again()
            first = fixed.mean_velocity(pair.z, pair.t, middle, told)
            halfway = pair.z - pair.like(pair.gap / 2) * first
            again()
            second = fixed.mean_velocity(halfway, middle, pair.s, told)
            both = torch.where(pair.diagonal, pair.velocity, (first + second) / 2)
        return u - both


@dataclass(frozen=True)
class Consistency(FlowMapObjective):
    r"""Consistency: two points of one path have the same end, the data at `t_min`.

    .. math:: \frac{\sigma_d}{\sigma_t / \alpha_t - \sigma_r / \alpha_r}
              \left\lVert Z_{t \to 0}(z_t)
              - \mathrm{sg}\left[Z_{r \to 0}(z_r)\right] \right\rVert^2, \qquad
              \frac{\sigma_r}{\alpha_r} = \frac{\sigma_t}{\alpha_t}
              \left(1 - gap\, (1 + 8\, \mathrm{sigmoid}(-\sigma_t / \alpha_t))\right)_+

    The two points share data, noise and dropout masks; with a teacher the second is a step of its
    flow from the first. Consistency tuning starts from a trained model, `FlowMap.from_model`; the
    result goes from any time to the data alone.

    Args:
        gap: of neighboring noise ratios, in (0, 1/9); smaller is more exact and slower to learn.

    Raises:
        ValueError: for a gap outside its range.

    Reference: Geng et al. 2024, https://arxiv.org/abs/2406.14548; Song et al. 2023,
    https://arxiv.org/abs/2303.01469.
    """

    converges_to = "the flow from any time to the data, and the score"
    to_data_alone = True
    reference = "Geng et al. 2024, https://arxiv.org/abs/2406.14548"

    gap: float = 1 / 256
    halve_every: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(0, halve_every=self.halve_every)
        if not 0 < self.gap < 1:
            raise ValueError(f"gap={self.gap!r} must lie between 0 and 1")

    @override
    def at_step(self, step: int) -> Consistency:
        """With the gap of a step of the training."""
        if not self.halve_every:
            return self
        halvings = min(step // self.halve_every, 60)  # 1/2 is not halved to 0
        return replace(self, gap=max(self.gap, 0.5 ** (halvings + 1)), halve_every=0)

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "2 F + B"

    @override
    def _ordered(self, circle: Circle, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return torch.maximum(first, second), torch.full_like(first, circle.sde.t_min)

    def _nearer(self, pair: Pair) -> Tensor:
        """The time r, between s and t."""
        sde = pair.circle.sde
        ratio = sde.noise_ratio(pair.t)
        wanted = ratio * (1 - self.gap * (1 + 8 * torch.sigmoid(-ratio)))
        least = sde.noise_ratio(pair.s)
        return torch.maximum(sde.time_of_noise_ratio(torch.maximum(wanted, least)), pair.s)

    @override
    def weight(self, pair: Pair) -> Tensor:
        """sigma_data over the step in the noise ratio; 1 on the diagonal."""
        ratio, size = pair.circle.sde.noise_ratio, pair.circle.sigma_data
        step = ratio(pair.t) - ratio(self._nearer(pair))
        return torch.where(pair.s == pair.t, 1.0, size / step.clamp(min=1e-12))

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """Difference of the two ends; of u and v on the diagonal."""
        again, angle = rewinder(pair.z), pair.circle.angle
        u = model.mean_velocity(pair.z, pair.t, pair.s, pair.condition)
        with torch.no_grad():
            r = self._nearer(pair)
            step = angle(pair.t) - angle(r)
            teacher = self.teacher
            if isinstance(teacher, FlowMapModel) and not getattr(teacher, "to_data_alone", False):
                told = (pair.t, r, pair.condition)
                moved = pair.z - pair.like(step) * teacher.mean_velocity(pair.z, *told)
            else:  # along the path of the example, or one step of DDIM
                moved = pair.like(step.cos()) * pair.z - pair.like(step.sin()) * pair.velocity
            again()
            rest = fixed.mean_velocity(moved, r, pair.s, pair.condition)
            rest = moved - pair.like(angle(r) - angle(pair.s)) * rest
        off = pair.z - pair.like(pair.gap) * u - rest
        return torch.where(pair.diagonal, u - pair.velocity, off)
