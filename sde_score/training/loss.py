"""The loss of a batch as a module."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from sde_score._core.conditions import OBSERVED, Condition
from sde_score.models import Caller, Model
from sde_score.models.observed import ObservedEntries
from sde_score.objectives import BaseObjective, Objective
from sde_score.random import BatchSlice
from sde_score.training.build import TrainedModel
from sde_score.training.gaps import tells_mask


class LossModule(nn.Module):
    """Model and objective in one forward pass, which is what distributed training can wrap.

    Args:
        model: what is trained.
        objective: gives the loss of each example.
        autocast: context in which the network runs in another precision; None for float32.
    """

    def __init__(
        self, model: TrainedModel, objective: Objective, autocast: torch.autocast | None
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.autocast = autocast
        self.masked = tells_mask(model)

    def forward(
        self,
        x0: Tensor,
        condition: Condition,
        draws: BatchSlice,
        augment: Tensor | None = None,
        step: int = 0,
    ) -> Tensor:
        """Mean loss of a batch; the arguments are the fields of `MicroBatch`."""
        beside = {} if augment is None else {"augment": augment}
        observed = ~x0.isnan() if self.masked else None
        if observed is not None:
            beside[OBSERVED] = observed
            x0 = torch.where(observed, x0, 0.0)
        for told in (self.model, getattr(self.objective, "teacher", None)):
            if isinstance(told, Caller):
                told.beside = beside
        objective = self.objective
        if isinstance(objective, BaseObjective):
            objective = objective.at_step(step)
        model: Model = self.model if observed is None else ObservedEntries(self.model, observed)
        with self.autocast or nullcontext():
            return objective(model, x0, condition, draws).mean()
