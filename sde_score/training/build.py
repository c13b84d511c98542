"""From a resolved configuration to the things it names."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sde_score import data, nn, sdes
from sde_score.data import DataSet
from sde_score.models import ScoreModel
from sde_score.random import mix
from sde_score.training.config import TrainConfig
from sde_score.training.streams import INIT

_SPLIT_SEED = 0  # not the run's seed, so that runs are compared on the same held-out examples


def build_model(
    config: TrainConfig, event_shape: Sequence[int], num_classes: int = 0
) -> ScoreModel:
    """The untrained model: a function of the configuration alone, on the CPU.

    Args:
        config: resolved; see `sde_score.training.resolve`.
        event_shape: shape of one example.
        num_classes: classes of the data; used if the configuration is conditional.

    Raises:
        ValueError: for an unknown SDE or network, or a configuration that is not resolved.
    """
    if config.sigma_data is None or config.backbone == "auto":
        raise ValueError("config is not resolved: pass it through resolve(config, dataset) first")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(mix(config.seed, INIT))
        classes = num_classes if config.conditional else 0
        backbone = nn.create(config.backbone, tuple(event_shape), num_classes=classes)
    model = ScoreModel(backbone, sdes.create(config.sde), config.prediction, config.sigma_data)
    if len(event_shape) == 3:
        # Convolutions run faster when the channels of a pixel lie together.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def split_data(
    config: TrainConfig, dataset: DataSet | None = None
) -> tuple[DataSet, DataSet | None]:
    """The data set of a configuration as (training part, held-out part).

    Args:
        config: names the data set and the fraction held out; the parts depend on nothing else.
        dataset: the whole data set if it is at hand, instead of loading it.

    Raises:
        DataError: if the data cannot be loaded.
        ValueError: if `held_out` leaves one part empty.
    """
    whole = data.load(config.data) if dataset is None else dataset
    if config.held_out == 0:
        return whole, None
    return whole.split(float(config.held_out), seed=_SPLIT_SEED)
