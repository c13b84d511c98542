r"""Twisted diffusion: particles led by the likelihood of a noisy state, and weighed to be right.

Any function \tilde p(y | x_t), the *twist*, leads to the posterior, by the weights

.. math:: \frac{\tilde p(y | x_s)\, p(x_s | x_t)}{\tilde p(y | x_t)\, q(x_s | x_t)},

where p is the model's own step and q one with the score of the posterior, and p(y | x_0) in the
place of the twist at the end. The better the twist, the fewer particles do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, sum_event
from sde_score._core.conditions import Condition
from sde_score.models import Model, value_and_point
from sde_score.posterior.observations import Measurement, Observation, require_observation
from sde_score.posterior.smc.driver import MANY_PARTICLES, FeynmanKac, Seen, Stages, for_all
from sde_score.posterior.smc.reference_chain import ReferenceChain
from sde_score.posterior.solvers import solve_with_covariance


class Twisted(FeynmanKac):
    r"""The posterior of a model given an observation, by twisted diffusion.

    For a `Measurement` the twist is that of MMPS,

    .. math:: \tilde p(y | x_t) = N(y;\ A D,\ R + A V A^T), \qquad
              V = \frac{\sigma^2}{\alpha} \frac{\partial D}{\partial x},

    exact where the data are normal distributed. It costs as many backward passes per evaluation as
    entries were measured, or, beyond `dense` of them, conjugate gradients, and then lacks the
    determinant. For any other observation the twist is p(y | D), at one backward pass; with
    `LogLikelihood(r)` the model is tilted to p(x) exp(r(x)) / Z.

    Args:
        model: of the prior; anything with the model protocol.
        observation: `Measurement`, `Poisson` or `LogLikelihood`.
        event_shape: of one example; None takes it from the operator.
        condition: what all particles are told: an entry for one example, shape `(1, ...)`.
        dense: most entries for which A V A^T is made as a matrix.

    Raises:
        TypeError: if `model` lacks the protocol, or `observation` is none.
        ValueError: for an observation without an operator and no `event_shape`.

    Reference: Wu et al. 2023, https://arxiv.org/abs/2306.17775; Rozet et al. 2024 (this twist),
    https://arxiv.org/abs/2405.13712.
    """

    def __init__(
        self,
        model: Model,
        observation: Observation,
        event_shape: Sequence[int] | None = None,
        condition: Condition = None,
        dense: int = 32,
    ) -> None:
        require_count(dense=dense)
        require_observation(observation)
        own = observation.event_shape
        shape = own if event_shape is None else event_shape
        if shape is None:
            raise ValueError(
                "event_shape is missing: a LogLikelihood does not say the shape of one example"
            )
        super().__init__(model, shape, condition)
        if own is not None and own != self.event_shape:
            raise ValueError(f"event_shape={self.event_shape}, and the operator takes {own}")
        self.observation = observation
        self.dense = dense

    @property
    @override
    def limit(self) -> str:
        return MANY_PARTICLES

    @override
    def stages(self, times: Tensor, island_seeds: Sequence[int], particles: int) -> Stages:
        return _TwistedStages(self, times)


class _TwistedStages(Stages):
    """What is seen of a particle: D, D of the posterior, both of a step before, log twist."""

    def __init__(self, target: Twisted, times: Tensor) -> None:
        self.target = target
        self.sde = target.model.sde
        self.times = times.tolist()
        self.chain = ReferenceChain.of(self.sde, times)

    @override
    def start(self, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        x = self.sde.prior_std * z
        x0, guided, twist = self._look(x, 0)
        return x, (x0, guided, x0, guided, twist), twist

    @override
    def step(self, x: Tensor, seen: Seen, k: int, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        x0, guided, x0_before, guided_before, twist = seen
        std = self.chain.std[k]
        shift = self.chain.mean(x, guided, guided_before, k)
        shift = (shift - self.chain.mean(x, x0, x0_before, k)) / std
        x = self.chain.mean(x, guided, guided_before, k) + std * z
        # log of N(z + shift; 0, I) / N(z; 0, I): the model's step over the one that was taken.
        ratio = -sum_event((z + 0.5 * shift).double() * shift.double())
        x0_now, guided_now, twist_now = self._look(x, k + 1)
        return x, (x0_now, guided_now, x0, guided, twist_now), ratio + twist_now - twist

    @override
    def finish(self, x: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        x0, twist = seen[0], seen[-1]
        return x0, self.target.observation.log_prob(x0).double() - twist

    def _look(self, x: Tensor, k: int) -> Seen:
        """D, D of the posterior, and the logarithm of the twist, from one evaluation."""
        model, t = self.target.model, self.times[k]
        told = for_all(self.target.condition, x)
        with torch.inference_mode(False):
            x0, point = value_and_point(lambda z: model.denoise(z, t, told), x)
            time = torch.as_tensor(t, dtype=torch.float64)
            variance = float(self.sde.sigma(time) ** 2 / self.sde.alpha(time))

            def spread(v: Tensor) -> Tensor:
                """V v, with V = (sigma^2 / alpha) J^T."""
                (pulled,) = torch.autograd.grad(
                    x0, point, v, retain_graph=True, materialize_grads=True
                )
                return variance * pulled

            observation = self.target.observation
            if not isinstance(observation, Measurement):
                with torch.enable_grad():
                    twist = observation.log_prob(x0)
                    (gradient,) = torch.autograd.grad(twist.sum(), point)
                return x0.detach(), x0.detach() + variance * gradient, twist.detach().double()
            seen = x0.detach()
            count = prod(observation.operator.measured_shape)
            matched = _by_matrix if count <= self.target.dense else _by_iteration
            change, twist = matched(observation, observation.residual(seen), spread)
            return seen, seen + change, twist


Spread = Callable[[Tensor], Tensor]
"""Maps v, like x, to V v."""


def _by_matrix(observation: Measurement, residual: Tensor, spread: Spread) -> tuple[Tensor, Tensor]:
    """V A^T (R + A V A^T)^-1 r and log N(r; 0, R + A V A^T), with A V A^T as a matrix.

    It is made symmetric, and directions in which it is negative count as without spread, along
    which nothing is moved: a network's may be neither.
    """
    operator, batch = observation.operator, len(residual)
    units = torch.eye(prod(operator.measured_shape)).to(residual)
    columns = []
    for unit in units.reshape(-1, 1, *operator.measured_shape):
        columns.append(spread(operator.adjoint(unit.expand(batch, *unit.shape[1:]))))
    seen = [operator.forward(column).flatten(1).double() for column in columns]
    root = observation.noise_root.to(residual.device)
    white = torch.linalg.solve_triangular(root, torch.stack(seen, 2), upper=False)
    white = torch.linalg.solve_triangular(root, white.mT, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (white + white.mT))
    total = 1 + values.clamp(min=0)
    r = torch.linalg.solve_triangular(root, residual.flatten(1).double()[..., None], upper=False)
    along = (vectors.mT @ r)[..., 0]
    back = vectors @ torch.where(values > 0, along / total, 0.0)[..., None]
    u = torch.linalg.solve_triangular(root.mT, back, upper=True)[..., 0].to(residual)
    change = torch.einsum("mb...,bm->b...", torch.stack(columns), u)
    logs = total.log().sum(1) + 2 * root.diagonal().log().sum()
    power = (along**2 / total).sum(1)
    return change, -0.5 * (power + logs + len(units) * math.log(2 * math.pi))


def _by_iteration(
    observation: Measurement, residual: Tensor, spread: Spread
) -> tuple[Tensor, Tensor]:
    """The same by products with V; the second up to the determinant."""
    operator = observation.operator

    def measured(u: Tensor) -> Tensor:
        return operator.forward(spread(operator.adjoint(u)))

    u = solve_with_covariance(observation.noise, observation.whiten, measured, residual, 1e-4, 20)
    power = sum_event(residual.double() * u.double())
    return spread(operator.adjoint(u)), -0.5 * power
