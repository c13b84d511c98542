"""How a backbone's input and output are scaled, and what its output means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_positive
from sde_score.models.base import ROWS, Moment, Row

PREDICTIONS = (*ROWS, "edm", "field")


@dataclass(frozen=True)
class Preconditioning:
    r"""Scales that keep a backbone's input and output near unit variance.

    The backbone sees x / S and a quarter of the log of sigma / alpha,

    .. math:: S^2 = \sigma(t)^2 + \alpha(t)^2 \sigma_{data}^2,

    and what comes out is one of

    ========== =====================================================================
    `noise`    the noise in x_t
    `data`     the data behind x_t
    `velocity` alpha' data + sigma' noise
    `score`    sigma times the score, the scaling of NCSN++
    `edm`      (sigma data / sigma_data - alpha sigma_data noise) / S, of unit variance at every t
    `field`    S times the score: of unit variance where the data have a smooth density, so it is
               the one to train without noise; the others grow without bound as sigma falls
    ========== =====================================================================

    Args:
        prediction: one of these names.
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ValueError: for an unknown prediction or a `sigma_data` that is not positive.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
    """

    prediction: str
    sigma_data: float

    def __post_init__(self) -> None:
        require_choice("prediction", self.prediction, PREDICTIONS)
        require_positive(sigma_data=self.sigma_data)

    def input_scale(self, at: Moment) -> Tensor:
        """S in the shape of t."""
        return (at.sigma**2 + (self.sigma_data * at.alpha) ** 2).sqrt()

    def noise_level(self, at: Moment) -> Tensor:
        """log(sigma / alpha) / 4 in the shape of t."""
        return 0.25 * torch.log(at.sigma / at.alpha)

    def row(self, at: Moment) -> Row:
        """The output as coordinates."""
        if self.prediction == "score":
            return at.zero, -at.one
        if self.prediction == "field":
            return at.zero, -self.input_scale(at) / at.sigma
        if self.prediction != "edm":
            return ROWS[self.prediction](at)
        scale = self.input_scale(at) * self.sigma_data
        return at.sigma / scale, -at.alpha * self.sigma_data**2 / scale
