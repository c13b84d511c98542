"""The contract of an objective: a loss per example, nothing averaged away."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sde_score.models import Model
from sde_score.random import Draws


class Objective(Protocol):
    """A way to learn a score from data."""

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Tensor | None = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example.

        Args:
            model: what is trained.
            x0: data of shape `(batch, *event)`; left as it is.
            condition: passed on to the model.
            generator: source of all randomness; None uses torch's global one.

        Returns:
            losses of shape `(batch,)`, differentiable in the model's parameters.
        """
        ...
