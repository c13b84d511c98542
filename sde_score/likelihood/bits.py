r"""Bits per dimension: the log-likelihood in the terms of the data, not of the model.

.. math:: -\frac{\log_2 p(\mathrm{raw})}{D}

For discrete data p is a probability, and the number of bits is a code length; for continuous data
it is a density in the units of the data, and may be above 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.likelihood._validation import require_condition
from sde_score.likelihood.base import Likelihood, standard_error
from sde_score.likelihood.dequantization import UniformDequantization
from sde_score.likelihood.likelihoods import LIKELIHOODS
from sde_score.likelihood.partition import LogPartition, energy_log_prob
from sde_score.models import Model
from sde_score.random import example_seeds, mix
from sde_score.scaling import Scaling


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """What `bits_per_dim` returns.

    Args:
        values: of each example, the mean over its draws, shape `(examples,)`, float64.
        nfe: evaluations of the model over all batches.
        shared_error: standard error that all values have in common, that of log Z.
        value_errors: standard error of each value over its own draws, shape `(examples,)`: NaN
            where there is only one, 0 where nothing is drawn.
    """

    values: Tensor
    nfe: int
    shared_error: float = 0.0
    value_errors: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean over the examples."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `mean` over examples, their draws and log Z; NaN for one example.

        The examples are independent, so their spread holds the chance of their draws too.
        """
        if len(self.values) == 1:
            return math.nan
        return math.hypot(float(self.values.std()) / math.sqrt(len(self.values)), self.shared_error)


def bits_per_dim(
    model: Model,
    raw: Tensor,
    scaling: Scaling,
    by: str | Likelihood = "flow",
    *,
    batch_size: int = 128,
    seed: int | Sequence[int] | None = 0,
    condition: Tensor | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of raw data under a model.

    Args:
        model: anything with the model protocol. Its mode is left alone: call `eval()` first if it
            holds dropout.
        raw: data in their own terms, shape `(examples, *event)`.
        scaling: of the data set the model was trained on.
        by: a likelihood or its spec, such as `"flow(rtol=1e-5, probes=4)"` or `"bound"`; names in
            `LIKELIHOODS`.
        batch_size: examples that the model sees at once.
        seed: of all that is drawn, which depends on the example and not on its batch; give one
            number per example (its index in the data set) when evaluating a part of a set.
        condition: passed to the model, one entry per example.
        progress: show a bar per batch.

    Returns:
        A `BitsPerDim`.

    Raises:
        TypeError: for a model without the protocol.
        ValueError: as for the likelihood, and for a batch size below 1 or no examples.
        RuntimeError: if a solver gives up, as it does when the model returns NaN.
    """
    likelihood = LIKELIHOODS.create(by) if isinstance(by, str) else by
    require_count(batch_size=batch_size)
    _require_raw(raw)
    require_condition(condition, len(raw))
    seeds = example_seeds(seed, len(raw))
    batches = [slice(first, first + batch_size) for first in range(0, len(raw), batch_size)]
    found = [
        likelihood(
            model,
            raw[rows],
            scaling,
            seeds=seeds[rows],
            condition=None if condition is None else condition[rows],
            progress=progress,
        )
        for rows in batches
    ]
    event = tuple(raw.shape[1:])
    # A likelihood speaks of raw data already; `Scaling` has the one formula, for model space.
    nats = torch.cat([part.values for part in found]) - scaling.log_abs_det(event)
    errors = torch.cat([part.standard_error for part in found]) * _per_nat(raw)
    nfe = sum(part.nfe for part in found)
    return BitsPerDim(scaling.bits_per_dim(nats, event), nfe, value_errors=errors)


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
        dequantizations: independent draws of uniform noise per example, at least 1.
        seed: of dequantization, as for `bits_per_dim`.

    Returns:
        A `BitsPerDim`, whose shared error is that of log Z.

    Raises:
        TypeError: if the model knows no energy.
        ValueError: for a count below 1 or no examples.
    """
    require_count(dequantizations=dequantizations)
    _require_raw(raw)
    seeds, evaluations, rows = example_seeds(seed, len(raw)), model.nfe, []
    for draw in range(dequantizations):
        numbers = [mix(number, draw) for number in seeds]
        x = UniformDequantization()(raw, scaling, model.sde, numbers).x
        found = energy_log_prob(model, x, partition)
        rows.append(scaling.bits_per_dim(found.log_prob, tuple(raw.shape[1:])))
    bits = torch.stack(rows)
    errors = torch.zeros_like(bits[0]) if scaling.levels is None else standard_error(bits)
    shared = partition.standard_error * _per_nat(raw)
    return BitsPerDim(bits.mean(0), model.nfe - evaluations, shared, errors)


def _per_nat(raw: Tensor) -> float:
    """Bits per dimension in a nat."""
    return 1 / (math.log(2) * max(1, math.prod(raw.shape[1:])))


def _require_raw(raw: Tensor) -> None:
    if raw.ndim < 1 or raw.numel() == 0:
        raise ValueError(f"raw has shape {tuple(raw.shape)}; accepted: (examples, *event)")
