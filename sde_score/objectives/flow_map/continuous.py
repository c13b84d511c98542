"""Continuous-time consistency: the identity of consistency in the limit of near points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import mean_event, require_count, require_nonnegative, require_positive
from sde_score.models import FlowMapModel
from sde_score.objectives.flow_map.base import (
    Circle,
    FlowMapObjective,
    Pair,
    angle_derivative,
    rewinder,
)
from sde_score.objectives.time_samplers import TimeSampler


@dataclass(frozen=True)
class ContinuousConsistency(FlowMapObjective):
    r"""Continuous consistency: the end at `t_min` does not move along the flow. sCM.

    .. math:: \frac{1}{\tan\theta} \left\lVert F - \mathrm{sg}\left[F
              + \frac{g}{\lVert g \rVert_{rms} + c}\right] \right\rVert^2, \qquad
              g = r \cos\delta\, \frac{df}{d\theta} - (1 - r) \cos^2\delta\, (F - v)

    with the end f = cos(delta) z - sin(delta) F of the path from z along F, which is
    `mean_velocity` seen as an answer of TrigFlow's network, and delta = theta_t - theta_s. The
    derivative moves z along the velocity v of the example, or of the teacher. r rises from 0, where
    F learns v. The result goes from any time to the data alone.

    Args:
        tangent: r at the end of the warm-up, in [0, 1]; below 1 the flow map is not the minimum.
        warmup: steps of the training over which r rises from 0; 10 000 of 400 000 in the paper, 0
            for none.
        damping: c, > 0.
        difference: step in the angle of a central difference in place of forward mode, for networks
            that lack it, such as 0.005; 0 for forward mode.

    Raises:
        ValueError: for a number outside its range.

    Reference: Lu & Song 2024, https://arxiv.org/abs/2410.11081, section 4.
    """

    converges_to = "the flow from any time to the data, and the score"
    to_data_alone = True
    second_derivatives = True
    reference = "Lu & Song 2024, https://arxiv.org/abs/2410.11081"

    time_sampler: str | TimeSampler = "log_normal(mean=-1.0, std=1.4)"
    tangent: float = 1.0
    warmup: int = 0
    damping: float = 0.1
    difference: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(0, warmup=self.warmup)
        require_nonnegative(difference=self.difference)
        require_positive(damping=self.damping)
        if not 0 <= self.tangent <= 1:
            raise ValueError(f"tangent={self.tangent!r} must lie in [0, 1]")

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "3 F + B"

    @override
    def at_step(self, step: int) -> ContinuousConsistency:
        """With the r of a step of the training."""
        if not self.warmup:
            return self
        return replace(self, tangent=self.tangent * min(1.0, step / self.warmup), warmup=0)

    @override
    def _ordered(self, circle: Circle, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return first, torch.full_like(first, circle.sde.t_min)

    @override
    def weight(self, pair: Pair) -> Tensor:
        """1 / tan(theta); 1 on the diagonal."""
        return torch.where(pair.s == pair.t, 1.0, 1 / pair.circle.angle(pair.t).tan())

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """F - sg[F + g / (rms + c)]; u - v on the diagonal."""
        again, gap, told = rewinder(pair.z), pair.like(pair.gap), pair.condition
        u, along = model.mean_velocity(pair.z, pair.t, pair.s, told), pair.velocity

        def field(z: Tensor, t: Tensor) -> Tensor:
            again()
            return fixed.mean_velocity(z, t, pair.s, told)

        def network(mean: Tensor) -> Tensor:  # F of z_t - z_s = gap u = (1 - cos) z + sin F
            return mean / torch.sinc(gap / torch.pi) - (gap / 2).tan() * pair.z

        with torch.no_grad():
            held, slope = angle_derivative(
                pair.circle, field, pair.z, pair.t, along, self.difference
            )
            moved = along - held - gap * slope  # df / d theta of f = z - gap u
            change = self.tangent * gap.cos() * moved
            change = change - (1 - self.tangent) * gap.cos() ** 2 * (network(held) - along)
            size = pair.like(mean_event(change**2).sqrt())
            wanted = network(held) + change / (size + self.damping)
        return torch.where(pair.diagonal, u - along, network(u) - wanted)
