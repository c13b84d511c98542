"""Large sets of samples, drawn in parts that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.models import Model
from sde_score.random import example_seeds
from sde_score.samplers.base import Callback, Sampler


def sample(
    sampler: Sampler,
    model: Model,
    event_shape: Sequence[int],
    count: int,
    *,
    seed: int = 0,
    condition: Tensor | None = None,
    batch_size: int = 256,
    progress: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Draw `count` samples, `batch_size` at a time.

    Sample i depends on (seed, i) alone, so the parts change nothing.

    Args:
        sampler: how.
        model: from what.
        event_shape: shape of one sample.
        count: how many.
        seed: names the set.
        condition: one entry per sample, shape `(count, ...)`.
        batch_size: samples that the model sees at once.
        progress: show a bar for each part that takes over two seconds.
        callback: called after each step of each part.

    Returns:
        samples on the CPU, shape `(count, *event)`.

    Raises:
        ValueError: if a count is below 1, or `condition` has another length.
    """
    require_count(count=count, batch_size=batch_size)
    if condition is not None and len(condition) != count:
        raise ValueError(f"condition has {len(condition)} entries for {count} samples")
    parts = []
    for first in range(0, count, batch_size):
        size = min(batch_size, count - first)
        part = sampler(
            model,
            (size, *event_shape),
            seed=example_seeds(seed, size, first),
            condition=None if condition is None else condition[first : first + size],
            progress=progress,
            callback=callback,
        )
        parts.append(part.cpu())
    return torch.cat(parts)
