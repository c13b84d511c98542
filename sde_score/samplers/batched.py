"""Samples in any number, drawn in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from sde_score._core import processes
from sde_score._core.checks import require_count, require_shape
from sde_score._core.conditions import Condition, rows_of
from sde_score._core.memory import require_memory
from sde_score.models import Model, as_condition, require_model
from sde_score.random import example_seeds
from sde_score.samplers.base import SAMPLERS, Callback, Sampler
from sde_score.samplers.problem import Samples


def sample(
    model: Model,
    sampler: str | Sampler,
    event_shape: Sequence[int],
    num: int,
    *,
    seed: int = 0,
    condition: Condition = None,
    batch_size: int = 256,
    progress: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Draw samples from a model, such as `sample(run.model, "adams", run.event_shape, 64)`.

    Sample i depends on (seed, i) alone, so the batches change nothing.

    Args:
        model: anything with the model protocol.
        sampler: a name from `available()`, such as `"dpmpp-2m(steps=20)"` or `"heun(nfe=35)"`, or a
            sampler.
        event_shape: shape of one sample.
        num: how many.
        seed: random seed.
        condition: passed to the model, one entry per sample: shape `(num, ...)`.
        batch_size: samples that the model sees at once.
        progress: show a bar for each batch that takes over two seconds.
        callback: called after each step of each batch.

    Returns:
        samples on the CPU, shape `(num, *event_shape)`.

    Raises:
        ValueError: for an unknown sampler, a count below 1, or `condition` of another length.
    """
    return run(
        model,
        sampler,
        event_shape,
        num,
        seed=seed,
        condition=condition,
        batch_size=batch_size,
        progress=progress,
        callback=callback,
    ).samples


def run(
    model: Model,
    sampler: str | Sampler,
    event_shape: Sequence[int],
    num: int,
    *,
    seed: int = 0,
    condition: Condition = None,
    batch_size: int = 256,
    progress: bool = True,
    callback: Callback | None = None,
    shared: bool = False,
    first: int = 0,
) -> Samples:
    """Draw samples as `sample` does, whose arguments these are, and count their cost.

    Args:
        model: anything with the model protocol.
        sampler: an object, or a name with arguments.
        event_shape: of one sample.
        num: number of samples.
        seed: of all samples; sample i depends on it and on i.
        condition: one entry for all samples, or `num` of them.
        batch_size: samples that the network sees at once.
        progress: show a progress bar.
        callback: called after each step of each batch, in the process that draws it.
        shared: share the batches over the processes of a group, all of which must call this, and
            get all samples: the same to the bit whatever the number of processes, for each batch
            is drawn whole by one of them. There is no exchange before the end.
        first: number of the first sample, of which its noise is made.

    Returns:
        the samples, and the network evaluations per sample: their mean over the batches.
    """
    require_count(num=num, batch_size=batch_size)
    require_count(0, first=first)
    event_shape = require_shape("event_shape", event_shape)
    require_memory(4 * num * prod(event_shape), f"num={num} samples of shape {event_shape}")
    require_model(model, whole=False)
    condition = as_condition(condition, num)
    chosen = SAMPLERS.resolve(sampler, model=model)

    def batch(start: int) -> Samples:
        size = min(batch_size, num - start)
        part = chosen.run(
            model,
            (size, *event_shape),
            seed=example_seeds(seed, size, first + start),
            condition=rows_of(condition, slice(start, start + size)),
            progress=progress,
            callback=callback,
        )
        return Samples(part.samples.cpu(), part.nfe)

    starts = range(0, num, batch_size)
    parts = processes.shared(starts, batch) if shared else [batch(start) for start in starts]
    nfe = sum(part.nfe for part in parts) / len(parts)
    return Samples(torch.cat([part.samples for part in parts]), nfe)
