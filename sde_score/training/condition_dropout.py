"""Condition dropout: examples that training shows without their condition.

A network that sees some examples without their label learns the distribution of all data beside
that of each class (Ho and Salimans 2022, Classifier-free diffusion guidance), so that it may be
asked for either, and guidance can weigh one against the other.
"""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import Tensor

from sde_score._core.modules import evaluating
from sde_score._core.registry import parse_spec
from sde_score.data import DataSet
from sde_score.models import Model
from sde_score.nn import BACKBONES
from sde_score.random import BatchSlice, uniform
from sde_score.training.config import TrainConfig, is_auto, is_note, is_whole

NO_CLASS = -1
"""Label of an example without a class."""

USUAL = 0.1
"""Share of examples that are shown without their condition where nothing else is asked for."""


def settle_dropout(config: TrainConfig) -> TrainConfig:
    """With the share of examples without condition, where the configuration leaves it open.

    It is `USUAL` for the networks of this package, which all take -1 for no class, and 0 for
    others, whose use of -1 is not known, and for runs without condition.
    """
    share = config.condition_dropout
    if share and not config.conditional:
        warnings.warn(
            f"condition_dropout={share} has no effect: conditional=False gives no labels to drop",
            stacklevel=4,
        )
    if not config.conditional:
        share = 0.0
    elif share is None:
        share = USUAL if _is_ours(config) else 0.0
    return dataclasses.replace(config, condition_dropout=share)


def _is_ours(config: TrainConfig) -> bool:
    """Whether the network is one of this package."""
    network = config.model if is_whole(config.model) else config.backbone
    if is_auto(network):
        return True
    if isinstance(network, str):
        made: object = None if is_note(network) else BACKBONES[parse_spec(network)[0]]
    else:
        made = type(getattr(network, "backbone", network))
    return getattr(made, "__module__", "").startswith("sde_score.nn.")


def dropped(labels: Tensor, share: float, draws: BatchSlice) -> Tensor:
    """Labels with -1 in place of a random share of them, each example by a draw of its own.

    Args:
        labels: integers of shape `(batch,)`.
        share: probability of dropping a label, in [0, 1).
        draws: source of one uniform number per example.
    """
    return torch.where(uniform(len(labels), draws, labels.device) < share, NO_CLASS, labels)


def require_no_class(model: Model, examples: DataSet, config: TrainConfig) -> None:
    """Refuse to drop labels for a network that does not take -1.

    Args:
        model: on the CPU.
        examples: the training data.
        config: settled.

    Raises:
        ValueError: with what the network said, and a way out.
    """
    share = config.condition_dropout
    if not share or _is_ours(config):
        return
    x = examples.batch([0]).x0
    try:
        with torch.no_grad(), evaluating(model):
            model.score(x, model.sde.t_max, torch.full((1,), NO_CLASS))
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"condition_dropout={share} shows examples with label -1, for no class, which the "
            f"network does not take ({' '.join(str(error).split())[:200]}): give it a vector for "
            "-1, or train with condition_dropout=0 (--condition-dropout 0)"
        ) from error
