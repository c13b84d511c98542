"""The grids of samples that a training run writes along the way."""

from __future__ import annotations

from pathlib import Path

import torch

from sde_score.models import ScoreModel
from sde_score.report.pictures import save_examples
from sde_score.samplers import Heun
from sde_score.training import DataFacts

_COUNT = 64


def write_samples(model: ScoreModel, data: DataFacts, path: Path) -> None:
    """Write a picture of 64 samples by Heun's method in 18 steps, always from the same noise.

    Args:
        model: averaged weights, in evaluation mode.
        data: facts of the training data.
        path: of the PNG file.
    """
    labels = None
    if data.num_classes:
        device = next(model.parameters()).device
        labels = torch.arange(_COUNT, device=device) % data.num_classes
    shape = (_COUNT, *data.event_shape)
    x = Heun(steps=18)(model, shape, seed=0, condition=labels, progress=False)
    save_examples(x.cpu(), path)
