"""Any function of (x, t) as a model: networks and formulas from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import override

from sde_score.models import parametrization
from sde_score.models.base import BaseEnergy, BaseModel
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.models.score_model import accepts
from sde_score.sdes import SDE, VP


class _FunctionModel(nn.Module):
    def __init__(self, function: Callable[..., Tensor], sde: SDE | None) -> None:
        super().__init__()
        self.function = function
        self.takes_condition = accepts(function, 3)
        self._sde = VP() if sde is None else sde

    def _call(
        self, x: Tensor, at: Scales, condition: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor:
        if condition is not None and not self.takes_condition:
            raise TypeError(
                f"condition was given, but the function of this {type(self).__name__} takes x and "
                "t alone: give it a third argument"
            )
        t = at.t.to(x)
        output = self.function(x, t) if condition is None else self.function(x, t, condition)
        if tuple(output.shape) != shape:
            raise ValueError(
                f"function returned shape {tuple(output.shape)} for x of shape "
                f"{tuple(x.shape)}: {type(self).__name__} needs {shape}"
            )
        return output.to(x.dtype)


class ScoreFunction(_FunctionModel, BaseModel):
    """A function (x, t) -> score as a model; a module's parameters become the model's.

    Args:
        function: called as `function(x, t)`, or `function(x, t, condition)` where a condition is
            given; returns a tensor like x. One that does not depend on t is the score of the data.
        sde: the forward diffusion that t belongs to; VP if not given.

    Raises:
        ValueError: when called, if what the function returns does not have the shape of x.
    """

    def __init__(self, function: Callable[..., Tensor], sde: SDE | None = None) -> None:
        super().__init__(function, sde)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.score(at)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Tensor | None) -> Tensor:
        return self._call(x, at, condition, tuple(x.shape))


class EnergyFunction(_FunctionModel, BaseEnergy):
    """A function (x, t) -> energy as a model; its score is minus the gradient.

    Args:
        function: called as `function(x, t)`, or `function(x, t, condition)` where a condition is
            given; returns -log p_t(x) up to a constant, in nats, shape `(batch,)`.
        sde: the forward diffusion that t belongs to; VP if not given.

    Raises:
        ValueError: when called, if the function does not return one number per example.
    """

    def __init__(self, function: Callable[..., Tensor], sde: SDE | None = None) -> None:
        super().__init__(function, sde)

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Tensor | None) -> Tensor:
        return self._call(x, at, condition, (x.shape[0],))
