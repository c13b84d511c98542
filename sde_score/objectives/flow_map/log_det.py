"""Log-determinants of flow maps, learned from the divergence on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import expand_like, require_choice, require_count
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score.models import (
    LogDetModel,
    Model,
    Scales,
    angle_rate,
    divergence,
    require_model,
    stretch_clock,
)
from sde_score.objectives.base import BaseObjective
from sde_score.objectives.flow_map.base import Circle
from sde_score.random import Draws, noise_beside, uniform


@dataclass(frozen=True)
class LogDet(BaseObjective):
    r"""The mean divergence on the way of a flow map, one random point of the way at a time.

    .. math:: \left( \frac{\log|\det \partial X_{t \to s}|}{D} - \log \frac{S_s}{S_t}
              \over u_s - u_t \right) \approx
              \frac1D\, \mathrm{div}_z\, v(Z_{t \to \tau}(z), \tau)\,
              \frac{d\theta}{du}\Big|_\tau, \qquad u_\tau \sim U[u_t, u_s]

    in mean square, with u and z of `LogDetFlowMap`: an unbiased regression, without a derivative in
    time and without targets of the network's own, whose minimum is the integral. Both times are
    even in u, in either order. The flow map and its velocity are held fixed.

    Args:
        teacher: model whose velocity diverges; None takes the diagonal of the flow map itself.
        divergence: `hutchinson` or `exact`, D derivatives.
        probes: of `hutchinson`, at least 1.

    Raises:
        ValueError: for an unknown divergence, or probes below 1.
        TypeError: for a teacher that is no model.

    Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806.
    """

    needs: ClassVar[str] = "flow map"
    takes_pairs: ClassVar[bool] = False
    converges_to: ClassVar[str] = "the log-determinant of the flow between any two times"
    reference: ClassVar[str] = "Chen et al. 2018, https://arxiv.org/abs/1806.07366"

    teacher: Model | None = None
    divergence: str = "hutchinson"
    probes: int = 1

    def __post_init__(self) -> None:
        check_fields(self)
        require_choice("divergence", self.divergence, ("hutchinson", "exact"))
        require_count(probes=self.probes)
        if self.teacher is not None:
            require_model(self.teacher, "teacher")

    @property
    def cost(self) -> str:
        """Passes per example."""
        return "3 F + 2 B"

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        if not isinstance(model, LogDetModel):
            raise ArgumentError(
                f"model is a {type(model).__name__} and has no log-determinant to learn; accepted: "
                "LogDetFlowMap(flow_map, network)"
            )
        sde, clock = model.sde, stretch_clock(model.sigma_data)
        first, last = clock.at(sde, torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64))
        u_t, u_s, share = (uniform(len(x0), generator, x0.device) for _ in range(3))
        u_t, u_s = (first + u * (last - first) for u in (u_t, u_s))
        t, s, tau = (clock.time(sde, u) for u in (u_t, u_s, torch.lerp(u_t, u_s, share)))
        x = sde.perturb(x0, t, noise_beside(x0, generator))
        with torch.no_grad():
            target = self._rate(model, model.flow(x, t, tau, condition), tau, condition, generator)
        start, end = (Scales(sde, time, model.sigma_data).spread for time in (t, s))
        stretch = (end / start).log()
        learned = (model.log_det(x, t, s, condition) / x0[0].numel() - stretch) / (u_s - u_t)
        losses: Tensor = (learned - target) ** 2
        return losses.to(x0.dtype)

    def _rate(
        self, model: LogDetModel, x: Tensor, t: Tensor, condition: Condition, generator: Draws
    ) -> Tensor:
        """div v / D d theta / du at x, float64 `(batch,)`."""
        circle, source = Circle(model.sde, float(model.sigma_data)), self.teacher or model
        at = Scales(model.sde, t, model.sigma_data)
        z = x / expand_like(at.spread, x)
        found = divergence(
            lambda point: circle.velocity(source, point, t, condition),
            z,
            self.divergence,
            self.probes,
            generator=generator,
        )
        return found.double() / x[0].numel() * angle_rate(at)
