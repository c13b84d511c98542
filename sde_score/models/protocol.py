"""The model protocol: an SDE, and the score of its marginals in four equivalent forms."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score.sdes import SDE


@runtime_checkable
class Model(Protocol):
    """All that samplers, likelihoods and objectives know of a model.

    Each method takes x of shape `(batch, *event)` and t, a scalar or `(batch,)`, and returns a
    tensor like x. `condition` (labels, vectors, images, or a dictionary of them) travels through
    unchanged. `nfe` counts evaluations since the model was made: one per method call, however many
    examples the batch holds.
    """

    nfe: int

    @property
    def sde(self) -> SDE:
        """The diffusion whose marginals have this score."""
        ...

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """Gradient of log p_t at x."""
        ...

    def denoise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[x0 | x_t = x]."""
        ...

    def noise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """E[noise | x_t = x] = -sigma score."""
        ...

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """alpha' E[x0 | x_t = x] + sigma' E[noise | x_t = x], the drift of the probability-flow
        ODE."""
        ...


@runtime_checkable
class EnergyBased(Model, Protocol):
    """A model with an energy, the negative log density up to a constant: score = -grad energy."""

    def energy(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """-log p_t(x) up to a constant, in nats, shape `(batch,)`."""
        ...

    def energy_and_score(
        self, x: Tensor, t: Tensor | float, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """Both from one evaluation."""
        ...
