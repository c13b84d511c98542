r"""Products of powers of models made exact by the weights of particles.

In the coordinates y = x / alpha, v = sigma^2 / alpha^2, in which noise is added and nothing
shrinks, the distributions :math:`\pi_v \propto \prod_i p_{i, v}^{\beta_i}`, of score
:math:`S = \sum_i \beta_i s_i`, are those of the reverse diffusion with score S and the weights

.. math:: d \log w = \tfrac12 \left( \|S\|^2 - \sum_i \beta_i \|s_i\|^2 \right) |dv| .

Where B, the sum of the weights, is not 1, noise alone would make these weights uneven. One more
part keeps the sum at 1 as long as noise prevails, and leaves as it falls: N(0, v + c), which is
diffused as the others are, to the power

.. math:: \beta_0 = (1 - B) \lambda, \qquad \lambda = \frac{v}{v + c},

with c the mean square of the data. That it changes adds
:math:`(1 - B) \log N(y; 0, v + c) \, d\lambda` to the weights.

Reference: Skreta et al. 2025, https://arxiv.org/abs/2503.02819.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import shown, sum_event
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score.models import Model
from sde_score.posterior.smc.driver import FeynmanKac, Seen, Stages, for_all


@runtime_checkable
class Composed(Model, Protocol):
    """A model whose score is a weighted sum, as those of `guidance.Product` and of `cfg`."""

    @property
    def weights(self) -> Sequence[float]:
        """beta, one for each part."""
        ...

    def scores(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Scores of all parts, from one evaluation of each, shape `(parts, batch, *event)`."""
        ...


class Corrected(FeynmanKac):
    r"""A product of powers of models, which sampling by the sum of their scores is not.

    log Z is that of the integral of the product of the data's densities.

    Args:
        model: such as `guidance.Product`, `Tempered`, `Conjunction`, or `Guided` by `"cfg(3)"`.
        event_shape: of one particle.
        condition: what all particles are told: an entry for one example, shape `(1, ...)`.

    Raises:
        TypeError: for a model that is no sum of scores.
    """

    def __init__(
        self, model: Model, event_shape: Sequence[int], condition: Condition = None
    ) -> None:
        if not isinstance(model, Composed):
            raise ArgumentError(
                f"model={shown(model)} has no weights and scores; accepted: guidance.Product, "
                "Tempered, Conjunction, or Guided by a rule such as 'cfg(3)'"
            )
        super().__init__(model, event_shape, condition)
        self.model: Composed = model

    @property
    @override
    def limit(self) -> str:
        return "exact in the limit of many particles and many steps"

    @override
    def stages(self, times: Tensor, island_seeds: Sequence[int], particles: int) -> Stages:
        return _CorrectedStages(self, times)


class _CorrectedStages(Stages):
    r"""What is seen of a particle: the mean M of all parts' denoised means by their weights, that
    of the step before, :math:`v (\|S\|^2 - \sum_i \beta_i \|s_i\|^2)`, and log N(y; 0, v + c).

    With B the sum of all weights, S = B (M - y) / v: a linear equation but for M, which is
    extrapolated in log v as if it had no noise.
    """

    def __init__(self, target: Corrected, times: Tensor) -> None:
        self.target, self.times = target, times.tolist()
        sde = target.model.sde
        self.alpha = sde.alpha(times).tolist()
        v = sde.noise_ratio(times) ** 2
        self.v, self.h = v.tolist(), (-v.log().diff()).tolist()
        self.missing = 1 - sum(target.model.weights)
        self.spread = float(getattr(target.model, "sigma_data", 1.0)) ** 2
        share = v / (v + self.spread)
        self.share = share.tolist()
        self.total = (1 - self.missing * (1 - share)).tolist()

    @override
    def start(self, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        std = self.target.model.sde.prior_std
        x = std * z
        mean, log, rate = self._look(x, 0)
        ours = log_normal(x / self.alpha[0], (std / self.alpha[0]) ** 2)
        # The other parts together are as the prior of the sum of their weights.
        factor = self.missing * (self.share[0] * log - ours)
        return x, (mean, mean, log, rate), factor

    @override
    def step(self, x: Tensor, seen: Seen, k: int, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        before, mean, log, rate = seen
        change = self.h[k] / (2 * self.h[k - 1]) if k else 0.0
        toward = mean + change * (mean - before)
        total = 0.5 * (self.total[k] + self.total[k + 1])
        kept = math.exp(-total * self.h[k])
        # The variance v_s (1 - e^(-p h)) / p, with p = 2 total - 1.
        power = (2 * total - 1) * self.h[k]
        share = -math.expm1(-power) / power if power else 1.0
        std = math.sqrt(self.v[k + 1] * self.h[k] * share)
        y = toward + kept * (x / self.alpha[k] - toward) + std * z
        x = self.alpha[k + 1] * y
        mean_now, log_now, rate_now = self._look(x, k + 1)
        factor = 0.25 * self.h[k] * (rate + rate_now)
        leaving = self.missing * (self.share[k + 1] - self.share[k])
        factor = factor + 0.5 * leaving * (log + log_now)
        return x, (mean, mean_now, log_now, rate_now), factor

    @override
    def finish(self, x: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        _, mean, log, _ = seen
        return mean, -self.missing * self.share[-1] * log

    def _look(self, x: Tensor, k: int) -> Seen:
        """The mean of the denoised means, log N(y; 0, v + c), and the rate of the weights."""
        model, v, y = self.target.model, self.v[k], x / self.alpha[k]
        scores = self.alpha[k] * model.scores(x, self.times[k], for_all(self.target.condition, x))
        weights = scores.new_tensor(model.weights)
        own, extra = -y / (v + self.spread), self.missing * self.share[k]
        total = torch.tensordot(weights, scores, dims=1) + extra * own
        squares = (scores.double() ** 2).flatten(2).sum(2)
        rate = sum_event(total.double() ** 2) - weights.double() @ squares
        rate = v * (rate - extra * sum_event(own.double() ** 2))
        mean = y + v / self.total[k] * total
        return mean, log_normal(y, v + self.spread), rate


def log_normal(y: Tensor, variance: float) -> Tensor:
    """log N(y; 0, variance I), float64 of shape `(batch,)`."""
    count = prod(y.shape[1:])
    return -0.5 * (sum_event(y.double() ** 2) / variance + count * math.log(2 * math.pi * variance))
