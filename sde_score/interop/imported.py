"""The result of reading somebody else's checkpoint, and the table of families that can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.conditions import ConditionShape
from sde_score.interop.files import Contents
from sde_score.interop.schedules import text_of
from sde_score.models import EnergyModel, FlowMap, ScoreModel
from sde_score.nn import create as create_backbone
from sde_score.nn import tell_end
from sde_score.scaling import ConditionScaling, Scaling
from sde_score.sdes import SDE
from sde_score.training import TrainConfig


@dataclass(frozen=True)
class Imported:
    """A network as a value: all that a `ScoreModel` and a run are made of.

    Args:
        family: of the checkpoint, such as `"score_sde"`.
        backbone: spec of our network.
        event_shape: shape of one example.
        sde: the diffusion that it was trained on.
        prediction: spec of its parametrization.
        sigma_data: standard deviation of the data in model range.
        scaling: between raw values and model range.
        state: weights of the backbone, by our names.
        num_classes: number of classes; 0 for a network without condition.
        needs_condition: whether it was never trained without a condition.
        notes: what could not be read from the file and was taken as published.
        facts: what else the file says, such as the number of training steps, for people.
        energy: head of the energy whose gradient is the score; None for a network that gives the
            score itself.
        all_noise_levels: whether it was trained at every noise level, or on data without noise
            alone.
        condition_shape: what it is told beside classes, see `sde_score.nn.create`.
        condition_scaling: between raw conditions and model range.
        flow_map: objective that trained it as a flow map, by which its samplers are known; None for
            a network that is told one noise level alone.
    """

    family: str
    backbone: str
    event_shape: tuple[int, ...]
    sde: SDE = field(repr=False)
    prediction: str
    state: Mapping[str, Tensor] = field(repr=False)
    sigma_data: float = 1.0
    scaling: Scaling = field(default_factory=Scaling)
    num_classes: int = 0
    needs_condition: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    energy: str | None = None
    all_noise_levels: bool = True
    condition_shape: ConditionShape = ()
    condition_scaling: ConditionScaling = field(default_factory=Scaling)
    flow_map: str | None = None

    def replaced(self, **fields: Any) -> Imported:
        """The same with other values of some fields."""
        return replace(self, **fields)

    def network(self) -> nn.Module:
        """The backbone, with weights of its own."""
        told = self.num_classes, self.condition_shape
        network = create_backbone(self.backbone, self.event_shape, *told)
        return network if self.flow_map is None else tell_end(network)

    def model(self) -> ScoreModel | EnergyModel | FlowMap:
        """The model, in evaluation mode, on the CPU, in the dtype of the weights.

        Half precision, in which many files are kept, is computed in float32.
        """
        network = self.network()
        dtypes = {value.dtype for value in self.state.values() if value.is_floating_point()}
        network.to(max({torch.float32, *dtypes}, key=lambda dtype: dtype.itemsize))
        network.load_state_dict(dict(self.state))
        scales = (self.prediction, self.sigma_data)
        model: ScoreModel | EnergyModel | FlowMap
        if self.energy is not None:
            model = EnergyModel(network, self.sde, self.energy, *scales)
        else:
            kind = ScoreModel if self.flow_map is None else FlowMap
            model = kind(network, self.sde, *scales)
        model.needs_condition = self.needs_condition
        return model.eval()

    def config(self, steps: int = 1) -> TrainConfig:
        """The configuration of a run that would train such a network.

        Args:
            steps: of it.
        """
        conditional = bool(self.num_classes or self.condition_shape)
        config = TrainConfig(
            data=f"<{self.family}>",
            sde=text_of(self.sde),
            backbone=self.backbone,
            model="score" if self.energy is None else "energy",
            prediction=self.prediction,
            sigma_data=self.sigma_data,
            conditional=conditional,
            condition_dropout=0.1 if conditional and not self.needs_condition else 0.0,
            held_out=0.0,
            steps=steps,
        )
        if self.flow_map is not None:
            return replace(config, model="flow-map", objective=self.flow_map)
        head: Any = self.energy
        return config if head is None else replace(config, head=head)


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Args:
        name: of it.
        recognizes: whether the contents of a file are of this kind.
        read: contents and options to the network; names of the options are its keywords.
    """

    name: str
    recognizes: Callable[[Contents], bool]
    read: Callable[..., Imported]


def images(low: float = -1.0) -> Scaling:
    """8-bit images over [low, 1], black at `low` and white at 1, as the published codes have them.

    Args:
        low: -1 or 0.
    """
    width = 255 / (1 - low)
    return Scaling(center=0.5 - low * width, width=width, levels=256)
