"""A network and an SDE: a score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._checks import expand_like, require_choice, require_positive
from sde_score.models.base import ROWS, BaseModel, Moment, Row
from sde_score.sdes import SDE

PREDICTIONS = (*ROWS, "edm")


class ScoreModel(nn.Module, BaseModel):
    r"""A backbone whose output is read as noise, data, velocity, score or EDM's mixture.

    The backbone F sees an input of unit variance and a quarter of the log of sigma / alpha:

    .. math:: F\left(\frac{x}{S},\ \tfrac14 \log \frac{\sigma(t)}{\alpha(t)}\right), \qquad
              S^2 = \sigma(t)^2 + \alpha(t)^2 \sigma_{data}^2 .

    What it returns is one of

    ========== =====================================================================
    `noise`    the noise in x_t
    `data`     the data behind x_t
    `velocity` alpha' data + sigma' noise
    `score`    sigma times the score, the scaling of NCSN++
    `edm`      (sigma data / sigma_data - alpha sigma_data noise) / S, of unit variance at every t
    ========== =====================================================================

    and all of `score`, `denoise`, `noise`, `velocity` follow from it with one call. On EDM's SDE,
    `edm` is its preconditioning: c_skip, c_out, c_in and c_noise of the paper.

    Args:
        backbone: called as `backbone(x, noise_level, condition)` with noise_level of shape
            `(batch,)`; returns a tensor like x.
        sde: the forward diffusion.
        prediction: what the backbone's output means.
        sigma_data: standard deviation of the data; with 1 a variance-preserving SDE leaves the
            input as it is.

    Raises:
        ValueError: for an unknown prediction or a `sigma_data` that is not positive.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        sde: SDE,
        prediction: str = "noise",
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        require_choice("prediction", prediction, PREDICTIONS)
        require_positive(sigma_data=sigma_data)
        self.backbone = backbone
        self._sde = sde
        self.prediction = prediction
        self.sigma_data = sigma_data

    def _input_scale(self, at: Moment) -> Tensor:
        return (at.sigma**2 + (self.sigma_data * at.alpha) ** 2).sqrt()

    @override
    def _row(self, at: Moment) -> Row:
        if self.prediction == "score":
            return at.zero, -at.one
        if self.prediction != "edm":
            return ROWS[self.prediction](at)
        scale = self._input_scale(at) * self.sigma_data
        return at.sigma / scale, -at.alpha * self.sigma_data**2 / scale

    @override
    def _predict(self, x: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        dtype = self._backbone_dtype(x)
        noise_level = 0.25 * torch.log(at.sigma / at.alpha)
        output: Tensor = self.backbone(
            (x / expand_like(self._input_scale(at), x)).to(dtype),
            noise_level.to(dtype).expand(x.shape[0]),
            condition,
        )
        if output.shape != x.shape:
            raise ValueError(
                f"the backbone returned shape {tuple(output.shape)} for x of shape "
                f"{tuple(x.shape)}: it must return a tensor like x"
            )
        return output.to(x.dtype)

    def _backbone_dtype(self, x: Tensor) -> torch.dtype:
        parameter = next(self.parameters(), None)
        return x.dtype if parameter is None else parameter.dtype

    @override
    def extra_repr(self) -> str:
        return f"sde={self.sde}, prediction={self.prediction!r}, sigma_data={self.sigma_data}"
