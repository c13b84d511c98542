"""Score models: a network and an SDE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score._core.conditions import Condition
from sde_score.models.base import BaseModel
from sde_score.models.calling import Caller
from sde_score.models.parametrization import Coefficients, Parametrization, Scales
from sde_score.models.rows import PARAMETRIZATIONS
from sde_score.sdes import SDE, SDES


class BackboneModel(Caller):
    """A network, an SDE and a parametrization: how the network is called.

    Args:
        backbone: called as `backbone(x, time_label, condition)`, or without the condition if it
            takes two arguments; time_label has the shape `(batch,)`. Returns a tensor like x.
        sde: the forward diffusion, an object or its name.
        prediction: the parametrization, by name or as an object.
        sigma_data: root mean square of the data; None takes that of the parametrization.
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        sde: str | SDE,
        prediction: str | Parametrization,
        sigma_data: float | None,
    ) -> None:
        super().__init__("backbone", backbone, "time_label")
        row = PARAMETRIZATIONS.resolve(prediction)
        self.parametrization = row if sigma_data is None else replace(row, sigma_data=sigma_data)
        self.sigma_data = self.parametrization.sigma_data
        self._sde = SDES.resolve(sde, name="sde")

    def _call_backbone(
        self,
        scaled: Tensor,
        at: Scales,
        condition: Condition,
        beside: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The backbone's output at x / S, in the dtype of x; it computes in its own."""
        label = self.parametrization.time_label(at).expand(scaled.shape[0])
        return self._call(scaled, label, condition, tuple(scaled.shape), beside)

    @override
    def extra_repr(self) -> str:
        return f"sde={self._sde}, prediction={self.parametrization}"


class ScoreModel(BackboneModel, BaseModel):
    r"""A network whose output is read as noise, data, velocity, score or EDM's mixture.

    All of `score`, `denoise`, `noise`, `velocity` follow from it with one call. How the network is
    fed, and what its output means, is a row of `PARAMETRIZATIONS`; on EDM's SDE, `edm` is its
    preconditioning: c_skip, c_out, c_in and c_noise of the paper.

    Args:
        backbone: called as `backbone(x, time_label, condition)`, or without the condition if it
            takes two arguments; the label, log(sigma / alpha) / 4 unless the parametrization has
            another, has the shape `(batch,)`. Returns a tensor like x.
        sde: the forward diffusion, an object or its name.
        prediction: a name in `PARAMETRIZATIONS`, or a `Parametrization`.
        sigma_data: root mean square of the data; with 1 a variance-preserving SDE leaves the
            input as it is. None takes that of the parametrization, 1 for ours.

    Raises:
        ValueError: for an unknown prediction or a `sigma_data` that is not positive.
        TypeError: for a backbone that takes neither two nor three arguments.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
    """

    def __init__(
        self,
        backbone: Callable[..., Tensor],
        sde: str | SDE,
        prediction: str | Parametrization = "noise",
        sigma_data: float | None = None,
    ) -> None:
        super().__init__(backbone, sde, prediction, sigma_data)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        scaled = x / expand_like(self.parametrization.input_scale(at), x)
        return self._call_backbone(scaled, at, condition)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return self.parametrization.output(at)
