"""Tensors of a run in progress: what a checkpoint holds of them, whole or in parts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from sde_score.training.build import TrainedModel
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.objective_state import ObjectiveState
from sde_score.training.optimizer import Update
from sde_score.training.sharding import Shards
from sde_score.training.state import TrainState
from sde_score.training.tensor_files import Named, Part


class RunTensors:
    """Weights, averages, optimizer and objective of a run.

    Args:
        model: in training.
        update: of its weights.
        remembered: by the objective.
        shards: of the weights, None where each process holds all.
    """

    def __init__(
        self,
        model: TrainedModel,
        update: Update,
        remembered: ObjectiveState,
        shards: Shards | None,
    ) -> None:
        self.model, self.update, self.remembered, self.shards = model, update, remembered, shards

    def in_parts(self, tensors: Mapping[str, Tensor]) -> Named:
        """Tensors, of sharded ones the parts of this process."""
        return tensors if self.shards is None else self.shards.parts(tensors)

    def named(self) -> dict[str, Named]:
        """What goes into each file of a checkpoint."""
        weights = self.model.state_dict()
        average = dict(zip(self.update.parameters, self.update.ema.shadow, strict=True))
        averaged = {name: average.get(name, value) for name, value in weights.items()}
        return {
            "model": self.in_parts(weights),
            "ema": self.in_parts(averaged),
            "optimizer": self.in_parts(self.update.state()),
            "objective": self.remembered.tensors(average),
        }

    def load(self, checkpoints: Checkpoints, state: TrainState, verify: bool) -> None:
        """Take up a checkpoint.

        Args:
            checkpoints: of the run.
            state: of the checkpoint.
            verify: whether to read whole files for their sums, as one process does for all.

        Raises:
            CheckpointError: naming a file that is damaged.
        """

        def read(name: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor | Part]:
            return checkpoints.parts(state.step, name, self.in_parts(expected), verify)

        weights = self.model.state_dict()
        model, average = read("model", weights), _rows(read("ema", weights))
        moments = _rows(read("optimizer", self.update.expected_state()))
        remembered = _rows(read("objective", self.remembered.tensors()))
        if self.shards is None:
            self.model.load_state_dict(model)
        else:
            self.shards.load(model)
        average |= self.remembered.restore(remembered)
        scaling = state.loss_scale, state.clean_steps
        self.update.restore(state.step, moments, average, scaling)


def _rows(found: Mapping[str, Tensor | Part]) -> dict[str, Tensor]:
    return {name: v.rows if isinstance(v, Part) else v for name, v in found.items()}
