"""Any function of (x, t) as a model: networks and formulas from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.models import parametrization
from sde_score.models.base import BaseEnergy, BaseModel
from sde_score.models.calling import Caller
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.sdes import SDE, SDES, VP


class _FunctionModel(Caller):
    def __init__(self, function: Callable[..., Tensor], sde: str | SDE | None) -> None:
        super().__init__("function", function)
        self._sde = VP() if sde is None else SDES.resolve(sde, name="sde")


class ScoreFunction(_FunctionModel, BaseModel):
    """A function (x, t) -> score as a model; the parameters of its network become the model's.

    Args:
        function: a network, or any other callable, a closure over a network for example; it is
            called as `function(x, t)`, or `function(x, t, condition)` where a condition is given,
            in the dtype of the network, with t a scalar or, if it takes none, of shape `(batch,)`.
            Returns a tensor like x. One that does not depend on t is the score of the data.
        sde: the forward diffusion that t belongs to, or its name; VP if not given.

    Raises:
        TypeError: for what cannot be called so; when called, if the function returns no tensor.
        ValueError: when called, if what the function returns does not have the shape of x.
    """

    def __init__(self, function: Callable[..., Tensor], sde: str | SDE | None = None) -> None:
        super().__init__(function, sde)

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.score(at)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self._call(x, at.t, condition, tuple(x.shape))


class EnergyFunction(_FunctionModel, BaseEnergy):
    """A function (x, t) -> energy as a model; its score is minus the gradient.

    Args:
        function: called as that of a `ScoreFunction`; returns -log p_t(x) up to a constant, in
            nats, shape `(batch,)`.
        sde: the forward diffusion that t belongs to, or its name; VP if not given.

    Raises:
        TypeError: for what cannot be called so; when called, if the function returns no tensor.
        ValueError: when called, if the function does not return one number per example.
    """

    def __init__(self, function: Callable[..., Tensor], sde: str | SDE | None = None) -> None:
        super().__init__(function, sde)

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self._call(x, at.t, condition, (x.shape[0],))
