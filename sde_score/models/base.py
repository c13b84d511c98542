r"""What has a score, and how the four ways of saying it relate.

A model gives any one of four things at (x, t); with x it fixes the other three, because all of
them are coordinates of one point in the plane spanned by the expected data and the expected noise:

.. math:: x = \alpha \hat x_0 + \sigma \hat\epsilon, \qquad
          score = -\hat\epsilon / \sigma, \qquad
          velocity = \alpha' \hat x_0 + \sigma' \hat\epsilon .

So each *prediction* is a row of two coefficients, and every conversion is one 2x2 solve
(`convert`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_batch
from sde_score.sdes import SDE

Row = tuple[Tensor, Tensor]
"""Coefficients on (expected data, expected noise), each in the shape of t."""


@runtime_checkable
class Model(Protocol):
    """All that samplers, likelihoods and objectives know of a model.

    Each method takes x of shape `(batch, *event)` and t, a scalar or `(batch,)`, and returns a
    tensor like x. `condition` (labels, measurements, ...) travels through unchanged. `nfe` counts
    evaluations since the model was made: one per method call, however many examples the batch
    holds.
    """

    nfe: int

    @property
    def sde(self) -> SDE:
        """The diffusion whose marginals have this score."""
        ...

    def score(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """Gradient of log p_t at x."""
        ...

    def denoise(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x]."""
        ...

    def noise(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """E[noise | x_t = x] = -sigma score."""
        ...

    def velocity(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """alpha' E[x0 | x_t = x] + sigma' E[noise | x_t = x], the drift of the probability-flow
        ODE."""
        ...


@runtime_checkable
class EnergyBased(Model, Protocol):
    """A model that also says how likely x is, up to a constant: score = -grad energy."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """-log p_t(x) up to a constant, in nats, shape `(batch,)`."""
        ...

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        ...


class Moment:
    """The scales of an SDE at given times, each computed once and only if it is needed.

    Args:
        sde: the diffusion.
        t: float64 times, a scalar or `(batch,)`.
    """

    def __init__(self, sde: SDE, t: Tensor) -> None:
        self.sde = sde
        self.t = t

    @cached_property
    def alpha(self) -> Tensor:
        """Signal scale."""
        return self.sde.alpha(self.t)

    @cached_property
    def sigma(self) -> Tensor:
        """Noise scale."""
        return self.sde.sigma(self.t)

    @cached_property
    def zero(self) -> Tensor:
        """0 in the shape of t."""
        return torch.zeros_like(self.t)

    @cached_property
    def one(self) -> Tensor:
        """1 in the shape of t."""
        return torch.ones_like(self.t)


ROWS: dict[str, Callable[[Moment], Row]] = {
    "noise": lambda at: (at.zero, at.one),
    "data": lambda at: (at.one, at.zero),
    "velocity": lambda at: (at.sde.alpha_derivative(at.t), at.sde.sigma_derivative(at.t)),
    "score": lambda at: (at.zero, -1 / at.sigma),
}
"""The four predictions as coordinates."""


def conversion(at: Moment, source: Row, target: Row) -> Row:
    """Coefficients (on x, on the prediction) that turn a prediction into another quantity.

    Args:
        at: gives x its row (alpha, sigma).
        source: row of what is known.
        target: row of what is wanted.
    """
    determinant = at.alpha * source[1] - at.sigma * source[0]
    on_x = (target[0] * source[1] - target[1] * source[0]) / determinant
    on_prediction = (at.alpha * target[1] - at.sigma * target[0]) / determinant
    return on_x, on_prediction


class BaseModel(ABC):
    """Fills in the model protocol from one prediction: subclasses give `_predict` and its row."""

    nfe: int = 0
    _sde: SDE

    @property
    def sde(self) -> SDE:
        """The diffusion whose marginals have this score."""
        return self._sde

    @abstractmethod
    def _predict(self, x: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        """The one evaluation: a tensor like x, in the dtype of x."""

    @abstractmethod
    def _row(self, at: Moment) -> Row:
        """What `_predict` returns, as coordinates."""

    def score(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """Gradient of log p_t at x, shaped like x."""
        return self._evaluate("score", x, t, condition)

    def denoise(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """E[x0 | x_t = x], shaped like x."""
        return self._evaluate("data", x, t, condition)

    def noise(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """E[noise | x_t = x] = -sigma score, shaped like x."""
        return self._evaluate("noise", x, t, condition)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """Drift of the probability-flow ODE, shaped like x."""
        return self._evaluate("velocity", x, t, condition)

    def _moment(self, x: Tensor, t: Tensor | float) -> Moment:
        """The scales at t on the device of x; refuses either before the network is paid for."""
        require_batch("x", x)
        time = self.sde.check_time(t).to(x.device).double()
        expand_like(time, x)  # refuses a t that does not fit x
        return Moment(self.sde, time)

    def _evaluate(
        self, wanted: str, x: Tensor, t: Tensor | float, condition: Tensor | None
    ) -> Tensor:
        at = self._moment(x, t)
        self.nfe += 1
        prediction = self._predict(x, at, condition)
        on_x, on_prediction = conversion(at, self._row(at), ROWS[wanted](at))
        return expand_like(on_x, x) * x + expand_like(on_prediction, x) * prediction


class BaseEnergy(BaseModel):
    """Fills in the energy protocol from one formula: subclasses give `_energy`.

    The score is minus the gradient by autograd. Where gradients are enabled it carries a graph, to
    the parameters and to x, so that objectives and likelihoods differentiate through it; under
    `torch.no_grad()` or `torch.inference_mode()`, as in samplers, it carries none.
    """

    @abstractmethod
    def _energy(self, x: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        """Energy of each example in nats, shape `(batch,)`, in the dtype of x."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """-log p_t(x) up to a constant, in nats, shape `(batch,)`."""
        at = self._moment(x, t)
        self.nfe += 1
        return self._energy(x, at, condition)

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x, from one evaluation."""
        at = self._moment(x, t)
        self.nfe += 1
        return self._energy_and_score(x, at, condition)

    def _energy_and_score(
        self, x: Tensor, at: Moment, condition: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x, condition, at = _plain(x), _plain(condition), Moment(self.sde, _plain(at.t))
            point = x if keep and x.requires_grad else x.detach().requires_grad_()
            energy = self._energy(point, at, condition)
            (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=keep)
            if keep and not gradient.requires_grad:  # constant: it still is a function of x
                gradient = gradient + 0 * point
        return (energy if keep else energy.detach()), -gradient

    def score(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """Minus the gradient of the energy at x, like x."""
        return self.energy_and_score(x, t, condition)[1]

    def _predict(self, x: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        return self._energy_and_score(x, at, condition)[1]

    def _row(self, at: Moment) -> Row:
        return ROWS["score"](at)


_T = TypeVar("_T", Tensor, Tensor | None)


def _plain(tensor: _T) -> _T:
    """A copy that autograd may keep, where a tensor was made in inference mode."""
    return tensor.clone() if tensor is not None and tensor.is_inference() else tensor


class KnownDensity(BaseModel):
    """Fills in the energy protocol where the normalized density is known: energy = -log_prob."""

    @abstractmethod
    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density of x_t in nats, shape `(batch,)`."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Tensor | None = None) -> Tensor:
        """-log p_t(x) in nats, shape `(batch,)`."""
        return self.energy_and_score(x, t, condition)[0]

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x."""
        score = self.score(x, t, condition)
        return -self.log_prob(x, t), score
