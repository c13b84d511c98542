"""Condition dropout: examples that training shows without their condition.

A network that sees some examples without their label learns the distribution of all data beside
that of each class (Ho and Salimans 2022, Classifier-free diffusion guidance), so that it may be
asked for either, and guidance can weigh one against the other. Of a dictionary of conditions some
examples lose all, and each of the others any one by itself, so that every subset is met (Brooks et
al. 2023, https://arxiv.org/abs/2211.09800, section 3.2.1, with two conditions).
"""

from __future__ import annotations

import dataclasses
import warnings

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, mapped, nothing_like, tensors_of
from sde_score._core.modules import evaluating
from sde_score._core.registry import parse_spec
from sde_score.data import DataSet
from sde_score.models import Model
from sde_score.nn import BACKBONES, Concatenated, Encoded
from sde_score.random import BatchSlice, uniform
from sde_score.training.config import TrainConfig, is_auto, is_note, is_whole

USUAL = 0.1
"""Share of examples that are shown without their condition where nothing else is asked for."""


def settle_dropout(config: TrainConfig, examples: DataSet) -> TrainConfig:
    """With the share of examples without condition, where the configuration leaves it open.

    It is `USUAL` for the networks of this package, which all take -1 for no class, and 0 for
    others, whose use of -1 is not known, and for runs without condition.

    Args:
        config: what the user asked for.
        examples: the training data.

    Raises:
        ValueError: for a conditional run on data without labels or vectors.
    """
    if config.conditional and not (examples.num_classes or examples.condition_shape):
        raise ValueError(
            f"conditional=True needs labels, or other conditions; data={config.data!r} has none"
        )
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
        made = type(_innermost(getattr(network, "backbone", network)))
    return getattr(made, "__module__", "").startswith("sde_score.nn.")


def _innermost(network: object) -> object:
    """The network that others are around."""
    if isinstance(network, (Concatenated, Encoded)):
        return _innermost(network.network)
    return network


def dropped(condition: Condition, share: float, draws: BatchSlice) -> Condition:
    """Labels with -1, and vectors and images with NaN, in place of a random share of them.

    Args:
        condition: labels of shape `(batch,)`, vectors, images, or a dictionary of them.
        share: probability of dropping all of an example's, in [0, 1); of a dictionary each entry is
            dropped by itself with the same probability.
        draws: source of one uniform number per example, and of a dictionary of one more for each
            entry.
    """
    if condition is None or not (values := tensors_of(condition)):
        return condition
    lost = uniform(len(values[0]), draws, values[0].device) < share
    if isinstance(condition, Tensor):
        return _without(condition, lost)
    own = {name: uniform(len(lost), draws, lost.device) < share for name in sorted(condition)}
    return {name: _without(value, lost | own[name]) for name, value in condition.items()}


def _without(value: Tensor, lost: Tensor) -> Tensor:
    return torch.where(lost.reshape(-1, *(1,) * (value.ndim - 1)), nothing_like(value), value)


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
    x, shown = examples.batch([0])
    if shown is None:
        return
    nothing = mapped(shown, nothing_like)
    try:
        with torch.no_grad(), evaluating(model):
            answer = model.score(x, model.sde.t_max, nothing)
        if not bool(torch.isfinite(answer).all()):
            raise ValueError("its answer is not finite")
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"condition_dropout={share} shows examples with label {_said(nothing)}, for "
            f"none, which the network does not take ({' '.join(str(error).split())[:200]}): give "
            "it an answer to that, or train with condition_dropout=0 (--condition-dropout 0)"
        ) from error


def _said(nothing: Condition) -> str:
    return " and ".join(f"{value.flatten()[0]:g}" for value in tensors_of(nothing))
