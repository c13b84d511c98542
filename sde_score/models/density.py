"""Unnormalized densities, and the marginal of a model at a fixed time."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score.models.inputs import require_model
from sde_score.models.protocol import EnergyBased, Model


@runtime_checkable
class Density(Protocol):
    """An unnormalized density exp(-energy(x)) over events."""

    def energy(self, x: Tensor) -> Tensor:
        """-log density up to a constant, in nats, shape `(batch,)`."""
        ...

    def score(self, x: Tensor) -> Tensor:
        """-grad energy, like x."""
        ...

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        ...


class Marginal:
    """The distribution of x_t under a model, at one time and condition: a `Density`.

    Where gradients are enabled, what it returns carries a graph, to the parameters and to x.

    Args:
        model: anything with the model protocol; `energy` needs an energy-based one.
        t: a scalar or `(batch,)`; None for `t_min`, which stands for the data.
        condition: passed to the model.
    """

    def __init__(
        self,
        model: Model,
        t: Tensor | float | None = None,
        condition: Condition = None,
    ) -> None:
        require_model(model, whole=False)
        self.model = model
        self.t = model.sde.t_min if t is None else t
        self.condition = condition

    @property
    def has_energy(self) -> bool:
        """Whether the model has an energy and not a score alone."""
        return isinstance(self.model, EnergyBased)

    def score(self, x: Tensor) -> Tensor:
        """Gradient of log p_t at x."""
        return self.model.score(x, self.t, self.condition)

    def energy(self, x: Tensor) -> Tensor:
        """-log p_t(x) up to a constant, in nats, shape `(batch,)`.

        Raises:
            TypeError: if the model has a score alone.
        """
        return self._energy_based().energy(x, self.t, self.condition)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one evaluation.

        Raises:
            TypeError: if the model has a score alone.
        """
        return self._energy_based().energy_and_score(x, self.t, self.condition)

    def _energy_based(self) -> EnergyBased:
        if not isinstance(self.model, EnergyBased):
            raise TypeError(
                f"{type(self.model).__name__} has a score but no energy; accepted: EnergyModel, "
                "EnergyFunction, GaussianMixture, or a method that needs the score alone"
            )
        return self.model
