r"""Bits per dimension: the log-likelihood in the terms of the data, not of the model.

Discrete data have no density; noise that fills each level's bin gives them one, and

.. math:: -\log_2 P(\mathrm{levels}) \le E_u\left[-\log_2 p(\mathrm{levels} + u)\right],
          \qquad u \sim U[0, 1)^D,

so the mean over dequantizations bounds the code length.

Reference: Theis et al. 2016, https://arxiv.org/abs/1511.01844, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from sde_score._checks import require_count
from sde_score.likelihood.partition import LogPartition, energy_log_prob
from sde_score.likelihood.probability_flow import log_prob
from sde_score.models import Model
from sde_score.random import example_seeds, generator_from, mix


class Scaling(Protocol):
    """What is needed of the map from a data set's own terms to model space."""

    def dequantize(self, raw: Tensor, generator: Generator | None = None) -> Tensor:
        """Raw data in model space, discrete levels spread over their bins."""
        ...

    def bits_per_dim(self, log_prob: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        """Bits per dimension in raw terms, from a log density in model space in nats."""
        ...


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """What `bits_per_dim` returns.

    Args:
        values: of each example, the mean over its dequantizations, shape `(examples,)`, float64.
        nfe: evaluations of the model over all batches.
        shared_error: standard error that all values have in common, that of log Z.
    """

    values: Tensor
    nfe: int
    shared_error: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over the examples."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over examples, dequantization, probes and log Z; NaN for one
        example.

        The examples are independent, so their spread holds the first three sources of chance.
        """
        if len(self.values) == 1:
            return math.nan
        return math.hypot(float(self.values.std()) / math.sqrt(len(self.values)), self.shared_error)


def bits_per_dim(
    model: Model,
    raw: Tensor,
    scaling: Scaling,
    *,
    dequantizations: int = 1,
    batch_size: int = 128,
    divergence: str = "hutchinson",
    probes: int = 1,
    probe_law: str = "rademacher",
    seed: int | Sequence[int] | None = 0,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "dopri5",
    condition: Tensor | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of raw data under the probability flow of a model.

    The defaults are those of published image results: one random probe and one dequantization for
    each example; the chance they bring is part of the standard error over examples.

    Args:
        model: as for `log_prob`.
        raw: data in their own terms, shape `(examples, *event)`.
        scaling: of the data set the model was trained on.
        dequantizations: independent draws of the noise per example, at least 1; continuous data
            need no more than 1.
        batch_size: examples that the model sees at once.
        divergence: as for `log_prob`, as are `probes`, `probe_law`, `rtol`, `atol`, `method`,
            `condition` and `progress`.
        seed: of dequantization and probes, which depend on the example and not on its batch; give
            one number per example (its index in the data set) when evaluating a part of a set.

    Returns:
        A `BitsPerDim`.

    Raises:
        ValueError: as for `log_prob`, and for counts below 1 or no examples.
    """
    require_count(dequantizations=dequantizations, batch_size=batch_size)
    if raw.ndim < 1 or raw.numel() == 0:
        raise ValueError(f"raw has shape {tuple(raw.shape)}; accepted: (examples, *event)")
    if condition is not None and (condition.ndim == 0 or len(condition) != len(raw)):
        raise ValueError(
            f"condition has shape {tuple(condition.shape)} for {len(raw)} examples: "
            "give one entry per example"
        )
    seeds = example_seeds(seed, len(raw))
    values = torch.zeros(len(raw), dtype=torch.float64, device=raw.device)
    evaluations = model.nfe
    for first in range(0, len(raw), batch_size):
        rows = slice(first, first + batch_size)
        for draw in range(dequantizations):
            draw_seeds = [mix(number, draw) for number in seeds[rows]]
            found = log_prob(
                model,
                _dequantize(scaling, raw[rows], draw_seeds),
                divergence=divergence,
                probes=probes,
                probe_law=probe_law,
                seed=draw_seeds,
                rtol=rtol,
                atol=atol,
                method=method,
                condition=None if condition is None else condition[rows],
                progress=progress,
            )
            bits = scaling.bits_per_dim(found.log_prob, tuple(raw.shape[1:]))
            values[rows] += bits / dequantizations
    return BitsPerDim(values, model.nfe - evaluations)


def energy_bits_per_dim(
    model: Model,
    raw: Tensor,
    scaling: Scaling,
    partition: LogPartition,
    *,
    dequantizations: int = 1,
    seed: int | Sequence[int] | None = 0,
) -> BitsPerDim:
    """Bits per dimension of raw data under an energy at `t_min`, given its partition function.

    Args:
        model: energy-based, without a condition.
        raw: data in their own terms, shape `(examples, *event)`.
        scaling: of the data set the model was trained on.
        partition: from `log_partition`, of this model.
        dequantizations: independent draws of the noise per example, at least 1.
        seed: of dequantization, as for `bits_per_dim`.

    Returns:
        A `BitsPerDim`, whose shared error is that of log Z.

    Raises:
        TypeError: if the model knows no energy.
        ValueError: for a count below 1 or no examples.
    """
    require_count(dequantizations=dequantizations)
    if raw.ndim < 1 or raw.numel() == 0:
        raise ValueError(f"raw has shape {tuple(raw.shape)}; accepted: (examples, *event)")
    seeds, evaluations, bits = example_seeds(seed, len(raw)), model.nfe, []
    for draw in range(dequantizations):
        x = _dequantize(scaling, raw, [mix(number, draw) for number in seeds])
        found = energy_log_prob(model, x, partition)
        bits.append(scaling.bits_per_dim(found.log_prob, tuple(raw.shape[1:])))
    per_nat = 1 / (math.log(2) * max(1, math.prod(raw.shape[1:])))
    shared = partition.standard_error * per_nat
    return BitsPerDim(torch.stack(bits).mean(0), model.nfe - evaluations, shared)


def _dequantize(scaling: Scaling, raw: Tensor, seeds: Sequence[int]) -> Tensor:
    """Each example with noise from its own seed, other than the seed of its probes."""
    return torch.cat(
        [
            scaling.dequantize(raw[i : i + 1], generator_from(number, 1))
            for i, number in enumerate(seeds)
        ]
    )
