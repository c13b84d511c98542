"""From a resolved configuration to the things it names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sde_score import data, nn, objectives, sdes
from sde_score.data import DataSet
from sde_score.models import EnergyModel, ScoreModel
from sde_score.objectives import Objective, StatefulObjective
from sde_score.random import generator_from, mix
from sde_score.training.config import TrainConfig
from sde_score.training.rng_streams import INIT, SETUP

TrainedModel = ScoreModel | EnergyModel
"""What a run trains."""

_SETUP_EXAMPLES = 4096
_SPLIT_SEED = 0  # not the run's seed, so that runs are compared on the same held-out examples


def build_model(
    config: TrainConfig, event_shape: Sequence[int], num_classes: int = 0
) -> TrainedModel:
    """The untrained model: a function of the configuration alone, on the CPU.

    Args:
        config: resolved; see `sde_score.training.resolve`.
        event_shape: shape of one example.
        num_classes: classes of the data; used if the configuration is conditional.

    Raises:
        ValueError: for an unknown SDE or network, or a configuration that is not resolved.
    """
    if config.sigma_data is None or "auto" in (config.backbone, config.model, config.prediction):
        raise ValueError("config is not resolved: pass it through resolve(config, dataset) first")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(config.seed, INIT))
        classes = num_classes if config.conditional else 0
        backbone = nn.create(config.backbone, tuple(event_shape), num_classes=classes)
        if config.model == "energy" and config.head in ("square", "scalar"):
            _wake(backbone)
    sde, scales = sdes.create(config.sde), (config.prediction, config.sigma_data)
    model: TrainedModel
    if config.model == "energy":
        model = EnergyModel(backbone, sde, config.head, *scales)
    else:
        model = ScoreModel(backbone, sde, *scales)
    if len(event_shape) == 3:
        # Convolutions run faster when the channels of a pixel lie together.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _wake(backbone: torch.nn.Module) -> None:
    """Give random weights to layers that start at zero.

    There the gradient of f^2 is zero too, and f is linear in x, so that its sum has no curvature
    and no objective that looks at curvature alone would ever move it.
    """
    for weight in backbone.parameters():
        if weight.ndim > 1 and not bool(weight.any()):
            torch.nn.init.kaiming_uniform_(weight, a=5**0.5)


def build_objective(config: TrainConfig, examples: DataSet) -> Objective:
    """The objective, set up on a sample of the data if it has a state.

    Args:
        config: names the objective and gives the seed.
        examples: the training data.

    Raises:
        ValueError: for an unknown objective.
    """
    objective = objectives.create(config.objective)
    if isinstance(objective, StatefulObjective):
        order = torch.randperm(len(examples), generator=generator_from(config.seed, SETUP))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(config.seed, SETUP, 1))
            objective.setup(examples.batch(order[:_SETUP_EXAMPLES]).x0)
    return objective


def split_data(config: TrainConfig, whole: DataSet | None = None) -> tuple[DataSet, DataSet | None]:
    """The data set of a configuration as (training part, held-out part).

    Args:
        config: names the data set and the fraction held out; the parts depend on nothing else.
        whole: the data set if it is at hand, instead of loading it.

    Raises:
        DataError: if the data cannot be loaded.
        ValueError: if `held_out` leaves one part empty.
    """
    whole = data.load(config.data) if whole is None else whole
    if config.held_out == 0:
        return whole, None
    return whole.split(float(config.held_out), seed=_SPLIT_SEED)
