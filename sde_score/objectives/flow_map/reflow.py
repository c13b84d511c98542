"""Reflow: pairs of noise and of what a teacher's flow makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_count
from sde_score._core.conditions import Condition
from sde_score.models import FlowMapModel, Model
from sde_score.objectives.flow_map.base import Circle, FlowMapObjective, Pair


@dataclass(frozen=True)
class Reflow(FlowMapObjective):
    r"""The flow through the arcs between noise and the end of the teacher's flow from it.

    .. math:: \left\lVert u(z_t, t, s) - \frac{z_t - z_s}{\theta_t - \theta_s} \right\rVert^2,
              \qquad z_\theta = \cos\theta\, \Phi(\epsilon) + \sin\theta\, \epsilon

    with the end Phi of the noise by Heun's method in the angle, or by one evaluation of a teacher
    that is a flow map. From pure noise the minimum is the teacher's flow; on the way it is a
    straighter one through the same pairs. So the diagonal is the velocity of that flow, and not a
    score: samplers with noise on the way do not apply. The data give shapes and conditions alone.

    Args:
        steps: of Heun's method, of two evaluations of the teacher each, at least 1.

    Raises:
        ValueError: for a number out of range.

    Reference: Liu et al. 2022, https://arxiv.org/abs/2209.03003; Lee et al. 2024,
    https://arxiv.org/abs/2405.20320.
    """

    needs_teacher: ClassVar[bool] = True
    has_score: ClassVar[bool] = False
    converges_to = "a straighter flow with the teacher's ends, and no score"
    reference = "Liu et al. 2022, https://arxiv.org/abs/2209.03003"

    steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(steps=self.steps)

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return f"{2 * self.steps + 1} F + B"

    @override
    def _data(self, circle: Circle, x0: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        last, first = (
            torch.full((len(x0),), t, dtype=torch.float64, device=x0.device)
            for t in (circle.sde.t_min, circle.sde.t_max)
        )
        with torch.no_grad():
            end = self._end(self.required_teacher(), circle, noise, first, last, condition)
        angle = expand_like(circle.angle(last), x0)
        return (end - angle.sin() * noise) / angle.cos()

    def _end(
        self,
        teacher: Model,
        circle: Circle,
        z: Tensor,
        first: Tensor,
        last: Tensor,
        condition: Condition,
    ) -> Tensor:
        start, end = circle.angle(first), circle.angle(last)
        if isinstance(teacher, FlowMapModel):
            mean = teacher.mean_velocity(z, first, last, condition)
            return z - expand_like(start - end, z) * mean
        shares = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64).tolist()
        for here, there in pairwise(torch.lerp(start, end, share) for share in shares):
            step = expand_like(there - here, z)
            slope = circle.velocity(teacher, z, circle.time(here), condition)
            ahead = circle.velocity(teacher, z + step * slope, circle.time(there), condition)
            z = z + step * (slope + ahead) / 2
        return z

    @override
    def _taught(self, pair: Pair) -> Pair:
        return pair

    @override
    def residual(self, model: FlowMapModel, fixed: FlowMapModel, pair: Pair) -> Tensor:
        """u less the mean velocity on the arc, like z."""
        u, half = model.mean_velocity(pair.z, pair.t, pair.s, pair.condition), pair.gap / 2
        middle = torch.sinc(half / torch.pi)
        on_z, on_velocity = pair.like(middle * half.sin()), pair.like(middle * half.cos())
        return u - on_z * pair.z - on_velocity * pair.velocity
