"""State of an objective between steps, as tensors for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sde_score.objectives import Objective, StatefulObjective

_OWN, _AVERAGE = "objective.", "average."


class ObjectiveState:
    """The state of an objective; nothing for one without.

    Args:
        objective: already set up, on the device where it is trained.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective if isinstance(objective, StatefulObjective) else None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is optimized along with the model, under names that no model has."""
        if self._objective is None:
            return {}
        return {_OWN + name: p for name, p in self._objective.named_parameters()}

    def tensors(self, averages: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All that is remembered, and the running averages of the parameters.

        Args:
            averages: by the names of `parameters`; None takes the parameters' own values.
        """
        if self._objective is None:
            return {}
        average = self.parameters if averages is None else averages
        own = self._objective.state_dict()
        return {**own, **{_AVERAGE + name: average[name].detach() for name in self.parameters}}

    def restore(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take up what `tensors` returned; gives the averages by the names of `parameters`."""
        if self._objective is None:
            return {}
        own = {k: v for k, v in tensors.items() if not k.startswith(_AVERAGE)}
        self._objective.load_state_dict(own)
        return {name: tensors[_AVERAGE + name] for name in self.parameters}

    def finish_step(self) -> None:
        """Let the objective take over what the batches of a step have left."""
        if self._objective is not None:
            self._objective.finish_step()
