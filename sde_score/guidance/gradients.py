r"""Guidance by gradients: classifiers of noisy data, energies and rewards.

Bayes' rule for a class, or any event y, is a sum of scores, and so of denoised means:

.. math:: \nabla_x \log p_t(x | y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y | x), \qquad
          D_y = D + \frac{\sigma^2}{\alpha} \nabla_x \log p_t(y | x) .

All gradients are taken at the noisy x itself.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_finite
from sde_score._core.conditions import Condition, mapped
from sde_score.models import (
    EnergyFunction,
    Model,
    Scales,
    WrappedDenoiser,
    accepts,
    gradient_of,
    normal_tensor,
)


class ClassifierGuided(WrappedDenoiser):
    r"""A model with the gradient of a log-probability added to its score.

    .. math:: score_y = score + s \, \nabla_x \log p(y | x, t)

    With s = 1 and a classifier that knows noisy data at every t, this is the score of the data
    given y. The condition goes to the classifier, and to the model if it takes one.

    Args:
        model: anything with the model protocol.
        log_prob: `log_prob(x, t)` or `log_prob(x, t, condition)`, in nats, shape `(batch,)`; its
            network's parameters become this model's.
        scale: s; above 1, towards what the classifier is most sure of.

    Raises:
        TypeError: if `model` lacks the protocol, or `log_prob` cannot be called so.
        ValueError: if `scale` is not finite.

    Reference: Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, section 4.
    """

    def __init__(self, model: Model, log_prob: Callable[..., Tensor], scale: float = 1.0) -> None:
        super().__init__(model)
        require_finite(scale=scale)
        self.classifier = EnergyFunction(log_prob, model.sde)
        self.scale = scale

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        x0 = self.model.denoise(x, at.t, condition if self.takes_condition else None)
        told = condition if self.classifier.takes_condition else None
        # An energy's score is minus its gradient.
        return x0 - expand_like(self.scale * at.sigma**2 / at.alpha, x) * self.classifier.score(
            x, at.t, told
        )

    @override
    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class RewardGuided(WrappedDenoiser):
    r"""A model with the gradient of a reward of its denoised mean added to its score.

    .. math:: score_r = score + s \, \nabla_x r\left(\hat x_0(x, t)\right)

    through the network: one backward pass beside the forward one. exp(s r) p is what is meant, and
    what samples tend to only as far as x0 is known from x: weighted particles correct the rest.

    Args:
        model: anything with the model protocol.
        reward: `reward(x0)` or `reward(x0, condition)`, shape `(batch,)`; an energy with a minus.
        scale: s.

    Raises:
        TypeError: if `model` lacks the protocol.
        ValueError: if `scale` is not finite; when called, for rewards that are not one number per
            example.

    Reference: Chung et al. 2023, https://arxiv.org/abs/2209.14687, for log-likelihoods.
    """

    def __init__(self, model: Model, reward: Callable[..., Tensor], scale: float = 1.0) -> None:
        super().__init__(model)
        require_finite(scale=scale)
        self.reward = reward
        self.scale = scale

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        inner = condition if self.takes_condition else None
        return self._moved(x, at, inner, lambda x0, *_: self._slope(x0, condition))

    def _slope(self, x0: Tensor, condition: Condition) -> Tensor:
        """Gradient of the reward at a denoised mean, times the scale."""
        told = (mapped(condition, normal_tensor),) if accepts(self.reward, 2) else ()

        def reward(x0: Tensor) -> Tensor:
            found = self.reward(x0, *told)
            _require_one_each(found, len(x0))
            return found

        return self.scale * gradient_of(reward, x0)

    @override
    def extra_repr(self) -> str:
        return f"scale={self.scale}"


def _require_one_each(reward: object, batch: int) -> None:
    if not isinstance(reward, Tensor) or tuple(reward.shape) != (batch,):
        came = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
        raise ValueError(f"the reward returned {came}; accepted: one number each, shape ({batch},)")
