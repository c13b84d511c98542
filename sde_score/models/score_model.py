"""A network and an SDE: a score."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score.models.base import BaseModel, Moment, Row
from sde_score.models.parametrization import Preconditioning
from sde_score.sdes import SDE


class BackboneModel(nn.Module):
    """What models made of a network and an SDE share: how the network is called.

    Args:
        backbone: called as `backbone(x, noise_level, condition)` with noise_level of shape
            `(batch,)`; returns a tensor like x.
        sde: the forward diffusion.
        prediction: what the backbone's output means.
        sigma_data: standard deviation of the data.
    """

    def __init__(
        self, backbone: Callable[..., Tensor], sde: SDE, prediction: str, sigma_data: float
    ) -> None:
        super().__init__()
        self.preconditioning = Preconditioning(prediction, sigma_data)
        self.backbone = backbone
        self._sde = sde

    def _call_backbone(self, scaled: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        """The backbone's output at x / S, in its own dtype."""
        parameter = next(self.parameters(), None)
        dtype = scaled.dtype if parameter is None else parameter.dtype
        noise_level = self.preconditioning.noise_level(at).to(dtype)
        output: Tensor = self.backbone(
            scaled.to(dtype), noise_level.expand(scaled.shape[0]), condition
        )
        if output.shape != scaled.shape:
            raise ValueError(
                f"the backbone returned shape {tuple(output.shape)} for x of shape "
                f"{tuple(scaled.shape)}: it must return a tensor like x"
            )
        return output.to(scaled.dtype)

    @override
    def extra_repr(self) -> str:
        return f"sde={self._sde}, {self.preconditioning}"


class ScoreModel(BackboneModel, BaseModel):
    r"""A backbone whose output is read as noise, data, velocity, score, field or EDM's mixture.

    All of `score`, `denoise`, `noise`, `velocity` follow from it with one call. The scaling of
    input and output, and what each prediction means, is in `Preconditioning`; on EDM's SDE,
    `edm` is its preconditioning: c_skip, c_out, c_in and c_noise of the paper.

    Args:
        backbone: called as `backbone(x, noise_level, condition)` with noise_level of shape
            `(batch,)`; returns a tensor like x.
        sde: the forward diffusion.
        prediction: what the backbone's output means, see `Preconditioning`.
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
        super().__init__(backbone, sde, prediction, sigma_data)

    @override
    def _row(self, at: Moment) -> Row:
        return self.preconditioning.row(at)

    @override
    def _predict(self, x: Tensor, at: Moment, condition: Tensor | None) -> Tensor:
        scaled = x / expand_like(self.preconditioning.input_scale(at), x)
        return self._call_backbone(scaled, at, condition)
