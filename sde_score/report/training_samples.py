"""The grids of samples that a training run writes along the way."""

from __future__ import annotations

from pathlib import Path

from sde_score import samplers
from sde_score.report.files import save_samples
from sde_score.report.look import Look
from sde_score.report.pictures import save_examples
from sde_score.training import Run

_COUNT = 64


def write_samples(run: Run, path: Path) -> None:
    """Write a picture of 64 samples by the sampler of the run, always from the same noise.

    A conditional model shows its classes in turn.

    Args:
        run: the run in its present state.
        path: of the PNG file.
    """
    shape = (_COUNT, *run.event_shape)
    sampler = samplers.create(run.sampler)
    x = sampler(run.model, shape, seed=0, condition=run.labels_in_turn(_COUNT), progress=False)
    look = Look.of(run)
    if look.coding is None:
        save_examples(x.cpu(), path, look=look)
    else:
        save_samples(x.cpu(), path, look)
