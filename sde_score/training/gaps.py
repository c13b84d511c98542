"""Gaps: examples with missing entries, which training neither sees nor counts.

Data mark them by NaN. The network is told which entries are there; some that are there are hidden
from it, column by column, so that it meets more patterns than the data have.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from sde_score._core.registry import format_spec, parse_spec
from sde_score.data import DataSet
from sde_score.nn import BACKBONES
from sde_score.nn.backbones.masked import Masked
from sde_score.objectives import Objective
from sde_score.random import BatchSlice, uniform_like
from sde_score.training.config import TrainConfig, is_whole
from sde_score.training.couplings import COUPLINGS, Independent

SHARE = 0.1
"""Share of examples of which half the columns are hidden."""


def has_gaps(dataset: DataSet) -> bool:
    """Whether examples of a table have missing entries."""
    return dataset.coding is not None and dataset.coding.has_missing


def gaps_words(dataset: DataSet) -> str:
    """How many rows of a table are complete, behind what is said of its missing cells."""
    if not has_gaps(dataset):
        return ""
    whole = int((~dataset.raw().isnan().any(1)).sum())
    warning = "" if whole else ", so that rows are learned from their parts alone"
    return f", {whole} of {len(dataset)} rows complete{warning}: learned by masks"


def with_mask(spec: str) -> str:
    """The spec of a network that is told which entries are there; unchanged where it is."""
    told = parse_spec(spec)[0] in BACKBONES and BACKBONES.listed(parse_spec(spec)[0]) == "masked"
    return spec if told else format_spec("masked", {"network": spec})


def hide(x0: Tensor, dataset: DataSet, draws: BatchSlice) -> Tensor:
    """Examples in model range with some columns hidden, NaN in place of them.

    Args:
        x0: shape `(batch, columns)`, NaN where entries are missing.
        dataset: its coding says which entries are of one column.
        draws: source of the columns that are hidden.
    """
    groups = torch.tensor(dataset.coding.groups)  # type: ignore[union-attr]
    chosen = uniform_like(x0.new_empty(len(x0), int(groups.max()) + 2), draws)
    hidden = (chosen[:, :1] < SHARE) & (chosen[:, 1:] < 0.5)
    return torch.where(hidden[:, groups], torch.nan, x0)


def tells_mask(model: nn.Module) -> bool:
    """Whether a network of a model is told which entries are there."""
    return any(isinstance(part, Masked) for part in model.modules())


def require_gaps(
    config: TrainConfig, examples: DataSet, objective: Objective, model: nn.Module
) -> None:
    """Refuse a training that cannot leave out missing entries.

    Args:
        config: settled.
        examples: the training data.
        objective: that is trained.
        model: that is trained.

    Raises:
        ValueError: naming what does not go with them, and a way out.
    """
    if not has_gaps(examples):
        return
    wrong = ""
    if objective.needs != "score":
        wrong = f"objective={config.objective!r} needs {objective.needs}, not a score"
    elif not isinstance(COUPLINGS.resolve(config.coupling), Independent):
        wrong = f"coupling={config.coupling!r} compares whole examples"
    elif config.excess:
        wrong = "excess=True compares whole examples"
    elif not tells_mask(model):
        kind = "model" if is_whole(config.model) else "backbone"
        wrong = (
            f"{kind} is not told which entries are there: give sde_score.nn.Masked(network, "
            f"{examples.event_shape}) around one for twice as many columns"
        )
    if wrong:
        raise ValueError(
            f"{examples.name} has missing cells, and {wrong}; or fill them in, or leave those rows "
            "out"
        )


def settled_for_gaps(config: TrainConfig, examples: DataSet) -> TrainConfig:
    """The configuration with a network by name that is told which entries are there."""
    if not has_gaps(examples) or is_whole(config.model) or not isinstance(config.backbone, str):
        return config
    return dataclasses.replace(config, backbone=with_mask(config.backbone))
