r"""The model of the observed entries of examples that have gaps."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.models.parametrization import Scales
from sde_score.models.protocol import Model
from sde_score.models.wrapped import WrappedDenoiser


class ObservedEntries(WrappedDenoiser):
    r"""A model in which the missing entries of each example are known to be 0.

    .. math:: p(x_{obs})\, \delta(x_{mis}), \qquad
              \nabla_{x_{mis}} \log p_t = - x_{mis} / \sigma^2

    The distribution of data whose gaps are filled with 0, example by example: an objective that is
    zero, or constant, at the true score of the missing entries trains the observed ones alone.
    That is consistent whatever is missing where: with the mask as an input each pattern has its own
    score, that of the marginal of its observed entries. Where the gaps do not depend on the values
    (missing completely at random) the score of complete rows is that of the data.

    Args:
        model: a score model, whose network is told the same mask.
        observed: whether each entry is there, boolean, shape `(batch, *event)`.

    Reference: Ouyang et al. 2023 (MissDiff), https://arxiv.org/abs/2307.00467, whose loss of a
    denoising model this is.
    """

    def __init__(self, model: Model, observed: Tensor) -> None:
        super().__init__(model)
        self.observed = observed

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return torch.where(self.observed, self.model.denoise(x, at.t, condition), 0.0)
