"""Flow maps that know how far their steps stretch volumes: densities by a few evaluations."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score.models.flow_map import BaseFlowMap, FlowMap, FlowMapModel
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.sdes.clocks import Clock, asinh, shifted

_BEND = 0.1  # the noise-to-signal ratio, in data of unit scale, below which divergences are large


@runtime_checkable
class LogDetModel(FlowMapModel, Protocol):
    """A flow map with the log-determinant of its steps."""

    def log_det(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """log |det dX_{t to s} / dx| at x in nats, float64 `(batch,)`."""
        ...


def stretch_clock(sigma_data: float) -> Clock:
    """u = asinh(tan(theta) / 0.1), the clock in which volumes change at a bounded rate."""
    return shifted(asinh(_BEND), sigma_data)


def angle_rate(at: Scales) -> Tensor:
    """d theta / du of that clock, in the shape of t."""
    tangent = at.sigma / (at.alpha * at.sigma_data)
    return torch.hypot(torch.full_like(tangent, _BEND), tangent) / (1 + tangent**2)


class LogDetFlowMap(BaseFlowMap, nn.Module):
    r"""A flow map with a learned log-determinant.

    .. math:: \log \left|\det \frac{\partial X_{t \to s}}{\partial x}\right|
              = \int_t^s \mathrm{div}\, v(X_{t \to \tau}(x), \tau)\, d\tau
              = D \left(\log \frac{S_s}{S_t} + (u_s - u_t)\, r(x, t, s)\right), \qquad
              u = \mathrm{asinh} \frac{\tan\theta}{0.1}

    with S and theta of `FlowMap`, and r the mean of all entries of what the second network says,
    the mean rate, per dimension, at which z = x / S spreads along the flow. `objectives.LogDet`
    trains it, and the flow map stays as it is.

    Args:
        flow_map: a trained flow map, of which a copy is taken. To weigh data it must go from data
            to noise: one trained with `upward=0.5`.
        network: a network like that of a `FlowMap`, `sde_score.nn.tell_end(...)`.

    Raises:
        TypeError: for a model of another kind, or a network that takes no condition.

    Reference: Chen et al. 2018, https://arxiv.org/abs/1806.07366, for the integral.
    """

    def __init__(self, flow_map: BaseFlowMap, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(flow_map, BaseFlowMap) or not isinstance(flow_map, nn.Module):
            raise ArgumentError(
                f"flow_map is a {type(flow_map).__name__}; accepted: a FlowMap, as of a run by "
                "objective='mean-flow(upward=0.5)'"
            )
        self.flow_map: BaseFlowMap = copy.deepcopy(flow_map).requires_grad_(False)
        self.stretch = FlowMap(network, flow_map.sde, sigma_data=flow_map.sigma_data)
        self._sde, self.sigma_data = flow_map.sde, float(flow_map.sigma_data)
        self.clock = stretch_clock(self.sigma_data)

    @property
    def takes_condition(self) -> bool:
        """Whether the flow map takes a condition, as far as it says."""
        return bool(getattr(self.flow_map, "takes_condition", True))

    def log_det(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """log |det dX_{t to s} / dx| at x, by one evaluation of the second network.

        Args:
            x: shape `(batch, *event)`.
            t: time of x, a scalar or `(batch,)`.
            s: time of the end, alike; before or after t.
            condition: passed on to the network.

        Returns:
            Nats, float64 `(batch,)`; 0 where s = t.
        """
        at, to = self._scales(x, t), self._scales(x, s)
        self.nfe += 1
        rate = self.stretch._predict_to(x, at, to, condition).flatten(1).double().mean(1)
        way = self.clock.at(self.sde, to.t) - self.clock.at(self.sde, at.t)
        return x[0].numel() * ((to.spread / at.spread).log() + way * rate)

    @override
    def _predict_to(self, x: Tensor, at: Scales, to: Scales, condition: Condition) -> Tensor:
        return self.flow_map._predict_to(x, at, to, condition)

    @override
    def _coefficients_to(self, at: Scales, to: Scales) -> Coefficients:
        return self.flow_map._coefficients_to(at, to)
