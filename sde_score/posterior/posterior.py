r"""The posterior as a model: the prior's score plus that of what was observed.

    seen = Measurement(Mask(known), y, std=0.1)
    posterior = Posterior(run.model, seen, "mmps")
    samplers.sample(posterior, "dpmpp-2m(steps=40)", run.event_shape, 16)

.. math:: \nabla_x \log p(x_t | y) = \nabla_x \log p(x_t) + \nabla_x \log p(y | x_t)
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.models import Model, Scales, WrappedDenoiser
from sde_score.posterior.methods import METHODS, Method, Pullback
from sde_score.posterior.observations import Observation, require_observation
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
        require_observation(observation)
        self.observation = observation
        self.method = METHODS.resolve(method, name="method")
        if sampler is not None:
            self.method = self.method.on_grid(sampler.times(model.sde))

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        def direction(x0: Tensor, at: Scales, pull: Pullback) -> Tensor:
            return self.method.direction(self.observation, x0, at, pull)

        return self._moved(x, at, condition, direction)

    @override
    def extra_repr(self) -> str:
        return f"method={self.method}"
