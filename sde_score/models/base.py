"""Base classes of models: the protocol filled in from one prediction, energy or density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_batch
from sde_score._core.conditions import Condition, mapped
from sde_score.models import parametrization
from sde_score.models.parametrization import Coefficients, Scales, conversion
from sde_score.sdes import SDE


class BaseModel(ABC):
    """The model protocol from one prediction: subclasses give `_predict` and its coefficients."""

    nfe: int = 0
    sigma_data: float = 1.0
    _sde: SDE

    @property
    def sde(self) -> SDE:
        """The diffusion whose marginals have this score."""
        return self._sde

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Gradient of log p_t at x, shaped like x."""
        return self._evaluate(parametrization.score, x, t, condition)

    def denoise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[x0 | x_t = x], shaped like x."""
        return self._evaluate(parametrization.data, x, t, condition)

    def noise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[noise | x_t = x] = -sigma score, shaped like x."""
        return self._evaluate(parametrization.noise, x, t, condition)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Drift of the probability-flow ODE, shaped like x."""
        return self._evaluate(parametrization.velocity, x, t, condition)

    def _evaluate(
        self,
        wanted: Callable[[Scales], Coefficients],
        x: Tensor,
        t: Tensor | float,
        condition: Condition,
    ) -> Tensor:
        """A quantity at (x, t), converted from the one prediction."""
        at = self._scales(x, t)
        self.nfe += 1
        prediction = self._predict(x, at, condition)
        on_x, on_prediction = conversion(at, self._coefficients(at), wanted(at))
        return expand_like(on_x, x) * x + expand_like(on_prediction, x) * prediction

    def _scales(self, x: Tensor, t: Tensor | float) -> Scales:
        """The scales at t on the device of x; refuses either before the network is paid for."""
        require_batch("x", x)
        time = self.sde.check_time(t).to(x.device).double()
        expand_like(time, x)  # refuses a t that does not fit x
        return Scales(self.sde, time, self.sigma_data)

    @abstractmethod
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        """The one evaluation: a tensor like x, in the dtype of x."""

    @abstractmethod
    def _coefficients(self, at: Scales) -> Coefficients:
        """The meaning of what `_predict` returns."""


class BaseEnergy(BaseModel):
    """The energy-based protocol from one formula: subclasses give `_energy`.

    The score is minus the gradient by autograd. Where gradients are enabled it carries a graph, to
    the parameters and to x, so that objectives and likelihoods differentiate through it; under
    `torch.no_grad()` or `torch.inference_mode()`, as in samplers, it carries none.
    """

    @abstractmethod
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        """Energy of each example in nats, shape `(batch,)`, in the dtype of x."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """-log p_t(x) up to a constant, in nats, shape `(batch,)`."""
        at = self._scales(x, t)
        self.nfe += 1
        return self._energy(x, at, condition)

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x, from one evaluation."""
        at = self._scales(x, t)
        self.nfe += 1
        return self._energy_and_score(x, at, condition)

    def _energy_and_score(
        self, x: Tensor, at: Scales, condition: Condition
    ) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x, condition = normal_tensor(x), mapped(condition, normal_tensor)
            at = Scales(at.sde, normal_tensor(at.t), at.sigma_data)
            point = x if keep and x.requires_grad else x.detach().requires_grad_()
            energy = self._energy(point, at, condition)
            (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=keep)
            if keep and not gradient.requires_grad:  # constant: it still is a function of x
                gradient = gradient + 0 * point
        return (energy if keep else energy.detach()), -gradient

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Minus the gradient of the energy at x, like x."""
        return self.energy_and_score(x, t, condition)[1]

    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self._energy_and_score(x, at, condition)[1]

    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.score(at)


def normal_tensor(tensor: Tensor) -> Tensor:
    """A copy that autograd may keep, where a tensor was made in inference mode."""
    return tensor.clone() if isinstance(tensor, Tensor) and tensor.is_inference() else tensor


class KnownDensity(BaseModel):
    """The energy-based protocol from a normalized density: energy = -log_prob."""

    takes_condition = False

    @abstractmethod
    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density of x_t in nats, shape `(batch,)`."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """-log p_t(x) in nats, shape `(batch,)`."""
        return self.energy_and_score(x, t, condition)[0]

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x."""
        score = self.score(x, t, condition)
        return -self.log_prob(x, t), score
