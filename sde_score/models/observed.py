r"""The model of the observed entries of examples that have gaps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score._core.conditions import Condition
from sde_score.models import parametrization
from sde_score.models.base import BaseModel
from sde_score.models.parametrization import Coefficients, Scales, conversion
from sde_score.models.protocol import Model
from sde_score.sdes import SDE


class Observed(BaseModel):
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
        self.model, self.observed = model, observed
        self.sigma_data = float(getattr(model, "sigma_data", 1.0))

    @property
    @override
    def sde(self) -> SDE:
        return self.model.sde

    @override
    def _evaluate(
        self,
        wanted: Callable[[Scales], Coefficients],
        x: Tensor,
        t: Tensor | float,
        condition: Condition,
    ) -> Tensor:
        at, before = self._scales(x, t), self.model.nfe
        names: dict[Callable[[Scales], Coefficients], str] = {
            parametrization.score: "score",
            parametrization.data: "denoise",
            parametrization.noise: "noise",
            parametrization.velocity: "velocity",
        }
        found: Tensor = getattr(self.model, names[wanted])(x, t, condition)
        self.nfe += self.model.nfe - before
        on_x, _ = conversion(at, parametrization.data(at), wanted(at))  # of the data 0
        return torch.where(self.observed, found, expand_like(on_x, x) * x)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self.denoise(x, at.t, condition)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.data(at)
