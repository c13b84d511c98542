"""Models made of models: by the denoised mean of one, or by the scores of several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score._core.conditions import Condition, mapped
from sde_score.models import parametrization
from sde_score.models.base import BaseModel, normal_tensor
from sde_score.models.derivatives.jacobian import pull, value_and_point
from sde_score.models.exact.gaussian_mixture import GaussianMixture
from sde_score.models.inputs import require_model
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.models.protocol import Model
from sde_score.sdes import SDE


class WrappedDenoiser(nn.Module, BaseModel):
    r"""A model whose denoised mean is made of that of another; subclasses give `_predict`.

    Noise, score and velocity follow from it, as for every model, so that all samplers work on it,
    those that ask for noise or velocity too. `nfe` counts evaluations of networks per sample: two
    of them as one batch are two.

    Args:
        model: anything with the model protocol; a module's parameters become this model's.

    Raises:
        TypeError: if `model` lacks the protocol.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        require_model(model)
        self.model = model
        self.sigma_data = float(getattr(model, "sigma_data", 1.0))

    @property
    @override
    def sde(self) -> SDE:
        """The inner model's diffusion."""
        return self.model.sde

    @property
    def takes_condition(self) -> bool:
        """Whether the inner model takes a condition, as far as it says."""
        return bool(getattr(self.model, "takes_condition", True))

    def require_condition(self, condition: Condition) -> None:
        """Refuse labels that the inner model refuses."""
        check = getattr(self.model, "require_condition", None)
        if check is not None and self.takes_condition:
            check(condition)

    @override
    def _evaluate(
        self,
        wanted: Callable[[Scales], Coefficients],
        x: Tensor,
        t: Tensor | float,
        condition: Condition,
    ) -> Tensor:
        before = self.model.nfe
        found = super()._evaluate(wanted, x, t, condition)
        self.nfe += self.model.nfe - before - 1  # an answer costs what the inner model's does
        return found

    @cached_property
    def stand_in(self) -> Model:
        """A model of one dimension that makes as many evaluations at every time."""
        return stand_in(self.model)

    @abstractmethod
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        """The denoised mean, like x; evaluations of the inner model are counted by the caller."""

    def _moved(
        self,
        x: Tensor,
        at: Scales,
        condition: Condition,
        direction: Callable[[Tensor, Scales, Callable[[Tensor], Tensor]], Tensor],
    ) -> Tensor:
        r"""The inner denoised mean D, with a gradient through the network added to its score.

        .. math:: D + \frac{\sigma^2}{\alpha} J^T g, \qquad J = \frac{\partial D}{\partial x}

        The caller may be in any mode; a graph is kept where gradients are enabled.

        Args:
            x: shape `(batch, *event)`.
            at: the scales.
            condition: of the inner model.
            direction: from D, the scales and the product v -> J^T v to g, like D.
        """
        keep = torch.is_grad_enabled()
        with torch.inference_mode(False):
            x, t = normal_tensor(x), normal_tensor(at.t)
            condition = mapped(condition, normal_tensor)
            at = Scales(at.sde, t, at.sigma_data)
            x0, point = value_and_point(lambda z: self.model.denoise(z, t, condition), x)

            def pulled(v: Tensor) -> Tensor:
                return pull(x0, point, v, create_graph=keep, retain=True)

            with torch.set_grad_enabled(keep):
                seen = x0 if keep else x0.detach()
                added = pulled(direction(seen, at, pulled))
                return seen + expand_like(at.sigma**2 / at.alpha, x) * added

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.data(at)


class SeveralModels(nn.Module):
    """Models of one diffusion, of whose scores another model's is made: goes before `BaseModel`.

    `nfe` counts evaluations of networks per sample: `_predict` returns the score, and adds the
    evaluations beyond the one that is counted for each answer.

    Args:
        models: anything with the model protocol, of one diffusion; a module's parameters become
            this model's.

    Raises:
        TypeError: if one lacks the protocol.
        ValueError: for none, or for models of different diffusions.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        super().__init__()
        self.models = tuple(models)
        if not self.models:
            raise ValueError("models is empty: give at least one")
        for index, model in enumerate(self.models):
            require_model(model, f"models[{index}]")
            if model.sde != self.models[0].sde:
                raise ValueError(
                    f"models[{index}] has {model.sde}, and models[0] {self.models[0].sde}: give "
                    "models of one diffusion"
                )
            if isinstance(model, nn.Module):
                self.add_module(str(index), model)
        self.sigma_data = float(getattr(self.models[0], "sigma_data", 1.0))

    @property
    def sde(self) -> SDE:
        """The diffusion of all models."""
        return self.models[0].sde

    @property
    def evaluations(self) -> int:
        """Evaluations of the models since they were made."""
        return sum({id(model): model.nfe for model in self.models}.values())

    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.score(at)


def stand_in(model: Model) -> Model:
    """A model of one dimension that makes as many evaluations at every time: to count on.

    Args:
        model: anything with the model protocol; a `stand_in` of its own is returned.
    """
    own: Model | None = getattr(model, "stand_in", None)
    return GaussianMixture([[0.3]], 0.5, model.sde) if own is None else own
