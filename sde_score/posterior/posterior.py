r"""The posterior as a model: the prior's score plus that of what was observed.

    seen = Measurement(Mask(known), y, std=0.1)
    posterior = Posterior(run.model, seen, "mmps")
    samplers.sample(posterior, "dpmpp-2m(steps=40)", run.event_shape, 16)

.. math:: \nabla_x \log p(x_t | y) = \nabla_x \log p(x_t) + \nabla_x \log p(y | x_t)
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, shown
from sde_score._core.conditions import Condition, mapped
from sde_score._core.errors import ArgumentError
from sde_score.models import Model, Scales, WrappedDenoiser, normal_tensor, value_and_point
from sde_score.posterior.methods import METHODS, Method
from sde_score.posterior.observations import Observation
from sde_score.samplers import Sampler


class Posterior(WrappedDenoiser):
    r"""A model of the data given an observation.

    .. math:: D_y = D + \frac{\sigma^2}{\alpha} J^T g, \qquad J = \frac{\partial D}{\partial x}

    with g by the method. It is a model like any other, so that every sampler and adaptive ODE runs
    on it; one evaluation of the network, and backward passes.

    Args:
        model: of the prior; anything with the model protocol.
        observation: `Measurement`, `Poisson` or `LogLikelihood`.
        method: such as `"mmps"` or `PiGDM()`; `print` says whether it is exact, and how it is
            biased.
        sampler: whose steps the method is for, where it depends on them (DPS).

    Raises:
        TypeError: if `model` lacks the protocol, or `observation` is none.
        ValueError: for an unknown method.
    """

    def __init__(
        self,
        model: Model,
        observation: Observation,
        method: str | Method = "mmps",
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__(model)
        if not isinstance(observation, Observation):
            raise ArgumentError(
                f"observation={shown(observation)}; accepted: a Measurement(operator, y, std), a "
                "Poisson or a LogLikelihood"
            )
        self.observation = observation
        self.method = METHODS.resolve(method, name="method")
        if sampler is not None:
            self.method = self.method.on_grid(sampler.times(model.sde))

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False):
            x, t = normal_tensor(x), normal_tensor(at.t)
            condition = mapped(condition, normal_tensor)
            at = Scales(at.sde, t, at.sigma_data)
            x0, point = value_and_point(lambda z: self.model.denoise(z, t, condition), x)

            def pull(v: Tensor) -> Tensor:
                (pulled,) = torch.autograd.grad(
                    x0, point, v, retain_graph=True, create_graph=keep, materialize_grads=True
                )
                return pulled

            with torch.set_grad_enabled(keep):
                seen = x0 if keep else x0.detach()
                direction = self.method.direction(self.observation, seen, at, pull)
                return seen + expand_like(at.sigma**2 / at.alpha, x) * pull(direction)

    @override
    def extra_repr(self) -> str:
        return f"method={self.method}"
