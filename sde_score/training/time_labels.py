"""Time labels that a network cannot tell apart, said before it is trained on them."""

from __future__ import annotations

import warnings

import torch

from sde_score.models import EnergyModel, FlowMap, ScoreModel
from sde_score.models.parametrization import Scales
from sde_score.nn import NoiseEmbedding
from sde_score.nn.blocks.embeddings import LARGEST_LEVEL


def warn_of_time_labels(model: torch.nn.Module) -> None:
    """Warn where a parametrization of a published network labels the noise for one of ours.

    Waves of `NoiseEmbedding` repeat themselves beyond `LARGEST_LEVEL`: of labels up to 999, many
    noise levels would look alike.
    """
    ours = any(isinstance(module, NoiseEmbedding) for module in model.modules())
    if not (ours and isinstance(model, (ScoreModel, EnergyModel, FlowMap))):
        return
    ends = torch.tensor([model.sde.t_min, model.sde.t_max], dtype=torch.float64)
    row = model.parametrization
    largest = float(row.time_label(Scales(model.sde, ends, row.sigma_data)).abs().max())
    if largest > LARGEST_LEVEL:
        warnings.warn(
            f"prediction={row.name!r} tells the network the noise by labels up to {largest:.4g}, "
            f"and this network tells those up to {LARGEST_LEVEL:g} apart: take a prediction of "
            "ours, such as 'noise', or the network that it was published with",
            stacklevel=4,
        )
