r"""Flow maps: the solution of the probability-flow ODE from one time to another, by one evaluation.

The flow is smoothest on the circle. With the data's root mean square sigma_d and

.. math:: \tan\theta = \frac{\sigma}{\alpha \sigma_d}, \qquad
          S^2 = \sigma^2 + \alpha^2 \sigma_d^2, \qquad
          z = \frac{x}{S} = \cos\theta\, \frac{x_0}{\sigma_d} + \sin\theta\, \epsilon,

z has unit variance at every noise level of every SDE, and so has its velocity
dz / d theta = cos(theta) noise - sin(theta) data / sigma_d. A network told both ends predicts a
(data, noise) pair whose point on the other end is that of the flow,

.. math:: x_s = \alpha_s \hat x_0(x, t, s) + \sigma_s \hat\epsilon(x, t, s),

which is x itself where s = t, whatever the network. There its prediction is the instantaneous one:
the diagonal of a flow map is a score model. In velocity prediction on the rectified SDE this is
x_s = x - (t - s) u, with the mean velocity u of MeanFlow; in EDM's, it is TrigFlow's rotation.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from sde_score._core.checks import expand_like
from sde_score._core.conditions import END, Condition
from sde_score._core.errors import ArgumentError
from sde_score.models.base import BaseModel
from sde_score.models.calling import accepts
from sde_score.models.parametrization import (
    Coefficients,
    Parametrization,
    Scales,
    conversion,
    spread,
)
from sde_score.models.protocol import Model
from sde_score.models.score_model import BackboneModel, ScoreModel
from sde_score.models.time_labels import angle, noise_level
from sde_score.nn import tell_end
from sde_score.sdes import SDE


@runtime_checkable
class FlowMapModel(Model, Protocol):
    """A model that also solves its probability-flow ODE between any two times."""

    sigma_data: float

    def flow(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """The state at s of the flow that is at x at t, shaped like x."""
        ...

    def mean_velocity(
        self, z: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """(z_t - z_s) / (theta_t - theta_s) of that flow on the circle, at z = x / S."""
        ...


def chord(at: Scales, to: Scales) -> Coefficients:
    r"""Mean velocity on the circle between two times, exact where s = t.

    .. math:: u = \frac{z_t - z_s}{\theta_t - \theta_s}
                = \frac{\sin(\delta / 2)}{\delta / 2}
                  \left(\cos m\ \hat\epsilon - \sin m\ \frac{\hat x_0}{\sigma_d}\right),
              \qquad \delta = \theta_t - \theta_s, \quad m = \frac{\theta_t + \theta_s}{2}
    """
    start, end = angle(at), angle(to)
    middle, factor = (start + end) / 2, torch.sinc((start - end) / (2 * torch.pi))
    return -factor * middle.sin() / at.sigma_data, factor * middle.cos()


class BaseFlowMap(BaseModel):
    """The contract of flow maps from one prediction: subclasses give `_predict_to` and its
    coefficients."""

    to_data_alone: bool = False
    """Whether it was trained to go to the data, and not to the times between."""

    def __call__(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """`flow`."""
        return self.flow(x, t, s, condition)

    def flow(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """The state at s of the flow that is at x at t, by one evaluation.

        Args:
            x: shape `(batch, *event)`.
            t: time of x, a scalar or `(batch,)`.
            s: time of the answer, alike; before or after t.
            condition: passed on to the network.

        Returns:
            Shaped like x; x itself where s = t.

        Raises:
            ValueError: for times outside the range of the SDE, or shapes that do not fit.
        """
        to = self._scales(x, s)
        return self._go(lambda at: (to.alpha, to.sigma), x, t, to, condition)

    def mean_velocity(
        self, z: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """(z_t - z_s) / (theta_t - theta_s) of the flow on the circle, by one evaluation.

        Args:
            z: x / S, shape `(batch, *event)`.
            t: time of z, a scalar or `(batch,)`.
            s: time of the end, alike; where it is t the answer is the velocity dz / d theta.
            condition: passed on to the network.

        Returns:
            Shaped like z.
        """
        to, size = self._scales(z, s), spread(self._scales(z, t))
        x = expand_like(size, z) * z
        return self._go(lambda at: chord(at, to), x, t, to, condition)

    def _go(
        self,
        wanted: Callable[[Scales], Coefficients],
        x: Tensor,
        t: Tensor | float,
        to: Scales,
        condition: Condition,
    ) -> Tensor:
        at = self._scales(x, t)
        self.nfe += 1
        prediction = self._predict_to(x, at, to, condition)
        on_x, on_prediction = conversion(at, self._coefficients_to(at, to), wanted(at))
        return expand_like(on_x, x) * x + expand_like(on_prediction, x) * prediction

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self._predict_to(x, at, at, condition)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return self._coefficients_to(at, at)

    @abstractmethod
    def _predict_to(self, x: Tensor, at: Scales, to: Scales, condition: Condition) -> Tensor:
        """The one evaluation, told both ends: a tensor like x, in the dtype of x."""

    @abstractmethod
    def _coefficients_to(self, at: Scales, to: Scales) -> Coefficients:
        """The meaning of what `_predict_to` returns."""


class FlowMap(BackboneModel, BaseFlowMap):
    r"""A network that solves the probability-flow ODE from t to s by one evaluation.

    `model(x, t, s)` is the state at s. On its diagonal it is the `ScoreModel` of the same network:
    `score`, `denoise`, `noise` and `velocity`, and with them every sampler and likelihood.

    Args:
        backbone: called as `backbone(x, time_label, condition)` with a dictionary in which
            `end_noise_level` is log(sigma / alpha) / 4 at s, shape `(batch,)`;
            `sde_score.nn.tell_end` makes one of our networks.
        sde: the forward diffusion, an object or its name.
        prediction: a name in `PARAMETRIZATIONS`, or a `Parametrization`.
        sigma_data: root mean square of the data; None takes that of the parametrization.

    Raises:
        ValueError: for an unknown prediction or a `sigma_data` that is not positive.
        TypeError: for a backbone that takes no condition.

    Reference: Boffi et al. 2024, https://arxiv.org/abs/2406.07507; Geng et al. 2025,
    https://arxiv.org/abs/2505.13447; Lu & Song 2024, https://arxiv.org/abs/2410.11081.
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        sde: str | SDE,
        prediction: str | Parametrization = "edm",
        sigma_data: float | None = None,
    ) -> None:
        super().__init__(backbone, sde, prediction, sigma_data)
        if not accepts(backbone, 3):
            raise ArgumentError(
                "backbone takes no condition, in which a flow map tells it where to go: give it a "
                f"third argument, a dictionary with {END!r}"
            )

    @classmethod
    def from_model(cls, model: ScoreModel) -> Self:
        """A flow map that starts from a trained score model, whose steps are DDIM's until it is
        trained; the model stays as it is.

        Raises:
            TypeError: for a model of another kind.
            ValueError: for a network that cannot be told a second noise level.
        """
        backbone = model.backbone if isinstance(model, ScoreModel) else None
        if not isinstance(backbone, nn.Module):
            raise ArgumentError(
                f"model is a {type(model).__name__}; accepted: a ScoreModel of a torch.nn.Module"
            )
        network = tell_end(copy.deepcopy(backbone))
        made = cls(network, model.sde, model.parametrization, model.sigma_data)
        made.takes_condition, made.needs_condition = model.takes_condition, model.needs_condition
        return made.train(model.training)

    @override
    def forward(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """The state at s of the flow that is at x at t, see `flow`."""
        return self.flow(x, t, s, condition)

    @override
    def _predict_to(self, x: Tensor, at: Scales, to: Scales, condition: Condition) -> Tensor:
        end = noise_level(to).expand(len(x))
        end = end.to(self._dtype() or x.dtype)
        scaled = x / expand_like(self.parametrization.input_scale(at), x)
        return self._call_backbone(scaled, at, condition, {END: end})

    @override
    def _coefficients_to(self, at: Scales, to: Scales) -> Coefficients:
        return self.parametrization.output(at)
